"""Checks one data point, whatever it was encoded in."""

from __future__ import annotations

import math
from collections.abc import Iterator

from metrics_service.ingest.telemetry import Instrument
from metrics_service.otlp.decoded import MAX_TIME_NS, Tally
from metrics_service.otlp.items import Attributes, PointItem, Source

NO_RECORDED_VALUE = 1
MAX_BUCKETS = 1024
MAX_BIGINT = 2**63 - 1


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
    has_value = not flags & NO_RECORDED_VALUE
    if not metric:
        tally.refuse("a metric must have a name")
    elif has_value and value is not None and not math.isfinite(value):
        tally.refuse("NaN and infinity are no values of a metric")
    elif bounds is not None and not all(math.isfinite(bound) for bound in bounds):
        tally.refuse("the bounds of a histogram must be finite")
    elif buckets is not None and bounds is not None and len(buckets) not in (0, len(bounds) + 1):
        tally.refuse("a histogram must have one bucket more than it has bounds")
    elif buckets is not None and len(buckets) > MAX_BUCKETS:
        tally.refuse(f"a histogram may have {MAX_BUCKETS} buckets")
    elif max(count or 0, *(buckets or (0,)), 0) > MAX_BIGINT:
        tally.refuse("a count must fit into 63 bits")
    else:
        tally.accepted += 1
        yield PointItem(
            source=source,
            metric=metric,
            unit=unit,
            instrument=instrument,
            is_monotonic=is_monotonic,
            temporality=temporality,
            start_ns=min(start_ns, MAX_TIME_NS),
            time_ns=min(time_ns, MAX_TIME_NS),
            attributes=attributes,
            value=value,
            count=count,
            bounds=bounds,
            buckets=buckets,
            has_value=has_value,
        )
