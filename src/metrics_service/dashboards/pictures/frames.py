"""Turns the rows of an answer into the points of a chart: folded, bounded, without holes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

import msgspec

from metrics_service.dashboards.pictures.figures import adds_up, unit_of, words
from metrics_service.dashboards.pictures.lettering import labels
from metrics_service.dashboards.pictures.picture import Answer, Look, Previous, Row, wall_of
from metrics_service.dashboards.pictures.theme import LABEL_SIZE
from metrics_service.dashboards.widgets import WidgetQuery

# As many as there are colours that everybody can tell apart; fewer where their names take more room
# than the chart.
MAX_SERIES = 8
MAX_SERIES_IN_LITTLE_ROOM = 5
LITTLE_ROOM = 560
OTHER = "other"

# More points than these are no picture any more.
MAX_BUCKETS = 2000

LABEL_ROOM = 165.0

Place = int | str
Key = tuple[Place, str]
Points = dict[Key, float]


class Frame(msgspec.Struct, kw_only=True):
    """Points by place (a time on the viewer's clock, or a label) and series."""

    points: Points
    before: Points | None
    """Of the previous period, moved to where they are compared."""
    places: list[Place]
    series: list[str]
    unit: str
    measures: list[str]
    what: str
    """What people call the figures."""
    is_additive: bool
    is_truncated: bool
    """Whether there are more places than were answered."""
    full_names: dict[str, str]
    """Of labels that were cut."""
    notes: list[str]

    @property
    def largest(self) -> float:
        return max((abs(value) for value in self.points.values()), default=0.0)

    @property
    def highest_pile(self) -> float:
        """How high the points of one place reach that stand on each other."""
        piles: dict[Place, float] = defaultdict(float)
        for (place, _), value in self.points.items():
            piles[place] += abs(value)
        return max(piles.values(), default=0.0)


def frame_of(query: WidgetQuery, answer: Answer, look: Look) -> Frame:
    """The points of an answer: of a series over time, or by the first column that it is grouped by."""
    time = query.time_column
    dimensions = [column for column in query.group_by if column != time]
    place = None if time is not None or not dimensions else dimensions.pop(0)
    unit = unit_of(query.source, query.measures[0])
    measures = [name for name in query.measures if unit_of(query.source, name) == unit]
    folding = _Folding(
        query=query,
        look=look,
        time=time,
        place=place,
        dimensions=dimensions,
        measures=measures,
        full_names={},
    )
    points = folding.fold(answer.rows)
    frame = Frame(
        points=points,
        before=None,
        places=[],
        series=[],
        unit=unit,
        measures=measures,
        what=words(measures[0], query.source) if len(measures) == 1 else "",
        is_truncated=answer.truncated,
        full_names=folding.full_names,
        is_additive=all(adds_up(query.source, name) for name in measures),
        notes=[f"{words(name)} is left out: it has another unit"
               for name in query.measures if name not in measures],
    )  # fmt: skip
    _order(frame, is_by_measure=not dimensions)
    _bound(frame, MAX_SERIES if look.width > LITTLE_ROOM else MAX_SERIES_IN_LITTLE_ROOM)
    if time is not None:
        frame.places = list(buckets(time, answer, look))
        if frame.is_additive:
            _fill(frame)
    if answer.previous is not None:
        frame.before = folding.fold(answer.previous.rows)
        if time is not None:
            # The third week stands where the third week stood, though months differ in length.
            earlier = buckets(time, answer.previous, look)
            now = dict(zip(earlier, frame.places, strict=False))
            frame.before = {
                (now[place], series): value
                for (place, series), value in frame.before.items()
                if place in now
            }
    if place is not None and (query.order_by or "-").startswith("-"):
        _drop_zeros(frame)
    return frame


class _Folding(msgspec.Struct, frozen=True, kw_only=True):
    query: WidgetQuery
    look: Look
    time: str | None
    place: str | None
    dimensions: list[str]
    measures: list[str]
    full_names: dict[str, str]

    @property
    def is_placed(self) -> bool:
        """Whether there is anything but measures to stand along an axis."""
        return self.time is not None or self.place is not None

    def fold(self, rows: Iterable[Row]) -> Points:
        listed = list(rows)
        texts = {self._series(row, name) for row in listed for name in self.measures}
        series = labels(sorted(texts), LABEL_ROOM, LABEL_SIZE)
        found_places = (self._place(row) for row in listed)
        room = min(LABEL_ROOM, self.look.width * 0.34)
        places = labels((p for p in found_places if isinstance(p, str)), room, LABEL_SIZE)
        self.full_names.update((cut, name) for name, cut in [*series.items(), *places.items()])
        found: Points = defaultdict(float)
        for row in listed:
            place = self._place(row)
            if isinstance(place, str):
                place = places[place]
            for name in self.measures:
                value = row.get(name)
                if value is not None:
                    there = place if self.is_placed else words(name, self.query.source)
                    found[there, series[self._series(row, name)]] += float(value)
        return dict(found)

    def _place(self, row: Row) -> Place:
        if self.time is not None:
            return wall_of(row[self.time])
        return self.look.named(self.place, row[self.place]) if self.place is not None else ""

    def _series(self, row: Row, measure: str) -> str:
        parts = [self.look.named(column, row[column]) for column in self.dimensions]
        if len(self.measures) > 1 and self.is_placed:
            parts.append(words(measure, self.query.source))
        return " · ".join(parts)


def _order(frame: Frame, *, is_by_measure: bool) -> None:
    """Largest first; measures stand as they were asked for."""
    by_series: dict[str, float] = defaultdict(float)
    by_place: dict[Place, float] = defaultdict(float)
    for (place, series), value in frame.points.items():
        by_series[series] = _joined(frame, by_series[series], value)
        by_place[place] = _joined(frame, by_place[place], value)
    frame.series = list(by_series)
    if not is_by_measure:
        frame.series.sort(key=lambda name: (-by_series[name], name))
    frame.places = sorted(by_place, key=lambda place: (-by_place[place], str(place)))


def _joined(frame: Frame, one: float, other: float) -> float:
    return one + other if frame.is_additive else max(one, other)


def _bound(frame: Frame, most: int) -> None:
    """Keep the largest series; the rest is one more where it adds up, and is left out elsewhere."""
    # One that is left alone may as well have its name.
    if len(frame.series) <= most + 1 and len(frame.series) <= MAX_SERIES:
        return
    kept, rest = frame.series[:most], set(frame.series[most:])
    points: Points = defaultdict(float)
    for (place, series), value in frame.points.items():
        if series not in rest:
            points[place, series] += value
        elif frame.is_additive:
            points[place, OTHER] += value
    frame.points = dict(points)
    frame.series = [*kept, OTHER] if frame.is_additive else kept
    if frame.is_additive:
        frame.notes.append(f"{OTHER}: {len(rest)} more")
    else:
        frame.notes.append(f"the {most} highest are shown, {len(rest)} are not")


def _drop_zeros(frame: Frame) -> None:
    """Of a ranking, the names of which nothing was counted, now or before; unless that is of all."""
    if not frame.is_additive:
        return
    points = [*frame.points.items(), *(frame.before or {}).items()]
    counted = {place for (place, _), value in points if value}
    frame.places = [place for place in frame.places if place in counted] or frame.places


def _fill(frame: Frame) -> None:
    # Nothing happened there: a line from Friday to Monday would say otherwise.
    for place in frame.places:
        for series in frame.series:
            frame.points.setdefault((place, series), 0.0)


def buckets(time: str, answer: Answer | Previous, look: Look) -> Iterator[int]:
    """The beginnings of all hours, days, weeks or months of the range, on the viewer's clock."""
    begin = start_of(time, answer.from_.astimezone(look.zone).replace(tzinfo=UTC))
    end = answer.to.astimezone(look.zone).replace(tzinfo=UTC)
    for _ in range(MAX_BUCKETS):
        if begin >= end:
            return
        yield int(begin.timestamp() * 1000)
        begin = after(time, begin)


def start_of(time: str, moment: datetime) -> datetime:
    if time == "hour":
        return moment.replace(minute=0, second=0, microsecond=0)
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if time == "week":
        return day - timedelta(days=day.weekday())
    return day.replace(day=1) if time == "month" else day


def after(time: str, begin: datetime) -> datetime:
    """The beginning of the next bucket."""
    if time == "month":
        return (begin + timedelta(days=32)).replace(day=1)
    return begin + {"hour": timedelta(hours=1), "week": timedelta(days=7)}.get(
        time, timedelta(days=1)
    )
