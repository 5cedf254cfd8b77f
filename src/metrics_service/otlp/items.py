"""Log records, spans and data points, the same whether they came as protobuf or as JSON."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from metrics_service.ingest.telemetry import Instrument

Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"
Attributes: TypeAlias = dict[str, Value]

DELTA, CUMULATIVE = 1, 2
STATUS_ERROR = 2
KIND_SERVER = 2


class Source(msgspec.Struct, kw_only=True):
    """What a group of items has in common: resource and instrumentation scope."""

    resource: Attributes
    scope: str = ""
    digest: bytes = b""
    """Of resource and scope: the beginning of every identity that has no better name."""
    service: str = ""
    """The resource's `service.name`."""


class LogItem(msgspec.Struct, gc=False):
    """One log record; ids are lower-case hex, None where absent or not valid."""

    source: Source
    name: str
    """The event's name; `log` for text without one."""
    time_ns: int
    attributes: Attributes
    body: Value = None
    severity: int = 0
    trace_id: str | None = None
    span_id: str | None = None
    is_timed: bool = True
    """Whether the record itself said when: else `time_ns` is when it arrived, and names nothing."""


class SpanEvent(msgspec.Struct, kw_only=True):
    name: str
    time_ns: int
    attributes: Attributes


class SpanItem(msgspec.Struct, kw_only=True, gc=False):
    """One span; ids are lower-case hex and valid."""

    source: Source
    name: str
    trace_id: str
    span_id: str
    parent_span_id: str | None
    start_ns: int
    end_ns: int
    attributes: Attributes
    kind: int = 0
    status: int = 0
    message: str = ""
    events: list[SpanEvent] = []

    @property
    def time_ns(self) -> int:
        return self.start_ns

    @property
    def key(self) -> tuple[str, str]:
        return self.trace_id, self.span_id

    @property
    def duration_ms(self) -> float:
        return max(0, self.end_ns - self.start_ns) / 1e6

    @property
    def has_failed(self) -> bool:
        return self.status == STATUS_ERROR or "error.type" in self.attributes


class PointItem(msgspec.Struct, kw_only=True, gc=False):
    """One data point, times in nanoseconds; `value` is the sum for histograms and summaries."""

    source: Source
    metric: str
    unit: str
    instrument: Instrument
    is_monotonic: bool
    temporality: int
    start_ns: int
    time_ns: int
    attributes: Attributes
    value: float | None = None
    count: int | None = None
    bounds: list[float] | None = None
    buckets: list[int] | None = None
    has_value: bool = True
    """False where the sender says that it has nothing to say."""
