"""Number tiles and tables, drawn by ourselves."""

from __future__ import annotations

import msgspec

from metrics_service.dashboards.pictures import markup
from metrics_service.dashboards.pictures.lettering import width as width_of
from metrics_service.dashboards.pictures.numbers import Change, Sparkline, Stat, sparkline, stats
from metrics_service.dashboards.pictures.picture import Answer, Look
from metrics_service.dashboards.pictures.tables import (
    cell_text,
    columns_of,
    idle_note,
    ranked,
    telling,
)
from metrics_service.dashboards.widgets import Widget

FIGURE_SIZE = 32
SMALL_FIGURE_SIZE = 20
WORDS_SIZE = 12
ROW_HEIGHT = 24
HEADER_HEIGHT = 24
_COLUMN_GAP = 18

SPARKLINE_HEIGHT = 44


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
    for place, stat in enumerate(stats(query, answer)):
        is_alone = len(query.measures) == 1
        parts.append(_figure(stat, look, place * each, each - 12, is_alone=is_alone))
    if len(answer.rows) > 1 and look.height >= 58 + SPARKLINE_HEIGHT:
        drawn = sparkline(query, answer, look, width=look.width, height=SPARKLINE_HEIGHT - 4)
        parts.append(_drawn(drawn, look) if drawn is not None else "")
    return Tile("".join(parts), list(answer.notes))


def _figure(stat: Stat, look: Look, x: float, room: float, *, is_alone: bool) -> str:
    theme = look.theme
    size = FIGURE_SIZE if is_alone else SMALL_FIGURE_SIZE
    drawn = [markup.text(x, size, stat.text, size=size, colour=theme.text, room=room, is_bold=True)]
    y = size + 22
    if not is_alone:
        drawn.append(markup.text(x, y, stat.label, size=WORDS_SIZE, colour=theme.muted, room=room))
        y += 17
    if stat.change is not None and y <= look.height:
        drawn.append(_comparison(stat.change, look, x, y, room))
    return "".join(drawn)


def _comparison(changed: Change, look: Look, x: float, y: float, room: float) -> str:
    theme = look.theme
    if not changed.moved:
        return markup.text(x, y, changed.was, size=WORDS_SIZE, colour=theme.muted, room=room)
    colour = {"neutral": theme.text, "good": theme.good, "bad": theme.bad}[changed.tone]
    reach = min(width_of(changed.moved, WORDS_SIZE, is_bold=True), room)
    return markup.text(
        x, y, changed.moved, size=WORDS_SIZE, colour=colour, room=room, is_bold=True
    ) + markup.text(
        x + reach + 6, y, changed.was, size=WORDS_SIZE, colour=theme.muted, room=room - reach - 6
    )


def _drawn(line: Sparkline, look: Look) -> str:
    accent = look.theme.accent
    inside = markup.path(line.area, stroke="none", fill=accent, opacity=0.15) + markup.path(
        line.line, stroke=accent
    )
    return f'<g transform="translate(0,{look.height - SPARKLINE_HEIGHT:g})">{inside}</g>'


# -- tables -----------------------------------------------------------------------------------------


class _Column(msgspec.Struct):
    heading: str
    cells: list[str]
    is_figure: bool
    width: float = 0.0


def table(widget: Widget, answer: Answer, look: Look) -> Tile:
    """As many rows as fit, names on the left and figures on the right; the rest is counted."""
    rows = ranked(widget.query, answer.rows)
    fitting = max(1, int((look.height - HEADER_HEIGHT) // ROW_HEIGHT))
    notes = list(answer.notes)
    if len(rows) > fitting:
        notes.insert(0, f"and {'at least ' if answer.truncated else ''}{len(rows) - fitting} more")
    measures, idle = telling(widget.query, rows)
    if idle:
        notes.append(idle_note(idle))
    columns = [
        _Column(
            column.label, [cell_text(column, row, look) for row in rows[:fitting]], column.is_number
        )
        for column in columns_of(widget.query, measures)
    ]
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
