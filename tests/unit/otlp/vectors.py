"""Builds OTLP requests in JSON as exporters send them, and shows what their mapping gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from metrics_service.fields import Signal
from metrics_service.ingest.parts import join_parts, resolve, signal_of
from metrics_service.ingest.telemetry import Call, SessionPart, Telemetry, instant
from metrics_service.otlp.decode import read_request

TENANT = UUID("018f0000-0000-7000-8000-000000000001")
T0 = 1_760_000_000_000_000_000
MS = 1_000_000
RECEIVED = T0 + 3_600_000 * MS
TRACE = "0af7651916cd43dd8448eb211c80319c"

Json = dict[str, Any]
Attributes = Mapping[str, Any]


def at(ms: float = 0) -> Any:
    """The moment that many milliseconds after T0."""
    return instant(T0 + int(ms * MS))


def logs(
    service: str | None, scope: str | None, *records: Json, resource: Attributes | None = None
) -> bytes:
    return _request("resourceLogs", "scopeLogs", "logRecords", service, scope, records, resource)


def spans(
    service: str | None, scope: str | None, *spans: Json, resource: Attributes | None = None
) -> bytes:
    return _request("resourceSpans", "scopeSpans", "spans", service, scope, spans, resource)


def metrics(
    service: str | None, scope: str | None, *metrics: Json, resource: Attributes | None = None
) -> bytes:
    return _request("resourceMetrics", "scopeMetrics", "metrics", service, scope, metrics, resource)


def record(
    name: str | None,
    attributes: Attributes,
    *,
    time_ns: int = T0,
    body: Any = None,
    event_name: str = "",
    trace_id: str | None = None,
    span_id: str | None = None,
    observed_ns: int = 0,
) -> Json:
    """A log record; `name` is the attribute `event.name`, `event_name` the record's own field."""
    named = {} if name is None else {"event.name": name}
    made: Json = {
        "timeUnixNano": str(time_ns),
        "observedTimeUnixNano": str(observed_ns),
        "attributes": _pairs({**named, **attributes}),
    }
    if body is not None:
        made["body"] = _any_value(body)
    if event_name:
        made["eventName"] = event_name
    if trace_id is not None:
        made["traceId"] = trace_id
    if span_id is not None:
        made["spanId"] = span_id
    return made


def span(
    name: str,
    attributes: Attributes,
    *,
    start_ns: int = T0,
    end_ns: int = T0 + 1000 * MS,
    trace_id: str = TRACE,
    span_id: str = "00f067aa0ba902b7",
    parent: str | None = None,
    kind: int = 1,
    status: int = 0,
    events: Sequence[Json] = (),
) -> Json:
    return {
        "traceId": trace_id,
        "spanId": span_id,
        "parentSpanId": parent or "",
        "name": name,
        "kind": kind,
        "startTimeUnixNano": str(start_ns),
        "endTimeUnixNano": str(end_ns),
        "attributes": _pairs(attributes),
        "events": list(events),
        "status": {"code": status},
    }


def span_event(name: str, attributes: Attributes, *, time_ns: int = T0) -> Json:
    return {"name": name, "timeUnixNano": str(time_ns), "attributes": _pairs(attributes)}


def sum_metric(
    name: str,
    unit: str,
    points: Sequence[tuple[Attributes, float]],
    *,
    monotonic: bool = True,
    temporality: int = 1,
    start_ns: int = T0,
    time_ns: int = T0 + 60_000 * MS,
) -> Json:
    """A sum of points given as attributes and value; delta (1) unless said otherwise."""
    data = [_number(attributes, value, start_ns, time_ns) for attributes, value in points]
    about = {"aggregationTemporality": temporality, "isMonotonic": monotonic}
    return {"name": name, "unit": unit, "sum": {**about, "dataPoints": data}}


def histogram_metric(
    name: str,
    unit: str,
    points: Sequence[tuple[Attributes, float, int]],
    *,
    bounds: Sequence[float] = (),
    buckets: Sequence[int] = (),
    temporality: int = 1,
    start_ns: int = T0,
    time_ns: int = T0 + 60_000 * MS,
) -> Json:
    """A histogram of points given as attributes, sum and count; all have the same buckets."""
    data = [
        {
            "attributes": _pairs(attributes),
            "startTimeUnixNano": str(start_ns),
            "timeUnixNano": str(time_ns),
            "sum": total,
            "count": str(count),
            "explicitBounds": list(bounds),
            "bucketCounts": [str(each) for each in buckets],
        }
        for attributes, total, count in points
    ]
    about = {"aggregationTemporality": temporality}
    return {"name": name, "unit": unit, "histogram": {**about, "dataPoints": data}}


def mapped(*requests: tuple[Signal, bytes], keeps_content: bool = False) -> Telemetry:
    """What several requests say together, in the order given."""
    out = Telemetry(TENANT, keeps_content=keeps_content)
    for signal, body in requests:
        reading = read_request(signal, body, is_json=True, received_ns=RECEIVED, out=out)
        assert not reading.reasons
    return out


def tool_rows(out: Telemetry) -> list[Json]:
    """The tool calls, in the order in which they were first told of; fields that are not None."""
    inside = {
        out.spans[span_id]: parts for span_id, parts in out.inside.items() if span_id in out.spans
    }
    return [_row(call, inside.get(row_id, {})) for row_id, call in out.tools.items()]


def model_rows(out: Telemetry) -> list[Json]:
    return [_row(call, {}) for call in out.models.values()]


def events(out: Telemetry) -> list[Json]:
    """The events: their records' fields that are not None, `session`, and `counts` where they do."""
    found = []
    for event in out.events.values():
        row = {**_fields(event.record), "session": _name(event.session)}
        if event.counts is not None:
            row["counts"] = event.counts
        found.append(row)
    return found


def points(out: Telemetry) -> list[Json]:
    """The data points: their fields that are not None, without the digest of their stream."""
    found = []
    for point in out.points:
        row = {**_fields(point), "session": _name(point.session)}
        del row["stream"]
        found.append(row)
    return found


def said(out: Telemetry, external_id: str) -> Json:
    """What was said of a session, by column, `@claim` and `#resource attribute`."""
    (session,) = (it for it in out.sessions.values() if it.external_id == external_id)
    return {column: value for column, (_, value) in session.said.items()}


def _request(
    groups: str,
    scopes: str,
    items: str,
    service: str | None,
    scope: str | None,
    given: Sequence[Json],
    resource: Attributes | None,
) -> bytes:
    named = {} if service is None else {"service.name": service}
    scoped = {"scope": {} if scope is None else {"name": scope}, items: list(given)}
    about = {"attributes": _pairs({**named, **(resource or {})})}
    return msgspec.json.encode({groups: [{"resource": about, scopes: [scoped]}]})


def _number(attributes: Attributes, value: float, start_ns: int, time_ns: int) -> Json:
    how = {"asInt": str(value)} if isinstance(value, int) else {"asDouble": value}
    times = {"startTimeUnixNano": str(start_ns), "timeUnixNano": str(time_ns)}
    return {"attributes": _pairs(attributes), **times, **how}


def _pairs(attributes: Attributes) -> list[Json]:
    return [{"key": key, "value": _any_value(value)} for key, value in attributes.items()]


_SCALARS = (
    (bool, "boolValue", bool),
    (int, "intValue", str),
    (float, "doubleValue", float),
    (str, "stringValue", str),
)


def _any_value(value: Any) -> Json:
    for kind, name, encoded in _SCALARS:
        if isinstance(value, kind):
            return {name: encoded(value)}
    if isinstance(value, Mapping):
        return {"kvlistValue": {"values": _pairs(value)}}
    return {} if value is None else {"arrayValue": {"values": [_any_value(it) for it in value]}}


def _row(call: Call[Any], inside: Mapping[str, Any]) -> Json:
    parts = dict(call.parts)
    join_parts(parts, inside)
    row = _fields(resolve(parts))
    return {**row, "session": _name(call.session), "signal": signal_of(parts), "rank": call.rank}


def _fields(struct: Any) -> Json:
    values = {name: getattr(struct, name) for name in struct.__struct_fields__}
    return {name: value for name, value in values.items() if value is not None}


def _name(session: Any) -> Any:
    return session.external_id if isinstance(session, SessionPart) else None
