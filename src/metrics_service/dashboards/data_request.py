"""What is asked of a dashboard's data: a time, a zone, filters; looked at before anything is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta

from metrics_service.dashboards.layout import MAX_SHOWN
from metrics_service.dashboards.periods import DEFAULT, Period, latest, period_of
from metrics_service.dashboards.widgets import MAX_FILTER_VALUES, WidgetQuery, is_id
from metrics_service.errors import FieldError, InvalidBodyError
from metrics_service.fields import Instant, now
from metrics_service.rollups.queries import SeriesQuery
from metrics_service.rollups.ranges import NO_ZONE, find_zone, range_error
from metrics_service.rollups.sources import SOURCES

FilterValue = Annotated[str, Meta(min_length=1, max_length=255)] | None

DIMENSIONS = {name for source in SOURCES.values() for name in source.dimensions}


class DataRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all widgets are about that do not say so themselves; the latest 30 days by default."""

    from_: Instant | None = msgspec.field(default=None, name="from")
    to: Instant | None = None
    tz: Annotated[str, Meta(max_length=255)] = "UTC"
    filters: dict[str, FilterValue | list[FilterValue]] = {}
    """Null is what is not known."""


class Asked(msgspec.Struct, frozen=True):
    """A request for data, looked at."""

    zone: ZoneInfo
    moment: datetime
    period: Period
    filters: Mapping[str, tuple[str | None, ...]]

    @classmethod
    def of(cls, request: DataRequest) -> Asked:
        """Raises `InvalidBodyError` that names the field."""
        errors = list(_mistakes(request))
        zone = find_zone(request.tz)
        if errors or zone is None:
            raise InvalidBodyError(errors)
        moment = now()
        period = latest(DEFAULT, zone, moment)
        if request.from_ is not None:
            period = Period(request.from_, request.to or period.end)
            if error := range_error(period.start, period.end):
                raise InvalidBodyError([error])
        filters = {name: _written(name, _values(value)) for name, value in request.filters.items()}
        return cls(zone, moment, period, filters)

    def query(self, query: WidgetQuery, period: Period) -> SeriesQuery:
        """The widget's question about a period, with the filters of the dashboard."""
        filters: dict[str, tuple[str | None, ...]] = {
            name: _written(name, query.values(name)) for name in query.filters
        }
        for name, values in self.filters.items():
            if name in SOURCES[query.source].dimensions:
                filters[name] = tuple(
                    value for value in filters.get(name, values) if value in values
                )
        return SeriesQuery(
            source=query.source,
            measures=tuple(query.measures),
            group_by=tuple(query.group_by),
            filters=filters,
            from_=period.start,
            to=period.end,
            zone=self.zone,
            order_by=query.order_by,
            limit=query.limit,
        )

    def period_of(self, query: WidgetQuery) -> Period:
        return period_of(query.range, self.period, self.zone, self.moment)

    @property
    def hour_and_day(self) -> tuple[datetime, datetime]:
        """What the latest hours and the latest days of anything end with."""
        hour, day = (latest(last, self.zone, self.moment) for last in ("1h", "1d"))
        return hour.end, day.end

    def notes(self, query: WidgetQuery) -> list[str]:
        return [
            f"the filter by {name} does not apply: {query.source} are not kept by it"
            for name in self.filters
            if name not in SOURCES[query.source].dimensions
        ]


def _mistakes(request: DataRequest) -> Iterator[FieldError]:
    if find_zone(request.tz) is None:
        yield FieldError(NO_ZONE, field="tz")
    if request.to is not None and request.from_ is None:
        yield FieldError("is required with to", field="from")
    for name, value in request.filters.items():
        field = f"filters.{name[:MAX_SHOWN]}"
        values = _values(value)
        if name not in DIMENSIONS:
            yield FieldError(f"must be one of {', '.join(sorted(DIMENSIONS))}", field=field)
        elif not 0 < len(values) <= MAX_FILTER_VALUES:
            yield FieldError(f"must have 1 to {MAX_FILTER_VALUES} values", field=field)
        elif name == "user_id" and not all(one is None or is_id(one) for one in values):
            yield FieldError("must be the ids of users", field=field)


def _values(value: FilterValue | list[FilterValue]) -> tuple[FilterValue, ...]:
    return tuple(value) if isinstance(value, list) else (value,)


def _written(name: str, values: Sequence[FilterValue]) -> tuple[FilterValue, ...]:
    """Ids have two ways of writing, and are compared as text."""
    if name != "user_id":
        return tuple(values)
    return tuple(value and value.lower() for value in values)
