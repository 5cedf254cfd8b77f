"""What can be asked of the rollups, and what is refused before anything is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec

from metrics_service.errors import InvalidQueryError
from metrics_service.rollups.measures import MEASURES
from metrics_service.rollups.ranges import HOUR, TIMES, check_range
from metrics_service.rollups.sources import SOURCES

# One row for each hour of a quarter, of several tools; more is not read by anybody.
MAX_ROWS = 50_000

Value = str | None
Filters = Mapping[str, tuple[Value, ...]]


class SeriesQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Names come from the allow-lists of `sources` and `measures`; values are bound."""

    source: str
    measures: tuple[str, ...]
    group_by: tuple[str, ...] = ()
    """Dimensions of the source, and times."""
    filters: Filters = {}
    """Of each dimension the values that count; None is unknown, a user is the text of an id."""
    from_: datetime
    to: datetime
    zone: ZoneInfo = ZoneInfo("UTC")
    order_by: str | None = None
    """A measure or a column of `group_by`, `-` before it for the greatest first.

    By default in the order of time, else by the first measure, the greatest first.
    """
    limit: int | None = None


def check_query(query: SeriesQuery) -> None:
    """Raises `InvalidQueryError` that names the field."""
    source = SOURCES.get(query.source)
    if source is None:
        raise InvalidQueryError(f"source takes one of {', '.join(SOURCES)}")
    for field, names, allowed in (
        ("measures", query.measures, tuple(MEASURES[source.name])),
        ("group_by", query.group_by, (*TIMES, *source.dimensions)),
        ("filters", tuple(query.filters), source.dimensions),
    ):
        if any(name not in allowed for name in names):
            raise InvalidQueryError(f"{field} takes any of {', '.join(allowed)}")
        if len(set(names)) < len(names):
            raise InvalidQueryError(f"{field} names a column twice")
    if not query.measures:
        raise InvalidQueryError("measures must have at least one")
    columns = (*query.group_by, *query.measures)
    if query.order_by is not None and query.order_by.removeprefix("-") not in columns:
        raise InvalidQueryError(f"order_by takes one of {', '.join(columns)}")
    for name, values in query.filters.items():
        _check_values(name, values)
    check_range(query.from_, query.to)
    if "hour" in query.group_by and (query.to - query.from_) / HOUR > MAX_ROWS:
        raise InvalidQueryError(
            f"from and to: more than {MAX_ROWS:,} hours; ask for a shorter time, or group by day"
        )


def _check_values(name: str, values: Iterable[Value]) -> None:
    for value in values:
        if value is None:
            continue
        if "\0" in value:
            raise InvalidQueryError(f"{name} must not contain U+0000")
        if name == "user_id":
            try:
                UUID(value)
            except ValueError:
                raise InvalidQueryError(f"{name} must be the id of a user") from None
