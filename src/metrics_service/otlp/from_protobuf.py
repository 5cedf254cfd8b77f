"""OTLP requests as protobuf.

The values are walked and never converted to dictionaries by the library: that is six times slower.
Nearly all of the time is spent on attributes, so each is touched once, the likeliest type first.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from metrics_service.errors import MalformedRequestError
from metrics_service.ingest.telemetry import MAX_NS, Instrument
from metrics_service.otlp.decoded import (
    MAX_ATTRIBUTES,
    MAX_DEPTH,
    MAX_EVENTS,
    Tally,
    is_span_id,
    log_item,
    source_of,
    warn_of_attributes,
)
from metrics_service.otlp.density import DENSE_BYTES, check_density
from metrics_service.otlp.items import (
    Attributes,
    LogItem,
    PointItem,
    Source,
    SpanEvent,
    SpanItem,
    Value,
)
from metrics_service.otlp.points import checked_point


def logs_from_protobuf(body: bytes, received_ns: int, tally: Tally) -> Iterator[LogItem]:
    request = _parsed(ExportLogsServiceRequest, body)
    for group in request.resource_logs:
        for source, scoped in _sources(group, group.scope_logs, tally):
            tally.count(len(scoped.log_records))
            for record in scoped.log_records:
                trace_id, span_id = record.trace_id, record.span_id
                tally.accepted += 1
                said = record.body
                yield log_item(
                    source,
                    _attributes(record.attributes, tally),
                    record.time_unix_nano,
                    record.observed_time_unix_nano,
                    received_ns,
                    event_name=record.event_name,
                    body=said.string_value or _value(said, 0),
                    severity=record.severity_number,
                    trace_id=trace_id.hex() if len(trace_id) == 16 else None,
                    span_id=span_id.hex() if len(span_id) == 8 else None,
                )


def spans_from_protobuf(body: bytes, tally: Tally) -> Iterator[SpanItem]:
    request = _parsed(ExportTraceServiceRequest, body)
    for group in request.resource_spans:
        for source, scoped in _sources(group, group.scope_spans, tally):
            tally.count(len(scoped.spans))
            for span in scoped.spans:
                if len(span.trace_id) != 16 or len(span.span_id) != 8:
                    tally.refuse("span ids must have 16 and 8 bytes")
                    continue
                trace_id, span_id = span.trace_id.hex(), span.span_id.hex()
                if not is_span_id(trace_id, span_id):
                    tally.refuse("span ids must not be zero")
                    continue
                tally.accepted += 1
                yield _span(source, span, trace_id, span_id, tally)


def _span(source: Source, span: Any, trace_id: str, span_id: str, tally: Tally) -> SpanItem:
    parent = span.parent_span_id
    start_ns = min(span.start_time_unix_nano, MAX_NS)
    return SpanItem(
        source=source,
        name=span.name or "span",
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=parent.hex() if len(parent) == 8 and any(parent) else None,
        start_ns=start_ns,
        end_ns=max(start_ns, min(span.end_time_unix_nano, MAX_NS)),
        attributes=_attributes(span.attributes, tally),
        kind=span.kind,
        status=span.status.code,
        message=span.status.message,
        events=[
            SpanEvent(
                name=event.name,
                time_ns=min(event.time_unix_nano, MAX_NS),
                attributes=_attributes(event.attributes, tally),
            )
            for event in span.events[:MAX_EVENTS]
        ],
    )


def points_from_protobuf(body: bytes, received_ns: int, tally: Tally) -> Iterator[PointItem]:
    request = _parsed(ExportMetricsServiceRequest, body)
    for group in request.resource_metrics:
        for source, scoped in _sources(group, group.scope_metrics, tally):
            tally.count(len(scoped.metrics))
            for metric in scoped.metrics:
                yield from _points(source, metric, received_ns, tally)


_INSTRUMENTS: dict[str, Instrument] = {
    "sum": "sum",
    "gauge": "gauge",
    "histogram": "histogram",
    "exponential_histogram": "exponential_histogram",
    "summary": "summary",
}


def _points(source: Source, metric: Any, received_ns: int, tally: Tally) -> Iterator[PointItem]:
    which = metric.WhichOneof("data")
    if which is None:
        return
    data = getattr(metric, which)
    instrument = _INSTRUMENTS[which]
    tally.count(len(data.data_points))
    for point in data.data_points:
        is_histogram = instrument == "histogram"
        if instrument in ("sum", "gauge"):
            kind = point.WhichOneof("value")
            value, count = (float(getattr(point, kind)) if kind else None), None
        else:
            has_sum = instrument == "summary" or point.HasField("sum")
            value, count = (point.sum if has_sum else None), point.count
        yield from checked_point(
            tally,
            source,
            metric=metric.name,
            unit=metric.unit,
            instrument=instrument,
            is_monotonic=instrument != "gauge" and getattr(data, "is_monotonic", True),
            temporality=getattr(data, "aggregation_temporality", 0),
            start_ns=point.start_time_unix_nano,
            time_ns=point.time_unix_nano or received_ns,
            attributes=_attributes(point.attributes, tally),
            value=value,
            count=count,
            bounds=list(point.explicit_bounds) if is_histogram else None,
            buckets=list(point.bucket_counts) if is_histogram else None,
            flags=point.flags,
        )


def _parsed(kind: Any, body: bytes) -> Any:
    if len(body) > DENSE_BYTES:
        check_density(body)
    try:
        return kind.FromString(body)
    except DecodeError:
        raise MalformedRequestError("the body is not an OTLP request in protobuf") from None


def _sources(group: Any, scopes: Any, tally: Tally) -> Iterator[tuple[Source, Any]]:
    resource = _attributes(group.resource.attributes, tally)
    tally.count(1 + len(scopes))
    for scoped in scopes:
        scope = scoped.scope
        yield (
            source_of(resource, scope.name, scope.version, _attributes(scope.attributes, tally)),
            scoped,
        )


def _attributes(pairs: Any, tally: Tally) -> Attributes:
    if len(pairs) > MAX_ATTRIBUTES:
        warn_of_attributes(tally)
        pairs = pairs[:MAX_ATTRIBUTES]
    found: Attributes = {}
    for pair in pairs:
        value = pair.value
        # An empty text is the one case that needs a second question.
        found[pair.key] = value.string_value or _value(value, 0)
    return found


def _value(value: Any, depth: int) -> Value:
    which = value.WhichOneof("value")
    if which in ("string_value", "int_value", "double_value", "bool_value"):
        return getattr(value, which)  # type: ignore[no-any-return]  # one of four
    if which is None or depth >= MAX_DEPTH:
        return None
    if which == "array_value":
        return [_value(item, depth + 1) for item in value.array_value.values]
    if which == "kvlist_value":
        return {pair.key: _value(pair.value, depth + 1) for pair in value.kvlist_value.values}
    if which == "bytes_value":
        # As JSON has it.
        return base64.b64encode(value.bytes_value).decode()
    return None
