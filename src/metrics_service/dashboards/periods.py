"""The times that widgets are about: the latest days, and the period before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec

from metrics_service.dashboards.widgets import Range, span_of
from metrics_service.rollups.ranges import DAY, HOUR, floor

DEFAULT = "30d"


class Period(msgspec.Struct, frozen=True):
    """From one moment to another, which is not part of it."""

    start: datetime
    end: datetime


def latest(last: str, zone: ZoneInfo, moment: datetime) -> Period:
    """Whole hours, or whole days of the zone, the one that has begun included."""
    span = span_of(last) or timedelta()
    if last.endswith("h"):
        end = floor(moment, "hourly") + HOUR
        return Period(end - span, end)
    tomorrow = _midnight(moment, zone, days=1)
    return Period(_midnight(tomorrow, zone, days=-(span // DAY)), tomorrow)


def period_of(asked: Range | None, default: Period, zone: ZoneInfo, moment: datetime) -> Period:
    """What a widget is about: what it says itself, else what its dashboard is about."""
    if asked is None:
        return default
    if asked.from_ is not None and asked.to is not None:
        return Period(asked.from_, asked.to)
    return latest(asked.last or DEFAULT, zone, moment)


def previous(period: Period, zone: ZoneInfo) -> Period:
    """As long, directly before; whole days before whole days, though the clocks changed."""
    start, end = period.start.astimezone(zone), period.end.astimezone(zone)
    if start == _midnight(start, zone) and end == _midnight(end, zone):
        return Period(_midnight(start, zone, days=(start.date() - end.date()).days), period.start)
    return Period(period.start - (period.end - period.start), period.start)


def _midnight(moment: datetime, zone: ZoneInfo, *, days: int = 0) -> datetime:
    """When the day begins that is so many days after that of the moment."""
    day = moment.astimezone(zone).date() + timedelta(days=days)
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
