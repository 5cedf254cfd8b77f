"""OTLP requests as JSON: lowerCamelCase keys, hex ids, 64-bit integers as text or numbers.

Read leniently where clients differ, as the specification asks: unknown keys are ignored, numbers and
enumerations may come as text. Source: OTLP specification, section "JSON Protobuf Encoding".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from metrics_service.errors import BodyTooLargeError, MalformedRequestError
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
from metrics_service.otlp.items import (
    CUMULATIVE,
    DELTA,
    KIND_SERVER,
    STATUS_ERROR,
    Attributes,
    LogItem,
    PointItem,
    Source,
    SpanEvent,
    SpanItem,
    Value,
)
from metrics_service.otlp.json_messages import (
    AnyValue,
    Data,
    Group,
    LogRecord,
    Metric,
    Number,
    Pairs,
    Request,
    Scope,
    Scoped,
    Span,
    Status,
)
from metrics_service.otlp.points import checked_point

# Each takes a hundred bytes when it is read; a record with twenty attributes has forty.
MAX_OBJECTS = 2_000_000

T = TypeVar("T")

_LOGS = msgspec.json.Decoder(Request[LogRecord])
_SPANS = msgspec.json.Decoder(Request[Span])
_METRICS = msgspec.json.Decoder(Request[Metric])
_RAW = msgspec.json.Decoder(Request[msgspec.Raw])

_is_hex = re.compile(r"[0-9a-fA-F]+").fullmatch
_lone_surrogates = re.compile(
    rb"(?<!\\)((?:\\\\)*)(?:"
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)


def logs_from_json(body: bytes, received_ns: int, tally: Tally) -> Iterator[LogItem]:
    groups = _groups(_LOGS, body, "resource_logs")
    for source, scoped in _sources(groups, "scope_logs", tally):
        for record in _each(scoped.log_records, LogRecord, tally):
            tally.accepted += 1
            yield log_item(
                source,
                _attributes(record.attributes, tally),
                _time(record.time_unix_nano),
                _time(record.observed_time_unix_nano),
                received_ns,
                event_name=record.event_name or "",
                body=_value(record.body, 0),
                severity=_whole(record.severity_number) or 0,
                trace_id=_hex(record.trace_id, 32),
                span_id=_hex(record.span_id, 16),
            )


def spans_from_json(body: bytes, tally: Tally) -> Iterator[SpanItem]:
    groups = _groups(_SPANS, body, "resource_spans")
    for source, scoped in _sources(groups, "scope_spans", tally):
        for span in _each(scoped.spans, Span, tally):
            trace_id, span_id = _hex(span.trace_id, 32), _hex(span.span_id, 16)
            if trace_id is None or span_id is None or not is_span_id(trace_id, span_id):
                tally.refuse("span ids must be 32 and 16 hexadecimal digits, not all zero")
                continue
            tally.accepted += 1
            yield _span(source, span, trace_id, span_id, tally)


def _span(source: Source, span: Span, trace_id: str, span_id: str, tally: Tally) -> SpanItem:
    start_ns = _time(span.start_time_unix_nano)
    parent = _hex(span.parent_span_id, 16)
    status = span.status or Status()
    return SpanItem(
        source=source,
        name=span.name or "span",
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=parent if parent is not None and parent.strip("0") else None,
        start_ns=start_ns,
        end_ns=max(start_ns, _time(span.end_time_unix_nano)),
        attributes=_attributes(span.attributes, tally),
        kind=_enum(span.kind, {"SPAN_KIND_SERVER": KIND_SERVER}),
        status=_enum(status.code, {"STATUS_CODE_OK": 1, "STATUS_CODE_ERROR": STATUS_ERROR}),
        message=status.message or "",
        events=[
            SpanEvent(
                name=event.name or "",
                time_ns=_time(event.time_unix_nano),
                attributes=_attributes(event.attributes, tally),
            )
            for event in (span.events or [])[:MAX_EVENTS]
        ],
    )


def points_from_json(body: bytes, received_ns: int, tally: Tally) -> Iterator[PointItem]:
    groups = _groups(_METRICS, body, "resource_metrics")
    for source, scoped in _sources(groups, "scope_metrics", tally):
        for metric in _each(scoped.metrics, Metric, tally):
            yield from _points(source, metric, received_ns, tally)


_INSTRUMENTS: tuple[Instrument, ...] = (
    "sum",
    "gauge",
    "histogram",
    "exponential_histogram",
    "summary",
)
_TEMPORALITIES = {
    "AGGREGATION_TEMPORALITY_DELTA": DELTA,
    "AGGREGATION_TEMPORALITY_CUMULATIVE": CUMULATIVE,
}


def _points(source: Source, metric: Metric, received_ns: int, tally: Tally) -> Iterator[PointItem]:
    for instrument in _INSTRUMENTS:
        data: Data | None = getattr(metric, instrument)
        if data is None:
            continue
        tally.count(len(data.data_points or ()))
        for point in data.data_points or ():
            is_histogram = instrument == "histogram"
            is_plain = instrument in {"sum", "gauge"}
            given = point.sum
            if is_plain:
                given = point.as_int if point.as_int is not None else point.as_double
            yield from checked_point(
                tally,
                source,
                metric=metric.name or "",
                unit=metric.unit or "",
                instrument=instrument,
                is_monotonic=bool(data.is_monotonic) if is_plain else True,
                temporality=_enum(data.aggregation_temporality, _TEMPORALITIES),
                start_ns=_time(point.start_time_unix_nano),
                time_ns=_time(point.time_unix_nano) or received_ns,
                attributes=_attributes(point.attributes, tally),
                value=_double(given),
                count=None if is_plain else _whole(point.count) or 0,
                bounds=_doubles(point.explicit_bounds) if is_histogram else None,
                buckets=_wholes(point.bucket_counts) if is_histogram else None,
                flags=_whole(point.flags) or 0,
            )


# -- reading ----------------------------------------------------------------------------------------


_PATHS = {"resource_logs": "logs", "resource_spans": "traces", "resource_metrics": "metrics"}


def _groups(decoder: Any, body: bytes, wanted: str) -> list[Group[Any]]:
    if body.count(b"{") > MAX_OBJECTS:
        raise BodyTooLargeError(f"a request may have {MAX_OBJECTS} objects; send several")
    request = _parsed(decoder, body)
    groups: list[Group[Any]] | None = getattr(request, wanted)
    if groups is not None:
        return groups
    for name, path in _PATHS.items():
        if getattr(request, name) is not None:
            raise MalformedRequestError(f"this is a request for /v1/{path}")
    if body.strip() != b"{}":
        raise _malformed()
    return []


def _parsed(decoder: Any, body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError:
        # One item may be to blame: then the others are not.
        return _of_raw_items(body)
    except UnicodeDecodeError:
        return _parsed(decoder, body.decode("utf-8", "replace").encode())
    except (msgspec.DecodeError, RecursionError, ValueError):
        mended = _lone_surrogates.sub(rb"\1\\ufffd", body)
        if mended == body:
            raise _malformed() from None
        # JavaScript cuts text between the halves of a character and sends what is left of it.
        return _parsed(decoder, mended)


def _of_raw_items(body: bytes) -> Any:
    try:
        return _RAW.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        raise _malformed() from None


def _malformed() -> MalformedRequestError:
    return MalformedRequestError("the body is not an OTLP request in JSON")


def _each(items: list[Any] | None, kind: type[T], tally: Tally) -> Iterator[T]:
    tally.count(len(items or ()))
    for item in items or ():
        if isinstance(item, kind):
            yield item
            continue
        try:
            yield msgspec.json.decode(item, type=kind)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            reason = str(error) if isinstance(error, msgspec.ValidationError) else "is not valid"
            tally.refuse(f"an item is not valid: {reason}")


def _sources(
    groups: list[Group[Any]], scopes: str, tally: Tally
) -> Iterator[tuple[Source, Scoped[Any]]]:
    for group in groups:
        resource = _attributes(group.resource.attributes if group.resource else None, tally)
        found = getattr(group, scopes) or ()
        tally.count(1 + len(found))
        for scoped in found:
            scope = scoped.scope or Scope()
            attributes = _attributes(scope.attributes, tally)
            yield source_of(resource, scope.name or "", scope.version or "", attributes), scoped


def _attributes(pairs: Pairs, tally: Tally) -> Attributes:
    found: Attributes = {}
    if pairs is not None and len(pairs) > MAX_ATTRIBUTES:
        warn_of_attributes(tally)
        pairs = pairs[:MAX_ATTRIBUTES]
    for pair in pairs or ():
        value = pair.value
        if value is not None and value.string_value is not None:
            # As nearly all of them are.
            found[pair.key] = value.string_value
        else:
            found[pair.key] = _value(value, 0)
    return found


def _value(value: AnyValue | None, depth: int) -> Value:
    if value is None:
        return None
    items, pairs = value.array_value, value.kvlist_value
    if depth >= MAX_DEPTH and (items or pairs) is not None:
        return None
    if items is not None:
        return [_value(item, depth + 1) for item in items.values or ()]
    if pairs is not None:
        return {pair.key: _value(pair.value, depth + 1) for pair in pairs.values or ()}
    return _scalar(value)


def _scalar(value: AnyValue) -> Value:
    if value.string_value is not None:
        return value.string_value
    if value.int_value is not None:
        return _integer(value.int_value)
    if value.double_value is not None:
        return _double(value.double_value)
    if value.bool_value is not None:
        given = value.bool_value
        return given.lower() == "true" if isinstance(given, str) else bool(given)
    return value.bytes_value


def _integer(given: float | str) -> Value:
    whole = _whole(given)
    # What is no 64-bit integer stays the text it came as.
    return whole if whole is not None and -(2**63) <= whole < 2**63 else str(given)


def _whole(given: Number) -> int | None:
    if given is None or given.__class__ is int:
        return given
    try:
        return int(given)
    except (ValueError, OverflowError):
        return None


def _wholes(given: list[Number] | None) -> list[int]:
    return [_whole(item) or 0 for item in given or ()]


def _double(given: Number) -> float | None:
    if given is None:
        return None
    try:
        return float(given)
    except (ValueError, OverflowError):
        return math.nan


def _doubles(given: list[Number] | None) -> list[float]:
    return [math.nan if (found := _double(item)) is None else found for item in given or ()]


def _time(given: Number) -> int:
    found = _whole(given)
    return min(max(found, 0), MAX_NS) if found is not None else 0


def _enum(given: Number, names: dict[str, int]) -> int:
    return names[given] if isinstance(given, str) and given in names else _whole(given) or 0


def _hex(given: str | None, digits: int) -> str | None:
    return given.lower() if given is not None and len(given) == digits and _is_hex(given) else None
