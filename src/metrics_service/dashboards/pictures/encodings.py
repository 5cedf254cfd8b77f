"""Charts whose encoding the client chose: its channels, our units, colours and bounds."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from metrics_service.dashboards.pictures.figures import GAP, Scale, scale_for, unit_of, words
from metrics_service.dashboards.pictures.frames import LABEL_ROOM, MAX_SERIES
from metrics_service.dashboards.pictures.lettering import labels
from metrics_service.dashboards.pictures.picture import Answer, Look, Row, wall_of
from metrics_service.dashboards.pictures.theme import LABEL_SIZE
from metrics_service.dashboards.widgets import Channel, Widget, WidgetQuery
from metrics_service.rollups.ranges import TIMES

MAX_ROWS = 5000
MAX_NAMES = 30

# d3 fills figures up to the width that a format names: a billion characters, if it says so.
_is_wide = re.compile(r"[0-9]{3}").search

_COLOURED = frozenset({"color", "shape"})
_WITH_AXIS = frozenset({"x", "y"})
_WITH_LEGEND = frozenset({"color", "size", "opacity", "shape"})


def encoded(widget: Widget, answer: Answer, look: Look) -> tuple[dict[str, Any], list[str]]:
    """The mark and the channels as Vega-Lite has them, with the data, and what was left out."""
    if widget.encoding is None:
        raise ValueError("the widget has no encoding")
    query = widget.query
    notes = list(answer.notes)
    rows = answer.rows[:MAX_ROWS]
    if len(answer.rows) > MAX_ROWS:
        notes.append(f"the first {MAX_ROWS:,} points are drawn")
    most: dict[str, int] = {}
    for where, channel in widget.encoding.channels():
        if channel.field in query.group_by and channel.field not in TIMES:
            bound = MAX_SERIES if where in _COLOURED else MAX_NAMES
            most[channel.field] = min(bound, most.get(channel.field, bound))
    for column, bound in most.items():
        rows, left_out = _largest(rows, column, query.measures[0], bound)
        if left_out:
            notes.append(f"{words(column)}: {bound} of {bound + left_out} are drawn")
    scales = {name: _scale(rows, query, name) for name in query.measures}
    values = _values(rows, query, look, scales)
    channels: dict[str, Any] = {}
    for where, channel in widget.encoding.channels():
        name, is_one_of_many = where.partition("[")[0], "[" in where
        drawn = _channel(name, channel, query, scales)
        if is_one_of_many:
            channels.setdefault(name, []).append(drawn)
        else:
            channels[name] = drawn
    mark = widget.mark or ("line" if query.time_column is not None else "bar")
    return {"data": {"values": values}, "mark": {"type": mark}, "encoding": channels}, notes


def _largest(rows: list[Row], column: str, measure: str, most: int) -> tuple[list[Row], int]:
    sizes: dict[Any, float] = defaultdict(float)
    for row in rows:
        sizes[row[column]] += abs(row.get(measure) or 0)
    kept = set(sorted(sizes, key=lambda name: (-sizes[name], str(name)))[:most])
    return [row for row in rows if row[column] in kept], max(0, len(sizes) - most)


def _scale(rows: list[Row], query: WidgetQuery, measure: str) -> Scale:
    largest = max((abs(row.get(measure) or 0) for row in rows), default=0)
    return scale_for(largest, unit_of(query.source, measure))


def _values(rows: list[Row], query: WidgetQuery, look: Look, scales: dict[str, Scale]) -> list[Row]:
    names = {
        column: labels((look.named(column, row[column]) for row in rows), LABEL_ROOM, LABEL_SIZE)
        for column in query.group_by
        if column not in TIMES
    }
    values = []
    for row in rows:
        value: Row = {}
        for column in query.group_by:
            there = row[column]
            value[column] = (
                wall_of(there) if column in TIMES else names[column][look.named(column, there)]
            )
        for name in query.measures:
            amount = row.get(name)
            value[name] = None if amount is None else amount / scales[name].divisor
        values.append(value)
    return values


def _channel(
    name: str, channel: Channel, query: WidgetQuery, scales: dict[str, Scale]
) -> dict[str, Any]:
    column = channel.field
    is_measure = column in scales
    usual = "quantitative" if is_measure else "temporal" if column in TIMES else "nominal"
    kind = channel.type or usual
    drawn: dict[str, Any] = {"field": column, "type": kind}
    drawn["title"] = words(column, query.source) if channel.title is None else channel.title
    scale = {
        field: value
        for field in ("type", "scheme", "zero", "domain")
        if channel.scale is not None and (value := getattr(channel.scale, field)) is not None
    }
    if kind == "temporal" and name in _WITH_AXIS:
        # All times are on the viewer's clock already.
        scale["type"] = "utc"
    if scale:
        drawn["scale"] = scale
    for field in ("stack", "sort"):
        if (value := getattr(channel, field)) is not None:
            drawn[field] = value
    if name in _WITH_AXIS:
        drawn["axis"] = None if channel.axis is False else _labels(channel, query, scales)
    if name in _WITH_LEGEND:
        drawn["legend"] = None if channel.legend is False else _labels(channel, query, scales)
    return drawn


def _labels(channel: Channel, query: WidgetQuery, scales: dict[str, Scale]) -> dict[str, Any]:
    if channel.format is not None and not _is_wide(channel.format):
        return {"format": channel.format}
    scale = scales.get(channel.field)
    if scale is None:
        return {}
    if unit_of(query.source, channel.field) == "share":
        return {"labelExpr": f"format(datum.value * 100, ',.3~r') + '{GAP}%'"}
    return {"labelExpr": f"'{scale.before}' + format(datum.value, ',.3~r') + '{scale.after}'"}
