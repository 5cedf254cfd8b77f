"""Says OTLP to the service: the same request as JSON and as protobuf."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import msgspec
from google.protobuf.json_format import ParseDict
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

from acceptance.talk import BASE

JSON = "application/json"
PROTOBUF = "application/x-protobuf"
MEDIA_TYPES = [PROTOBUF, JSON]
SIGNALS = ["logs", "metrics", "traces"]
BASE_NS = int(BASE.timestamp()) * 10**9

REQUESTS: dict[str, Any] = {
    "logs": ExportLogsServiceRequest,
    "metrics": ExportMetricsServiceRequest,
    "traces": ExportTraceServiceRequest,
}
RESPONSES: dict[str, Any] = {
    "logs": ExportLogsServiceResponse,
    "metrics": ExportMetricsServiceResponse,
    "traces": ExportTraceServiceResponse,
}
COUNTS = {"logs": "LogRecords", "metrics": "DataPoints", "traces": "Spans"}


class Answer(msgspec.Struct, frozen=True):
    """A partial success; of nothing, and without a word, where all is well."""

    rejected: int = 0
    message: str = ""


def attributes(**values: Any) -> list[dict[str, Any]]:
    return [
        {"key": key.replace("__", "."), "value": value_of(value)} for key, value in values.items()
    ]


def value_of(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": value}


def log(name: str, *, at_s: float = 0, **values: Any) -> dict[str, Any]:
    """An event of Claude Code, in one session unless another is named."""
    return {
        "timeUnixNano": str(BASE_NS + int(at_s * 10**9)),
        "body": {"stringValue": f"claude_code.{name}"},
        "attributes": attributes(**{"session__id": "s", "event__name": name, **values}),
    }


def tool_result(call: str, **values: Any) -> dict[str, Any]:
    return log(
        "tool_result",
        **{
            "tool_use_id": call, "tool_name": "Bash", "success": "true", "duration_ms": "412",
            **values,
        },
    )  # fmt: skip


def api_request(request: str, **values: Any) -> dict[str, Any]:
    return log(
        "api_request",
        **{
            "request_id": request, "model": "claude-sonnet-5", "input_tokens": 10,
            "output_tokens": 20, "cost_usd": 0.25, "duration_ms": 1500, **values,
        },
    )  # fmt: skip


def span(
    number: int, *, trace_id: str | None = None, span_id: str | None = None, **values: Any
) -> dict[str, Any]:
    """A tool call of an agent that follows the conventions of OpenTelemetry."""
    given = {"gen_ai__operation__name": "execute_tool", "gen_ai__tool__name": "Bash", **values}
    return {
        "traceId": trace_id or f"{number:032x}",
        "spanId": span_id or f"{number:016x}",
        "name": "execute_tool Bash",
        "startTimeUnixNano": str(BASE_NS),
        "endTimeUnixNano": str(BASE_NS + 5 * 10**6),
        "attributes": attributes(**given),
    }


def point(value: float = 1, **more: Any) -> dict[str, Any]:
    number = {"asInt": str(value)} if isinstance(value, int) else {"asDouble": value}
    return {
        "startTimeUnixNano": str(BASE_NS),
        "timeUnixNano": str(BASE_NS + 10**9),
        "attributes": attributes(session__id="s"),
        **number,
        **more,
    }


def logs(*records: Any, service: str = "claude-code") -> dict[str, Any]:
    scoped = {"scope": {"name": "com.anthropic.claude_code.events"}, "logRecords": list(records)}
    return {"resourceLogs": [{**_resource(service), "scopeLogs": [scoped]}]}


def traces(*spans: Any, service: str = "my-agent") -> dict[str, Any]:
    return {"resourceSpans": [{**_resource(service), "scopeSpans": [{"spans": list(spans)}]}]}


def metrics(*points: Any, name: str = "claude_code.commit.count") -> dict[str, Any]:
    metric = {
        "name": name,
        "sum": {"aggregationTemporality": 1, "isMonotonic": True, "dataPoints": list(points)},
    }
    scoped = {"scope": {"name": "com.anthropic.claude_code"}, "metrics": [metric]}
    return {"resourceMetrics": [{**_resource("claude-code"), "scopeMetrics": [scoped]}]}


def _resource(service: str) -> dict[str, Any]:
    return {"resource": {"attributes": attributes(service__name=service)}}


def good(signal: str) -> dict[str, Any]:
    """A request of one item that nothing is wrong with."""
    made: dict[str, dict[str, Any]] = {
        "logs": logs(tool_result("c")), "metrics": metrics(point()), "traces": traces(span(1)),
    }  # fmt: skip
    return made[signal]


def encode(signal: str, request: dict[str, Any], media_type: str) -> bytes:
    if media_type == JSON:
        return json.dumps(request).encode()
    return bytes(ParseDict(_in_base64(request), REQUESTS[signal]()).SerializeToString())


def _in_base64(value: Any) -> Any:
    # OTLP has ids in hexadecimal, where the JSON of protobuf wants base64.
    if isinstance(value, list):
        return [_in_base64(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: base64.b64encode(bytes.fromhex(item)).decode()
        if key in {"traceId", "spanId", "parentSpanId"}
        else _in_base64(item)
        for key, item in value.items()
    }


async def export(
    client: httpx.AsyncClient,
    headers: dict[str, str],
    signal: str,
    request: dict[str, Any] | bytes,
    media_type: str = PROTOBUF,
    *,
    path: str | None = None,
    **more: str,
) -> httpx.Response:
    """Post a request, or bytes as they are; `more` are further headers."""
    body = request if isinstance(request, bytes) else encode(signal, request, media_type)
    given = {**headers, "Content-Type": media_type}
    given |= {name.replace("_", "-"): value for name, value in more.items()}
    return await client.post(path or f"/v1/{signal}", content=body, headers=given)


def answer_of(signal: str, response: httpx.Response) -> Answer:
    """What a 200 says, in the encoding of its request."""
    assert response.status_code == 200, (response.status_code, response.content)
    media_type = response.request.headers["content-type"].partition(";")[0]
    assert response.headers["content-type"] == media_type
    if media_type == JSON:
        body = response.json()
        assert body.keys() <= {"partialSuccess"}
        partial = body.get("partialSuccess", {})
        count, message = (
            partial.get(f"rejected{COUNTS[signal]}", "0"),
            partial.get("errorMessage", ""),
        )
        assert isinstance(count, str)
        assert body == {} or partial
        return Answer(int(count), message)
    found = RESPONSES[signal].FromString(response.content)
    assert found.HasField("partial_success") == bool(response.content)
    partial = found.partial_success
    names = {"logs": "rejected_log_records", "metrics": "rejected_data_points"}
    return Answer(getattr(partial, names.get(signal, "rejected_spans")), partial.error_message)
