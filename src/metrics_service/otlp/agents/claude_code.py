"""Claude Code: logs are the truth, spans add waits and runs, metrics carry code, commits and time.

Sources: Claude Code documentation, "Monitoring", state August 2026; the wire of 2.1.330.
"""

from __future__ import annotations

from datetime import timedelta

from metrics_service.ingest.content import rest
from metrics_service.ingest.parts import (
    DECISION,
    EXECUTION,
    RESULT,
    SPAN,
    UNDONE,
    ModelPart,
    ToolPart,
)
from metrics_service.ingest.telemetry import SessionPart, Telemetry, instant
from metrics_service.otlp.agents.agent import Agent, Metric
from metrics_service.otlp.agents.events import keep_log, keep_span, log_key
from metrics_service.otlp.agents.inner_spans import add_inside, add_wait
from metrics_service.otlp.items import Attributes, LogItem, SpanItem
from metrics_service.otlp.values import (
    MAX_TEXT,
    content,
    count,
    flag,
    mapping,
    milliseconds,
    strings,
    text,
)
from metrics_service.otlp.words import STANDARD, decided, ended, micros, model_tokens

CODE = "claude-code"

_CONTENT = frozenset(
    {
        "prompt", "prompt_text", "user_prompt", "response", "tool_input", "tool_parameters",
        "tool_output", "bash_command", "full_command", "file_path", "error_body", "body",
    }
)  # fmt: skip
_DECISION_KEYS = STANDARD | {
    "tool_name", "tool_use_id", "decision", "source", "tool_source", "tool_parameters",
}  # fmt: skip
_RESULT_KEYS = _DECISION_KEYS | {
    "success", "duration_ms", "error_type", "error", "decision_type", "decision_source",
    "tool_input_size_bytes", "tool_result_size_bytes", "tool_input", "total_ms",
}  # fmt: skip
_REQUEST_KEYS = STANDARD | {
    "model", "cost_usd", "cost_usd_micros", "duration_ms", "ttft_ms", "input_tokens", "output_tokens",
    "cache_read_tokens", "cache_creation_tokens", "request_id", "client_request_id", "speed",
    "query_source", "effort", "agent.name", "skill.name", "plugin.name", "mcp_server.name",
    "mcp_tool.name", "attempt", "status_code", "error",
}  # fmt: skip
_SPAN_KEYS = STANDARD | {
    "span.type", "tool_name", "tool_use_id", "gen_ai.tool.call.id", "duration_ms", "result_tokens",
    "agent_id", "parent_agent_id", "gen_ai.tool.name", "gen_ai.operation.name",
    "gen_ai.provider.name", "tool_name_safe",
}  # fmt: skip
_REQUEST_SPAN_KEYS = _REQUEST_KEYS | {
    "span.type", "gen_ai.system", "gen_ai.provider.name", "gen_ai.request.model",
    "gen_ai.response.id", "agent_id", "success", "stop_reason", "gen_ai.response.finish_reasons",
    "query_source_safe",
}  # fmt: skip


_KINDS = {"Agent": "subagent", "Task": "subagent", "Skill": "skill"}
_MCP_SOURCES = frozenset({"mcp", "sdk_host_builtin_mcp"})


def _kind(a: Attributes, name: str | None) -> str:
    if name is None:
        return "builtin"
    if name in _KINDS:
        return _KINDS[name]
    is_mcp = (
        name.startswith("mcp_")
        or "mcp_server_scope" in a
        or ("tool_source" in a and text(a["tool_source"]) in _MCP_SOURCES)
    )
    return "mcp" if is_mcp else "builtin"


def _call_key(item: LogItem) -> str:
    call_id = item.attributes.get("tool_use_id")
    return call_id if isinstance(call_id, str) and call_id else log_key(item)


def tool_result(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    # The most frequent record of the most frequent client: each attribute is asked for once.
    a = item.attributes
    get = a.get
    name = text(get("tool_name"))
    duration_ms = milliseconds(get("duration_ms"))
    # With the wait: what a transcript knows, of every call.
    total_ms = milliseconds(a["total_ms"]) if "total_ms" in a else None
    given = mapping(a["tool_parameters"]) if "tool_parameters" in a else {}
    decision_raw, source_raw = text(get("decision_type")), text(get("decision_source"))
    decision, mode = decided(decision_raw, source_raw)
    ended_at = instant(item.time_ns)
    lasted_ms = duration_ms if total_ms is None else total_ms
    part = ToolPart(
        tool_name=name,
        started_at=ended_at - timedelta(0, 0, int(lasted_ms * 1000)) if lasted_ms else ended_at,
        ended_at=ended_at,
        duration_ms=duration_ms,
        total_ms=total_ms,
        status=ended(get("success")),
        error_type=text(get("error_type")),
        error_message=text(get("error"), MAX_TEXT),
        decision=decision,
        decision_mode=mode,
        decision_raw=decision_raw,
        decision_source_raw=source_raw,
        external_call_id=text(get("tool_use_id")),
        turn_id=text(get("prompt.id")),
        trace_id=item.trace_id,
        span_id=item.span_id,
        tool_kind=_kind(a, name),
        input_bytes=count(get("tool_input_size_bytes")),
        output_bytes=count(get("tool_result_size_bytes")),
        extra=rest(a, _RESULT_KEYS, _CONTENT),
    )
    if given:
        part.mcp_server = text(given.get("mcp_server_name"))
        part.mcp_tool = text(given.get("mcp_tool_name"))
        part.skill_name = text(given.get("skill_name"))
        part.subagent_type = text(given.get("subagent_type"))
        part.git_commit_id = text(given.get("git_commit_id"))
    if out.keeps_content:
        part.arguments = content(a.get("tool_input") or a.get("tool_parameters"))
    out.tool(session, CODE, _call_key(item), RESULT, part)


def tool_decision(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    decision, mode = decided(a.get("decision"), a.get("source"))
    given = mapping(a["tool_parameters"]) if "tool_parameters" in a else {}
    part = ToolPart(
        tool_name=text(a.get("tool_name")),
        started_at=instant(item.time_ns),
        # A rejected call has no result: the decision is all that will ever be said of it.
        status=UNDONE.get(decision or ""),
        decision=decision,
        decision_mode=mode,
        decision_raw=text(a.get("decision")),
        decision_source_raw=text(a.get("source")),
        external_call_id=text(a.get("tool_use_id")),
        turn_id=text(a.get("prompt.id")),
        trace_id=item.trace_id,
        tool_kind=_kind(a, text(a.get("tool_name"))),
        mcp_server=text(given.get("mcp_server_name")),
        mcp_tool=text(given.get("mcp_tool_name")),
        extra=rest(a, _DECISION_KEYS, _CONTENT),
    )
    if out.keeps_content:
        part.arguments = content(a.get("tool_parameters"))
    out.tool(session, CODE, _call_key(item), DECISION, part)


def _request(item: LogItem, session: SessionPart | None, out: Telemetry, status: str) -> None:
    a = item.attributes
    duration_ms = milliseconds(a.get("duration_ms"))
    request_id = text(a.get("request_id"))
    client_request_id = text(a.get("client_request_id"))
    part = ModelPart(
        started_at=instant(item.time_ns - int((duration_ms or 0) * 1e6)),
        ended_at=instant(item.time_ns),
        duration_ms=duration_ms,
        ttft_ms=milliseconds(a.get("ttft_ms")),
        status=status,
        request_id=request_id,
        client_request_id=client_request_id,
        turn_id=text(a.get("prompt.id")),
        trace_id=item.trace_id,
        span_id=item.span_id,
        provider="anthropic",
        request_model=text(a.get("model")),
        cost_usd_micros=micros(a.get("cost_usd_micros"), a.get("cost_usd")),
        query_source=text(a.get("query_source")),
        extra=rest(a, _REQUEST_KEYS, _CONTENT),
    )
    _attribute(part, a)
    if status == "error":
        part.http_status = count(a.get("status_code"))
        part.error_type = f"http_{part.http_status}" if part.http_status else "connection"
        part.error_message = text(a.get("error"), MAX_TEXT)
        part.attempts = count(a.get("attempt")) or None
    else:
        model_tokens(
            part,
            uncached=count(a.get("input_tokens")),
            cache_read=count(a.get("cache_read_tokens")),
            cache_write=count(a.get("cache_creation_tokens")),
            output=count(a.get("output_tokens")),
        )
    key = request_id or client_request_id or log_key(item)
    out.model(session, CODE, key, RESULT, part)


def _attribute(part: ModelPart, a: Attributes) -> None:
    """Say what asked for the request, and how."""
    part.agent_name = text(a.get("agent.name"))
    part.skill_name = text(a.get("skill.name"))
    part.plugin_name = text(a.get("plugin.name"))
    part.mcp_server = text(a.get("mcp_server.name"))
    part.mcp_tool = text(a.get("mcp_tool.name"))
    part.effort = text(a.get("effort"))
    part.speed = text(a.get("speed"))


def api_request(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    _request(item, session, out, "success")


def api_error(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    _request(item, session, out, "error")


def user_prompt(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    # The names that the transcript has too: its lines' for prompts, the turn's for commands, which are
    # told of live before there is a line. Older clients send neither, and are named as ever.
    shared = text(a.get("message.uuid"))
    if "command_name" in a:
        shared = text(a.get("prompt.id")) or shared
    name = None if shared is None else f"user_prompt\0{shared}"
    keep_log(item, session, out, AGENT, kind="prompt", said=("prompt",), name=name)


def assistant_response(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    keep_log(item, session, out, AGENT, kind="response", said=("response",))


def permission_mode_changed(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    if session is not None:
        session.say("permission_mode", text(item.attributes.get("to_mode")), item.time_ns)
    keep_log(item, session, out, AGENT, kind="mode")


def compaction(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    keep_log(item, session, out, AGENT, kind="compaction")


def interaction_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    keep_span(item, session, out, AGENT, kind="turn")


def request_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    success = flag(a.get("success"))
    has_failed = item.has_failed if success is None else not success
    request_id = text(a.get("request_id") or a.get("gen_ai.response.id"))
    client_request_id = text(a.get("client_request_id"))
    duration_ms = milliseconds(a.get("duration_ms"))
    part = ModelPart(
        started_at=instant(item.start_ns),
        ended_at=instant(item.end_ns),
        duration_ms=item.duration_ms if duration_ms is None else duration_ms,
        ttft_ms=milliseconds(a.get("ttft_ms")),
        status="error" if has_failed else "success",
        http_status=count(a.get("status_code")),
        error_message=text(a.get("error"), MAX_TEXT),
        attempts=count(a.get("attempt")) or None,
        finish_reasons=strings(a.get("gen_ai.response.finish_reasons") or a.get("stop_reason")),
        request_id=request_id,
        client_request_id=client_request_id,
        trace_id=item.trace_id,
        span_id=item.span_id,
        parent_span_id=item.parent_span_id,
        provider=text(a.get("gen_ai.provider.name") or a.get("gen_ai.system")),
        request_model=text(a.get("model") or a.get("gen_ai.request.model")),
        cost_usd_micros=micros(a.get("cost_usd_micros"), a.get("cost_usd")),
        query_source=text(a.get("query_source") or a.get("query_source_safe")),
        agent_instance_id=text(a.get("agent_id")),
        extra=rest(a, _REQUEST_SPAN_KEYS, _CONTENT),
    )
    _attribute(part, a)
    if not has_failed:
        model_tokens(
            part,
            uncached=count(a.get("input_tokens")),
            cache_read=count(a.get("cache_read_tokens")),
            cache_write=count(a.get("cache_creation_tokens")),
            output=count(a.get("output_tokens")),
        )
    out.model(session, CODE, request_id or client_request_id or item.key, SPAN, part)


def _tool_span_key(item: SpanItem) -> str | None:
    return text(item.attributes.get("tool_use_id") or item.attributes.get("gen_ai.tool.call.id"))


def tool_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    total_ms = milliseconds(a.get("duration_ms"))
    part = ToolPart(
        tool_name=text(a.get("tool_name")),
        started_at=instant(item.start_ns),
        ended_at=instant(item.end_ns),
        # With the wait for permission: the run alone is what the span inside says.
        total_ms=item.duration_ms if total_ms is None else total_ms,
        external_call_id=_tool_span_key(item),
        trace_id=item.trace_id,
        span_id=item.span_id,
        parent_span_id=item.parent_span_id,
        tool_kind=_kind(a, text(a.get("tool_name"))),
        output_tokens_approx=count(a.get("result_tokens")),
        agent_instance_id=text(a.get("agent_id")),
        parent_agent_instance_id=text(a.get("parent_agent_id")),
        extra=rest(a, _SPAN_KEYS, _CONTENT),
    )
    out.tool(session, CODE, _tool_span_key(item) or item.key, SPAN, part, span=item.key)


def execution_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    success = flag(a.get("success"))
    duration_ms = milliseconds(a.get("duration_ms"))
    has_failed = item.has_failed if success is None else not success
    part = ToolPart(
        tool_name=text(a.get("tool_name")),
        started_at=instant(item.start_ns),
        ended_at=instant(item.end_ns),
        duration_ms=item.duration_ms if duration_ms is None else duration_ms,
        status="error" if has_failed else "success",
        error_message=text(a.get("error"), MAX_TEXT),
        external_call_id=_tool_span_key(item),
    )
    add_inside(item, session, out, CODE, EXECUTION, part)


def blocked_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    tool_name = text(item.attributes.get("tool_name"))
    add_wait(item, session, out, CODE, tool_name=tool_name, call_id=_tool_span_key(item))


AGENT = Agent(
    code=CODE,
    scopes=frozenset(
        {
            "com.anthropic.claude_code",
            "com.anthropic.claude_code.events",
            "com.anthropic.claude_code.tracing",
        }
    ),
    prefixes=("claude_code.",),
    services=frozenset({"claude-code", "claude-code-desktop"}),
    logs={
        "tool_result": tool_result,
        "tool_decision": tool_decision,
        "api_request": api_request,
        "api_error": api_error,
        "user_prompt": user_prompt,
        "assistant_response": assistant_response,
        "permission_mode_changed": permission_mode_changed,
        "compaction": compaction,
    },
    spans={
        "interaction": interaction_span,
        "llm_request": request_span,
        "tool": tool_span,
        "tool.execution": execution_span,
        "tool.blocked_on_user": blocked_span,
    },
    metrics={
        "session.count": Metric(name="session.count", kind="start_type"),
        "lines_of_code.count": Metric(name="code.lines", kind="type"),
        "pull_request.count": Metric(name="pull_request.count"),
        "commit.count": Metric(name="commit.count"),
        "cost.usage": Metric(name="cost.usage", unit="usd_micros", factor=1e6),
        "token.usage": Metric(
            name="token.usage",
            kind="type",
            kinds={
                "input": "input_uncached",
                "cacheRead": "cache_read",
                "cacheCreation": "cache_write",
            },
        ),
        "code_edit_tool.decision": Metric(name="edit.decision", kind="decision"),
        "active_time.total": Metric(name="active_time", kind="type"),
    },
    content=_CONTENT,
    # On spans of a subagent it is the subagent's own id, beside the session's.
    deaf=frozenset({"gen_ai.conversation.id"}),
)
