"""Widgets and layouts: what is taken, and what is refused by which name."""

from __future__ import annotations

import copy
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_service.dashboards.widgets import (
    Encoding,
    Widget,
    read_widget,
    span_of,
    widget_errors,
)
from metrics_service.errors import InvalidBodyError
from metrics_service.rollups.measures import MEASURES
from metrics_service.rollups.ranges import TIMES
from metrics_service.rollups.sources import SOURCES
from metrics_service.seeds.dashboards import BY_PLAN

USER = "0198f3a4-7c1e-7d40-8000-00000000000a"
WHOLE = {
    "id": "slow-tools",
    "title": "Slowest tools",
    "description": "by p95",
    "kind": "chart",
    "query": {
        "source": "tool_metrics",
        "measures": ["p95_ms", "count"],
        "group_by": ["day", "tool_name"],
        "filters": {"tool_category": "mcp", "agent": ["codex", "claude-code"], "user_id": USER},
        "range": {"last": "30d"},
        "compare": "previous_period",
        "order_by": "-p95_ms",
        "limit": 10,
    },
    "mark": "line",
    "encoding": {
        "x": {"field": "day", "type": "temporal", "title": "Day", "axis": False},
        "y": {
            "field": "p95_ms",
            "type": "quantitative",
            "stack": "zero",
            "format": ",.1f",
            "scale": {"type": "log", "zero": False, "domain": [0, 1.5]},
        },
        "color": {
            "field": "tool_name",
            "sort": "-y",
            "legend": False,
            "scale": {"scheme": "tableau10", "domain": ["Bash", "Read"]},
        },
        "xOffset": {"field": "tool_name", "sort": ["Bash", "Read"]},
        "tooltip": [{"field": "day"}, {"field": "count", "stack": True}],
    },
}
ABSENT = object()


def changed(path, value, of=WHOLE):
    """The widget with one value of it replaced, or taken out."""
    widget = copy.deepcopy(of)
    *way, last = path.split(".")
    into = widget
    for name in way:
        into = into.setdefault(name, {})
    if value is ABSENT:
        del into[last]
    else:
        into[last] = value
    return widget


def errors_of(widget, layout=None):
    return {error.field: error.reason for error in widget_errors([widget], layout or {})}


def test_a_whole_widget_is_taken_and_typed():
    assert errors_of(WHOLE, {"slow-tools": {"x": 0, "y": 0, "w": 12, "h": 4}}) == {}

    widget = read_widget(WHOLE)

    assert widget.query.columns == ("day", "tool_name", "p95_ms", "count")
    assert widget.query.time_column == "day"
    assert widget.query.values("tool_category") == ["mcp"]
    assert widget.query.values("agent") == ["codex", "claude-code"]
    assert widget.query.values("team") == []
    assert [where for where, _ in widget.encoding.channels()] == [
        "x", "y", "color", "tooltip[0]", "tooltip[1]", "xOffset",
    ]  # fmt: skip


def test_what_is_typed_says_the_same_as_what_was_sent():
    assert msgspec.to_builtins(read_widget(WHOLE)) == WHOLE


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_every_measure_and_every_dimension_of_a_source_can_be_asked_for(source):
    for measure in MEASURES[source]:
        for column in (*TIMES, *SOURCES[source].dimensions):
            query = {"source": source, "measures": [measure], "group_by": [column]}
            assert errors_of({"id": "a", "kind": "table", "query": query}) == {}


def test_the_dashboards_of_the_demonstration_are_taken():
    for made in BY_PLAN["enterprise"]:
        assert widget_errors(made.template.widgets(), made.template.layout()) == []


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("id", ABSENT, "id"),
        ("id", "", "id"),
        ("id", "a b", "id"),
        ("id", "a\n", "id"),
        ("id", "-a", "id"),
        ("id", "x" * 65, "id"),
        ("id", "é", "id"),
        ("id", 1, "id"),
        ("title", "x" * 256, "title"),
        ("title", None, "title"),
        ("kind", "map", "kind"),
        ("kind", ABSENT, "kind"),
        ("url", "https://example.com", "url"),
        ("data", {"url": "https://example.com"}, "data"),
        ("transform", [], "transform"),
        ("mark", "text", "mark"),
        ("mark", {"type": "bar"}, "mark"),
        ("query", ABSENT, "query"),
        ("query", [], "query"),
        ("query.tenant_id", USER, "query.tenant_id"),
        ("query.sql", "SELECT 1", "query.sql"),
        ("query.source", "users", "query.source"),
        ("query.source", "t_other.tool_metrics", "query.source"),
        ("query.measures", [], "query.measures"),
        ("query.measures", ["count"] * 2, "query.measures[1]"),
        ("query.measures", ["count", "input_tokens"], "query.measures[1]"),
        ("query.measures", ["count(*)"], "query.measures[0]"),
        ("query.measures", list(MEASURES["tool_metrics"])[:9], "query.measures"),
        ("query.group_by", ["day", "hour"], "query.group_by"),
        ("query.group_by", ["day", "day"], "query.group_by[1]"),
        ("query.group_by", ["request_model"], "query.group_by[0]"),
        ("query.group_by", ["tenant_id"], "query.group_by[0]"),
        ("query.group_by", ["day", "tool_name", "agent", "team", "user_id"], "query.group_by"),
        ("query.filters", {"day": "x"}, "query.filters.day"),
        ("query.filters", {"x" * 500: "x"}, f"query.filters.{'x' * 64}"),
        ("query.filters", {str(number): "x" for number in range(9_999)}, "query.filters"),
        ("query.filters", {"agent": []}, "query.filters.agent"),
        ("query.filters", {"agent": ""}, "query.filters.agent"),
        ("query.filters", {"agent": ["x" * 256]}, "query.filters.agent"),
        ("query.filters", {"agent": ["x"] * 101}, "query.filters.agent"),
        ("query.filters", {"agent": None}, "query.filters"),
        ("query.filters", {"agent": {"not": "x"}}, "query.filters"),
        ("query.filters", {"user_id": "ada@example.com"}, "query.filters.user_id"),
        ("query.filters", {"user_id": [USER, USER.replace("-", "")]}, "query.filters.user_id"),
        ("query.range", {}, "query.range"),
        ("query.range", {"last": "30"}, "query.range.last"),
        ("query.range", {"last": "0d"}, "query.range.last"),
        ("query.range", {"last": "1y"}, "query.range.last"),
        ("query.range", {"last": "-1d"}, "query.range.last"),
        ("query.range", {"last": "1.5d"}, "query.range.last"),
        ("query.range", {"last": "٣d"}, "query.range.last"),
        ("query.range", {"last": "30d\n"}, "query.range.last"),
        ("query.range", {"last": "9" * 5000 + "d"}, "query.range.last"),
        ("query.range", {"last": "401d"}, "query.range.last"),
        ("query.range", {"last": "58w"}, "query.range.last"),
        ("query.range", {"last": "9601h"}, "query.range.last"),
        ("query.range", {"last": "1d", "to": "2026-01-01T00:00:00Z"}, "query.range"),
        ("query.range", {"from": "2026-01-01T00:00:00Z"}, "query.range"),
        ("query.range", {"from": "2026-01-01", "to": "2026-01-02"}, "query.range.from"),
        (
            "query.range",
            {"from": "2026-01-01T00:00:00", "to": "2026-01-02T00:00:00Z"},
            "query.range.from",
        ),
        (
            "query.range",
            {"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"},
            "query.range.from",
        ),
        (
            "query.range",
            {"from": "2026-01-01T00:00:00Z", "to": "2026-01-01T01:00:00+01:00"},
            "query.range.from",
        ),
        (
            "query.range",
            {"from": "2001-01-01T00:00:00Z", "to": "2099-01-01T00:00:00Z"},
            "query.range.from",
        ),
        (
            "query.range",
            {"from": "0001-01-01T00:00:00+14:00", "to": "2026-01-01T00:00:00Z"},
            "query.range.from",
        ),
        (
            "query.range",
            {"from": "2026-01-01T00:00:00Z", "to": "9999-12-31T23:59:59-14:00"},
            "query.range.to",
        ),
        ("query.compare", "last_year", "query.compare"),
        ("query.order_by", "tool_category", "query.order_by"),
        ("query.order_by", "--count", "query.order_by"),
        ("query.order_by", "", "query.order_by"),
        ("query.limit", 0, "query.limit"),
        ("query.limit", 1001, "query.limit"),
        ("query.limit", 10**30, "query.limit"),
        ("query.limit", 1.5, "query.limit"),
        ("query.limit", True, "query.limit"),
        ("encoding.x.field", "nope", "encoding.x.field"),
        ("encoding.x.field", "day.x", "encoding.x.field"),
        ("encoding.x.field", ABSENT, "encoding.x.field"),
        ("encoding.x.aggregate", "sum", "encoding.x.aggregate"),
        ("encoding.x.timeUnit", "year", "encoding.x.timeUnit"),
        ("encoding.x.value", {"expr": "alert(1)"}, "encoding.x.value"),
        ("encoding.x.condition", {"test": "1"}, "encoding.x.condition"),
        ("encoding.x.type", "geojson", "encoding.x.type"),
        ("encoding.x.title", ["a", "b"], "encoding.x.title"),
        ("encoding.x.axis", True, "encoding.x.axis"),
        ("encoding.x.axis", {"labelExpr": "1"}, "encoding.x.axis"),
        ("encoding.color.legend", True, "encoding.color.legend"),
        ("encoding.y.format", "x" * 41, "encoding.y.format"),
        ("encoding.y.format", "{expr}", "encoding.y.format"),
        ("encoding.y.sort", {"field": "x", "op": "sum"}, "encoding.y.sort"),
        ("encoding.y.stack", "sum", "encoding.y.stack"),
        ("encoding.y.scale", {"domain": {"param": "x"}}, "encoding.y.scale.domain"),
        ("encoding.y.scale", {"domain": [0] * 101}, "encoding.y.scale.domain"),
        ("encoding.y.scale", {"range": ["red"]}, "encoding.y.scale.range"),
        ("encoding.y.scale", {"scheme": "Bad Scheme"}, "encoding.y.scale.scheme"),
        ("encoding.url", {"field": "day"}, "encoding.url"),
        ("encoding.href", {"field": "day"}, "encoding.href"),
        ("encoding.x_offset", {"field": "day"}, "encoding.x_offset"),
        ("encoding.tooltip", [], "encoding.tooltip"),
        ("encoding.tooltip", [{"field": "day"}, {"field": "x"}], "encoding.tooltip[1].field"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(path, value, field):
    found = errors_of(changed(path, value))

    # What a query no longer has cannot be drawn either: that is told as well.
    assert f"widgets[0].{field}" in found
    assert all(len(reason) < 400 for reason in found.values())


@pytest.mark.parametrize("raw", [None, 1, "x", [], {}])
def test_what_is_no_widget_is_named_by_its_number(raw):
    (error,) = widget_errors([{"id": "a", **changed("id", "a")}, raw], {})

    assert error.field.startswith("widgets[1]")


@pytest.mark.parametrize(
    ("group_by", "is_taken"),
    [([], True), (["day"], True), (["agent"], False), (["day", "agent"], False)],
)
def test_a_number_is_one_figure_or_one_over_time(group_by, is_taken):
    query = {"source": "sessions", "measures": ["count"], "group_by": group_by}

    found = errors_of({"id": "a", "kind": "number", "query": query})

    assert (found == {}) == is_taken
    assert is_taken or list(found) == ["widgets[0].query.group_by"]


@pytest.mark.parametrize("kind", ["number", "table"])
def test_only_charts_are_drawn(kind):
    query = {"source": "sessions", "measures": ["count"]}
    look = {"mark": "bar", "encoding": {"x": {"field": "count"}}}

    found = errors_of({"id": "a", "kind": kind, "query": query, **look})

    assert found.keys() == {"widgets[0].mark", "widgets[0].encoding"}


def test_two_widgets_have_two_ids():
    errors = widget_errors([WHOLE, changed("id", "other"), WHOLE], {})

    assert [(error.field, error.reason) for error in errors] == [
        ("widgets[2].id", "another widget has this id")
    ]


def test_all_mistakes_are_told_at_once():
    broken = [changed("query.limit", 0), changed("id", "b"), changed("kind", "x")]

    errors = widget_errors(broken, {"b": {"x": 12, "y": 0, "w": 1, "h": 1}, "zz": {}})

    assert [error.field for error in errors] == [
        "widgets[0].query.limit",
        "widgets[2].kind",
        "layout.b",
        "layout.zz",
    ]


def test_no_answer_is_as_long_as_a_million_mistakes():
    broken = [
        changed("query.measures", ["x"] * 8, changed("id", f"w{number}")) for number in range(100)
    ]

    assert len(widget_errors(broken, {str(number): 1 for number in range(100)})) == 100


@pytest.mark.parametrize(
    ("last", "hours"),
    [("1h", 1), ("30d", 720), ("57w", 9576), ("99999w", 16_799_832), ("d", None), ("1D", None)],
)
def test_a_span_is_hours_days_or_weeks(last, hours):
    span = span_of(last)

    assert (None if span is None else span.total_seconds() / 3600) == hours


# -- the layout -------------------------------------------------------------------------------------


def place(x, y, w, h):
    return {"x": x, "y": y, "w": w, "h": h}


def of_layout(**places):
    widgets = [changed("id", name) for name in ("a", "b", "c")]
    return [error.field for error in widget_errors(widgets, places)]


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [],
        {},
        {"x": 0, "y": 0, "w": 1},
        {**place(0, 0, 1, 1), "z": 1},
        place(-1, 0, 1, 1),
        place(12, 0, 1, 1),
        place(11, 0, 2, 1),
        place(0, -1, 1, 1),
        place(0, 1001, 1, 1),
        place(0, 0, 0, 1),
        place(0, 0, 13, 1),
        place(0, 0, 1, 0),
        place(0, 0, 1, 41),
        place(0.5, 0, 1, 1),
        place(True, 0, 1, 1),
        place("0", 0, 1, 1),
        place(10**30, 0, 1, 1),
    ],
)
def test_a_place_is_on_the_grid(wrong):
    assert of_layout(a=wrong) == ["layout.a"]


def test_a_place_for_no_widget_is_refused():
    assert of_layout(a=place(0, 0, 1, 1), nobody=place(1, 0, 1, 1)) == ["layout.nobody"]


def test_there_are_not_more_places_than_widgets():
    (error,) = widget_errors([], {str(number): {} for number in range(50_000)})

    assert error.field == "layout"


def test_neighbours_touch_and_do_not_overlap():
    assert of_layout(a=place(0, 0, 6, 4), b=place(6, 0, 6, 4), c=place(0, 4, 12, 4)) == []
    assert of_layout(a=place(0, 0, 6, 4), b=place(5, 3, 6, 4), c=place(0, 7, 12, 1)) == ["layout.b"]


PLACES = st.tuples(st.integers(0, 8), st.integers(0, 6), st.integers(1, 4), st.integers(1, 4))


@given(PLACES, PLACES)
def test_places_overlap_when_they_have_a_square_in_common(one, other):
    def squares(x, y, w, h):
        return {(x + right, y + down) for right in range(w) for down in range(h)}

    found = of_layout(a=place(*one), b=place(*other))

    assert (found == ["layout.b"]) == bool(squares(*one) & squares(*other))


# -- whatever is sent -------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["field", "id", "type", "x"]) | st.text(), inner, max_size=3
        )
    ),
    max_leaves=6,
)
NAMES = (*Widget.__struct_fields__, *Encoding.__struct_fields__, "query", "range", "filters")


@given(
    st.lists(
        st.dictionaries(st.sampled_from(NAMES), JSON)
        | JSON
        | st.tuples(
            st.sampled_from(["query.range", "query.filters", "encoding.x", "id"]), JSON
        ).map(lambda given: changed(*given)),
        max_size=4,
    ),
    st.dictionaries(st.text(max_size=3), JSON, max_size=3),
)
def test_any_json_is_taken_or_refused_by_name(widgets, layout):
    for error in widget_errors(widgets, layout):
        assert error.field.startswith(("widgets[", "layout"))
        assert error.reason
    for raw in widgets:
        try:
            json.dumps(msgspec.to_builtins(read_widget(raw)))
        except InvalidBodyError as error:
            assert error.errors
