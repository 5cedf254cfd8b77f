"""Pictures of dashboards without a database: what is drawn, what is said, and what gets in."""

from __future__ import annotations

import http.server
import io
import os
import re
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest
import vl_convert
from PIL import Image

from metrics_service.dashboards.layout import Place
from metrics_service.dashboards.pictures import drawing, images, markup
from metrics_service.dashboards.pictures.charts import vega_lite
from metrics_service.dashboards.pictures.compose import compose
from metrics_service.dashboards.pictures.figures import change, figure
from metrics_service.dashboards.pictures.lettering import clean, fit, labels, width, wrap
from metrics_service.dashboards.pictures.picture import Answer, Answers, Look, Meta, Person, Picture
from metrics_service.dashboards.pictures.picture import Previous as Before
from metrics_service.dashboards.pictures.theme import FONT
from metrics_service.dashboards.templates import TEMPLATES
from metrics_service.dashboards.widgets import Widget, widget_errors
from metrics_service.errors import InvalidQueryError, UnavailableError

FROM = datetime(2026, 3, 1, tzinfo=UTC)
TO = datetime(2026, 3, 11, tzinfo=UTC)
LOOK = Look(width=500, height=240)


def widget(kind="chart", **options):
    query = {"source": "tool_metrics", "measures": ["count"], **options.pop("query", {})}
    given = {"id": "w", "title": "W", "kind": kind, "query": query, **options}
    assert widget_errors([given], {}) == []
    return msgspec.convert(given, Widget)


def answer(rows, *, before=None, totals=None, **options):
    previous = None
    if before is not None:
        previous = Before(
            from_=FROM - (TO - FROM), to=FROM, rows=before, totals=options.pop("was", None)
        )
    return Answer(id="w", from_=FROM, to=TO, rows=rows, previous=previous, totals=totals, **options)


def day(number):
    return (FROM + timedelta(days=number)).isoformat()


def by_day(**columns):
    return [{"day": day(0), **columns}, {"day": day(3), **columns}]


def picture(widgets, answers, **options):
    meta = Meta(from_=FROM, to=TO, tz="UTC", updated_at=TO, answered_at=TO)
    given = {"name": "Tools", "description": "", "layout": {}, **options}
    names = given.pop("names", {})
    told = msgspec.json.encode(Answers(answers, meta, names))
    return Picture(widgets=widgets, answers=msgspec.Raw(told), **given)


def texts(svg):
    return ["".join(one.itertext()) for one in ET.fromstring(svg).iter(f"{{{markup.SVG}}}text")]


def values(spec, layer=0):
    return spec["layer"][layer]["data"]["values"]


# -- figures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (None, "calls", "–"),
        (0, "calls", "0"),
        (9_999, "calls", "9,999"),
        (19_614, "calls", "19.6 k"),
        (1_234_567, "tokens", "1.23 M"),
        (0.053, "share", "5.3 %"),
        (1, "share", "100 %"),
        (0.0002, "share", "0.02 %"),
        (87, "ms", "87.0 ms"),
        (1_234, "ms", "1.23 s"),
        (8_000, "ms", "8.00 s"),
        (90_000, "ms", "1.50 min"),
        (90, "s", "1.50 min"),
        (5_000_000, "usd_micros", "$5.00"),
        (120, "usd_micros", "$0.0001"),
        (324_220_000, "usd_micros", "$324.22"),
        (12_345_000_000, "usd_micros", "$12,345"),
        (-1_500_000, "usd_micros", "−$1.50"),
        (72.66, "score", "72.7"),
    ],
)
def test_a_figure_is_short_and_has_its_unit(value, unit, said):
    assert figure(value, unit).replace("\xa0", " ") == said


def test_a_change_is_of_what_is_shown():
    assert change(0.0529, 0.0516, "share") == (1, "0.1 points")
    assert change(0.8471, 0.8474, "share") == (0, "0 points")
    assert change(110, 100, "calls") == (1, "10\xa0%")
    assert change(5, 0, "calls") is None
    assert change(0, 0, "calls") == (0, "0\xa0%")
    assert change(None, 5, "calls") is None


# -- text -----------------------------------------------------------------------------------------


def test_text_is_cut_where_its_room_ends():
    cut = fit("x" * 10_000, 100, 12)

    assert cut.endswith("…")
    assert 80 < width(cut, 12) <= 100


def test_what_turns_the_direction_and_controls_are_left_out():
    assert clean("a\u202eb\u200f\x00\x1b\ufffe c\n d\u2066") == "ab c d"
    assert clean("שלום") == "שלום"


def test_names_that_begin_alike_stay_apart():
    found = labels(["x" * 300 + "a", "x" * 300 + "b", ""], 60, 11)

    assert len(set(found.values())) == 3


def test_lines_are_few_and_short():
    lines = wrap("many words " * 100, 80, 12, most=3)

    assert len(lines) == 3
    assert all(width(line, 12) <= 80 for line in lines)


# -- charts ---------------------------------------------------------------------------------------


def test_days_without_anything_are_zero_of_what_is_counted():
    drawn = vega_lite(widget(query={"group_by": ["day"]}), answer(by_day(count=4)), LOOK)

    assert [row["v"] for row in values(drawn.spec)] == [4, 0, 0, 4, 0, 0, 0, 0, 0, 0]


def test_days_without_anything_are_nothing_of_a_percentile():
    one = widget(query={"group_by": ["day"], "measures": ["p95_ms"]})

    drawn = vega_lite(one, answer(by_day(p95_ms=4000.0)), LOOK)

    assert [row["v"] for row in values(drawn.spec)] == [4, 4]
    assert "' s'" in drawn.spec["layer"][0]["encoding"]["y"]["axis"]["labelExpr"].replace(
        "\xa0", " "
    )


def test_days_are_the_viewers():
    one = widget(query={"group_by": ["day"]}, mark="bar")
    rows = [{"day": "2026-03-01T00:00:00+05:30", "count": 1}]
    asked = Answer(
        id="w",
        from_=datetime(2026, 2, 28, 18, 30, tzinfo=UTC),
        to=datetime(2026, 3, 1, 18, 30, tzinfo=UTC),
        rows=rows,
    )
    look = msgspec.structs.replace(LOOK, zone=__import__("zoneinfo").ZoneInfo("Asia/Kolkata"))

    drawn = vega_lite(one, asked, look)

    (bar,) = values(drawn.spec)
    assert (
        FROM.timestamp() * 1000
        < bar["a"]
        < bar["b"]
        < (FROM + timedelta(days=1)).timestamp() * 1000
    )


def test_many_series_become_eight_and_the_rest_where_they_add_up():
    rows = [{"day": day(0), "tool_name": f"t{n:02}", "count": 20 - n} for n in range(12)]
    one = widget(query={"group_by": ["day", "tool_name"]}, mark="bar")

    drawn = vega_lite(one, answer(rows), msgspec.structs.replace(LOOK, width=900))

    sizes = {row["s"]: row["w"] - row["v"] for row in values(drawn.spec)}
    assert list(sizes) == [*(f"t{n:02}" for n in range(8)), "other"]
    assert sizes["other"] == 12 + 11 + 10 + 9
    assert drawn.notes == ["other: 4 more"]


def test_many_series_become_eight_where_they_do_not_add_up_and_it_is_said():
    rows = [{"day": day(0), "tool_name": f"t{n:02}", "p95_ms": 20.0 - n} for n in range(12)]
    one = widget(query={"group_by": ["day", "tool_name"], "measures": ["p95_ms"]})

    drawn = vega_lite(one, answer(rows), msgspec.structs.replace(LOOK, width=900))

    assert {row["s"] for row in values(drawn.spec)} == {f"t{n:02}" for n in range(8)}
    assert drawn.notes == ["the 8 highest are shown, 4 are not"]


def test_bars_are_sorted_and_only_as_many_as_fit():
    rows = [{"tool_name": f"t{n}", "count": n} for n in range(1, 31)]

    drawn = vega_lite(widget(query={"group_by": ["tool_name"]}), answer(rows), LOOK)

    shown = [row["c"] for row in values(drawn.spec)]
    assert shown == [f"t{n}" for n in range(30, 20, -1)]
    assert drawn.notes == ["and 20 more"]
    cut = vega_lite(widget(query={"group_by": ["tool_name"]}), answer(rows, truncated=True), LOOK)
    assert cut.notes == ["and at least 20 more"]


def test_the_period_before_stands_beside_bars():
    rows = [{"tool_name": "a", "count": 5}]
    before = [{"tool_name": "a", "count": 3}, {"tool_name": "gone", "count": 9}]

    drawn = vega_lite(widget(query={"group_by": ["tool_name"]}), answer(rows, before=before), LOOK)

    assert [(row["c"], row["s"], row["v"]) for row in values(drawn.spec)] == [
        ("a", "this period", 5),
        ("a", "period before", 3),
    ]


def test_the_period_before_is_a_dashed_line_at_the_same_place_of_the_range():
    before = [{"day": (FROM - timedelta(days=10)).isoformat(), "count": 7}]
    one = widget(query={"group_by": ["day"]})

    drawn = vega_lite(one, answer(by_day(count=1), before=before), LOOK)

    line = values(drawn.spec, 1)
    assert drawn.spec["layer"][1]["mark"]["strokeDash"]
    assert [row["v"] for row in line] == [7, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    assert line[0]["a"] == FROM.timestamp() * 1000


def test_months_of_another_length_stand_at_the_same_place():
    one = widget(query={"group_by": ["month"]})
    asked = Answer(
        id="w",
        from_=datetime(2026, 3, 1, tzinfo=UTC),
        to=datetime(2026, 5, 1, tzinfo=UTC),
        rows=[{"month": "2026-03-01T00:00:00Z", "count": 1}],
        previous=Before(
            from_=datetime(2025, 12, 30, tzinfo=UTC),
            to=datetime(2026, 3, 1, tzinfo=UTC),
            rows=[{"month": f"2026-0{n}-01T00:00:00Z", "count": n} for n in (1, 2)],
        ),
    )

    drawn = vega_lite(one, asked, LOOK)

    now = [row["a"] for row in values(drawn.spec)]
    assert [row["a"] for row in values(drawn.spec, 1)] == now
    assert [row["v"] for row in values(drawn.spec, 1)] == [0, 1]


def test_dollars_are_drawn_as_dollars():
    query = {
        "source": "model_calls",
        "measures": ["cost_usd_micros"],
        "group_by": ["request_model"],
    }

    drawn = vega_lite(
        widget(query=query), answer([{"request_model": "m", "cost_usd_micros": 5_500_000}]), LOOK
    )

    (bar,) = values(drawn.spec)
    assert (bar["v"], bar["t"]) == (5.5, "$5.50")


def test_measures_of_another_unit_are_left_out_and_it_is_said():
    one = widget(query={"group_by": ["day"], "measures": ["count", "p95_ms"]})

    drawn = vega_lite(one, answer(by_day(count=1, p95_ms=5.0)), LOOK)

    assert drawn.notes == ["p95 is left out: it has another unit"]


@pytest.mark.parametrize("mark", ["bar", "line", "area", "point", "arc", "rect", None])
@pytest.mark.parametrize(
    "group_by",
    [[], ["day"], ["hour"], ["week"], ["month"], ["tool_name"], ["day", "tool_name"],
     ["tool_name", "agent"], ["day", "tool_name", "agent"]],
)  # fmt: skip
@pytest.mark.parametrize("measures", [["count"], ["error_rate"], ["p50_ms", "p95_ms"]])
def test_every_kind_of_chart_can_be_drawn(measures, group_by, mark):
    rows = [
        {
            name: day(n % 3) if name in ("day", "hour", "week", "month") else f"{name} {n}"
            for name in group_by
        }
        | dict.fromkeys(measures, 0.5 * n)
        for n in range(1, 4)
    ][: None if group_by else 1]
    one = widget(query={"group_by": group_by, "measures": measures}, mark=mark)

    drawn = vega_lite(one, answer(rows, before=rows), LOOK)

    svg = drawing.draw(drawn.spec)
    root = markup.admit(svg, "a-")
    assert max(float(root.get("width")), float(root.get("height"))) <= 501
    assert len(root.findall(f".//{{{markup.SVG}}}path")) > 1


def test_the_encoding_that_a_client_chose_is_drawn():
    one = widget(
        query={"group_by": ["day", "agent"], "measures": ["p95_ms"]},
        mark="point",
        encoding={
            "x": {"field": "day", "type": "temporal"},
            "y": {"field": "p95_ms", "scale": {"type": "log"}, "title": "slow"},
            "color": {"field": "agent", "legend": False},
            "size": {"field": "p95_ms"},
            "tooltip": [{"field": "agent"}, {"field": "p95_ms"}],
        },
    )

    drawn = vega_lite(one, answer(by_day(agent="codex", p95_ms=2000.0)), LOOK)

    encoding = drawn.spec["encoding"]
    assert encoding["x"]["scale"]["type"] == "utc"
    assert encoding["y"]["title"] == "slow"
    assert encoding["color"]["legend"] is None
    assert [row["p95_ms"] for row in drawn.spec["data"]["values"]] == [2, 2]
    assert "slow" in drawing.draw(drawn.spec)


def test_a_format_does_not_ask_for_a_billion_characters():
    one = widget(
        query={"group_by": ["tool_name"]},
        encoding={"x": {"field": "count", "format": "400000000d"}, "y": {"field": "tool_name"}},
    )

    drawn = vega_lite(one, answer([{"tool_name": "a", "count": 1}]), LOOK)

    assert len(drawing.draw(drawn.spec)) < 100_000


def test_a_week_that_began_before_the_range_is_inside_of_the_picture():
    one = widget(query={"group_by": ["week"]}, mark="bar")
    rows = [{"week": "2026-02-23T00:00:00Z", "count": 1}]

    drawn = vega_lite(one, answer(rows), LOOK)

    begin, end = drawn.spec["layer"][0]["encoding"]["x"]["scale"]["domain"]
    assert all(begin <= row["a"] < row["b"] <= end for row in values(drawn.spec))


def test_an_encoding_that_vega_refuses_is_said_in_its_card():
    one = widget(
        query={"group_by": ["tool_name"]},
        encoding={"x": {"field": "count", "format": "no%%such"}, "y": {"field": "tool_name"}},
    )

    svg = compose(picture([one], [answer([{"tool_name": "a", "count": 1}])]), drawing.draw)

    assert "This chart cannot be drawn; look at its encoding." in texts(svg)


@pytest.mark.parametrize("along", ["x", "y"])
@pytest.mark.parametrize("form", [None, "%d/%m"])
def test_bars_of_an_encoding_are_as_wide_as_their_weeks_and_called_by_their_mondays(along, form):
    across = "y" if along == "x" else "x"
    one = widget(
        query={"group_by": ["week", "agent"]},
        mark="bar",
        encoding={
            along: {"field": "week", **({"format": form} if form else {})},
            across: {"field": "count"},
            "color": {"field": "agent"},
        },
    )
    rows = [
        {"week": f"2026-03-{day}T00:00:00Z", "agent": name, "count": 5}
        for day in ("02", "09")
        for name in ("codex", "cursor")
    ]

    drawn = vega_lite(one, answer(rows), LOOK)

    svg = drawing.draw(drawn.spec)
    bars = re.findall(r'aria-roledescription="bar" d="M[^h]*h([-0-9.]+)v([-0-9.]+)', svg)
    assert len(bars) == 4
    assert all(abs(float(length)) > 40 for bar in bars for length in bar)
    said = texts(svg)
    assert {"02/03", "09/03"} <= set(said) if form else {"2 Mar", "9 Mar"} <= set(said)


def test_the_legend_of_an_encoding_is_no_wider_than_its_chart():
    names = [f"a tool with a long name {n}" for n in range(8)]
    rows = [{"day": day(n), "tool_name": name, "count": 1} for n, name in enumerate(names)]
    one = widget(
        query={"group_by": ["day", "tool_name"]},
        mark="bar",
        encoding={"x": {"field": "day"}, "y": {"field": "count"}, "color": {"field": "tool_name"}},
    )

    drawn = vega_lite(one, answer(rows), LOOK)

    assert drawn.spec["encoding"]["color"]["legend"]["columns"] == 3
    said = texts(drawing.draw(drawn.spec))
    assert set(names) <= set(said)
    assert "1 Mar" in said


@pytest.mark.parametrize(("mark", "shift"), [("bar", timedelta(days=3.5)), ("line", timedelta())])
def test_weeks_are_labelled_where_they_stand(mark, shift):
    rows = [{"week": f"2026-03-{day}T00:00:00Z", "count": 1} for day in ("02", "09")]

    drawn = vega_lite(widget(query={"group_by": ["week"]}, mark=mark), answer(rows), LOOK)

    mondays = [datetime(2026, 2, 23, tzinfo=UTC) + timedelta(weeks=n) for n in range(3)]
    axis = drawn.spec["layer"][0]["encoding"]["x"]["axis"]
    assert axis["values"] == [(monday + shift).timestamp() * 1000 for monday in mondays]
    assert {"23 Feb", "2 Mar", "9 Mar"} <= set(texts(drawing.draw(drawn.spec)))


def test_a_ranking_leaves_out_what_was_never_counted():
    query = {"group_by": ["tool_name"], "measures": ["error_count"]}
    rows = [{"tool_name": name, "error_count": n} for name, n in (("a", 2), ("b", 0), ("c", 0))]
    before = [{"tool_name": name, "error_count": n} for name, n in (("b", 3), ("c", 0))]

    def shown(rows, **options):
        drawn = vega_lite(widget(query=query), answer(rows, **options), LOOK)
        return {row["c"] for row in values(drawn.spec)}

    table = widget("table", query={**query, "order_by": "-error_count"})
    said = texts(compose(picture([table], [answer(rows)]), drawing.draw))

    assert shown(rows) == {"a"}
    assert shown(rows, before=before) == {"a", "b"}
    assert "a" in said
    assert not {"b", "c"} & set(said)


def test_nothing_is_said_of_a_period_before_in_which_nothing_was():
    tiles = [
        widget("number"),
        msgspec.structs.replace(widget(query={"group_by": ["day"]}), id="line"),
        msgspec.structs.replace(widget(query={"group_by": ["tool_name"]}), id="bars"),
    ]
    by_tool = [{"tool_name": "a", "count": 1}]

    def said(was, days, tools):
        answers = [
            answer([], totals={"count": 120}, before=[], was={"count": was}),
            msgspec.structs.replace(answer(by_day(count=1), before=days), id="line"),
            msgspec.structs.replace(answer(by_tool, before=tools), id="bars"),
        ]
        return " ".join(texts(compose(picture(tiles, answers), drawing.draw)))

    before = [{"day": (FROM - timedelta(days=10)).isoformat(), "count": 7}]
    assert "before" not in said(0, [], [])
    assert "from 100" in said(100, before, by_tool)
    assert "the dashed line is the period before" in said(100, before, by_tool)


# -- whole pictures -------------------------------------------------------------------------------


def test_a_worse_error_rate_is_called_worse_and_more_calls_are_not():
    calls = answer([], totals={"count": 120}, before=[], was={"count": 100})
    errors = msgspec.structs.replace(
        answer([], totals={"error_rate": 0.08}, before=[], was={"error_rate": 0.05}), id="e"
    )
    tiles = [
        widget("number"),
        msgspec.structs.replace(widget("number", query={"measures": ["error_rate"]}), id="e"),
    ]

    said = texts(compose(picture(tiles, [calls, errors]), drawing.draw))

    assert "▲ 20\xa0%" in said
    assert "▲ 3 points worse" in said


@pytest.mark.parametrize(
    ("begin", "end", "said"),
    [
        (datetime(2026, 3, 4, tzinfo=UTC), datetime(2026, 3, 10, tzinfo=UTC), "4 to 9 Mar"),
        (datetime(2026, 2, 24, tzinfo=UTC), datetime(2026, 3, 3, tzinfo=UTC), "24 Feb to 2 Mar"),
        (datetime(2026, 3, 4, tzinfo=UTC), datetime(2026, 3, 5, tzinfo=UTC), "4 Mar"),
        (datetime(2025, 3, 4, tzinfo=UTC), datetime(2025, 3, 5, tzinfo=UTC), "4 Mar 2025"),
        (datetime(2025, 12, 4, tzinfo=UTC), datetime(2026, 1, 5, tzinfo=UTC),
         "4 Dec 2025 to 4 Jan 2026"),
        (datetime(2026, 3, 4, 5, tzinfo=UTC), datetime(2026, 3, 5, 7, tzinfo=UTC),
         "4 Mar 2026 05:00 to 5 Mar 2026 07:00"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["chart", "number", "table"])
def test_a_widget_with_a_range_of_its_own_says_so(kind, begin, end, said):
    tiles = [msgspec.structs.replace(widget(kind, description="about"), id=one) for one in "ab"]
    usual, own = (
        msgspec.structs.replace(answer([], totals={"count": 1}), id="a"),
        Answer(id="b", from_=begin, to=end, rows=[], totals={"count": 1}),
    )

    written = texts(compose(picture(tiles, [usual, own]), drawing.draw))

    assert (said if kind == "number" else f"{said} · about") in written
    assert "1 Mar 2026 to 10 Mar 2026" in written


def test_a_range_that_all_widgets_have_is_said_once():
    begin, end = datetime(2026, 3, 4, tzinfo=UTC), datetime(2026, 3, 10, tzinfo=UTC)
    tiles = [msgspec.structs.replace(widget("number"), id=one) for one in "ab"]
    answers = [Answer(id=one, from_=begin, to=end, rows=[], totals={"count": 1}) for one in "ab"]

    said = texts(compose(picture(tiles, answers), drawing.draw))

    assert [text for text in said if "Mar" in text and " to " in text] == [
        "4 Mar 2026 to 9 Mar 2026"
    ]


def test_a_table_shows_what_fits_and_counts_the_rest():
    rows = [{"tool_name": f"tool {n}", "count": n, "error_rate": 0.01} for n in range(40)]
    one = widget("table", query={"group_by": ["tool_name"], "measures": ["count", "error_rate"]})

    said = texts(compose(picture([one], [answer(rows)]), drawing.draw))

    shown = [text for text in said if text.startswith("tool ")]
    assert 3 < len(shown) < 40
    assert f"and {40 - len(shown)} more" in said


def test_empty_failed_and_missing_answers_are_said():
    ids = ["empty", "failed", "missing", "zero"]
    tiles = [msgspec.structs.replace(widget(query={"group_by": ["day"]}), id=one) for one in ids]
    answers = [
        msgspec.structs.replace(answer([]), id="empty"),
        msgspec.structs.replace(answer([], error="too many groups"), id="failed"),
        msgspec.structs.replace(answer(by_day(count=0)), id="zero"),
    ]

    said = texts(compose(picture(tiles, answers), drawing.draw))

    for words in ("Nothing in this range.", "too many groups", "There is no answer for this widget.",
                  "Nothing but zeros in this range."):  # fmt: skip
        assert words in said
    assert "This dashboard has no widgets yet." in texts(compose(picture([], []), drawing.draw))


def test_people_are_called_by_their_names():
    one = widget("table", query={"group_by": ["user_id"]})
    rows = [
        {"user_id": "a", "count": 1},
        {"user_id": "b", "count": 1},
        {"user_id": None, "count": 1},
    ]
    names = {"a": Person("ada@x", "Ada"), "b": Person("bob@x", None)}

    said = texts(compose(picture([one], [answer(rows)], names=names), drawing.draw))

    assert {"Ada", "bob@x", "(not known)"} <= set(said)


HOSTILE = [
    "<script>alert(1)</script>",
    "</text><image href='http://127.0.0.1/'/>",
    "a & b &amp; &#x3c;",
    "]]><!--",
    '" onload="x',
    "url(#x)",
    'id="x" clip-path="url(http://127.0.0.1/)"',
    "\u202eevil\u202c",
    "\x00\x08\x0b\ufffe",
    "'+datum+'",
    "x" * 10_000,
    "語" * 500,
    " ",
]


@pytest.mark.parametrize("kind", ["chart", "table"])
def test_no_name_comes_out_as_markup(kind):
    rows = [{"tool_name": name, "day": day(0), "count": 5 + n} for n, name in enumerate(HOSTILE)]
    options = {"mark": "bar"} if kind == "chart" else {}
    tiles = [
        widget(
            kind,
            title=name[:255],
            description=name[:255],
            query={"group_by": group_by},
            **options,
        )
        for name in HOSTILE
        for group_by in (["tool_name"], ["day", "tool_name"])
    ]
    tiles = [msgspec.structs.replace(tile, id=f"w{n}") for n, tile in enumerate(tiles)]
    answers = [msgspec.structs.replace(answer(rows), id=tile.id) for tile in tiles]

    svg = compose(picture(tiles, answers, name=HOSTILE[0], description=HOSTILE[4]), drawing.draw)

    markup.check(svg)
    assert not re.search(
        r"<(script|image|style|foreignObject|use|a)\b|\bon\w+=|href", re.sub(r">[^<]*<", "><", svg)
    )
    assert "\u202e" not in svg
    assert "<script>alert(1)</script>" in texts(svg)
    assert len(vl_convert.svg_to_png(svg)) > 10_000


def test_drawings_do_not_share_ids():
    tiles = [msgspec.structs.replace(widget(query={"group_by": ["day"]}), id=one) for one in "ab"]
    answers = [msgspec.structs.replace(answer(by_day(count=1)), id=one) for one in "ab"]

    svg = compose(picture(tiles, answers), drawing.draw)

    ids = [one.get("id") for one in ET.fromstring(svg).iter() if one.get("id")]
    assert len(ids) == len(set(ids))


def test_rows_of_the_grid_without_a_widget_take_no_room():
    one = widget("number")
    near = picture([one], [answer([], totals={"count": 1})])

    far = msgspec.structs.replace(near, layout={"w": Place(0, 900, 3, 2)})

    assert images.size_of(far)[1] < images.size_of(near)[1]


# -- nothing is loaded ----------------------------------------------------------------------------


@pytest.fixture
def listener():
    """An address that notes who asks."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *given):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


DRAWS = """
import sys
from metrics_service.dashboards.pictures import drawing, markup
import vl_convert
given = sys.stdin.read()
try:
    if sys.argv[1] == "unguarded":
        vl_convert.svg_to_png(given)
    elif sys.argv[1] == "svg":
        markup.check(given); vl_convert.svg_to_png(given)
    else:
        print("SECRET" in drawing.draw(__import__("json").loads(given)))
except (ValueError, markup.ForeignMarkupError) as error:
    print("refused")
"""


def apart(mode, given):
    """In a process of its own, because vl-convert keeps the lock that our listener needs."""
    done = subprocess.run(
        [sys.executable, "-c", DRAWS, mode], input=given, capture_output=True, text=True, timeout=60,
        check=False, env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    return done.stdout.strip()


def test_a_picture_loads_nothing(listener, tmp_path):
    address, asked = listener
    svg = f'<svg xmlns="{markup.SVG}" width="9" height="9"><image href="{address}/a.png" width="9" height="9"/></svg>'
    spec = msgspec.json.encode(
        {"data": {"url": f"{address}/d.json"}, "mark": "bar", "encoding": {"x": {"field": "a"}}}
    ).decode()

    assert apart("unguarded", svg) == ""
    # So the listener would have noticed.
    assert asked == ["/a.png"]
    asked.clear()
    assert apart("svg", svg) == "refused"
    assert apart("vega", spec) == "refused"
    # Vega's reader of files is not there.
    tmp_path.joinpath("d.json").write_text('[{"a": "SECRET"}]')
    assert apart("vega", spec.replace(address, f"file://{tmp_path}")) == "False"
    assert asked == []


@pytest.mark.parametrize(
    "inside",
    [
        '<image href="/etc/passwd"/>',
        "<script/>",
        '<a href="x"><text>a</text></a>',
        "<style>@import url(http://127.0.0.1/)</style>",
        '<rect fill="url(http://127.0.0.1/#a)"/>',
        '<rect onclick="x"/>',
        '<rect style="fill:url(http://127.0.0.1/)"/>',
        "<foreignObject/>",
        '<use href="#a"/>',
    ],
)
def test_what_could_load_or_run_is_not_drawn(inside):
    with pytest.raises(markup.ForeignMarkupError):
        markup.check(f'<svg xmlns="{markup.SVG}">{inside}</svg>')


# -- fonts ----------------------------------------------------------------------------------------


def test_text_is_visible_in_the_font_that_the_converter_brings_along():
    def ink(family):
        svg = (
            f'<svg xmlns="{markup.SVG}" width="300" height="40"><rect width="300" height="40" fill="white"/>'
            f'<text x="5" y="25" font-family="{family}" font-size="16">12 % ▲ ▼ … – é</text></svg>'
        )
        image = Image.open(io.BytesIO(vl_convert.svg_to_png(svg))).convert("L")
        return sum(255 - level for level in image.tobytes())

    assert ink("No Such Family") == 0
    assert ink(FONT) > 10_000
    # Not from this machine's fonts: they are in the library itself.
    library = Path(vl_convert.__path__[0])
    assert any(b"LiberationSans-Bold" in one.read_bytes() for one in library.glob("*.so"))


# -- the process that draws -----------------------------------------------------------------------


@pytest.fixture
async def renderer():
    made = images.Renderer()
    yield made
    await made.aclose()


ONE = [widget("number")]
ANSWERED = [answer([], totals={"count": 1})]


@pytest.mark.parametrize(
    ("kind", "begins"), [("png", b"\x89PNG"), ("svg", b"<svg "), ("pdf", b"%PDF")]
)
async def test_each_format_is_drawn(renderer, kind, begins):
    image = await renderer.render(picture(ONE, ANSWERED, format=kind, width=800), whose=1)

    assert image.startswith(begins)
    if kind == "png":
        assert Image.open(io.BytesIO(image)).size[0] == 800


async def test_a_process_that_dies_is_replaced(renderer):
    await renderer.render(picture(ONE, ANSWERED), whose=1)
    renderer._process.kill()
    await renderer._process.wait()

    assert await renderer.render(picture(ONE, ANSWERED), whose=1)


async def test_a_picture_that_takes_too_long_ends_and_the_next_is_drawn(renderer, monkeypatch):
    await renderer.render(picture(ONE, ANSWERED), whose=1)
    first = renderer._process
    monkeypatch.setattr(images, "DRAWS_S", 0.0001)

    with pytest.raises(UnavailableError, match="too long") as refused:
        await renderer.render(picture(ONE, ANSWERED), whose=1)

    assert refused.value.retry_after_s > 0
    assert first.returncode is not None
    monkeypatch.setattr(images, "DRAWS_S", 20)
    assert await renderer.render(picture(ONE, ANSWERED), whose=1)


async def test_only_so_many_wait_and_one_tenant_does_not_take_all(renderer):
    import asyncio

    async def ask(tenant):
        try:
            return await renderer.render(picture(ONE, ANSWERED), whose=tenant)
        except UnavailableError:
            return None

    greedy = await asyncio.gather(*(ask("greedy") for _ in range(6)), ask("other"))

    assert sum(one is not None for one in greedy[:6]) == images.MAX_WAITING_OF_ONE
    assert greedy[6] is not None
    crowd = await asyncio.gather(*(ask(number) for number in range(12)))
    assert sum(one is not None for one in crowd) == images.MAX_WAITING


async def test_a_client_that_leaves_does_not_give_its_picture_to_the_next(renderer):
    import asyncio

    await renderer.render(picture(ONE, ANSWERED), whose=1)
    leaving = asyncio.create_task(renderer.render(picture(ONE, ANSWERED), whose=1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving

    image = await renderer.render(picture(ONE, ANSWERED, format="pdf"), whose=1)

    assert image.startswith(b"%PDF")


def _environ_of(pid):
    return Path(f"/proc/{pid}/environ").read_bytes()


async def test_the_process_has_no_address_and_no_secret(renderer, monkeypatch):
    monkeypatch.setenv("DATABASE_URL", "postgresql://x")
    monkeypatch.setenv("METRICS_SECRET_KEY", "x")
    await renderer.render(picture(ONE, ANSWERED), whose=1)

    environ = _environ_of(renderer._process.pid)

    assert b"DATABASE" not in environ
    assert b"METRICS_" not in environ


def test_the_process_ends_with_its_input_though_the_server_was_killed():
    command = [sys.executable, "-m", "metrics_service.dashboards.pictures.drawing"]

    done = subprocess.run(command, input=b"", capture_output=True, timeout=30, check=False)

    assert (done.returncode, done.stdout) == (0, b"")


async def test_the_process_ends_with_the_renderer():
    made = images.Renderer()
    await made.render(picture(ONE, ANSWERED), whose=1)
    process = made._process

    await made.aclose()

    assert process.returncode is not None


def test_a_png_of_too_many_pixels_is_refused_by_name():
    tiles = [msgspec.structs.replace(widget("number"), id=f"w{n}") for n in range(100)]
    layout = {f"w{n}": {"x": 0, "y": n * 10, "w": 12, "h": 10} for n in range(100)}
    meta = Meta(from_=FROM, to=TO, tz="UTC", updated_at=None, answered_at=TO)

    def ask(width, kind):
        return images.picture_of(
            "x",
            "",
            widgets=tiles,
            layout=layout,
            answers=msgspec.json.encode(Answers([], meta)),
            format_=kind,
            theme="light",
            width=width,
        )

    with pytest.raises(InvalidQueryError, match="width"):
        ask(2400, "png")
    assert ask(600, "png").width == 600
    assert ask(2400, "svg").width == 2400


# -- templates ------------------------------------------------------------------------------------


def test_the_templates_are_there():
    assert list(TEMPLATES) == [
        "overview", "tools", "cost", "reliability", "people", "claude-code", "codex", "gemini-cli",
        "copilot-cli", "cursor", "opencode", "qwen-code", "copilot-vscode",
    ]  # fmt: skip
    assert len(TEMPLATES["overview"].tiles) == 12


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=str)
def test_a_template_is_a_dashboard_without_a_mistake(template):
    assert widget_errors(template.widgets(), template.layout()) == []
    assert 8 <= len(template.tiles) <= 14
    assert any(tile.widget.query.compare for tile in template.tiles)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=str)
def test_a_template_fills_its_rows(template):
    cells = [
        (x, y)
        for place in template.layout().values()
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    height = max(y for _, y in cells) + 1

    assert len(cells) == len(set(cells)) == 12 * height
