"""What Gemini CLI and its fork Qwen Code have in common: results of tools and models, and metrics."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import msgspec

from metrics_service.ingest.content import rest, size
from metrics_service.ingest.parts import ModelPart, ToolPart
from metrics_service.ingest.telemetry import instant
from metrics_service.otlp.agents.agent import Metric
from metrics_service.otlp.agents.events import log_key
from metrics_service.otlp.items import Attributes, LogItem, SpanItem, Value
from metrics_service.otlp.values import (
    MAX_TEXT,
    content,
    count,
    mapping,
    milliseconds,
    nanoseconds,
    strings,
    text,
)
from metrics_service.otlp.words import STANDARD, decided, ended

CONTENT = frozenset(
    {
        "function_args",
        "hook_input",
        "hook_output",
        "stdout",
        "stderr",
        "metadata",
        "reasoning",
        "routing.reasoning",
    }
)
"""Beside what the conventions name; of `metadata`, which tools fill, the numbers are kept."""

# Said with every record, and of the session rather than of the call.
_COMMON = STANDARD | {"interactive", "prompt_id"}
_TOOL_KEYS = _COMMON | {
    "auth_type", "function_name", "function_args", "duration_ms", "success", "status", "decision",
    "error", "error.message", "error_type", "error.type", "tool_type", "mcp_server_name",
    "content_length", "start_time", "end_time", "metadata", "call_id",
}  # fmt: skip
_MODEL_KEYS = _COMMON | {
    "model", "model_name", "status_code", "http.status_code", "duration_ms", "duration", "ttft_ms",
    "input_token_count", "output_token_count", "cached_content_token_count",
    "thoughts_token_count", "tool_token_count", "total_token_count", "finish_reasons", "role",
    "subagent_name", "response_id", "error", "error.message", "error_message", "error_type",
    "error.type",
}  # fmt: skip
_KINDS = {"native": "builtin", "mcp": "mcp"}
_STATUSES = frozenset({"success", "error", "cancelled"})
_SHELL_REPORT = re.compile(r"^Exit Code: (-?\d{1,9})$", re.MULTILINE)

_canonical = msgspec.json.Encoder(order="deterministic").encode


def call_key(item: LogItem) -> str:
    """What names a tool call that has no id."""
    a = item.attributes
    if nanoseconds(a.get("start_time")) is None:
        return log_key(item)
    # The arguments too: the calls of one answer begin within the same millisecond.
    named = [a.get(name) for name in ("prompt_id", "function_name", "start_time", "function_args")]
    return sha256(_canonical(named)).hexdigest()


def tool_status(a: Mapping[str, Any]) -> str | None:
    """How a call ended: Qwen says it in a word, Gemini only whether it succeeded.

    Both call a call that somebody declined cancelled or failed; that it was declined is in its decision.
    """
    word = text(a.get("status"))
    if word not in _STATUSES:
        word = ended(a.get("success"))
    if word != "success" and decided(a.get("decision"))[0] == "reject":
        return "rejected"
    return word


def tool_part(item: LogItem, kinds: Mapping[str, str], *, keeps_content: bool) -> ToolPart:
    """What the log record of a tool's result says; `kinds` are the tools of a kind of their own."""
    a = item.attributes
    name = text(a.get("function_name"))
    duration_ms = milliseconds(a.get("duration_ms"))
    ended_ns = _moment(a.get("end_time"), item.time_ns) or item.time_ns
    started_ns = _moment(a.get("start_time"), ended_ns)
    if started_ns is None:
        started_ns = ended_ns - int((duration_ms or 0) * 1e6)
    decision, mode = decided(a.get("decision"))
    server = text(a.get("mcp_server_name"))
    part = ToolPart(
        tool_name=name,
        started_at=instant(started_ns),
        ended_at=instant(ended_ns),
        duration_ms=duration_ms,
        status=tool_status(a),
        error_type=text(a.get("error_type") or a.get("error.type")),
        decision=decision,
        decision_mode=mode,
        decision_raw=text(a.get("decision")),
        external_call_id=text(a.get("call_id")),
        turn_id=text(a.get("prompt_id")),
        trace_id=item.trace_id,
        span_id=item.span_id,
        tool_kind=kinds.get(name or "") or _KINDS.get(text(a.get("tool_type")) or ""),
        mcp_server=server,
        mcp_tool=_mcp_tool(name, server) if server is not None else None,
        input_bytes=size(a.get("function_args")),
        output_bytes=count(a.get("content_length")),
        extra=extra(a, _TOOL_KEYS),
    )
    _add_error(part, a.get("error.message") or a.get("error"), keeps_content=keeps_content)
    _add_metadata(part, mapping(a.get("metadata")))
    if keeps_content:
        part.arguments = content(a.get("function_args"))
    return part


def model_part(item: LogItem, status: str) -> ModelPart:
    """What the log record of a model's answer or failure says, without tokens."""
    a = item.attributes
    duration_ms = milliseconds(a.get("duration_ms"))
    if duration_ms is None:
        duration_ms = milliseconds(a.get("duration"))
    part = ModelPart(
        started_at=instant(item.time_ns - int((duration_ms or 0) * 1e6)),
        ended_at=instant(item.time_ns),
        duration_ms=duration_ms,
        ttft_ms=milliseconds(a.get("ttft_ms")),
        status=status,
        http_status=count(a.get("status_code")),
        finish_reasons=strings(a.get("finish_reasons")),
        request_id=text(a.get("response_id")),
        turn_id=text(a.get("prompt_id")),
        trace_id=item.trace_id,
        span_id=item.span_id,
        request_model=text(a.get("model") or a.get("model_name")),
        query_source=text(a.get("role")),
        agent_name=text(a.get("subagent_name")),
        extra=extra(a, _MODEL_KEYS),
    )
    if status == "error":
        failure = f"http_{part.http_status}" if part.http_status else None
        part.error_type = text(a.get("error.type") or a.get("error_type")) or failure
        message = a.get("error.message") or a.get("error_message") or a.get("error")
        part.error_message = text(message, MAX_TEXT)
    return part


def plus(base: int | None, more: int | None) -> int | None:
    """A sum that is not known where its base is not."""
    return None if base is None else base + (more or 0)


def extra(a: Attributes, known: frozenset[str]) -> dict[str, Any] | None:
    """What has no column; both clients send attributes without a value."""
    return rest({name: value for name, value in a.items() if value is not None}, known, CONTENT)


def is_http(item: SpanItem) -> bool:
    """Whether a span is an HTTP request as a library saw it: a model call's, told of by its own span."""
    a = item.attributes
    is_request = "http.request.method" in a or "http.method" in a
    return is_request and item.source.scope.startswith("@opentelemetry/instrumentation-")


def _moment(value: Value, latest_ns: int) -> int | None:
    found = nanoseconds(value)
    return None if found is None else min(found, latest_ns)


def _mcp_tool(name: str | None, server: str) -> str | None:
    for prefix in (f"mcp__{server}__", f"mcp_{server}_", f"{server}__"):
        if name is not None and name.startswith(prefix):
            return name[len(prefix) :]
    return name


def _add_error(part: ToolPart, message: Value, *, keeps_content: bool) -> None:
    found = text(message, MAX_TEXT)
    if found is None:
        return
    if exit_code := _SHELL_REPORT.search(found):
        part.exit_code = int(exit_code[1])
    # A failed shell command is reported with the command and what it printed.
    if keeps_content or not found.startswith("Command: "):
        part.error_message = found
    elif exit_code:
        part.error_message = exit_code[0]


def _add_metadata(part: ToolPart, metadata: Mapping[str, Value]) -> None:
    if not metadata:
        return
    changed = metadata.get("diffStat")
    lines = changed if isinstance(changed, dict) else metadata
    part.lines_added = count(lines.get("model_added_lines"))
    part.lines_removed = count(lines.get("model_removed_lines"))
    code = metadata.get("exitCode")
    if type(code) is int and abs(code) < 2**31:
        part.exit_code = code
    if numbers := {name: it for name, it in metadata.items() if isinstance(it, (int, float))}:
        part.extra = {**(part.extra or {}), "metadata": numbers}


def _request_status(a: Mapping[str, Any]) -> str:
    # Where nobody answered, the code is the word `error`; Gemini counts a failed request twice.
    has_failed = a.get("error_type") is not None or a.get("status_code") == "error"
    return "error" if has_failed or (count(a.get("status_code")) or 0) >= 400 else "success"


METRICS: dict[str, Metric | None] = {
    "session.count": Metric(name="session.count"),
    "tool.call.count": Metric(name="tool.calls", tool="function_name", status=tool_status),
    "tool.call.latency": Metric(name="tool.duration", unit="ms", tool="function_name"),
    "api.request.count": Metric(name="model.calls", status=_request_status),
    "api.request.latency": Metric(name="model.duration", unit="ms"),
    "token.usage": Metric(
        name="token.usage",
        kind="type",
        # Their input is the total with what the cache held. Gemini counts `thought` beside `output`,
        # and `tool` beside `input`.
        kinds={"thought": "reasoning", "cache": "cache_read"},
    ),
    "lines.changed": Metric(name="code.lines", kind="type", tool="function_name"),
    "file.operation.count": Metric(
        name="file.operation.count", kind="operation", language="programming_language"
    ),
    # Say again what their own metrics and model calls say.
    "gen_ai.client.token.usage": None,
    "gen_ai.client.operation.duration": None,
    "http.client.request.duration": None,
}
