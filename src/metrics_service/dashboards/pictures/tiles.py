"""Number tiles and tables, drawn by ourselves."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from metrics_service.dashboards.pictures import markup
from metrics_service.dashboards.pictures.figures import (
    NOTHING,
    adds_up,
    change,
    figure,
    is_of_failures,
    is_slight,
    meaning_of_rise,
    unit_of,
    words,
)
from metrics_service.dashboards.pictures.frames import buckets
from metrics_service.dashboards.pictures.lettering import width as width_of
from metrics_service.dashboards.pictures.picture import Answer, Look, Row, wall_of
from metrics_service.dashboards.widgets import Widget, WidgetQuery
from metrics_service.rollups.ranges import TIMES

FIGURE_SIZE = 32
SMALL_FIGURE_SIZE = 20
WORDS_SIZE = 12
ROW_HEIGHT = 24
HEADER_HEIGHT = 24
_COLUMN_GAP = 18

SPARKLINE_HEIGHT = 44

_TIME_FORMS = {"hour": "%-d %b %H:%M", "day": "%a %-d %b", "week": "week of %-d %b",
               "month": "%B %Y"}  # fmt: skip


class Tile(msgspec.Struct, frozen=True):
    """What was drawn, and what must be said beside it."""

    svg: str
    notes: list[str]


# -- numbers ----------------------------------------------------------------------------------------


def number(widget: Widget, answer: Answer, look: Look) -> Tile:
    """The figures of a range, each with what it was in the period before."""
    query = widget.query
    parts: list[str] = []
    each = look.width / len(query.measures)
    size = FIGURE_SIZE if len(query.measures) == 1 else SMALL_FIGURE_SIZE
    for place, measure in enumerate(query.measures):
        parts.append(_figure(query, measure, answer, look, place * each, each - 12, size))
    time = query.time_column
    if time is not None and len(answer.rows) > 1 and look.height >= 58 + SPARKLINE_HEIGHT:
        parts.append(_sparkline(query, time, answer, look))
    return Tile("".join(parts), list(answer.notes))


def _figure(
    query: WidgetQuery, measure: str, answer: Answer, look: Look, x: float, room: float, size: float
) -> str:
    theme = look.theme
    unit = unit_of(query.source, measure)
    now = whole(query, measure, answer.rows, answer.totals)
    drawn = [
        markup.text(
            x, size, figure(now, unit), size=size, colour=theme.text, room=room, is_bold=True
        )
    ]
    y = size + 22
    if len(query.measures) > 1:
        drawn.append(
            markup.text(
                x, y, words(measure, query.source), size=WORDS_SIZE, colour=theme.muted, room=room
            )
        )
        y += 17
    if answer.previous is not None and y <= look.height:
        before = whole(query, measure, answer.previous.rows, answer.previous.totals)
        drawn.append(_comparison(measure, unit, now, before, look, x, y, room))
    return "".join(drawn)


def _comparison(
    measure: str,
    unit: str,
    now: float | None,
    before: float | None,
    look: Look,
    x: float,
    y: float,
    room: float,
) -> str:
    theme = look.theme
    changed = change(now, before, unit)
    if now is None or before is None or changed is None:
        return ""
    sign, amount = changed
    was = f"from {figure(before, unit)}"
    if not sign:
        same = f"as before ({figure(before, unit)})"
        return markup.text(x, y, same, size=WORDS_SIZE, colour=theme.muted, room=room)
    meaning = "neutral" if is_slight(now, before, unit) else meaning_of_rise(measure)
    is_good = (meaning == "good") == (sign > 0)
    colour = theme.text if meaning == "neutral" else theme.good if is_good else theme.bad
    judged = "" if meaning == "neutral" else " better" if is_good else " worse"
    moved = f"{'▲' if sign > 0 else '▼'} {amount}{judged}"
    reach = min(width_of(moved, WORDS_SIZE, is_bold=True), room)
    return markup.text(
        x, y, moved, size=WORDS_SIZE, colour=colour, room=room, is_bold=True
    ) + markup.text(
        x + reach + 6, y, was, size=WORDS_SIZE, colour=theme.muted, room=room - reach - 6
    )


def whole(
    query: WidgetQuery, measure: str, rows: Iterable[Row], totals: Row | None
) -> float | None:
    """The figure of the whole range; of what does not add up only when it was answered."""
    if totals is not None:
        value: float | None = totals.get(measure)
        return value
    values = [row[measure] for row in rows if row.get(measure) is not None]
    if query.time_column is None:
        return values[0] if values else None
    return sum(values) if values and adds_up(query.source, measure) else None


def _sparkline(query: WidgetQuery, time: str, answer: Answer, look: Look) -> str:
    measure = query.measures[0]
    known = {wall_of(row[time]): row.get(measure) for row in answer.rows}
    if adds_up(query.source, measure):
        values = [(at, known.get(at) or 0) for at in buckets(time, answer, look)]
    else:
        values = [(at, value) for at, value in sorted(known.items()) if value is not None]
    if len(values) < 2:
        return ""
    first, last = values[0][0], values[-1][0]
    highest = max(value for _, value in values) or 1
    top, height = look.height - SPARKLINE_HEIGHT, SPARKLINE_HEIGHT - 4
    points = [
        (
            (at - first) / (last - first) * (look.width - 4) + 2,
            top + height - value / highest * (height - 2),
        )
        for at, value in values
    ]
    drawn = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    under = f"{drawn}L{points[-1][0]:.1f},{top + height}L{points[0][0]:.1f},{top + height}Z"
    accent = look.theme.accent
    return markup.path(under, stroke="none", fill=accent, opacity=0.15) + markup.path(
        drawn, stroke=accent
    )


# -- tables -----------------------------------------------------------------------------------------


class _Column(msgspec.Struct):
    heading: str
    cells: list[str]
    is_figure: bool
    width: float = 0.0


def table(widget: Widget, answer: Answer, look: Look) -> Tile:
    """As many rows as fit, names on the left and figures on the right; the rest is counted."""
    rows = _failed(widget.query, answer.rows)
    fitting = max(1, int((look.height - HEADER_HEIGHT) // ROW_HEIGHT))
    notes = list(answer.notes)
    if len(rows) > fitting:
        notes.insert(0, f"and {'at least ' if answer.truncated else ''}{len(rows) - fitting} more")
    measures, idle = _telling(widget.query, rows)
    if idle:
        notes.append(f"nothing but zeros: {', '.join(words(name) for name in idle)}")
    columns = list(_columns(widget.query, measures, rows[:fitting], look))
    _share_out(columns, look.width)
    theme = look.theme
    parts: list[str] = []
    x = 0.0
    for column in columns:
        right = x + column.width
        at, anchor = (right, "end") if column.is_figure else (x, "start")
        parts.append(
            markup.text(
                at, 13, column.heading, size=11, colour=theme.muted, room=column.width,
                anchor=anchor,
            )
        )  # fmt: skip
        for place, cell in enumerate(column.cells):
            y = HEADER_HEIGHT + place * ROW_HEIGHT + 16
            parts.append(
                markup.text(
                    at, y, cell, size=12, colour=theme.text, room=column.width, anchor=anchor
                )
            )
        x = right + _COLUMN_GAP
    rules = [
        markup.line(0, y, look.width, y, stroke=theme.grid)
        for y in (
            HEADER_HEIGHT - 3 + place * ROW_HEIGHT for place in range(min(len(rows), fitting))
        )
    ]
    return Tile("".join([*rules, *parts]), notes)


def _failed(query: WidgetQuery, rows: list[Row]) -> list[Row]:
    """Of a ranking of failures, the rows that have any; all rows where none has."""
    usual = "" if query.time_column is not None else f"-{query.measures[0]}"
    order = query.order_by or usual
    by = order.removeprefix("-")
    if by == order or not is_of_failures(by):
        return rows
    return [row for row in rows if row.get(by)] or rows


def _telling(query: WidgetQuery, rows: list[Row]) -> tuple[list[str], list[str]]:
    """The measures that say anything, and those that no row has; the first one is always shown."""
    idle = [name for name in query.measures[1:] if not any(row.get(name) for row in rows)]
    return [name for name in query.measures if name not in idle], idle


def _columns(
    query: WidgetQuery, measures: list[str], rows: list[Row], look: Look
) -> Iterable[_Column]:
    for name in query.group_by:
        cells = [_cell(name, row[name], look) for row in rows]
        yield _Column(words(name), cells, is_figure=False)
    for name in measures:
        unit = unit_of(query.source, name)
        cells = [figure(row.get(name), unit) for row in rows]
        yield _Column(words(name, query.source), cells, is_figure=True)


def _cell(column: str, value: Any, look: Look) -> str:
    if column not in TIMES:
        return look.named(column, value)
    if value is None:
        return NOTHING
    moment = datetime.fromtimestamp(wall_of(value) / 1000, UTC)
    return moment.strftime(_TIME_FORMS[column])


def _share_out(columns: list[_Column], room: float) -> None:
    """Figures get what they need, and names what is left, or a part of it by their length."""
    for column in columns:
        longest = max((width_of(cell, 12) for cell in column.cells), default=0.0)
        column.width = max(width_of(column.heading, 11), longest) + 1
    room -= _COLUMN_GAP * (len(columns) - 1)
    figures = [column for column in columns if column.is_figure]
    names = [column for column in columns if not column.is_figure]
    needed = sum(column.width for column in figures)
    if names:
        least = room * 0.25
        if needed > room - least:
            _shrink(figures, room - least)
            needed = room - least
        wanted = sum(column.width for column in names)
        for column in names:
            column.width *= (room - needed) / wanted
    elif needed > room:
        _shrink(figures, room)


def _shrink(columns: list[_Column], room: float) -> None:
    wanted = sum(column.width for column in columns)
    for column in columns:
        column.width *= room / wanted
