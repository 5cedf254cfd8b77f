"""Sessions of several clients as items of telemetry, to be sent in any order and any split."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from google.protobuf.json_format import Parse
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from metrics_service.fields import Signal

sys.path.append(str(Path(__file__).parents[1] / "unit" / "otlp"))

from vectors import (
    MS,
    T0,
    Json,
    histogram_metric,
    logs,
    metrics,
    record,
    span,
    spans,
    sum_metric,
)

SECOND = 1000 * MS
BUILDERS = {"logs": logs, "traces": spans, "metrics": metrics}
MESSAGES: dict[str, Any] = {
    "logs": ExportLogsServiceRequest,
    "traces": ExportTraceServiceRequest,
    "metrics": ExportMetricsServiceRequest,
}


class Item(NamedTuple):
    """One log record, span or metric, and what it came with."""

    signal: Signal
    service: str
    scope: str
    resource: tuple[tuple[str, str], ...]
    body: bytes


class Sent(NamedTuple):
    """One request."""

    signal: Signal
    body: bytes
    is_json: bool


def request_of(items: list[Item], *, is_json: bool) -> Sent:
    """A request with items of one signal, service, scope and resource."""
    first = items[0]
    given = [msgspec.json.decode(item.body) for item in items]
    body = BUILDERS[first.signal](first.service, first.scope, *given, resource=dict(first.resource))
    if not is_json:
        body = _protobuf(first.signal, body)
    return Sent(first.signal, body, is_json)


def _protobuf(signal: str, body: bytes) -> bytes:
    # Protobuf's own JSON has ids in base64.
    message = msgspec.json.decode(body)
    for place in _places(message):
        for name in ("traceId", "spanId", "parentSpanId"):
            if place.get(name):
                place[name] = _base64(place[name])
            else:
                place.pop(name, None)
    encoded = msgspec.json.encode(message)
    return bytes(Parse(encoded, MESSAGES[signal]()).SerializeToString())


def _base64(digits: str) -> str:
    return base64.b64encode(bytes.fromhex(digits)).decode()


def _places(message: Any) -> Iterator[dict[str, Any]]:
    if isinstance(message, dict):
        yield message
        for value in message.values():
            yield from _places(value)
    elif isinstance(message, list):
        for value in message:
            yield from _places(value)


def groups_of(items: Iterable[Item]) -> list[list[Item]]:
    """The items by what they came with, in order."""
    groups: dict[tuple[Any, ...], list[Item]] = {}
    for item in items:
        groups.setdefault(item[:4], []).append(item)
    return list(groups.values())


def all_stories() -> list[Item]:
    return [*claude_code(), *codex(), *gemini(), *copilot(), *generic()]


def _items(
    signal: Signal, service: str, scope: str, *given: Json, **resource: str
) -> Iterator[Item]:
    named = tuple(sorted((name.replace("__", "."), value) for name, value in resource.items()))
    for one in given:
        yield Item(signal, service, scope, named, msgspec.json.encode(one))


def claude_code() -> Iterator[Item]:
    trace = "1af7651916cd43dd8448eb211c80319c"
    who = {
        "session.id": "s-1",
        "user.email": "Ada@Example.com",
        "user.id": "install-1",
        "organization.id": "org-1",
        "terminal.type": "vscode",
    }
    number = iter(range(1, 100))

    def log(name: str, at: float, **attributes: Any) -> Json:
        given = {key.replace("__", "."): value for key, value in attributes.items()}
        return record(
            name,
            {**who, "event.sequence": next(number), **given},
            time_ns=T0 + int(at * SECOND),
            body=f"claude_code.{name}",
        )

    yield from _items(
        "logs",
        "claude-code",
        "com.anthropic.claude_code.events",
        log("user_prompt", 0, prompt_length="12", prompt="secret words", prompt__id="p-1"),
        log("api_request", 3, request_id="r-1", model="claude-sonnet-4-5", duration_ms=2500,
            input_tokens=100, output_tokens=50, cache_read_tokens=1000, cache_creation_tokens=20,
            cost_usd="0.00155", prompt__id="p-1"),
        log("tool_decision", 4, tool_name="Bash", tool_use_id="t-1", decision="accept",
            source="user_temporary"),
        log("tool_result", 6, tool_name="Bash", tool_use_id="t-1", success="false",
            duration_ms="1500", error_type="ShellError"),
        log("tool_decision", 7, tool_name="Edit", tool_use_id="t-2", decision="reject",
            source="user_reject"),
        log("tool_result", 9, tool_name="Read", success="true", duration_ms="12"),
        log("api_error", 10, model="claude-sonnet-4-5", error="overloaded", status_code=529,
            duration_ms="800", attempt="3"),
        log("permission_mode_changed", 11, from_mode="default", to_mode="acceptEdits"),
        log("permission_mode_changed", 12, from_mode="acceptEdits", to_mode="plan"),
        log("compaction", 13, trigger="auto", success="true", pre_tokens="1000"),
        log("never_heard_of", 14, some="thing", empty=""),
        service__version="2.1.330",
        team="web",
        vcs__repository__name="acme/shop",
    )  # fmt: skip

    def child(name: str, number: int, parent: int | None, **attributes: Any) -> Json:
        given = {key.replace("__", "."): value for key, value in attributes.items()}
        return span(
            f"claude_code.{name}",
            {**who, **given},
            start_ns=T0 + number * SECOND,
            end_ns=T0 + (number + 1) * SECOND,
            trace_id=trace,
            span_id=f"{number:016x}",
            parent=f"{parent:016x}" if parent else None,
        )

    yield from _items(
        "traces",
        "claude-code",
        "com.anthropic.claude_code.tracing",
        child("interaction", 1, None, user_prompt_length=12),
        child("llm_request", 2, 1, request_id="r-1", ttft_ms=400, duration_ms=2600,
              model="claude-sonnet-4-5", input_tokens=100, output_tokens=50,
              cache_read_tokens=1000, cache_creation_tokens=20, success="true"),
        child("tool", 3, 1, tool_name="Bash", tool_use_id="t-1", duration_ms=3500),
        child("tool.blocked_on_user", 4, 3, duration_ms=1900, decision="accept",
              source="user_temporary"),
        child("tool.execution", 5, 3, duration_ms=1490, success="false", error="exit 1"),
        child("tool.blocked_on_user", 6, 77, duration_ms=5, decision="accept", source="config"),
        service__version="2.1.330",
    )  # fmt: skip
    yield from _items(
        "metrics",
        "claude-code",
        "com.anthropic.claude_code",
        sum_metric("claude_code.session.count", "", [({**who, "start_type": "resume"}, 1)]),
        sum_metric("claude_code.lines_of_code.count", "", [
            ({**who, "type": "added"}, 120), ({**who, "type": "removed"}, 30)]),
        sum_metric("claude_code.cost.usage", "USD", [({**who, "model": "m"}, 0.00155)]),
        sum_metric("claude_code.token.usage", "tokens", [
            ({**who, "type": "input"}, 100), ({**who, "type": "cacheRead"}, 1000)]),
        sum_metric("claude_code.active_time.total", "s", [
            ({**who, "type": "user"}, 12.5), ({**who, "type": "cli"}, 30.25)]),
        sum_metric("claude_code.commit.count", "", [(who, 2)]),
        sum_metric("claude_code.commit.count", "", [(who, 1)], start_ns=T0 + 60 * SECOND,
                   time_ns=T0 + 120 * SECOND),
        sum_metric("something.else", "", [(who, 7)]),
    )  # fmt: skip
    only = {"session.id": "s-metrics", "user.id": "install-2"}
    yield from _items(
        "metrics",
        "claude-code",
        "com.anthropic.claude_code",
        sum_metric("claude_code.token.usage", "tokens", [
            ({**only, "type": "input"}, 10), ({**only, "type": "output"}, 5)]),
    )  # fmt: skip


def codex() -> Iterator[Item]:
    trace = "2af7651916cd43dd8448eb211c80319c"
    who = {"conversation.id": "c-1", "user.email": "grace@example.com", "model": "gpt-5"}

    def log(name: str, at: str, **attributes: Any) -> Json:
        given = {key.replace("__", "."): value for key, value in attributes.items()}
        return record(
            f"codex.{name}",
            {**who, "event.timestamp": f"2025-10-09T08:53:{at}Z", **given},
            time_ns=0,
            observed_ns=T0 + SECOND,
            event_name="event otel/src/events/session_telemetry.rs:1035",
        )

    yield from _items(
        "logs",
        "codex_cli_rs",
        "",
        log("conversation_starts", "20.000", approval_policy="on-request",
            sandbox_policy="read-only", reasoning_effort="high", provider_name="OpenAI"),
        log("user_prompt", "20.100", prompt_length="5", prompt="[REDACTED]"),
        log("sse_event", "22.500", event__kind="response.completed", input_token_count="100",
            cached_token_count=40, output_token_count="20", reasoning_token_count=5,
            tool_token_count="120"),
        log("sse_event", "22.400", event__kind="response.created"),
        log("tool_decision", "23.000", tool_name="shell", call_id="call-1",
            decision="approved_for_session", source="user"),
        log("tool_result", "24.000", tool_name="shell", call_id="call-1", duration_ms="700",
            success="true", arguments="{}", output="hi"),
        log("tool_decision", "25.000", tool_name="shell", call_id="call-2", decision="denied",
            source="User"),
        log("api_request", "26.000", error__message="boom", attempt=0, duration_ms="90"),
    )  # fmt: skip
    yield from _items(
        "traces",
        "codex_cli_rs",
        "codex_cli_rs",
        span("session_task.turn", {"thread.id": "c-1", "turn.id": "u-1", "model": "gpt-5"},
             trace_id=trace, span_id="00000000000000a1"),
        span("handle_responses", {"gen_ai.usage.input_tokens": 100,
             "gen_ai.usage.output_tokens": 20, "gen_ai.usage.cache_read.input_tokens": 40},
             trace_id=trace, span_id="00000000000000a2", parent="00000000000000a1"),
    )  # fmt: skip


def gemini() -> Iterator[Item]:
    trace = "3af7651916cd43dd8448eb211c80319c"
    who = {"session.id": "g-1", "installation.id": "inst-9", "user.email": "ada@example.com"}
    yield from _items(
        "logs",
        "gemini-cli",
        "gemini-cli",
        record("gemini_cli.tool_call", {**who, "function_name": "edit", "duration_ms": 40,
               "success": True, "decision": "modify", "prompt_id": "g-p",
               "metadata": '{"model_added_lines": 7, "model_removed_lines": 2}'},
               time_ns=T0 + 2 * SECOND),
        record("gemini_cli.api_response", {**who, "model": "gemini-2.5-pro", "duration_ms": 900,
               "input_token_count": 200, "cached_content_token_count": 50,
               "output_token_count": 30, "thoughts_token_count": 10, "tool_token_count": 5,
               "total_token_count": 245, "prompt_id": "g-p"}, time_ns=T0 + 3 * SECOND),
        record("gen_ai.client.inference.operation.details", {**who,
               "gen_ai.usage.input_tokens": 200}, time_ns=T0 + 3 * SECOND),
        record("gemini_cli.end_session", who, time_ns=T0 + 9 * SECOND),
        session__id="g-1",
    )  # fmt: skip
    yield from _items(
        "traces",
        "gemini-cli",
        "gemini-cli",
        span("tool_call", {"gen_ai.operation.name": "tool_call", "gen_ai.conversation.id": "g-1",
             "gen_ai.tool.name": "edit", "gen_ai.tool.call_id": "x1"}, trace_id=trace,
             span_id="00000000000000b1"),
        span("llm_call", {"gen_ai.operation.name": "llm_call", "gen_ai.conversation.id": "g-1",
             "gen_ai.request.model": "gemini-2.5-pro"}, trace_id=trace,
             span_id="00000000000000b2"),
    )  # fmt: skip


def copilot() -> Iterator[Item]:
    trace = "4af7651916cd43dd8448eb211c80319c"

    def child(name: str, number: int, parent: int | None, **attributes: Any) -> Json:
        given = {key.replace("__", "."): value for key, value in attributes.items()}
        return span(
            name,
            {"gen_ai.operation.name": name.split(maxsplit=1)[0], **given},
            trace_id=trace,
            span_id=f"{number + 0xC0:016x}",
            parent=f"{parent + 0xC0:016x}" if parent is not None else None,
            start_ns=T0 + number * SECOND,
            end_ns=T0 + (number + 1) * SECOND,
        )

    yield from _items(
        "traces",
        "github-copilot",
        "github.copilot",
        child("invoke_agent", 0, None, gen_ai__conversation__id="k-1",
              enduser__pseudo__id="ghost", gen_ai__usage__input_tokens=500),
        child("chat gpt-5", 1, 0, gen_ai__request__model="gpt-5",
              gen_ai__usage__input_tokens=300, gen_ai__usage__output_tokens=30,
              gen_ai__response__id="resp-1"),
        child("execute_tool bash", 2, 0, gen_ai__tool__name="bash",
              gen_ai__tool__call__id="call-9", process__exit__code=3),
        child("chat gpt-5", 3, 0, gen_ai__request__model="gpt-5",
              gen_ai__usage__input_tokens=200, gen_ai__usage__output_tokens=20),
    )  # fmt: skip
    yield from _items(
        "metrics",
        "github-copilot",
        "github.copilot",
        sum_metric("github.copilot.code.lines_added", "", [({"gen_ai.conversation.id": "k-1"}, 9)]),
        histogram_metric("github.copilot.tool.call.duration", "s",
                         [({"gen_ai.tool.name": "bash"}, 2.5, 3)], bounds=[1, 2],
                         buckets=[1, 1, 1]),
    )  # fmt: skip


def generic() -> Iterator[Item]:
    trace = "5af7651916cd43dd8448eb211c80319c"
    yield from _items(
        "traces",
        "my-agent",
        "my.tracer",
        span("execute_tool find", {"gen_ai.operation.name": "execute_tool",
             "gen_ai.tool.name": "find"}, trace_id=trace, span_id="00000000000000d1"),
        span("tools/call find", {"mcp.method.name": "tools/call", "gen_ai.tool.name": "find",
             "gen_ai.operation.name": "execute_tool"}, trace_id=trace, kind=3,
             span_id="00000000000000d2", parent="00000000000000d1"),
        span("invoke_agent me", {"gen_ai.operation.name": "invoke_agent",
             "gen_ai.conversation.id": "m-1"}, trace_id=trace, span_id="00000000000000d0"),
        span("GET /", {"http.request.method": "GET"}, trace_id=trace,
             span_id="00000000000000d9"),
    )  # fmt: skip
    yield from _items(
        "traces",
        "find-server",
        "mcp",
        span("tools/call find", {"mcp.method.name": "tools/call", "gen_ai.tool.name": "find"},
             trace_id=trace, kind=2, span_id="00000000000000d3", parent="00000000000000d2"),
    )  # fmt: skip
    yield from _items(
        "logs",
        "my-agent",
        "my.logger",
        record(None, {"level": "info"}, body="it went well, I think", time_ns=T0 + SECOND),
    )
