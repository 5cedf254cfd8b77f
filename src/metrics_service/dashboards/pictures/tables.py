"""Tables: which columns and rows say anything, and every cell as people read it."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from metrics_service.dashboards.pictures.figures import (
    NOTHING,
    figure,
    is_of_failures,
    unit_of,
    words,
)
from metrics_service.dashboards.pictures.periods import time_in_words
from metrics_service.dashboards.pictures.picture import Look, Row, wall_of
from metrics_service.dashboards.widgets import WidgetQuery
from metrics_service.rollups.ranges import TIMES


class Column(msgspec.Struct, frozen=True):
    """One column of a table: names, times or figures."""

    name: str
    label: str
    unit: str | None = None
    """Of figures."""

    @property
    def is_number(self) -> bool:
        return self.unit is not None


def columns_of(query: WidgetQuery, measures: list[str]) -> Iterator[Column]:
    """What it is grouped by, then the measures."""
    for name in query.group_by:
        yield Column(name, words(name))
    for name in measures:
        yield Column(name, words(name, query.source), unit_of(query.source, name))


def cell_text(column: Column, row: Row, look: Look) -> str:
    """What stands in a column of a row."""
    value = row.get(column.name)
    if column.unit is not None:
        return figure(value, column.unit)
    if column.name not in TIMES:
        return look.named(column.name, value)
    return NOTHING if value is None else time_in_words(column.name, wall_of(value))


def ranked(query: WidgetQuery, rows: list[Row]) -> list[Row]:
    """Of a ranking of failures, the rows that have any; all rows where none has."""
    usual = "" if query.time_column is not None else f"-{query.measures[0]}"
    order = query.order_by or usual
    by = order.removeprefix("-")
    if by == order or not is_of_failures(by):
        return rows
    return [row for row in rows if row.get(by)] or rows


def telling(query: WidgetQuery, rows: list[Row]) -> tuple[list[str], list[str]]:
    """The measures that say anything, and those that no row has; the first one is always shown."""
    idle = [name for name in query.measures[1:] if not any(row.get(name) for row in rows)]
    return [name for name in query.measures if name not in idle], idle


def idle_note(idle: list[str]) -> str:
    """What is said of measures that no row has."""
    return f"nothing but zeros: {', '.join(words(name) for name in idle)}"
