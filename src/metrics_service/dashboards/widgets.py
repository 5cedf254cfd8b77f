"""Widgets: a query over the rollups, and how its answer is shown; nothing else can be said in one.

What is drawn is a strict subset of Vega-Lite (https://vega.github.io/vega-lite/docs/encoding.html):
without what loads data, runs expressions or names a column that the query does not answer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal, TypeAlias
from uuid import UUID

import msgspec
from msgspec import Meta

from metrics_service.dashboards.layout import MAX_SHOWN, layout_errors
from metrics_service.errors import FieldError, InvalidBodyError
from metrics_service.fields import Instant, ShortText, Text
from metrics_service.http.validation import named_field, reason_of, told
from metrics_service.rollups.measures import MEASURES
from metrics_service.rollups.ranges import TIMES, range_error
from metrics_service.rollups.sources import SOURCES

LONGEST_LAST = timedelta(days=400)
MAX_FILTER_VALUES = 100
# Of a hundred widgets that are wrong in the same way a client need not read each.
MAX_ERRORS = 100

Mark = Literal["bar", "line", "area", "point", "arc", "rect"]
WidgetId = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$(?!\n)",
        description="Letters, digits, - and _; up to 64.",
    ),
]
Title = Annotated[str, Meta(max_length=255)]
Columns = Annotated[list[str], Meta(max_length=4)]


class Struct(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True
):
    """What all parts of a widget have in common."""


# -- what is asked for ------------------------------------------------------------------------------


class Range(Struct, frozen=True):
    """The latest `last`, or from `from` to `to`, which is exclusive."""

    last: str | None = None
    from_: Instant | None = msgspec.field(default=None, name="from")
    to: Instant | None = None


class WidgetQuery(Struct, frozen=True):
    """One question to the rollups of a source."""

    source: str
    measures: Annotated[list[str], Meta(min_length=1, max_length=8)]
    group_by: Columns = []
    filters: dict[str, str | list[str]] = {}
    range: Range | None = None
    compare: Literal["previous_period"] | None = None
    order_by: str | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the answer, in their order."""
        return (*self.group_by, *self.measures)

    @property
    def time_column(self) -> str | None:
        return next((name for name in self.group_by if name in TIMES), None)

    def values(self, dimension: str) -> list[str]:
        """The values that a filter lets through."""
        value = self.filters.get(dimension, [])
        return [value] if isinstance(value, str) else value


UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_is_last = re.compile(r"([1-9][0-9]{0,4})([hdw])").fullmatch


def span_of(last: str) -> timedelta | None:
    """How long `30d`, `12h` or `2w` is; None for what is no such time."""
    found = _is_last(last)
    return int(found[1]) * UNITS[found[2]] if found else None


# -- how it is shown --------------------------------------------------------------------------------


class Scale(Struct, frozen=True):
    type: (
        Literal["linear", "log", "symlog", "sqrt", "time", "utc", "ordinal", "band", "point"] | None
    ) = None
    scheme: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,31}$(?!\n)")] | None = None
    zero: bool | None = None
    domain: (
        Annotated[list[float | Annotated[str, Meta(max_length=255)]], Meta(max_length=100)] | None
    ) = None


Order: TypeAlias = Literal["ascending", "descending", "x", "-x", "y", "-y"]


class Channel(Struct, frozen=True):
    """What a column of the answer decides about the picture."""

    field: str
    type: Literal["quantitative", "temporal", "nominal", "ordinal"] | None = None
    title: Title | None = None
    stack: bool | Literal["zero", "normalize", "center"] | None = None
    sort: Order | Annotated[list[ShortText], Meta(max_length=100)] | None = None
    format: Annotated[str, Meta(pattern=r"^[A-Za-z0-9 %$,.~+(:/_^<>=#-]{1,40}$(?!\n)")] | None = (
        None
    )
    axis: bool | None = None
    legend: bool | None = None
    scale: Scale | None = None


Channels: TypeAlias = Channel | Annotated[list[Channel], Meta(min_length=1, max_length=12)]


class Encoding(Struct, frozen=True):
    x: Channel | None = None
    y: Channel | None = None
    color: Channel | None = None
    theta: Channel | None = None
    size: Channel | None = None
    opacity: Channel | None = None
    shape: Channel | None = None
    detail: Channels | None = None
    order: Channels | None = None
    tooltip: Channels | None = None
    x_offset: Channel | None = msgspec.field(default=None, name="xOffset")
    row: Channel | None = None
    column: Channel | None = None

    def channels(self) -> Iterator[tuple[str, Channel]]:
        """Every channel with where it stands."""
        for field in msgspec.structs.fields(self):
            found = getattr(self, field.name)
            if isinstance(found, list):
                for place, channel in enumerate(found):
                    yield f"{field.encode_name}[{place}]", channel
            elif found is not None:
                yield field.encode_name, found


class Widget(Struct, frozen=True):
    """One tile of a dashboard."""

    id: WidgetId
    kind: Literal["chart", "number", "table"]
    query: WidgetQuery
    title: Title = ""
    description: Text = ""
    mark: Mark | None = None
    encoding: Encoding | None = None


# -- what is wrong with one --------------------------------------------------------------------------


def widget_errors(widgets: Sequence[Any], layout: Mapping[str, Any]) -> list[FieldError]:
    """What is wrong with widgets and their places, as they were sent: each by its path."""
    errors: list[FieldError] = []
    ids: Counter[str] = Counter()
    for place, raw in enumerate(widgets):
        where = f"widgets[{place}]"
        try:
            widget = read_widget(raw, where)
        except InvalidBodyError as error:
            errors += error.errors
        else:
            if widget.id in ids:
                errors.append(FieldError("another widget has this id", field=f"{where}.id"))
        if isinstance(raw, dict):
            ids.update([str(raw.get("id"))])
    return [*errors, *layout_errors(layout, ids.keys())][:MAX_ERRORS]


def read_widget(raw: Any, where: str = "widget") -> Widget:
    """The widget as it was sent or stored; raises `InvalidBodyError` that names every mistake."""
    try:
        widget = msgspec.convert(raw, Widget)
    except msgspec.ValidationError as error:
        raise InvalidBodyError([_of_type(error, where)]) from None
    if errors := [
        FieldError(reason, field=f"{where}.{field}") for field, reason in _mistakes(widget)
    ]:
        raise InvalidBodyError(errors)
    return widget


Mistakes: TypeAlias = Iterator[tuple[str, str]]
"""The path of a field within the widget, and what is wrong with it."""


def _of_type(error: msgspec.ValidationError, where: str) -> FieldError:
    said, path = told(error)
    field = where + path.replace("[...]", "")
    if name := named_field(said):
        field += f".{name[:MAX_SHOWN]}"
    return FieldError(reason_of(said), field=field)


def _mistakes(widget: Widget) -> Mistakes:
    query = widget.query
    if query.source not in SOURCES:
        yield "query.source", _not_among(SOURCES)
        return
    yield from _of_columns(query)
    yield from _of_filters(query)
    if query.range is not None:
        yield from _of_range(query.range)
    if query.order_by is not None and query.order_by.removeprefix("-") not in query.columns:
        yield "query.order_by", _not_among(query.columns)
    yield from _of_look(widget)


def _of_columns(query: WidgetQuery) -> Mistakes:
    dimensions = SOURCES[query.source].dimensions
    for field, given, allowed in (
        ("measures", query.measures, tuple(MEASURES[query.source])),
        ("group_by", query.group_by, (*TIMES, *dimensions)),
    ):
        for place, name in enumerate(given):
            if name not in allowed:
                yield f"query.{field}[{place}]", _not_among(allowed)
            elif name in given[:place]:
                yield f"query.{field}[{place}]", "is there already"
    if sum(name in TIMES for name in query.group_by) > 1:
        yield "query.group_by", f"may have one of {', '.join(TIMES)}"


def _of_filters(query: WidgetQuery) -> Mistakes:
    dimensions = SOURCES[query.source].dimensions
    if len(query.filters) > len(dimensions):
        yield "query.filters", "has more than there are dimensions"
        return
    for name in query.filters:
        field, values = f"query.filters.{name[:MAX_SHOWN]}", query.values(name)
        if name not in dimensions:
            yield field, _not_among(dimensions)
        elif not 0 < len(values) <= MAX_FILTER_VALUES:
            yield field, f"must have 1 to {MAX_FILTER_VALUES} values"
        elif not all(0 < len(value) <= 255 for value in values):
            yield field, "must have values of 1 to 255 characters"
        elif name == "user_id" and not all(map(is_id, values)):
            yield field, "must be the ids of users"


def is_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def _of_range(asked: Range) -> Mistakes:
    if asked.last is not None:
        if asked.from_ is not None or asked.to is not None:
            yield "query.range", "must be last, or from and to"
        elif (span := span_of(asked.last)) is None:
            yield "query.range.last", "must be hours, days or weeks: 12h, 30d, 8w"
        elif span > LONGEST_LAST:
            yield "query.range.last", f"must not be longer than {LONGEST_LAST.days} days"
    elif asked.from_ is None or asked.to is None:
        yield "query.range", "must be last, or from and to"
    elif error := range_error(asked.from_, asked.to):
        yield f"query.range.{error.field}", error.reason


def _of_look(widget: Widget) -> Mistakes:
    query = widget.query
    if widget.kind != "chart":
        for name in ("mark", "encoding"):
            if getattr(widget, name) is not None:
                yield name, "is for charts"
    if widget.kind == "number" and query.group_by and query.group_by != [query.time_column]:
        yield "query.group_by", "of a number must be empty or one time column"
    if widget.encoding is None:
        return
    for where, channel in widget.encoding.channels():
        if channel.field not in query.columns:
            yield f"encoding.{where}.field", _not_among(query.columns)
        for name in ("axis", "legend"):
            if getattr(channel, name):
                yield f"encoding.{where}.{name}", "can only be false"


def _not_among(allowed: Mapping[str, Any] | Sequence[str]) -> str:
    return f"is not one of {', '.join(allowed)}"
