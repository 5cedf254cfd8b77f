"""Widgets as the page shows them: the specification for browsers, its table, its words and colours."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest
import vl_convert

from metrics_service.dashboards.data import Person, PreviousData, WidgetData
from metrics_service.dashboards.pictures.charts_by_name import round_steps
from metrics_service.dashboards.pictures.figures import change, figure
from metrics_service.dashboards.pictures.theme import DARK, LIGHT, PAGE, config
from metrics_service.dashboards.widgets import Widget, widget_errors
from metrics_service.web import figures
from metrics_service.web.figures import figure_of

FROM = datetime(2026, 3, 1, tzinfo=UTC)
TO = datetime(2026, 3, 11, tzinfo=UTC)
UTC_ZONE = ZoneInfo("UTC")
STATIC = Path(figures.__file__).parent / "static"


def widget(kind="chart", **options):
    query = {"source": "tool_metrics", "measures": ["count"], **options.pop("query", {})}
    given = {"id": "w", "title": "W", "kind": kind, "query": query, **options}
    assert widget_errors([given], {}) == []
    return msgspec.convert(given, Widget)


def data(rows, *, before=None, totals=None, was=None, **options):
    previous = None if before is None else PreviousData(FROM - (TO - FROM), FROM, before, was)
    return WidgetData(
        id="w", columns=[], rows=rows, totals=totals, previous=previous, from_=FROM, to=TO,
        truncated=options.pop("truncated", False), notes=[], **options,
    )  # fmt: skip


def day(number):
    return (FROM + timedelta(days=number)).isoformat()


def shown(one, answered, *, names=None, zone=UTC_ZONE, **room):
    return figure_of(one, answered, names or {}, zone, **room)


def texts(figure):
    return [[cell.text.replace("\xa0", " ") for cell in row] for row in figure.rows]


def tips(figure):
    layers = figure.spec.get("layer", [figure.spec])
    return [row["tip"] for one in layers for row in one["data"]["values"] if "tip" in row]


def without_gaps(tip):
    return [[text.replace("\xa0", " ") for text in row] for row in tip["rows"]]


# -- charts -----------------------------------------------------------------------------------------


def test_a_chart_has_the_table_that_it_draws():
    one = widget(query={"group_by": ["day", "tool_name"]}, mark="bar")
    rows = [
        {"day": day(0), "tool_name": "Bash", "count": 12_000},
        {"day": day(0), "tool_name": "Edit", "count": 5},
        {"day": day(3), "tool_name": "Bash", "count": 7},
    ]

    figure = shown(one, data(rows))

    assert [(column.label, column.unit) for column in figure.head] == [
        ("day", None), ("Bash", "calls"), ("Edit", "calls"),
    ]  # fmt: skip
    assert texts(figure)[0] == ["Sun 1 Mar 2026", "12.0 k", "5"]
    assert texts(figure)[1] == ["Mon 2 Mar 2026", "0", "0"]
    assert len(figure.rows) == 10
    assert [cell.value for cell in figure.rows[0]] == [FROM.timestamp() * 1000, 12_000, 5]


def test_the_table_of_names_has_them_whole_and_the_period_before_beside():
    long = "mcp__" + "x" * 300
    one = widget(query={"group_by": ["tool_name"], "compare": "previous_period"})

    figure = shown(
        one,
        data(
            [{"tool_name": long, "count": 5}, {"tool_name": None, "count": 2}],
            before=[{"tool_name": long, "count": 3}],
        ),
    )

    assert [column.label for column in figure.head] == ["tool", "calls", "period before"]
    assert texts(figure) == [[long, "5", "3"], ["(not known)", "2", "–"]]
    assert tips(figure)[0]["title"] == long


def test_a_dashed_line_is_a_column_of_the_table():
    one = widget(query={"group_by": ["day"], "compare": "previous_period"}, mark="bar")
    before = [{"day": (FROM - timedelta(days=10)).isoformat(), "count": 7}]

    figure = shown(one, data([{"day": day(0), "count": 4}], before=before))

    assert [column.label for column in figure.head] == ["day", "calls", "period before"]
    assert texts(figure)[:2] == [
        ["Sun 1 Mar 2026", "4", "7"],
        ["Mon 2 Mar 2026", "0", "0"],
    ]
    assert without_gaps(tips(figure)[0])[1][:2] == ["period before", "7"]


def test_a_tip_tells_the_day_each_name_its_figure_and_the_sum():
    one = widget(query={"group_by": ["day", "tool_name"]}, mark="bar")
    rows = [
        {"day": day(0), "tool_name": "Bash", "count": 12_000},
        {"day": day(0), "tool_name": "Edit", "count": 5},
        {"day": day(3), "tool_name": "Bash", "count": 7},
    ]

    figure = shown(one, data(rows))

    first, second = tips(figure)[:2]
    assert first["title"] == "Sun 1 Mar 2026"
    assert without_gaps(first) == [
        ["Bash", "12.0 k", "var(--chart-1)"],
        ["Edit", "5", "var(--chart-2)"],
        ["total", "12.0 k", ""],
    ]
    assert without_gaps(second) == [["calls", "0", ""]]


def test_what_is_compared_is_not_summed():
    one = widget(query={"group_by": ["tool_name"], "compare": "previous_period"})

    figure = shown(
        one,
        data([{"tool_name": "a", "count": 5}], before=[{"tool_name": "a", "count": 3}]),
    )

    assert [row[:2] for row in tips(figure)[0]["rows"]] == [
        ["this period", "5"],
        ["period before", "3"],
    ]


def test_an_hour_of_a_tip_is_the_viewers_and_has_an_end():
    zone = ZoneInfo("Asia/Kolkata")
    one = widget(query={"group_by": ["hour"]}, mark="bar")

    figure = shown(one, data([{"hour": "2026-03-01T23:00:00+05:30", "count": 2}]), zone=zone)

    titles = [tip["title"] for tip in tips(figure) if tip["rows"][0][1] == "2"]
    assert titles == ["1 Mar 2026 23:00 to 00:00"]


def test_people_are_called_by_their_names_everywhere():
    who = UUID(int=7)
    names = {str(who): Person("ada@example.com", "Ada")}

    table = shown(
        widget("table", query={"group_by": ["user_id"]}),
        data([{"user_id": who, "count": 1}]),
        names=names,
    )
    chart = shown(
        widget(query={"group_by": ["user_id"]}),
        data([{"user_id": who, "count": 1}]),
        names=names,
    )

    assert texts(table) == texts(chart) == [["Ada", "1"]]
    # So a template can link to them.
    assert table.rows[0][0].value == str(who)
    assert tips(chart)[0]["title"] == "Ada"


MARKS = ["bar", "line", "area", "point", "arc", "rect", None]
GROUPS = [[], ["day"], ["hour"], ["week"], ["month"], ["tool_name"], ["day", "tool_name"],
          ["tool_name", "agent"], ["day", "tool_name", "agent"]]  # fmt: skip


def rows_of(group_by, measures):
    return [
        {
            name: day(n % 3) if name in ("day", "hour", "week", "month") else f"{name} {n}"
            for name in group_by
        }
        | dict.fromkeys(measures, 0.5 * n)
        for n in range(1, 4)
    ][: None if group_by else 1]


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("group_by", GROUPS)
@pytest.mark.parametrize("measures", [["count"], ["error_rate"], ["p50_ms", "p95_ms"]])
def test_every_kind_of_chart_is_for_browsers_as_they_are(measures, group_by, mark):
    rows = rows_of(group_by, measures)
    one = widget(query={"group_by": group_by, "measures": measures}, mark=mark)

    figure = shown(one, data(rows, before=rows))

    said = msgspec.json.encode(figure.spec).decode()
    assert figure.spec["width"] == "container"
    # The colours are the style sheet's.
    assert not re.search(r'"#[0-9a-f]{3,8}"', said)
    vega = msgspec.json.encode(
        vl_convert.vegalite_to_vega(figure.spec, vl_version="6.4", show_warnings=False)
    ).decode()
    # Vega's interpreter takes a single number for a year.
    assert "datetime(" not in vega
    assert tips(figure)
    assert figure.rows


@pytest.mark.parametrize("along", ["x", "y"])
@pytest.mark.parametrize("mark", ["bar", "line", "point", "rect"])
def test_an_encoding_of_a_client_is_for_browsers_too(mark, along):
    across = "y" if along == "x" else "x"
    one = widget(
        query={"group_by": ["day", "agent"]},
        mark=mark,
        encoding={
            along: {"field": "day"},
            across: {"field": "agent"},
            "color": {"field": "count"},
            "tooltip": [{"field": "count"}],
        },
    )

    figure = shown(one, data([{"day": day(n), "agent": "codex", "count": n} for n in range(3)]))

    encoding = figure.spec["encoding"]
    assert encoding["color"]["scale"]["range"] == list(PAGE.ramp)
    assert "tooltip" not in encoding
    assert without_gaps(tips(figure)[2]) == [["calls", "2", ""]]
    vega = msgspec.json.encode(vl_convert.vegalite_to_vega(figure.spec, vl_version="6.4")).decode()
    assert "datetime(" not in vega


def test_a_scheme_that_the_client_chose_stays():
    one = widget(
        query={"group_by": ["tool_name"]},
        mark="rect",
        encoding={
            "x": {"field": "tool_name"},
            "color": {"field": "count", "scale": {"scheme": "viridis"}},
        },
    )

    figure = shown(one, data([{"tool_name": "a", "count": 1}]))

    assert figure.spec["encoding"]["color"]["scale"] == {"scheme": "viridis"}


def test_the_height_that_is_reserved_is_the_one_that_is_drawn():
    one = widget(query={"group_by": ["tool_name"]})

    few = shown(one, data([{"tool_name": "a", "count": 1}]), height=300)
    many = shown(one, data([{"tool_name": f"t{n}", "count": n} for n in range(1, 40)]), height=300)

    assert few.height == round(few.spec["height"]) < 100
    assert many.height == many.spec["height"] == 300


def test_long_tables_end_and_say_so():
    rows = [{"tool_name": f"t{n}", "count": n} for n in range(1, 601)]

    chart = shown(widget(query={"group_by": ["tool_name"]}), data(rows))
    table = shown(widget("table", query={"group_by": ["tool_name"]}), data(rows, truncated=True))

    assert len(chart.rows) == len(table.rows) == 500
    assert "and 100 more rows" in chart.notes
    assert "and at least 100 more rows" in table.notes


@pytest.mark.parametrize(
    ("least", "most", "borders"),
    [(0, 367, [0, 480]), (0, 0, [0, 1]), (0, 0.29, [0, 0.3]), (90, 120, [90, 120]), (5, 5, [5, 6])],
)
def test_shades_change_at_round_figures(least, most, borders):
    begin, end = round_steps(least, most, 6)

    assert [begin, end] == pytest.approx(borders)
    assert begin <= least
    assert end >= most


# -- numbers and tables -----------------------------------------------------------------------------


def test_a_number_has_its_change_in_words_and_how_it_went():
    one = widget(
        "number",
        query={"measures": ["error_count"], "group_by": ["day"], "compare": "previous_period"},
    )
    rows = [{"day": day(n), "error_count": n} for n in range(10)]

    figure = shown(one, data(rows, before=[], totals={"error_count": 45}, was={"error_count": 30}))

    (stat,) = figure.stats
    assert (stat.label, stat.text, stat.value, stat.unit) == ("errors", "45", 45, "calls")
    assert (stat.change.moved, stat.change.was, stat.change.tone) == (
        "▲ 50\xa0% worse", "from 30", "bad",
    )  # fmt: skip
    assert figure.spec is None
    points = re.findall(r"([\d.]+),([\d.]+)", figure.sparkline.line)
    assert len(points) == 10
    assert all(0 <= float(x) <= figure.sparkline.width for x, _ in points)
    assert all(0 <= float(y) <= figure.sparkline.height for _, y in points)


def test_a_table_leaves_out_what_says_nothing():
    query = {"measures": ["count", "timeout_count"], "group_by": ["tool_name"]}

    figure = shown(
        widget("table", query=query), data([{"tool_name": "a", "count": 3, "timeout_count": 0}])
    )

    assert [column.name for column in figure.head] == ["tool_name", "count"]
    assert [column.is_number for column in figure.head] == [False, True]
    assert figure.notes == ["nothing but zeros: timed out"]


@pytest.mark.parametrize("kind", ["chart", "number", "table"])
def test_nothing_and_errors_are_said(kind):
    one = widget(kind, query={} if kind == "number" else {"group_by": ["tool_name"]})

    nothing = shown(one, data([]))
    failed = shown(one, data([], error="too many groups"))

    assert nothing.is_empty
    assert nothing.empty == "Nothing in this range."
    assert (failed.error, failed.is_empty, failed.spec) == ("too many groups", False, None)


def test_a_chart_of_zeros_is_empty_and_keeps_its_table():
    figure = shown(widget(query={"group_by": ["day"]}), data([{"day": day(0), "count": 0}]))

    assert figure.empty == "Nothing but zeros in this range."
    assert figure.spec is None
    assert len(figure.rows) == 10


def test_a_range_of_its_own_is_said():
    own = widget("number", query={"range": {"last": "10d"}})

    assert shown(own, data([], totals={"count": 1})).span == "1 to 10 Mar 2026"
    assert not shown(widget("number"), data([], totals={"count": 1})).span


# -- colours ----------------------------------------------------------------------------------------


def variables():
    """The colours of the style sheet by name: in the light, in the dark."""
    sheet = STATIC.joinpath("charts.css").read_text()
    found = re.findall(r"--chart-([a-z0-9-]+): light-dark\((#\w{6}), (#\w{6})\);", sheet)
    assert len(found) == len({name for name, _, _ in found})
    return {f"var(--chart-{name})": (light, dark) for name, light, dark in found}


def test_the_style_sheet_has_the_colours_of_the_pictures():
    known = variables()

    for field in (
        "card",
        "text",
        "muted",
        "grid",
        "accent",
        "bad",
        "previous",
        "previous_fill",
        "other",
    ):
        assert known[getattr(PAGE, field)] == (getattr(LIGHT, field), getattr(DARK, field))
    for many in ("series", "ramp"):
        assert [known[one] for one in getattr(PAGE, many)] == list(
            zip(getattr(LIGHT, many), getattr(DARK, many), strict=True)
        )


def test_every_colour_of_a_chart_is_in_the_style_sheet():
    known = variables()
    used = set(re.findall(r"var\([^)]*\)", msgspec.json.encode(config(PAGE)).decode()))
    one = widget(query={"group_by": ["day", "tool_name"], "compare": "previous_period"}, mark="bar")
    rows = [{"day": day(0), "tool_name": f"t{n}", "count": n + 1} for n in range(20)]
    before = [{**row, "day": (FROM - timedelta(days=10)).isoformat()} for row in rows]

    figure = shown(one, data(rows, before=before), columns=12)

    used |= set(re.findall(r"var\([^)]*\)", msgspec.json.encode(figure.spec).decode()))
    assert PAGE.other in used
    assert PAGE.previous in used
    assert used <= known.keys()


def test_charts_have_the_letters_of_the_page():
    sheet = STATIC.joinpath("style.css").read_text()

    assert re.search(r"--sans: ([^;]+);", sheet)[1] == PAGE.fonts


@pytest.mark.parametrize(
    ("micros", "written"),
    [(0, "$0.00"), (1, "<$0.0001"), (50, "<$0.0001"), (100, "$0.0001"), (8_200, "$0.008"), (20_000, "$0.02")],
)  # fmt: skip
def test_of_what_costs_hardly_anything_only_that_is_said(micros, written):
    assert figure(micros, "usd_micros") == written


def test_one_point_is_one_point():
    assert change(0.08, 0.09, "share") == (-1, "1 point")
    assert change(0.07, 0.09, "share") == (-1, "2 points")
