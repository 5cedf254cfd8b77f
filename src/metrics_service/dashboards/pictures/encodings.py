"""Charts whose encoding the client chose: its channels, our units, colours and bounds."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from metrics_service.dashboards.pictures.encodings_on_page import in_panes, shade, tell
from metrics_service.dashboards.pictures.figures import GAP, Scale, scale_for, unit_of, words
from metrics_service.dashboards.pictures.frames import LABEL_ROOM, MAX_SERIES, buckets
from metrics_service.dashboards.pictures.lettering import labels
from metrics_service.dashboards.pictures.marks import (
    BESIDE_FIGURES,
    end_of,
    in_columns,
    whole_range,
)
from metrics_service.dashboards.pictures.picture import Answer, Look, Row, wall_of
from metrics_service.dashboards.pictures.theme import LABEL_SIZE
from metrics_service.dashboards.pictures.time_axis import date_form, time_axis, written
from metrics_service.dashboards.widgets import Channel, Encoding, Widget, WidgetQuery
from metrics_service.rollups.ranges import TIMES

MAX_ROWS = 5000
MAX_NAMES = 30

# d3 fills figures up to the width that a format names: a billion characters, if it says so.
_is_wide = re.compile(r"[0-9]{3}").search

_COLOURED = frozenset({"color", "shape"})
_WITH_AXIS = frozenset({"x", "y"})
_WITH_LEGEND = frozenset({"color", "size", "opacity", "shape"})

# Marks that are as wide as the hour, day, week or month that they stand for.
_WIDE_MARKS = frozenset({"bar", "rect"})
# No query has columns of these names.
_BEGIN, _END = "bucket_begin", "bucket_end"


def encoded(widget: Widget, answer: Answer, look: Look) -> tuple[dict[str, Any], list[str]]:
    """The mark and the channels as Vega-Lite has them, with the data, and what was left out."""
    if widget.encoding is None:
        raise ValueError("the widget has no encoding")
    query = widget.query
    rows, notes = _bounded(widget.encoding, query, answer)
    scales = {name: _scale(rows, query, name) for name in query.measures}
    values = _values(rows, query, look, scales)
    mark: dict[str, Any] = {"type": widget.mark or ("bar" if query.time_column is None else "line")}
    channels = _channels(widget.encoding, query, scales, values, look, mark)
    if look.is_fluid:
        tell(mark, values, rows, widget.encoding, query, look)
    for name in ("x", "y"):
        channel = getattr(widget.encoding, name)
        if channel is None or channel.field not in TIMES or channels[name]["type"] != "temporal":
            continue
        is_wide = mark["type"] in _WIDE_MARKS and widget.encoding.x_offset is None
        is_bar = mark["type"] == "bar"
        _in_time(channels, name, channel, values, answer, look, is_wide=is_wide, is_bar=is_bar)
        if is_wide and is_bar:
            # Vega finds no end to round where both ends are given, and draws nothing.
            mark["cornerRadiusEnd"] = 0
    parts = {"data": {"values": values}, "mark": mark, "encoding": channels}
    return (in_panes(parts, widget.encoding, values, look) if look.is_fluid else parts), notes


def _channels(
    encoding: Encoding,
    query: WidgetQuery,
    scales: dict[str, Scale],
    values: list[Row],
    look: Look,
    mark: dict[str, Any],
) -> dict[str, Any]:
    channels: dict[str, Any] = {}
    for where, channel in encoding.channels():
        name, is_one_of_many = where.partition("[")[0], "[" in where
        # On a page they are told by the mark, in our words.
        if look.is_fluid and name == "tooltip":
            continue
        drawn = _channel(name, channel, query, scales)
        if look.is_fluid and name == "color":
            shade(drawn, look)
        if drawn.get("legend") == {} and drawn["type"] in {"nominal", "ordinal"}:
            names = (str(row[channel.field]) for row in values)
            drawn["legend"] = in_columns(
                names, look, room=BESIDE_FIGURES, is_line=mark["type"] == "line"
            )
        if is_one_of_many:
            channels.setdefault(name, []).append(drawn)
        else:
            channels[name] = drawn
    return channels


def _in_time(
    channels: dict[str, Any],
    name: str,
    channel: Channel,
    values: list[Row],
    answer: Answer,
    look: Look,
    *,
    is_wide: bool,
    is_bar: bool,
) -> None:
    """Time along an axis as in our own charts: the whole range, our dates, marks with a width."""
    time, drawn = channel.field, channels[name]
    begins = [row[time] for row in values]
    places = list(buckets(time, answer, look))
    known = sorted({*places, *begins})
    if not known:
        return
    begin, end = known[0], end_of(time, known[-1]) if is_wide else known[-1]
    if is_wide:
        for row in values:
            until = end_of(time, row[time])
            gap = (until - row[time]) * (0.12 if is_bar else 0)
            row[_BEGIN], row[_END] = row[time] + gap, until - gap
        # So Vega knows that the other axis is the one along which bars grow.
        drawn |= {"field": _BEGIN, "bin": "binned"}
        channels[f"{name}2"] = {"field": _END}
    if "domain" in drawn["scale"]:
        return
    if begin < end:
        drawn["scale"] |= whole_range(begin, end, look)
    if channel.axis is not False:
        form = drawn["axis"].pop("format", None)
        axis = time_axis(time, places, end - begin, look, along=name, is_ranged=is_wide, form=form)
        drawn["axis"] |= {**axis, "title": channel.title}


def _bounded(encoding: Encoding, query: WidgetQuery, answer: Answer) -> tuple[list[Row], list[str]]:
    """As many rows and names as a picture shows, and what was left out."""
    notes = list(answer.notes)
    rows = answer.rows[:MAX_ROWS]
    if len(answer.rows) > MAX_ROWS:
        notes.append(f"the first {MAX_ROWS:,} points are drawn")
    most: dict[str, int] = {}
    for where, channel in encoding.channels():
        if channel.field in query.group_by and channel.field not in TIMES:
            bound = MAX_SERIES if where in _COLOURED else MAX_NAMES
            most[channel.field] = min(bound, most.get(channel.field, bound))
    for column, bound in most.items():
        rows, left_out = _largest(rows, column, query.measures[0], bound)
        if left_out:
            notes.append(f"{words(column)}: {bound} of {bound + left_out} are drawn")
    return rows, notes


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
    # Dates and names say what they are.
    usual_title = words(column, query.source) if is_measure else None
    drawn["title"] = usual_title if channel.title is None else channel.title
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
        drawn["axis"] = (
            None if channel.axis is False else _axis(kind) | _labels(channel, query, scales)
        )
    if name in _WITH_LEGEND:
        drawn["legend"] = None if channel.legend is False else _labels(channel, query, scales)
        if name == "size" and drawn["legend"] is not None:
            drawn["legend"]["tickCount"] = 3
    return drawn


def _axis(kind: str) -> dict[str, Any]:
    return {"grid": True} if kind == "quantitative" else {"labelAngle": 0, "labelOverlap": True}


def _labels(channel: Channel, query: WidgetQuery, scales: dict[str, Scale]) -> dict[str, Any]:
    if channel.format is not None and not _is_wide(channel.format):
        return {"format": channel.format}
    scale = scales.get(channel.field)
    if scale is None:
        is_shown = channel.field in TIMES and channel.type in {"nominal", "ordinal"}
        return {"labelExpr": written("datum.value", date_form(channel.field))} if is_shown else {}
    if unit_of(query.source, channel.field) == "share":
        return {"labelExpr": f"format(datum.value * 100, ',.3~r') + '{GAP}%'"}
    figure = f"'{scale.before}' + format(datum.value, ',.3~r') + '{scale.after}'"
    return {"labelExpr": f"datum.value === 0 ? '{scale.before}0' : {figure}"}
