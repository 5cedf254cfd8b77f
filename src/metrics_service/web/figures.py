"""A widget and its answer as the page shows them: a number, a table, or a chart with its table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec

from metrics_service.dashboards.data import Person, WidgetData
from metrics_service.dashboards.pictures.charts import vega_lite
from metrics_service.dashboards.pictures.figures import figure, unit_of, words
from metrics_service.dashboards.pictures.frames import Frame
from metrics_service.dashboards.pictures.marks import BEFORE, Spec
from metrics_service.dashboards.pictures.numbers import Sparkline, Stat, sparkline, stats
from metrics_service.dashboards.pictures.periods import range_in_words, whole_time_in_words
from metrics_service.dashboards.pictures.picture import Answer, Look, Row
from metrics_service.dashboards.pictures.picture import Person as Called
from metrics_service.dashboards.pictures.tables import (
    Column,
    cell_text,
    columns_of,
    idle_note,
    ranked,
    telling,
)
from metrics_service.dashboards.pictures.theme import PAGE
from metrics_service.dashboards.widgets import Widget, WidgetQuery

# A page is about so wide in a large window; what a chart says fits its part of that.
PAGE_WIDTH = 1180
COLUMNS = 12
PADDING = 40

# More of them nobody reads on a page; they are counted, and `/data` has them all.
MAX_ROWS = 500

EMPTY = "Nothing in this range."
ONLY_ZEROS = "Nothing but zeros in this range."

SPARKLINE_WIDTH, SPARKLINE_HEIGHT = 200, 40


class Cell(msgspec.Struct, frozen=True):
    """What stands in a table, and what it is sorted or linked by."""

    text: str
    value: float | str | None


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a template needs to show one widget."""

    id: str
    title: str
    description: str
    kind: Literal["chart", "number", "table"]
    span: str
    """The widget's own range in words; empty where it is that of the page."""
    unit: str
    """Of the first measure."""
    height: int
    """Of the drawing, in pixels; reserved before anything is drawn."""
    spec: Spec | None = None
    """Vega-Lite 6; None for numbers and tables, and where there is nothing to draw."""
    head: list[Column] = []
    rows: list[list[Cell]] = []
    """The table: of a chart, what it draws."""
    stats: list[Stat] = []
    """Of a number."""
    sparkline: Sparkline | None = None
    notes: list[str] = []
    error: str | None = None
    """Why there is nothing to show."""
    empty: str = ""
    """What to say instead of a drawing or a table, where there is nothing in the range."""

    @property
    def is_empty(self) -> bool:
        return bool(self.empty)


def figure_of(
    widget: Widget,
    data: WidgetData,
    names: Mapping[str, Person],
    zone: ZoneInfo,
    *,
    columns: int = 6,
    height: int = 220,
) -> Figure:
    """The widget in a room of so many columns of twelve; a chart in so many pixels of height."""
    # As `/data` says it: times and ids are text there, as pictures read them.
    answer = msgspec.convert(msgspec.to_builtins(data), Answer)
    look = Look(
        width=PAGE_WIDTH * columns / COLUMNS - PADDING,
        height=height,
        theme=PAGE,
        zone=zone,
        names={id_: Called(person.email, person.name) for id_, person in names.items()},
        is_fluid=True,
    )
    query = widget.query
    bare = Figure(
        id=widget.id,
        title=widget.title,
        description=widget.description,
        kind=widget.kind,
        span=range_in_words(answer.from_, answer.to, zone) if query.range is not None else "",
        unit=unit_of(query.source, query.measures[0]),
        height=height,
        notes=list(dict.fromkeys(answer.notes)),
        error=answer.error,
    )
    if answer.error is not None:
        return bare
    if not answer.rows and answer.totals is None:
        return msgspec.structs.replace(bare, empty=EMPTY)
    if widget.kind == "number":
        return _number(bare, query, answer, look)
    if widget.kind == "table":
        return _table(bare, query, answer, look)
    return _chart(bare, widget, answer, look)


def _number(bare: Figure, query: WidgetQuery, answer: Answer, look: Look) -> Figure:
    line = (
        sparkline(query, answer, look, width=SPARKLINE_WIDTH, height=SPARKLINE_HEIGHT)
        if len(answer.rows) > 1
        else None
    )
    return msgspec.structs.replace(bare, stats=stats(query, answer), sparkline=line)


def _table(bare: Figure, query: WidgetQuery, answer: Answer, look: Look) -> Figure:
    rows = ranked(query, answer.rows)
    measures, idle = telling(query, rows)
    head = list(columns_of(query, measures))
    listed, notes = _cut([_cells(head, row, look) for row in rows], is_truncated=answer.truncated)
    notes += bare.notes
    if idle:
        notes.append(idle_note(idle))
    return msgspec.structs.replace(bare, head=head, rows=listed, notes=notes)


def _chart(bare: Figure, widget: Widget, answer: Answer, look: Look) -> Figure:
    drawing = vega_lite(widget, answer, look)
    query = widget.query
    if drawing.frame is not None and query.time_column is not None:
        head, rows = _over_time(query, query.time_column, drawing.frame)
    else:
        head, rows = _by_name(query, answer, look)
    listed, notes = _cut(rows, is_truncated=answer.truncated)
    return msgspec.structs.replace(
        bare,
        spec=None if drawing.is_empty else drawing.spec,
        height=round(drawing.height),
        head=head,
        rows=listed,
        notes=list(dict.fromkeys([*drawing.notes, *notes])),
        empty=ONLY_ZEROS if drawing.is_empty else "",
    )


def _over_time(
    query: WidgetQuery, time: str, frame: Frame
) -> tuple[list[Column], list[list[Cell]]]:
    """A row for each hour, day, week or month, and a column for each line that is drawn."""
    usual = words(query.measures[0], query.source)
    head = [Column(time, words(time))]
    for name in frame.series:
        label = frame.full_names.get(name, name) or usual
        head.append(Column(name or query.measures[0], label, frame.unit))
    has_before = any((frame.before or {}).values()) and (frame.is_additive or frame.series == [""])
    before: dict[int | str, float] = {}
    if has_before:
        head.append(Column("before", BEFORE, frame.unit))
        for (place, _), value in (frame.before or {}).items():
            before[place] = before.get(place, 0.0) + value
    rows = []
    for place in frame.places:
        found = [frame.points.get((place, name)) for name in frame.series]
        found += [before.get(place, 0.0 if frame.is_additive else None)] if has_before else []
        cells = [Cell(whole_time_in_words(time, int(place)), int(place))]
        rows.append(cells + [Cell(figure(value, frame.unit), value) for value in found])
    return head, rows


def _by_name(
    query: WidgetQuery, answer: Answer, look: Look
) -> tuple[list[Column], list[list[Cell]]]:
    """The rows as they were answered, each with the period before where that is drawn too."""
    head = list(columns_of(query, query.measures))
    rows = [_cells(head, row, look) for row in answer.rows]
    if answer.previous is None or query.time_column is not None:
        return head, rows
    first = query.measures[0]
    unit = unit_of(query.source, first)
    known = {_key(query, row): row.get(first) for row in answer.previous.rows}
    for row, cells in zip(answer.rows, rows, strict=True):
        value = known.get(_key(query, row))
        cells.append(Cell(figure(value, unit), value))
    label = BEFORE if len(query.measures) == 1 else f"{words(first, query.source)}, {BEFORE}"
    return [*head, Column("before", label, unit)], rows


def _key(query: WidgetQuery, row: Row) -> tuple[object, ...]:
    return tuple(row[name] for name in query.group_by)


def _cells(head: Iterable[Column], row: Row, look: Look) -> list[Cell]:
    return [Cell(cell_text(column, row, look), row.get(column.name)) for column in head]


def _cut(rows: list[list[Cell]], *, is_truncated: bool) -> tuple[list[list[Cell]], list[str]]:
    more = len(rows) - MAX_ROWS
    if more <= 0:
        return rows, []
    return rows[:MAX_ROWS], [f"and {'at least ' if is_truncated else ''}{more:,} more rows"]
