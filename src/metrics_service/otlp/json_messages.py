"""The messages of OTLP in JSON, as far as we read them: lowerCamelCase keys, all of them optional.

Numbers may come as text: 64-bit integers have to, by the specification, and some clients send others
so. None of the messages can be part of a circle, so the garbage collector need not look at them.
"""

from __future__ import annotations

from typing import Generic, TypeVar

import msgspec

Number = int | float | str | None


class AnyValue(msgspec.Struct, rename="camel", gc=False):
    string_value: str | None = None
    int_value: Number = None
    double_value: Number = None
    bool_value: bool | str | int | None = None
    array_value: Array | None = None
    kvlist_value: KeyValues | None = None
    bytes_value: str | None = None


class Array(msgspec.Struct, gc=False):
    values: list[AnyValue | None] | None = None


class KeyValue(msgspec.Struct, gc=False):
    key: str = ""
    value: AnyValue | None = None


class KeyValues(msgspec.Struct, gc=False):
    values: list[KeyValue] | None = None


Pairs = list[KeyValue] | None


class Resource(msgspec.Struct, gc=False):
    attributes: Pairs = None


class Scope(msgspec.Struct, gc=False):
    name: str | None = None
    version: str | None = None
    attributes: Pairs = None


class LogRecord(msgspec.Struct, rename="camel", gc=False):
    time_unix_nano: Number = None
    observed_time_unix_nano: Number = None
    severity_number: Number = None
    event_name: str | None = None
    body: AnyValue | None = None
    attributes: Pairs = None
    trace_id: str | None = None
    span_id: str | None = None


class Status(msgspec.Struct, gc=False):
    code: Number = None
    message: str | None = None


class Event(msgspec.Struct, rename="camel", gc=False):
    time_unix_nano: Number = None
    name: str | None = None
    attributes: Pairs = None


class Span(msgspec.Struct, rename="camel", gc=False):
    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    name: str | None = None
    kind: Number = None
    start_time_unix_nano: Number = None
    end_time_unix_nano: Number = None
    attributes: Pairs = None
    events: list[Event] | None = None
    status: Status | None = None


class Point(msgspec.Struct, rename="camel", gc=False):
    attributes: Pairs = None
    start_time_unix_nano: Number = None
    time_unix_nano: Number = None
    as_double: Number = None
    as_int: Number = None
    count: Number = None
    sum: Number = None
    explicit_bounds: list[Number] | None = None
    bucket_counts: list[Number] | None = None
    flags: Number = None


class Data(msgspec.Struct, rename="camel", gc=False):
    data_points: list[Point] | None = None
    aggregation_temporality: Number = None
    is_monotonic: bool | None = None


class Metric(msgspec.Struct, rename="camel", gc=False):
    name: str | None = None
    unit: str | None = None
    sum: Data | None = None
    gauge: Data | None = None
    histogram: Data | None = None
    exponential_histogram: Data | None = None
    summary: Data | None = None


T = TypeVar("T")


class Scoped(msgspec.Struct, Generic[T], rename="camel"):
    scope: Scope | None = None
    log_records: list[T] | None = None
    spans: list[T] | None = None
    metrics: list[T] | None = None


class Group(msgspec.Struct, Generic[T], rename="camel"):
    resource: Resource | None = None
    scope_logs: list[Scoped[T]] | None = None
    scope_spans: list[Scoped[T]] | None = None
    scope_metrics: list[Scoped[T]] | None = None


class Request(msgspec.Struct, Generic[T], rename="camel"):
    resource_logs: list[Group[T]] | None = None
    resource_spans: list[Group[T]] | None = None
    resource_metrics: list[Group[T]] | None = None
