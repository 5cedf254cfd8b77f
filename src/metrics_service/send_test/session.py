"""The believable session that is sent: a turn, two tool calls, one request to a model; all three signals.

Names: OpenTelemetry semantic conventions for generative AI. The service is nobody's, so that no real
agent's figures change.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, TypeAlias

import msgspec
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.logs.v1.logs_pb2 import SEVERITY_NUMBER_INFO
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_DELTA
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from metrics_service.fields import Protocol, Signal

AttributeValue: TypeAlias = str | int | float | list[str]
Attributes: TypeAlias = Mapping[str, AttributeValue]

AGENT = "otlp-send-test"
SCOPE = "metrics-service.send-test"
MODEL = "send-test-model"
INPUT_TOKENS = 1200
CACHE_READ_TOKENS = 800
OUTPUT_TOKENS = 150

MS = 1_000_000
LENGTH_MS = 4000


class Kind(msgspec.Struct, frozen=True):
    """What a signal is called where, and what it is answered with."""

    answer: Any
    rejected: str
    """The field of the answer's partial success that counts."""
    service: str

    @property
    def method(self) -> str:
        return f"/opentelemetry.proto.collector.{self.service}/Export"


KINDS: dict[Signal, Kind] = {
    "logs": Kind(ExportLogsServiceResponse, "rejected_log_records", "logs.v1.LogsService"),
    "metrics": Kind(
        ExportMetricsServiceResponse, "rejected_data_points", "metrics.v1.MetricsService"
    ),
    "traces": Kind(ExportTraceServiceResponse, "rejected_spans", "trace.v1.TraceService"),
}


class Export(msgspec.Struct, frozen=True):
    """One request."""

    signal: Signal
    request: Any
    items: int


class Session(msgspec.Struct, frozen=True):
    """A session of which nothing is sent yet."""

    external_id: str
    exports: tuple[Export, ...]


def new_session(protocol: Protocol, now_ns: int | None = None) -> Session:
    """Make up a session that has just ended, and is this protocol's own."""
    end_ns = time.time_ns() if now_ns is None else now_ns
    at = datetime.fromtimestamp(end_ns / 1e9, UTC).strftime("%Y%m%dT%H%M%S%fZ")
    story = _Story(f"send-test-{at}-{protocol.replace('/', '-')}", end_ns - LENGTH_MS * MS)
    return Session(story.external_id, (story.logs(), story.metrics(), story.traces()))


class _Story:
    """What happened, told by each signal: the ids and times are the same in all of them."""

    def __init__(self, external_id: str, start_ns: int) -> None:
        self.external_id = external_id
        self._start_ns = start_ns
        self._trace_id = os.urandom(16)
        self._turn_id, self._chat_id = os.urandom(8), os.urandom(8)
        self._response_id = f"resp-{self._chat_id.hex()}"

    def traces(self) -> Export:
        request = ExportTraceServiceRequest()
        scope = _scope(request.resource_spans, "scope_spans")
        turn = self._span(scope, "invoke_agent send-test", self._turn_id, (0, LENGTH_MS))
        _add(turn, {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "send-test"})
        chat = self._span(scope, f"chat {MODEL}", self._chat_id, (100, 1600), is_inner=True)
        chat.kind = Span.SPAN_KIND_CLIENT
        _add(chat, self._chat())
        self._tool(scope, "read_file", (1700, 1750))
        failed = self._tool(scope, "run_tests", (1800, 3800))
        failed.status.code = Status.STATUS_CODE_ERROR
        failed.status.message = "a test of the connection: this call fails on purpose"
        _add(failed, {"error.type": "exit_code"})
        return Export("traces", request, len(scope.spans))

    def logs(self) -> Export:
        request = ExportLogsServiceRequest()
        scope = _scope(request.resource_logs, "scope_logs")
        prompt = self._record(scope, "gen_ai.user.message", self._turn_id, 50)
        prompt.body.string_value = "Is the telemetry arriving?"
        _add(prompt, {"gen_ai.provider.name": "send-test"})
        details = self._record(
            scope, "gen_ai.client.inference.operation.details", self._chat_id, 1600
        )
        _add(details, self._chat())
        return Export("logs", request, len(scope.log_records))

    def metrics(self) -> Export:
        request = ExportMetricsServiceRequest()
        scope = _scope(request.resource_metrics, "scope_metrics")
        usage = _histogram(scope, "gen_ai.client.token.usage", "{token}")
        for kind, tokens in (("input", INPUT_TOKENS), ("output", OUTPUT_TOKENS)):
            self._point(usage, tokens, [256.0, 1024.0, 4096.0], {"gen_ai.token.type": kind})
        duration = _histogram(scope, "gen_ai.client.operation.duration", "s")
        self._point(duration, 1.5, [1.0, 2.0, 4.0], {})
        return Export("metrics", request, len(usage.data_points) + len(duration.data_points))

    def _chat(self) -> Attributes:
        return {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "send-test",
            "gen_ai.request.model": MODEL,
            "gen_ai.response.model": MODEL,
            "gen_ai.response.id": self._response_id,
            "gen_ai.response.finish_reasons": ["tool_calls"],
            "gen_ai.usage.input_tokens": INPUT_TOKENS,
            "gen_ai.usage.cache_read.input_tokens": CACHE_READ_TOKENS,
            "gen_ai.usage.output_tokens": OUTPUT_TOKENS,
        }

    def _tool(self, scope: Any, name: str, ran: tuple[int, int]) -> Any:
        span_id = os.urandom(8)
        span = self._span(scope, f"execute_tool {name}", span_id, ran, is_inner=True)
        _add(
            span,
            {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": name,
                "gen_ai.tool.type": "function",
                "gen_ai.tool.call.id": f"call-{span_id.hex()}",
            },
        )
        return span

    def _span(
        self, scope: Any, name: str, span_id: bytes, ran: tuple[int, int], *, is_inner: bool = False
    ) -> Any:
        span = scope.spans.add(
            name=name,
            trace_id=self._trace_id,
            span_id=span_id,
            parent_span_id=self._turn_id if is_inner else b"",
            kind=Span.SPAN_KIND_INTERNAL,
            start_time_unix_nano=self._at(ran[0]),
            end_time_unix_nano=self._at(ran[1]),
        )
        return self._of_session(span)

    def _record(self, scope: Any, name: str, span_id: bytes, after_ms: int) -> Any:
        record = scope.log_records.add(
            event_name=name,
            time_unix_nano=self._at(after_ms),
            observed_time_unix_nano=self._at(after_ms),
            severity_number=SEVERITY_NUMBER_INFO,
            trace_id=self._trace_id,
            span_id=span_id,
        )
        return self._of_session(record)

    def _point(
        self, histogram: Any, value: float, bounds: list[float], attributes: Attributes
    ) -> None:
        point = histogram.data_points.add(
            start_time_unix_nano=self._start_ns,
            time_unix_nano=self._at(LENGTH_MS),
            count=1,
            sum=value,
            explicit_bounds=bounds,
            bucket_counts=[
                int(low < value <= high)
                for low, high in zip([-1.0, *bounds], [*bounds, float("inf")], strict=True)
            ],
        )
        self._of_session(point)
        _add(point, {"gen_ai.operation.name": "chat", "gen_ai.request.model": MODEL})
        _add(point, attributes)

    def _of_session(self, item: Any) -> Any:
        _add(item, {"gen_ai.conversation.id": self.external_id})
        return item

    def _at(self, after_ms: int) -> int:
        return self._start_ns + after_ms * MS


def _scope(resources: Any, scopes: str) -> Any:
    resource = resources.add()
    _add(
        resource.resource,
        {"service.name": AGENT, "service.version": version("metrics-service")},
    )
    scope = getattr(resource, scopes).add()
    scope.scope.name = SCOPE
    return scope


def _histogram(scope: Any, name: str, unit: str) -> Any:
    histogram = scope.metrics.add(name=name, unit=unit).histogram
    # Each test is complete in itself: there is no stream of which it could be the next reading.
    histogram.aggregation_temporality = AGGREGATION_TEMPORALITY_DELTA
    return histogram


def _add(owner: Any, attributes: Attributes) -> None:
    for key, value in attributes.items():
        into = owner.attributes.add(key=key).value
        if isinstance(value, list):
            for one in value:
                into.array_value.values.add(string_value=one)
        elif isinstance(value, str):
            into.string_value = value
        elif isinstance(value, int):
            into.int_value = value
        else:
            into.double_value = value
