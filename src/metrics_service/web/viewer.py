"""Whose days a page shows, in which colours, and of which time: from cookies and the address."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal, cast
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import msgspec
from litestar import Request
from msgspec import Meta

from metrics_service.dashboards.periods import Period, latest, previous
from metrics_service.dashboards.pictures.periods import range_in_words
from metrics_service.errors import InvalidQueryError
from metrics_service.fields import now
from metrics_service.rollups.ranges import check_range, find_zone

Theme = Literal["light", "dark", "system"]
LASTS = {"24h": "24 hours", "7d": "7 days", "30d": "30 days", "90d": "90 days"}
Last = Literal["24h", "7d", "30d", "90d"]
_UTC = ZoneInfo("UTC")


class Viewer(msgspec.Struct, frozen=True):
    """What a browser tells of its user besides who they are."""

    zone: ZoneInfo
    theme: Theme

    @classmethod
    def of(cls, request: Request[Any, Any, Any]) -> Viewer:
        cookies = request.cookies
        theme = cookies.get("theme")
        return cls(
            find_zone(cookies.get("tz", "")) or _UTC,
            cast("Theme", theme) if theme in {"light", "dark"} else "system",
        )


class PeriodQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The latest `last`, or whole days of the viewer's zone, both of them included."""

    last: Last | None = None
    from_: Annotated[date | None, Meta(description="A day.")] = msgspec.field(
        default=None, name="from"
    )
    to: date | None = None


class ChosenPeriod(msgspec.Struct, frozen=True):
    """The time that a page is about."""

    last: str | None
    period: Period
    zone: ZoneInfo
    is_given: bool = True
    """Whether the address says it, and not what is usual."""

    @property
    def start(self) -> datetime:
        return self.period.start

    @property
    def end(self) -> datetime:
        return self.period.end

    @property
    def previous(self) -> Period:
        return previous(self.period, self.zone)

    @property
    def label(self) -> str:
        """As the middle of a sentence."""
        if self.last is not None:
            return f"last {LASTS[self.last]}"
        return range_in_words(self.start, self.end, self.zone)

    @property
    def days(self) -> tuple[date, date]:
        """Its first and its last day."""
        final = self.end - timedelta(microseconds=1)
        return self.start.astimezone(self.zone).date(), final.astimezone(self.zone).date()

    @property
    def bucket(self) -> str:
        """What its charts are drawn by."""
        span = self.end - self.start
        if span <= timedelta(days=2):
            return "hour"
        return "day" if span <= timedelta(days=93) else "week"

    @property
    def parameters(self) -> dict[str, str]:
        """As an address says it."""
        if self.last is not None:
            return {"last": self.last}
        first, final = self.days
        return {"from": first.isoformat(), "to": final.isoformat()}

    def address(self, path: str, **others: str | None) -> str:
        """A page about the same time."""
        given = {name: value for name, value in others.items() if value is not None}
        return f"{path}?{urlencode({**self.parameters, **given})}"


def choose_period(query: PeriodQuery, viewer: Viewer, *, default: Last = "7d") -> ChosenPeriod:
    """Raises `InvalidQueryError` that names the parameter."""
    if query.from_ is None and query.to is None:
        last = query.last or default
        period = latest(last, viewer.zone, now())
        return ChosenPeriod(last, period, viewer.zone, is_given=query.last is not None)
    if query.last is not None:
        raise InvalidQueryError("give last, or from and to")
    if query.from_ is None:
        raise InvalidQueryError("from is required with to")
    try:
        start = _midnight(query.from_, viewer.zone)
        end = (
            latest("24h", viewer.zone, now()).end
            if query.to is None
            else _midnight(query.to + timedelta(days=1), viewer.zone)
        )
    except OverflowError:
        raise InvalidQueryError("to is out of range") from None
    check_range(start, end)
    return ChosenPeriod(None, Period(start, end), viewer.zone)


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
