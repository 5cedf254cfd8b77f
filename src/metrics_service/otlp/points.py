"""Checks one data point, whatever it was encoded in."""

from __future__ import annotations

from collections.abc import Iterator

from metrics_service.fields import MAX_BIGINT
from metrics_service.ingest.telemetry import MAX_NS, Instrument
from metrics_service.otlp.decoded import Tally
from metrics_service.otlp.items import DELTA, Attributes, PointItem, Source

NO_RECORDED_VALUE = 1
MAX_BUCKETS = 1024
# So that differences, and the same in other units, are finite.
MAX_VALUE = 1e300


def checked_point(
    tally: Tally,
    source: Source,
    *,
    metric: str,
    unit: str,
    instrument: Instrument,
    is_monotonic: bool,
    temporality: int,
    start_ns: int,
    time_ns: int,
    attributes: Attributes,
    value: float | None,
    count: int | None,
    bounds: list[float] | None,
    buckets: list[int] | None,
    flags: int,
) -> Iterator[PointItem]:
    """The point, or why it is refused."""
    point = PointItem(
        source=source,
        metric=metric,
        unit=unit,
        instrument=instrument,
        is_monotonic=is_monotonic,
        temporality=temporality,
        start_ns=min(start_ns, MAX_NS),
        time_ns=min(time_ns, MAX_NS),
        attributes=attributes,
        value=value,
        count=count,
        bounds=bounds,
        buckets=buckets,
        has_value=not flags & NO_RECORDED_VALUE,
    )
    fault = _fault_of(point) or _fault_of_buckets(point.bounds or [], point.buckets or [])
    if fault is not None:
        tally.refuse(fault)
        return
    tally.accepted += 1
    yield point


def _fault_of(point: PointItem) -> str | None:
    if not point.metric:
        return "a metric must have a name"
    if not 0 <= (point.count or 0) <= MAX_BIGINT:
        return "a count must not be negative, and fit into 63 bits"
    if not point.has_value or point.value is None:
        return None
    if not abs(point.value) <= MAX_VALUE:
        return f"a value must be a number up to {MAX_VALUE:g}, neither NaN nor infinite"
    only_grows = point.instrument == "sum" and point.is_monotonic
    if only_grows and point.temporality == DELTA and point.value < 0:
        return "a sum that only grows has no negative delta"
    return None


def _fault_of_buckets(bounds: list[float], buckets: list[int]) -> str | None:
    if max(len(bounds), len(buckets)) > MAX_BUCKETS:
        return f"a histogram may have {MAX_BUCKETS} buckets"
    if buckets and len(buckets) != len(bounds) + 1:
        return "a histogram must have one bucket more than it has bounds"
    if not all(abs(bound) <= MAX_VALUE for bound in bounds):
        return "the bounds of a histogram must be finite"
    if not all(0 <= bucket <= MAX_BIGINT for bucket in buckets):
        return "a count must not be negative, and fit into 63 bits"
    return None
