"""OpenAI Codex CLI: logs are the truth, events within spans repeat them, metrics know no session.

Sources: github.com/openai/codex `codex-rs/otel/src` up to 0.155; the wire of Codex 0.169.
"""

from __future__ import annotations

import re

from metrics_service.ingest.content import rest, size
from metrics_service.ingest.parts import (
    DECISION,
    EXECUTION,
    RANK_SPAN,
    RANK_SURE,
    RESULT,
    SPAN,
    TRACES,
    UNDONE,
    ModelPart,
    ToolPart,
)
from metrics_service.ingest.telemetry import SessionPart, Telemetry, instant
from metrics_service.otlp.agents.agent import Agent, Metric, ignore
from metrics_service.otlp.agents.events import keep_log, keep_span, log_key
from metrics_service.otlp.agents.genai import call_status
from metrics_service.otlp.items import Attributes, LogItem, SpanEvent, SpanItem, Value
from metrics_service.otlp.values import MAX_TEXT, content, count, milliseconds, text
from metrics_service.otlp.words import STANDARD, decided, ended, model_tokens

CODE = "codex"

_CONTENT = frozenset({"prompt", "arguments", "output"})
# What the tracing library says about itself; thread.id as a number is the operating system's.
_COMMON = STANDARD | {
    "model", "slug", "level", "target", "thread.id", "thread.name", "busy_ns", "idle_ns",
    "code.file.path", "code.module.name", "code.line.number",
}  # fmt: skip
_DECISION_KEYS = _COMMON | {"tool_name", "call_id", "decision", "source"}
_RESULT_KEYS = _COMMON | {
    "tool_name", "call_id", "arguments", "output", "duration_ms", "success", "mcp_server",
    "arguments_length", "output_length", "tool_origin", "mcp_tool", "error.message", "total_ms",
    "tool_input_size_bytes", "tool_result_size_bytes", "turn.id",
}  # fmt: skip
_USAGE_KEYS = _COMMON | {
    "event.kind", "duration_ms", "ttft_ms", "service_tier", "model_reasoning_effort",
    "input_token_count", "output_token_count", "cached_token_count", "cache_write_token_count",
    "reasoning_token_count", "tool_token_count",
}  # fmt: skip
_REQUEST_KEYS = _COMMON | {
    "duration_ms", "http.response.status_code", "error.message", "attempt", "auth.request_id",
}  # fmt: skip
_CALL_SPAN_KEYS = _COMMON | {
    "tool.name", "tool.call_id", "mcp.server.name", "turn.id", "error.type",
}  # fmt: skip
_RESPONSE_SPAN_KEYS = _COMMON | {
    "turn.id", "provider", "codex.request.reasoning_effort", "gen_ai.usage.input_tokens",
    "gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_write.input_tokens",
    "gen_ai.usage.output_tokens", "codex.usage.reasoning_output_tokens", "codex.usage.total_tokens",
}  # fmt: skip

_MCP_CALL = "mcp.tools.call"
_TASKS = frozenset({"session_task.turn", "session_task.review", "session_task.compact"})
_USAGE = frozenset({"gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"})
_EVENTS = frozenset({"codex.tool_result", "codex.api_request", "codex.conversation_starts"})

# The head that a command's output has, in the forms of several versions.
_exit_code = re.compile(
    r"(?:Chunk ID: [^\n]*\n)?(?:Wall time: [^\n]*\n)?"
    r"(?:Process exited with code|Exit code:)?\s*(-?\d{1,9})\s*(?:\n|$)"
).match


def _result(a: Attributes, time_ns: int) -> ToolPart:
    """What the record of a result says, and the event in a span that repeats it."""
    duration_ms = milliseconds(a.get("duration_ms"))
    # With the wait: what a rollout knows, of every call.
    total_ms = milliseconds(a.get("total_ms"))
    lasted_ms = duration_ms if total_ms is None else total_ms
    mcp_server = text(a.get("mcp_server"))
    is_mcp = mcp_server is not None or a.get("tool_origin") == "mcp"
    return ToolPart(
        tool_name=text(a.get("tool_name")),
        started_at=instant(time_ns - int((lasted_ms or 0) * 1e6)),
        ended_at=instant(time_ns),
        duration_ms=duration_ms,
        total_ms=total_ms,
        turn_id=text(a.get("turn.id")),
        status=ended(a.get("success")),
        error_message=text(a.get("error.message"), MAX_TEXT),
        external_call_id=text(a.get("call_id")),
        tool_kind="mcp" if is_mcp else "builtin",
        mcp_server=mcp_server,
        model=text(a.get("model")),
        extra=rest(a, _RESULT_KEYS, _CONTENT),
    )


def tool_result(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    part = _result(a, item.time_ns)
    part.trace_id, part.span_id = item.trace_id, item.span_id
    # A rollout that was brought in sends sizes instead of what they are of.
    part.input_bytes = _size(a.get("arguments"), a.get("tool_input_size_bytes"))
    part.output_bytes = _size(a.get("output"), a.get("tool_result_size_bytes"))
    if out.keeps_content:
        part.arguments, part.result = content(a.get("arguments")), content(a.get("output"))
        if part.tool_kind == "builtin":
            part.exit_code = _exit_code_of(a.get("output"))
    out.tool(session, CODE, part.external_call_id or log_key(item), RESULT, part)


def _size(of: Value, given: Value) -> int | None:
    return count(given) if of is None else size(of)


def _exit_code_of(output: Value) -> int | None:
    found = _exit_code(output) if isinstance(output, str) else None
    return int(found[1]) if found is not None else None


def tool_decision(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    decision, mode = decided(a.get("decision"), a.get("source"))
    call_id = text(a.get("call_id"))
    part = ToolPart(
        tool_name=text(a.get("tool_name")),
        started_at=instant(item.time_ns),
        status=UNDONE.get(decision or ""),
        decision=decision,
        decision_mode=mode,
        decision_raw=text(a.get("decision")),
        decision_source_raw=text(a.get("source")),
        external_call_id=call_id,
        trace_id=item.trace_id,
        model=text(a.get("model")),
        extra=rest(a, _DECISION_KEYS, _CONTENT),
    )
    out.tool(session, CODE, call_id or log_key(item), DECISION, part)


def sse_event(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    """One event of a model's stream: a call where it has the usage, worth keeping where it failed.

    Every piece of text is one, and a call ends in two `response.completed`, one without tokens.
    """
    a = item.attributes
    has_usage = "input_token_count" in a or "output_token_count" in a
    if has_usage and a.get("event.kind") == "response.completed":
        _usage(item, session, out)
    elif "error.message" in a:
        keep_log(item, session, out, AGENT, kind="error")


def _usage(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    duration_ms = milliseconds(a.get("duration_ms"))
    part = ModelPart(
        started_at=instant(item.time_ns - int((duration_ms or 0) * 1e6)),
        ended_at=instant(item.time_ns),
        duration_ms=duration_ms,
        ttft_ms=milliseconds(a.get("ttft_ms")),
        status="success",
        trace_id=item.trace_id,
        span_id=item.span_id,
        request_model=text(a.get("model")),
        # By its name of tools, by its value of everything.
        total_tokens_reported=count(a.get("tool_token_count")),
        effort=text(a.get("model_reasoning_effort")),
        service_tier=text(a.get("service_tier")),
        extra=rest(a, _USAGE_KEYS, _CONTENT),
    )
    model_tokens(
        part,
        total=count(a.get("input_token_count")),
        cache_read=count(a.get("cached_token_count")),
        # Zero is also what it says when the provider said nothing.
        cache_write=count(a.get("cache_write_token_count")) or None,
        output=count(a.get("output_token_count")),
        reasoning=count(a.get("reasoning_token_count")),
    )
    out.model(session, CODE, log_key(item), RESULT, part)


def api_request(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    """A request that succeeded is told of again by its usage; the list of models is no call."""
    if not _has_failed(item.attributes):
        keep_log(item, session, out, AGENT)
        return
    part = _failed_request(item.attributes, item.time_ns)
    part.trace_id, part.span_id = item.trace_id, item.span_id
    out.model(session, CODE, log_key(item), RESULT, part)


def _has_failed(a: Attributes) -> bool:
    has_failed = "error.message" in a or (count(a.get("http.response.status_code")) or 0) >= 400
    return has_failed and a.get("endpoint") != "/models"


def _failed_request(a: Attributes, time_ns: int) -> ModelPart:
    duration_ms = milliseconds(a.get("duration_ms"))
    http_status = count(a.get("http.response.status_code"))
    return ModelPart(
        started_at=instant(time_ns - int((duration_ms or 0) * 1e6)),
        ended_at=instant(time_ns),
        duration_ms=duration_ms,
        status="error",
        error_type=f"http_{http_status}" if http_status else "connection",
        error_message=text(a.get("error.message"), MAX_TEXT),
        http_status=http_status,
        attempts=_attempts(a),
        request_id=text(a.get("auth.request_id")),
        request_model=text(a.get("model")),
        extra=rest(a, _REQUEST_KEYS, _CONTENT),
    )


def conversation_starts(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    _begin(item.attributes, item.time_ns, session)
    keep_log(item, session, out, AGENT, kind="start")


def _begin(a: Attributes, time_ns: int, session: SessionPart | None) -> None:
    if session is None:
        return
    for column in ("reasoning_effort", "approval_policy", "sandbox_policy"):
        session.say(column, text(a.get(column)), time_ns)
    session.say("provider", text(a.get("provider_name")), time_ns)


def user_prompt(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    keep_log(item, session, out, AGENT, kind="prompt", said=("prompt",))


def task_complete(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    """Only rollouts that were brought in have it; live, a span tells of a turn."""
    keep_log(item, session, out, AGENT, kind="turn")


def context_compacted(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    """Only rollouts that were brought in have it; live, a span tells of a compaction."""
    keep_log(item, session, out, AGENT, kind="compaction")


# -- spans ------------------------------------------------------------------------------------------


def _kind(item: SpanItem) -> str:
    """Tell what is about the work from what is about the program: hundreds of spans for a prompt."""
    a = item.attributes
    is_work = (
        "conversation.id" in a
        or "session.id" in a
        or isinstance(a.get("thread.id"), str)
        or not _USAGE.isdisjoint(a)
        or item.name in _TASKS
        or item.name == _MCP_CALL
        or any(
            "conversation.id" in event.attributes
            or event.attributes.get("event.name") == "codex.tool_result"
            for event in item.events
        )
    )
    return "work" if is_work else "program"


def work_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    """Listen to the events within a span, whatever it is itself."""
    for event in item.events:
        _event(event, item, session, out)
    a = item.attributes
    if item.name == _MCP_CALL:
        _mcp_call(item, session, out)
    elif not _USAGE.isdisjoint(a):
        _response(item, session, out)
    elif item.name == "session_task.compact":
        keep_span(item, session, out, AGENT, kind="compaction")
    elif item.name in _TASKS:
        # Its tokens are the sum of its responses.
        keep_span(item, session, out, AGENT, kind="turn")
    else:
        keep_span(item, session, out, AGENT)


def _event(event: SpanEvent, item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    a = event.attributes
    name = a.get("event.name")
    if not isinstance(name, str) or name not in _EVENTS:
        return
    if (named := text(a.get("conversation.id"))) is not None:
        # The span around it seldom says whose it is.
        session = out.session(CODE, named.replace("\0", ""), event.time_ns, TRACES)
        out.traces.setdefault(item.trace_id, session)
    # Where no id joins it with its log record, it counts only without logs.
    key = (item.trace_id, f"{item.span_id}\0{event.time_ns}\0{a.get('tool_name') or ''}")
    if name == "codex.tool_result":
        part = _result(a, event.time_ns)
        part.trace_id, part.span_id = item.trace_id, item.span_id
        part.parent_span_id = item.parent_span_id
        part.input_bytes = count(a.get("arguments_length"))
        part.output_bytes = count(a.get("output_length"))
        call_id = part.external_call_id
        rank = RANK_SPAN if call_id is None else RANK_SURE
        out.tool(session, CODE, key if call_id is None else call_id, SPAN, part, rank=rank)
    elif name == "codex.conversation_starts":
        _begin(a, event.time_ns, session)
    elif _has_failed(a):
        request = _failed_request(a, event.time_ns)
        request.trace_id, request.span_id = item.trace_id, item.span_id
        request.parent_span_id = item.parent_span_id
        out.model(session, CODE, key, SPAN, request, rank=RANK_SPAN)


def _mcp_call(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    call_id = text(a.get("tool.call_id"))
    part = ToolPart(
        tool_name=text(a.get("tool.name")),
        started_at=instant(item.start_ns),
        ended_at=instant(item.end_ns),
        duration_ms=item.duration_ms,
        # A server's answer may still say that the tool failed: only the result knows.
        status="error" if item.has_failed else None,
        error_type=text(a.get("error.type")),
        external_call_id=call_id,
        turn_id=text(a.get("turn.id")),
        trace_id=item.trace_id,
        span_id=item.span_id,
        parent_span_id=item.parent_span_id,
        tool_kind="mcp",
        mcp_server=text(a.get("mcp.server.name")),
        mcp_tool=text(a.get("tool.name")),
        extra=rest(a, _CALL_SPAN_KEYS, _CONTENT),
    )
    if call_id is not None:
        out.tool(session, CODE, call_id, EXECUTION, part)
    else:
        out.tool(session, CODE, item.key, EXECUTION, part, rank=RANK_SPAN)


def _response(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    part = ModelPart(
        # The span is about the answer's last event: how long the request took it does not say.
        started_at=instant(item.start_ns),
        ended_at=instant(item.end_ns),
        status="error" if item.has_failed else "success",
        turn_id=text(a.get("turn.id")),
        trace_id=item.trace_id,
        span_id=item.span_id,
        parent_span_id=item.parent_span_id,
        provider=text(a.get("provider")),
        request_model=text(a.get("model")),
        total_tokens_reported=count(a.get("codex.usage.total_tokens")),
        effort=text(a.get("codex.request.reasoning_effort")),
        extra=rest(a, _RESPONSE_SPAN_KEYS, _CONTENT),
    )
    model_tokens(
        part,
        total=count(a.get("gen_ai.usage.input_tokens")),
        cache_read=count(a.get("gen_ai.usage.cache_read.input_tokens")),
        cache_write=count(a.get("gen_ai.usage.cache_write.input_tokens")) or None,
        output=count(a.get("gen_ai.usage.output_tokens")),
        reasoning=count(a.get("codex.usage.reasoning_output_tokens")),
    )
    out.model(session, CODE, item.key, SPAN, part, rank=RANK_SPAN)


_SERVICES = frozenset(
    {
        "codex_cli_rs",
        "codex_exec",
        "codex_tui",
        "codex-tui",
        "codex-app-server",
        "codex_app_server",
        "codex_mcp_server",
        "codex_vscode",
        "codex_sdk_ts",
        "Codex Desktop",
    }
)


def _attempts(a: Attributes) -> int | None:
    # The first attempt is number 0.
    number = count(a.get("attempt"))
    return None if number is None else number + 1


AGENT = Agent(
    code=CODE,
    # Spans have the service as their scope, logs the target of the tracing library.
    scopes=_SERVICES | {"codex", "codex_otel", "codex_otel.log_only", "codex_otel.trace_safe"},
    prefixes=("codex.",),
    services=_SERVICES,
    logs={
        "tool_result": tool_result,
        "tool_decision": tool_decision,
        "sse_event": sse_event,
        "api_request": api_request,
        "conversation_starts": conversation_starts,
        "user_prompt": user_prompt,
        "task_complete": task_complete,
        "context_compacted": context_compacted,
    },
    spans={"work": work_span, "program": ignore},
    span_kind=_kind,
    metrics={
        "thread.started": Metric(name="session.count"),
        "turn.token_usage": Metric(
            name="token.usage",
            unit="tokens",
            kind="token_type",
            kinds={
                "total": None,
                "cached_input": "cache_read",
                "cache_write_input": "cache_write",
                "reasoning_output": "reasoning",
            },
        ),
        "tool.call": Metric(name="tool.calls", tool="tool", status=call_status),
        "tool.call.duration_ms": Metric(
            name="tool.duration", unit="ms", tool="tool", status=call_status
        ),
        "api_request.duration_ms": Metric(name="model.duration", unit="ms", status=call_status),
    },
    content=_CONTENT,
)
