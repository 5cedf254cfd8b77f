"""Small drawings that a page is served with: a day's activity as a line, and health as a strip.

What they show stands beside them in words: they are for the eye that looks for a shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from metrics_service.fleet.views import HealthEventView, ProcessView
from metrics_service.health.schemas import SEVERITY

BUCKET = timedelta(minutes=5)
DAY = timedelta(days=1)

WIDTH, HEIGHT = 288, 40
STRIP_WIDTH, STRIP_HEIGHT = 1000, 18
# The worse, the taller: whoever sees no colours sees it too.
HEIGHTS = {"healthy": 6, "degraded": 12, "unhealthy": STRIP_HEIGHT}

# Of a process that is gone nobody knows until when it was as it said last.
REMEMBERED = timedelta(hours=1)


# -- a day by five minutes --------------------------------------------------------------------------


class Line(msgspec.Struct, frozen=True):
    """Values over time, oldest first, as the paths of a line and of what is below it."""

    line: str
    area: str
    largest: float


def line_of(values: Sequence[float]) -> Line | None:
    """None where there is nothing but zeros: a line at the bottom says less than words."""
    largest = max(values, default=0)
    if largest <= 0 or len(values) < 2:
        return None
    step = WIDTH / (len(values) - 1)
    points = [
        f"{index * step:.1f} {HEIGHT - 1 - value / largest * (HEIGHT - 3):.1f}"
        for index, value in enumerate(values)
    ]
    line = "M" + "L".join(points)
    return Line(line, f"{line}L{WIDTH} {HEIGHT}L0 {HEIGHT}Z", largest)


def by_bucket(found: Mapping[datetime, float], now: datetime) -> list[float]:
    """The whole five minutes of the last day, with zeros where nothing happened."""
    latest = _floor(now, BUCKET) - BUCKET
    steps = int(DAY / BUCKET) - 1
    return [found.get(latest - BUCKET * (steps - index), 0) for index in range(steps + 1)]


def _floor(moment: datetime, step: timedelta) -> datetime:
    seconds = step.total_seconds()
    return datetime.fromtimestamp(moment.timestamp() // seconds * seconds, moment.tzinfo)


# -- health as a strip ------------------------------------------------------------------------------


class Piece(msgspec.Struct, frozen=True):
    """A stretch of a strip in which nothing changed."""

    x: float
    width: float
    height: int
    status: str


class Strip(msgspec.Struct, frozen=True):
    """How one check was over time: the worst of all processes at each moment."""

    check: str
    pieces: list[Piece]
    status: str
    """What it is now."""
    since: datetime | None
    """Since when, if it was anything else within the time."""
    lasted: dict[str, timedelta]
    """How long it was each of them."""

    @property
    def troubled(self) -> list[tuple[str, timedelta]]:
        """The bad times, the worst first."""
        return [
            (status, self.lasted[status])
            for status in ("unhealthy", "degraded")
            if status in self.lasted
        ]


class _Stretch(msgspec.Struct, frozen=True):
    """How one process found one check, from when to when."""

    start: datetime
    end: datetime
    status: str


def strips_of(
    events: Iterable[HealthEventView],
    processes: Sequence[ProcessView],
    checks: Iterable[str],
    *,
    start: datetime,
    end: datetime,
) -> list[Strip]:
    """A strip for each check that has changed in the time or is looked after now."""
    changes: dict[str, dict[UUID | None, list[HealthEventView]]] = {name: {} for name in checks}
    for event in sorted(events, key=lambda one: (one.at, one.id)):
        if event.kind == "health-change" and event.status in SEVERITY:
            of_check = changes.setdefault(event.check_name, {})
            of_check.setdefault(event.process_id, []).append(event)
    starts = {process.id: process.started_at for process in processes}
    strips = []
    for check, of_processes in changes.items():
        stretches = [
            stretch
            for process_id, told in of_processes.items()
            for stretch in _stretches(told, _end_of(process_id, told, starts, end), start)
        ]
        strips.append(_strip(check, stretches, start, end))
    return strips


def _end_of(
    process_id: UUID | None,
    told: Sequence[HealthEventView],
    starts: Mapping[UUID, datetime],
    end: datetime,
) -> datetime:
    """Until when a process is taken to have been as it said last."""
    if process_id in starts:
        return end
    last = told[-1].at
    later = [started for started in starts.values() if started > last]
    return min([*later, last + REMEMBERED, end])


def _stretches(
    told: Sequence[HealthEventView], end: datetime, start: datetime
) -> Iterable[_Stretch]:
    first = told[0]
    if first.status_before in SEVERITY and first.at > start:
        yield _Stretch(start, first.at, first.status_before)
    for event, following in zip(told, [*(one.at for one in told[1:]), end], strict=True):
        if event.status is not None and following > max(event.at, start):
            yield _Stretch(max(event.at, start), following, event.status)


def _strip(check: str, stretches: Sequence[_Stretch], start: datetime, end: datetime) -> Strip:
    turns = sorted(
        (at, one.status, step)
        for one in stretches
        if one.status != "healthy"
        for at, step in ((one.start, 1), (one.end, -1))
    )
    standing = {"degraded": 0, "unhealthy": 0}
    merged = [_Stretch(start, start, "healthy")]
    for at, status, step in [*turns, (end, "degraded", 0)]:
        # Several processes may turn at once; what lasted no time is left out.
        now = max((name for name, count in standing.items() if count), default="healthy", key=_rank)
        if at > merged[-1].end:
            if now == merged[-1].status:
                merged[-1] = _Stretch(merged[-1].start, at, now)
            else:
                merged.append(_Stretch(merged[-1].end, at, now))
        standing[status] += step
    if merged[0].end == start:
        del merged[0]
    lasted: dict[str, timedelta] = {}
    for one in merged:
        lasted[one.status] = lasted.get(one.status, timedelta()) + (one.end - one.start)
    final = merged[-1]
    return Strip(
        check=check,
        pieces=[_piece(one, start, end) for one in merged],
        status=final.status,
        since=final.start if final.start > start else None,
        lasted=lasted,
    )


def _rank(status: str) -> int:
    return SEVERITY[status]


def _piece(one: _Stretch, start: datetime, end: datetime) -> Piece:
    whole = (end - start).total_seconds()
    x = (one.start - start).total_seconds() / whole * STRIP_WIDTH
    width = (one.end - one.start).total_seconds() / whole * STRIP_WIDTH
    if one.status != "healthy":
        # A minute of a week is worth a mark that can be seen.
        width = max(width, 3.0)
        x = min(x, STRIP_WIDTH - width)
    return Piece(round(x, 1), round(width, 1), HEIGHTS[one.status], one.status)
