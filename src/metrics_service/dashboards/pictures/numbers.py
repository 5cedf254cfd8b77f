"""Numbers: the figures of a range in words, what they were before, and how they went."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from metrics_service.dashboards.pictures.figures import (
    adds_up,
    change,
    figure,
    is_slight,
    meaning_of_rise,
    unit_of,
    words,
)
from metrics_service.dashboards.pictures.frames import buckets
from metrics_service.dashboards.pictures.picture import Answer, Look, Row, wall_of
from metrics_service.dashboards.widgets import WidgetQuery


class Change(msgspec.Struct, frozen=True):
    """How a figure moved since the period before; as words, so that no colour is needed."""

    moved: str
    """`▲ 20 % worse`; empty where nothing moved."""
    was: str
    """`from 5.3 %`, or `as before (5.3 %)`."""
    tone: Literal["good", "bad", "neutral"]


class Stat(msgspec.Struct, frozen=True):
    """One figure of a whole range."""

    name: str
    label: str
    unit: str
    value: float | None
    text: str
    change: Change | None


class Sparkline(msgspec.Struct, frozen=True):
    """How a figure went, as the paths of a line and of the area under it."""

    line: str
    area: str
    width: float
    height: float


def stats(query: WidgetQuery, answer: Answer) -> list[Stat]:
    """Every measure of a number, in the order that they were asked for."""
    found = []
    for measure in query.measures:
        unit = unit_of(query.source, measure)
        now = whole(query, measure, answer.rows, answer.totals)
        changed = None
        if answer.previous is not None:
            before = whole(query, measure, answer.previous.rows, answer.previous.totals)
            changed = change_of(measure, now, before, unit)
        label = words(measure, query.source)
        found.append(Stat(measure, label, unit, now, figure(now, unit), changed))
    return found


def change_of(measure: str, now: float | None, before: float | None, unit: str) -> Change | None:
    """What a change means; None when there is nothing to compare."""
    changed = change(now, before, unit)
    if now is None or before is None or changed is None:
        return None
    sign, amount = changed
    if not sign:
        return Change("", f"as before ({figure(before, unit)})", "neutral")
    meaning = "neutral" if is_slight(now, before, unit) else meaning_of_rise(measure)
    is_good = (meaning == "good") == (sign > 0)
    judged = "" if meaning == "neutral" else " better" if is_good else " worse"
    moved = f"{'▲' if sign > 0 else '▼'} {amount}{judged}"
    tone: Literal["good", "bad", "neutral"] = "good" if is_good else "bad"
    return Change(
        moved, f"from {figure(before, unit)}", "neutral" if meaning == "neutral" else tone
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


def sparkline(
    query: WidgetQuery, answer: Answer, look: Look, *, width: float, height: float
) -> Sparkline | None:
    """How the first measure went; None where there are no two points of it."""
    time = query.time_column
    if time is None:
        return None
    measure = query.measures[0]
    known = {wall_of(row[time]): row.get(measure) for row in answer.rows}
    if adds_up(query.source, measure):
        values = [(at, known.get(at) or 0) for at in buckets(time, answer, look)]
    else:
        values = [(at, value) for at, value in sorted(known.items()) if value is not None]
    if len(values) < 2:
        return None
    first, last = values[0][0], values[-1][0]
    highest = max(value for _, value in values) or 1
    points = [
        ((at - first) / (last - first) * (width - 4) + 2, height - value / highest * (height - 2))
        for at, value in values
    ]
    line = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    area = f"{line}L{points[-1][0]:.1f},{height:g}L{points[0][0]:.1f},{height:g}Z"
    return Sparkline(line, area, width, height)
