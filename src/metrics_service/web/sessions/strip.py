"""A session drawn from left to right: a lane for each kind of thing, idle times folded away."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import msgspec

from metrics_service.dashboards.pictures.figures import figure
from metrics_service.sessions.strip import Lane, Stretch

IDLE = timedelta(minutes=15)
"""What is longer without anything happening is folded."""

LANES: dict[Lane, str] = {
    "prompts": "Prompts",
    "models": "Model calls",
    "tools": "Tool calls",
    "waits": "Waiting for people",
}
LANE_HEIGHT = 22
TOP = 4
AXIS_HEIGHT = 22

# In hundredths of the width. Less than a pixel apart is not apart.
NARROWEST, APART = 0.16, 0.1
FOLD, ALL_FOLDS = 3.0, 30.0
TICKS_APART = 13.0
COLUMNS = 48
MAX_MARKS = 100

STEPS_S = (
    1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400,
)  # fmt: skip


class Bar(msgspec.Struct, frozen=True):
    x: str
    width: str


class DrawnLane(msgspec.Struct, frozen=True):
    name: Lane
    label: str
    y: int
    count: int
    bars: list[Bar]


class Mark(msgspec.Struct, frozen=True):
    """Where something failed."""

    x: str
    y: int
    label: str
    at: datetime


class Fold(msgspec.Struct, frozen=True):
    """A time without anything."""

    x: str
    middle: str
    width: str
    label: str


class Tick(msgspec.Struct, frozen=True):
    x: str
    label: str
    at: datetime


class Column(msgspec.Struct, frozen=True):
    """A part of the picture that leads to its part of the timeline."""

    x: str
    width: str
    at: datetime
    label: str


class Strip(msgspec.Struct, frozen=True):
    height: int
    axis: int
    lanes: list[DrawnLane]
    marks: list[Mark]
    folds: list[Fold]
    ticks: list[Tick]
    columns: list[Column]
    idle: str
    """How much of the time is folded, in words; empty where none is."""


class _Scale:
    """From times to hundredths of the width."""

    def __init__(self, spans: Sequence[tuple[datetime, datetime]]) -> None:
        self.spans = spans
        folds = len(spans) - 1
        self.fold = min(FOLD, ALL_FOLDS / folds) if folds else 0.0
        active_s = sum((end - start).total_seconds() for start, end in spans)
        self.per_s = (100 - self.fold * folds) / active_s
        self.lefts: list[float] = []
        left = 0.0
        for start, end in spans:
            self.lefts.append(left)
            left += (end - start).total_seconds() * self.per_s + self.fold
        self._starts = [start for start, _ in spans]

    def x(self, at: datetime) -> float:
        place = max(0, bisect_right(self._starts, at) - 1)
        start, end = self.spans[place]
        inside_s = (min(max(at, start), end) - start).total_seconds()
        return self.lefts[place] + inside_s * self.per_s

    def time(self, x: float) -> datetime:
        place = max(0, bisect_right(self.lefts, x) - 1)
        start, end = self.spans[place]
        return min(end, start + timedelta(seconds=(x - self.lefts[place]) / self.per_s))


def draw(stretches: Sequence[Stretch], zone: ZoneInfo) -> Strip | None:
    """None where nothing happened."""
    if not stretches:
        return None
    spans = _spans(stretches)
    scale = _Scale(spans)
    lanes, marks = [], []
    used = [name for name in LANES if any(stretch.lane == name for stretch in stretches)]
    for place, name in enumerate(used):
        own = [stretch for stretch in stretches if stretch.lane == name]
        y = TOP + place * LANE_HEIGHT
        count = sum(stretch.count for stretch in own)
        lanes.append(DrawnLane(name, LANES[name], y, count, list(_bars(own, scale))))
        marks += _marks(own, scale, y, zone)
    axis = TOP + len(used) * LANE_HEIGHT
    idle_ms = sum((after - before) / timedelta(milliseconds=1) for before, after in _gaps(spans))
    return Strip(
        height=axis + AXIS_HEIGHT,
        axis=axis,
        lanes=lanes,
        marks=marks,
        folds=[
            Fold(
                _percent(scale.lefts[place] - scale.fold),
                _percent(scale.lefts[place] - scale.fold / 2),
                _percent(scale.fold),
                f"{figure((after - before) / timedelta(milliseconds=1), 'ms')} without anything",
            )
            for place, (before, after) in enumerate(_gaps(spans), 1)
        ],
        ticks=list(_ticks(scale, zone)),
        columns=list(_columns(scale, zone)),
        idle=figure(idle_ms, "ms") if idle_ms else "",
    )


def _spans(stretches: Sequence[Stretch]) -> list[tuple[datetime, datetime]]:
    """The times in which something happened, one after the other."""
    spans: list[tuple[datetime, datetime]] = []
    for stretch in sorted(stretches, key=lambda one: one.start):
        until = max(stretch.until, stretch.start + timedelta(seconds=1))
        if spans and stretch.start - spans[-1][1] <= IDLE:
            spans[-1] = (spans[-1][0], max(spans[-1][1], until))
        else:
            spans.append((stretch.start, until))
    return spans


def _gaps(spans: Sequence[tuple[datetime, datetime]]) -> Iterator[tuple[datetime, datetime]]:
    for (_, end), (start, _) in pairwise(spans):
        yield end, start


def _bars(own: Sequence[Stretch], scale: _Scale) -> Iterator[Bar]:
    left = right = None
    for stretch in own:
        start = scale.x(stretch.start)
        end = max(scale.x(stretch.until), start + NARROWEST)
        if left is None or right is None:
            left, right = start, end
        elif start - right <= APART:
            right = max(right, end)
        else:
            yield Bar(_percent(left), _percent(right - left))
            left, right = start, end
    if left is not None and right is not None:
        yield Bar(_percent(left), _percent(right - left))


def _marks(own: Sequence[Stretch], scale: _Scale, y: int, zone: ZoneInfo) -> list[Mark]:
    marks: list[Mark] = []
    last_x, failed, at = -1.0, 0, None
    for stretch in own:
        if stretch.failed_at is None:
            continue
        x = scale.x(stretch.failed_at)
        if at is not None and x - last_x < 100 / MAX_MARKS:
            failed += stretch.failed
        else:
            last_x, failed, at = x, stretch.failed, stretch.failed_at
            marks.append(Mark(_percent(x), y, "", at))
        marks[-1] = Mark(
            marks[-1].x, y, f"{failed} failed at {at.astimezone(zone):%H:%M:%S}", marks[-1].at
        )
    return marks


def _ticks(scale: _Scale, zone: ZoneInfo) -> Iterator[Tick]:
    shown_x, day = -TICKS_APART, None
    step_s = next((s for s in STEPS_S if s * scale.per_s >= TICKS_APART), STEPS_S[-1])
    form = "%H:%M:%S" if step_s < 60 else "%H:%M"
    for place, (start, end) in enumerate(scale.spans):
        moments = [start] if place else []
        moments += _steps(start, end, step_s, zone)
        for at in moments:
            x = scale.x(at)
            there = at.astimezone(zone)
            if x - shown_x < TICKS_APART or x > 100 - TICKS_APART / 2:
                continue
            label = f"{there:{form}}" if day in {None, there.date()} else f"{there:%d %b}"
            shown_x, day = x, there.date()
            yield Tick(_percent(x), label, at)


def _steps(start: datetime, end: datetime, step_s: int, zone: ZoneInfo) -> Iterator[datetime]:
    """Whole steps of the clock."""
    there = start.astimezone(zone)
    since_midnight = there.hour * 3600 + there.minute * 60 + there.second
    at = start - timedelta(seconds=since_midnight % step_s, microseconds=start.microsecond)
    while (at := at + timedelta(seconds=step_s)) < end:
        yield at


def _columns(scale: _Scale, zone: ZoneInfo) -> Iterator[Column]:
    width = 100 / COLUMNS
    for place in range(COLUMNS):
        at = scale.time(place * width)
        yield Column(
            _percent(place * width), _percent(width), at, f"From {at.astimezone(zone):%H:%M:%S}"
        )


def _percent(value: float) -> str:
    return f"{value:.2f}%"
