"""Times in the viewer's zone, and which rollups a time is read from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from functools import cache
from itertools import pairwise
from typing import Literal, get_args
from zoneinfo import ZoneInfo, available_timezones

import msgspec

from metrics_service.errors import FieldError, InvalidQueryError
from metrics_service.rollups.sources import Grain

Time = Literal["hour", "day", "week", "month"]
TIMES: tuple[str, ...] = get_args(Time)
"""What a series can be grouped by besides the dimensions of its source."""

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)
LONGEST = timedelta(days=3653)

NO_ZONE = "must be a time zone that there is, like Europe/Berlin"

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


class Piece(msgspec.Struct, frozen=True):
    """A part of a time, and whether hours, days or the facts themselves are read for it."""

    grain: Grain | Literal["raw"]
    start: datetime
    end: datetime


def find_zone(name: str) -> ZoneInfo | None:
    # Looked up among the names, because a zone is a file.
    return ZoneInfo(name) if name in _zones() else None


def zone_of(name: str) -> ZoneInfo:
    """Raises `InvalidQueryError` when there is no such zone."""
    if zone := find_zone(name):
        return zone
    raise InvalidQueryError(f"tz {NO_ZONE}")


@cache
def _zones() -> frozenset[str]:
    # The first is the server's own, the second nobody's.
    return frozenset(available_timezones()) - {"localtime", "Factory"}


def range_error(start: datetime, end: datetime) -> FieldError | None:
    """What is wrong with a time that nobody can mean."""
    if start >= end:
        return FieldError("must be before to", field="from")
    if start < EARLIEST:
        return FieldError(f"must not be before {EARLIEST:%Y-%m-%d}", field="from")
    if end > LATEST:
        return FieldError(f"must not be after {LATEST:%Y-%m-%d}", field="to")
    if end - start > LONGEST:
        return FieldError("must not be more than ten years before to", field="from")
    return None


def check_range(start: datetime, end: datetime) -> None:
    """Raises `InvalidQueryError` that names `from` or `to`."""
    if error := range_error(start, end):
        raise InvalidQueryError(f"{error.field} {error.reason}")


def local(moment: datetime, zone: ZoneInfo) -> datetime:
    """The moment as the zone's clocks show it, with the offset that they have then.

    The offset alone: by their zone, the two hours of which one is repeated would be equal.
    """
    shown = moment.astimezone(zone)
    offset = shown.utcoffset()
    return shown.replace(tzinfo=timezone(offset) if offset else UTC)


def floor(moment: datetime, grain: Grain) -> datetime:
    """The beginning of the hour or day of UTC."""
    cut = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return cut if grain == "hourly" else cut.replace(hour=0)


def ceiling(moment: datetime, grain: Grain) -> datetime:
    """The first hour or day of UTC that does not begin before."""
    cut = floor(moment, grain)
    if cut == moment:
        return cut
    return cut + (HOUR if grain == "hourly" else DAY)


def pieces(start: datetime, end: datetime, grains: Sequence[Grain]) -> list[Piece]:
    """Cut a time into as few rollup rows as are exact, the coarser the better, and facts.

    `grains` ascend; the facts stand for the hours, or days, that are begun at its ends.
    """
    if start >= end:
        return []
    if not grains:
        return [Piece("raw", start.astimezone(UTC), end.astimezone(UTC))]
    *finer, grain = grains
    first, last = ceiling(start, grain), floor(end, grain)
    if first >= last:
        return pieces(start, end, finer)
    return [*pieces(start, first, finer), Piece(grain, first, last), *pieces(last, end, finer)]


def pieces_between(edges: Sequence[datetime], grains: Sequence[Grain]) -> list[Piece]:
    """The pieces of a time in which no rollup row, but for the finest, lies on both sides of an edge."""
    found: list[Piece] = []
    for start, end in pairwise(edges):
        for piece in pieces(start, min(end, edges[-1]), grains):
            if found and found[-1].grain == piece.grain and found[-1].end == piece.start:
                found[-1] = Piece(piece.grain, found[-1].start, piece.end)
            else:
                found.append(piece)
    return found


def starts(unit: Time, start: datetime, end: datetime, zone: ZoneInfo) -> list[datetime]:
    """When the zone's days, weeks (of ISO) or months begin that a time touches, in UTC."""
    # The day's first moment: where clocks skip midnight it is the one after it.
    found: list[datetime] = []
    for day in _dates(unit, start.astimezone(zone).date()):
        moment = datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
        if moment >= end:
            return found
        # A day that a zone has left out, to change the side of the date line, begins with the next.
        if found and moment <= found[-1]:
            found.pop()
        found.append(moment)
    raise AssertionError


def _dates(unit: Time, day: date) -> Iterator[date]:
    if unit == "month":
        day = day.replace(day=1)
    elif unit == "week":
        day -= timedelta(days=day.weekday())
    while True:
        yield day
        if unit == "month":
            day = (day + timedelta(days=31)).replace(day=1)
        else:
            day += timedelta(days=7 if unit == "week" else 1)


def are_whole_days(moments: Sequence[datetime]) -> bool:
    return all(moment == floor(moment, "daily") for moment in moments)


def are_whole_hours(moments: Sequence[datetime]) -> bool:
    return all(moment == floor(moment, "hourly") for moment in moments)
