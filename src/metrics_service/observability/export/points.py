"""What the instruments stand at, as OTLP has it: counted since the process began."""

from __future__ import annotations

import time

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
)

from metrics_service.observability.export.requests import Items, one_item
from metrics_service.observability.meters import (
    OVERFLOW,
    STARTED_NS,
    Distribution,
    Histogram,
    Instrument,
    Number,
    Numbers,
    Values,
)


def encode_points(instrument: Instrument) -> Items:
    """An instrument as an item of `ScopeMetrics.metrics`; what is counted are its points."""
    metric = Metric(name=instrument.name, unit=instrument.unit, description=instrument.description)
    points = _fill(metric, instrument)
    return one_item(metric.SerializeToString(), count=points)


def _fill(metric: Metric, instrument: Instrument) -> int:
    # A clock that was set back since does not make them older than what they count from.
    now = max(time.time_ns(), STARTED_NS + 1)
    if isinstance(instrument, Histogram):
        metric.histogram.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
        seen = [_distribution(instrument, point, now) for point in instrument.points()]
        metric.histogram.data_points.extend(seen)
        return len(seen)
    if not isinstance(instrument, Numbers):
        return 0
    points = [_number(instrument, point, now) for point in instrument.points()]
    if instrument.kind == "gauge":
        metric.gauge.data_points.extend(points)
    else:
        metric.sum.aggregation_temporality = AGGREGATION_TEMPORALITY_CUMULATIVE
        metric.sum.is_monotonic = instrument.kind == "counter"
        metric.sum.data_points.extend(points)
    return len(points)


def _number(instrument: Instrument, point: Number, now: int) -> NumberDataPoint:
    made = NumberDataPoint(attributes=_attributes(instrument, point.values), time_unix_nano=now)
    if instrument.kind != "gauge":
        made.start_time_unix_nano = STARTED_NS
    if isinstance(point.value, int):
        made.as_int = point.value
    else:
        made.as_double = point.value
    return made


def _distribution(histogram: Histogram, point: Distribution, now: int) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=_attributes(histogram, point.values),
        start_time_unix_nano=STARTED_NS,
        time_unix_nano=now,
        count=point.count,
        sum=point.total,
        bucket_counts=point.counts,
        explicit_bounds=histogram.buckets,
    )


def _attributes(instrument: Instrument, values: Values) -> list[KeyValue]:
    if values == OVERFLOW:
        return [KeyValue(key=str(OVERFLOW[0]), value=AnyValue(bool_value=True))]
    return [
        KeyValue(
            key=key,
            value=AnyValue(int_value=value)
            if isinstance(value, int)
            else AnyValue(string_value=value),
        )
        for key, value in zip(instrument.attributes, values, strict=True)
    ]
