"""Qwen Code: logs are the truth, spans meet them by the ids of calls and answers and add waits and runs.

Source: github.com/QwenLM/qwen-code, `packages/core/src/telemetry`; and what version 0.24.4 was seen to
send. What it has from Gemini CLI is in `gemini_family.py`.
"""

from __future__ import annotations

import msgspec

from metrics_service.ingest.parts import (
    EXECUTION,
    RANK_SPAN,
    RANK_SURE,
    RESULT,
    SPAN,
    ModelPart,
    ToolPart,
)
from metrics_service.ingest.telemetry import SessionPart, Telemetry, instant
from metrics_service.otlp.agents.agent import Agent, ignore
from metrics_service.otlp.agents.events import keep_log, keep_span, log_key
from metrics_service.otlp.agents.gemini_family import (
    CONTENT,
    METRICS,
    call_key,
    extra,
    is_http,
    model_part,
    plus,
    tool_part,
)
from metrics_service.otlp.agents.inner_spans import add_inside, add_wait
from metrics_service.otlp.items import Attributes, LogItem, SpanItem
from metrics_service.otlp.values import MAX_TEXT, count, flag, milliseconds, strings, text
from metrics_service.otlp.words import STANDARD, model_tokens

CODE = "qwen-code"

_TOOLS_OF_A_KIND = {"skill": "skill", "task": "subagent", "agent": "subagent"}
# `openai` is not among them: it names a protocol that many speak, and the span knows who.
_PROVIDERS = {
    "anthropic": "anthropic",
    "gemini": "gcp.gemini",
    "qwen-oauth": "dashscope",
    "vertex-ai": "gcp.vertex_ai",
}
_RUNS = frozenset({"success", "error", "cancelled", "timeout"})
_FAILURES = {
    "cancelled": "cancelled",
    "timeout": "timeout",
    "pre_hook_blocked": "rejected",
    "invocation_guard_denied": "rejected",
    "permission_denied": "rejected",
    "permission_hook_denied": "rejected",
    "plan_mode_blocked": "rejected",
    "non_interactive_denied": "rejected",
    "background_agent_denied": "rejected",
}
_TOOL_SPAN_KEYS = STANDARD | {
    "tool.call_id", "gen_ai.tool.call.id", "call_id", "tool_name", "tool.name",
    "gen_ai.operation.name", "gen_ai.tool.name", "gen_ai.tool.type", "gen_ai.tool.description",
    "success", "duration_ms", "error", "error.type",
}  # fmt: skip
_MODEL_SPAN_KEYS = STANDARD | {
    "qwen-code.prompt_id", "gen_ai.request.model", "gen_ai.response.model", "gen_ai.response.id",
    "gen_ai.operation.name", "gen_ai.provider.name", "duration_ms", "ttft_ms", "attempt", "success",
    "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens",
    "gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.cache_creation.input_tokens",
    "thoughts_token_count", "finish_reason", "gen_ai.response.finish_reasons", "subagent_name",
    "error", "error_type", "error.type", "error_status_code",
}  # fmt: skip


def tool_call(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    part = tool_part(item, _TOOLS_OF_A_KIND, keeps_content=out.keeps_content)
    out.tool(session, CODE, part.external_call_id or call_key(item), RESULT, part)


def api_response(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    part = model_part(item, "success")
    part.provider = _PROVIDERS.get(text(a.get("auth_type")) or "")
    part.tool_prompt_tokens = count(a.get("tool_token_count"))
    part.total_tokens_reported = count(a.get("total_token_count"))
    thoughts = count(a.get("thoughts_token_count"))
    model_tokens(
        part,
        total=count(a.get("input_token_count")),
        cache_read=count(a.get("cached_content_token_count")),
        output=_output(count(a.get("output_token_count")), thoughts, part.provider),
        reasoning=thoughts,
    )
    out.model(session, CODE, part.request_id or log_key(item), RESULT, part)


def api_error(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    part = model_part(item, "error")
    part.provider = _PROVIDERS.get(text(item.attributes.get("auth_type")) or "")
    out.model(session, CODE, part.request_id or log_key(item), RESULT, part)


def user_prompt(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    keep_log(item, session, out, AGENT, kind="prompt", said=("prompt",))


def chat_compression(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    keep_log(item, session, out, AGENT, kind="compaction")


def config(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    _say_mode(session, item.attributes, "approval_mode", item.time_ns)
    keep_log(item, session, out, AGENT)


def conversation_finished(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    _say_mode(session, item.attributes, "approvalMode", item.time_ns)
    keep_log(item, session, out, AGENT)


def session_start(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    previous = text(item.attributes.get("session.previous_id"))
    if session is not None and previous is not None:
        session.say("parent_external_id", previous, item.time_ns)
        session.say("start_type", "resume", item.time_ns)
    keep_log(item, session, out, AGENT)


def session_end(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    if session is not None:
        session.say("ended_at", item.time_ns, item.time_ns)
        session.say("end_reason", "session.end", item.time_ns)
    keep_log(item, session, out, AGENT)


def subagent_execution(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    keep_log(item, session, out, AGENT, kind="subagent")


def _say_mode(session: SessionPart | None, a: Attributes, name: str, time_ns: int) -> None:
    if session is not None:
        session.say("permission_mode", text(a.get(name)), time_ns)


def _output(output: int | None, thoughts: int | None, provider: str | None) -> int | None:
    """The total with thoughts, which only Google's models report beside their output."""
    is_google = provider is not None and provider.startswith("gcp.")
    return plus(output, thoughts) if is_google else output


def interaction_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    _say_mode(session, item.attributes, "qwen-code.approval_mode", item.start_ns)
    keep_span(item, session, out, AGENT, kind="turn")


def model_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    duration_ms = milliseconds(a.get("duration_ms"))
    request_id = text(a.get("gen_ai.response.id"))
    part = ModelPart(
        started_at=instant(item.start_ns),
        ended_at=instant(item.end_ns),
        duration_ms=item.duration_ms if duration_ms is None else duration_ms,
        ttft_ms=milliseconds(a.get("ttft_ms")),
        status=_request_status(item),
        error_type=text(a.get("error.type") or a.get("error_type")),
        error_message=text(a.get("error"), MAX_TEXT),
        http_status=count(a.get("error_status_code")),
        attempts=count(a.get("attempt")) or None,
        finish_reasons=strings(a.get("gen_ai.response.finish_reasons") or a.get("finish_reason")),
        request_id=request_id,
        turn_id=text(a.get("qwen-code.prompt_id")),
        trace_id=item.trace_id,
        span_id=item.span_id,
        parent_span_id=item.parent_span_id,
        provider=text(a.get("gen_ai.provider.name")),
        request_model=text(a.get("gen_ai.request.model")),
        response_model=text(a.get("gen_ai.response.model")),
        operation=text(a.get("gen_ai.operation.name")),
        agent_name=text(a.get("subagent_name")),
        extra=extra(a, _MODEL_SPAN_KEYS),
    )
    thoughts = count(a.get("thoughts_token_count"))
    model_tokens(
        part,
        total=count(a.get("gen_ai.usage.input_tokens")),
        cache_read=count(a.get("gen_ai.usage.cache_read.input_tokens")),
        cache_write=count(a.get("gen_ai.usage.cache_creation.input_tokens")),
        output=_output(count(a.get("gen_ai.usage.output_tokens")), thoughts, part.provider),
        reasoning=thoughts,
    )
    # A request that failed has no answer to be named by, and its log record no name at all.
    rank = RANK_SPAN if request_id is None else RANK_SURE
    out.model(session, CODE, request_id or item.key, SPAN, part, rank=rank)


def _request_status(item: SpanItem) -> str:
    if item.has_failed:
        return "error"
    # Who stops an answer causes no error.
    return "cancelled" if flag(item.attributes.get("success")) is False else "success"


def tool_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    duration_ms = milliseconds(a.get("duration_ms"))
    total_ms = item.duration_ms if duration_ms is None else duration_ms
    part = ToolPart(
        tool_name=text(a.get("gen_ai.tool.name") or a.get("tool_name")),
        started_at=instant(item.start_ns),
        ended_at=instant(item.end_ns),
        # With the wait for permission: where a span inside tells of the run alone, that counts.
        duration_ms=total_ms,
        total_ms=total_ms,
        status=_tool_status(item),
        error_type=text(a.get("error.type")),
        external_call_id=_call_id(a),
        trace_id=item.trace_id,
        span_id=item.span_id,
        parent_span_id=item.parent_span_id,
        tool_kind=_TOOLS_OF_A_KIND.get(text(a.get("gen_ai.tool.name")) or ""),
        extra=extra(a, _TOOL_SPAN_KEYS),
    )
    call_id = part.external_call_id
    rank = RANK_SPAN if call_id is None else RANK_SURE
    out.tool(session, CODE, call_id or item.key, SPAN, part, rank=rank, span=item.key)


def _tool_status(item: SpanItem) -> str:
    a = item.attributes
    if (failure := _FAILURES.get(text(a.get("tool.failure_kind")) or "")) is not None:
        return failure
    success = flag(a.get("success"))
    return "error" if item.has_failed or success is False else "success"


def execution_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    duration_ms = milliseconds(a.get("duration_ms"))
    status = text(a.get("execution_status"))
    if status not in _RUNS:
        status = "error" if item.has_failed or flag(a.get("success")) is False else "success"
    part = ToolPart(
        tool_name=text(a.get("gen_ai.tool.name")),
        started_at=instant(item.start_ns),
        ended_at=instant(item.end_ns),
        duration_ms=item.duration_ms if duration_ms is None else duration_ms,
        status=status,
        error_type=text(a.get("error.type") or a.get("error_type")),
        external_call_id=_call_id(a),
    )
    add_inside(item, session, out, CODE, EXECUTION, part)


def blocked_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    tool_name = text(item.attributes.get("tool.name"))
    add_wait(item, session, out, CODE, tool_name=tool_name, call_id=_call_id(item.attributes))


def _call_id(a: Attributes) -> str | None:
    return text(a.get("tool.call_id") or a.get("gen_ai.tool.call.id") or a.get("call_id"))


def hook_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    # A place where hooks may stand ends with ERROR where none does.
    a = {name: value for name, value in item.attributes.items() if name != "error.type"}
    keep_span(
        msgspec.structs.replace(item, status=0, attributes=a), session, out, AGENT, kind="hook"
    )


def bridged_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    """A log record that came as a span: it counts where its call's id lets it meet the record."""
    a = item.attributes
    mapper, key = _MEETING.get(AGENT.own(item.name), (None, ""))
    if mapper is None or text(a.get(key)) is None:
        return
    said = {name: value for name, value in a.items() if not name.startswith("log.")}
    record = LogItem(
        source=item.source,
        name=item.name,
        time_ns=item.start_ns,
        attributes=said,
        trace_id=item.trace_id,
    )
    mapper(record, session, out)


_MEETING = {"tool_call": (tool_call, "call_id"), "api_response": (api_response, "response_id")}


def _span_kind(item: SpanItem) -> str:
    if flag(item.attributes.get("log.bridge")):
        return "bridged"
    return "http" if is_http(item) else AGENT.own(item.name)


AGENT = Agent(
    code=CODE,
    scopes=frozenset({"qwen-code"}),
    prefixes=("qwen-code.",),
    services=frozenset({"qwen-code"}),
    logs={
        "tool_call": tool_call,
        "api_response": api_response,
        "api_error": api_error,
        "user_prompt": user_prompt,
        "chat_compression": chat_compression,
        "config": config,
        "conversation_finished": conversation_finished,
        "session.start": session_start,
        "session.end": session_end,
        "subagent_execution": subagent_execution,
        "gen_ai.client.inference.operation.details": ignore,
    },
    spans={
        "interaction": interaction_span,
        "llm_request": model_span,
        "tool": tool_span,
        "tool.execution": execution_span,
        "tool.blocked_on_user": blocked_span,
        "hook": hook_span,
        "bridged": bridged_span,
        "http": ignore,
    },
    span_kind=_span_kind,
    metrics=METRICS,
    content=CONTENT,
)
