"""Gemini CLI: logs are the truth and name no tool call, so spans count only where no log tells.

Source: github.com/google-gemini/gemini-cli, `docs/cli/telemetry.md` and `packages/core/src/telemetry`;
and what version 0.61.0 was seen to send.
"""

from __future__ import annotations

from metrics_service.ingest.parts import RANK_SPAN, RESULT, SPAN, ModelPart, ToolPart
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
from metrics_service.otlp.items import LogItem, SpanItem, Value
from metrics_service.otlp.values import MAX_TEXT, content, count, text
from metrics_service.otlp.words import STANDARD, model_tokens

CODE = "gemini-cli"

_TOOLS_OF_A_KIND = {"activate_skill": "skill"}
_VERTEX = frozenset({"oauth-personal", "vertex-ai", "cloud-shell", "compute-default-credentials"})
_SPAN_KEYS = STANDARD | {
    "gen_ai.operation.name", "gen_ai.agent.name", "gen_ai.agent.description", "gen_ai.tool.name",
    "gen_ai.tool.call_id", "gen_ai.tool.description", "gen_ai.tool.definitions",
    "gen_ai.system_instructions", "gen_ai.input.messages", "gen_ai.output.messages",
    "gen_ai.request.model", "gen_ai.response.model", "gen_ai.prompt.name",
    "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "error.type",
}  # fmt: skip


def _provider(auth_type: Value) -> str:
    """The convention's name for whom the client asks, as the client itself has it."""
    return "gcp.vertex_ai" if auth_type in _VERTEX else "gcp.gen_ai"


def tool_call(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    part = tool_part(item, _TOOLS_OF_A_KIND, keeps_content=out.keeps_content)
    out.tool(session, CODE, call_key(item), RESULT, part)


def api_response(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    part = model_part(item, "success")
    part.provider = _provider(text(a.get("auth_type")))
    thoughts = count(a.get("thoughts_token_count"))
    part.tool_prompt_tokens = count(a.get("tool_token_count"))
    part.total_tokens_reported = count(a.get("total_token_count"))
    model_tokens(
        part,
        total=plus(count(a.get("input_token_count")), part.tool_prompt_tokens),
        cache_read=count(a.get("cached_content_token_count")),
        output=plus(count(a.get("output_token_count")), thoughts),
        reasoning=thoughts,
    )
    out.model(session, CODE, log_key(item), RESULT, part)


def api_error(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    part = model_part(item, "error")
    part.provider = _provider(text(item.attributes.get("auth_type")))
    out.model(session, CODE, log_key(item), RESULT, part)


def user_prompt(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    keep_log(item, session, out, AGENT, kind="prompt", said=("prompt",))


def chat_compression(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    keep_log(item, session, out, AGENT, kind="compaction")


def config(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    _say_mode(item, session, "approval_mode")
    keep_log(item, session, out, AGENT)


def approval_mode_switch(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    _say_mode(item, session, "to_mode")
    keep_log(item, session, out, AGENT, kind="mode")


def conversation_finished(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    _say_mode(item, session, "approvalMode")
    keep_log(item, session, out, AGENT)


def end_session(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    if session is not None:
        session.say("ended_at", item.time_ns, item.time_ns)
        session.say("end_reason", "end_session", item.time_ns)
    _say_mode(item, session, "approvalMode")
    keep_log(item, session, out, AGENT)


def subagent(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    keep_log(item, session, out, AGENT, kind="subagent")


def _say_mode(item: LogItem, session: SessionPart | None, name: str) -> None:
    if session is not None:
        session.say("permission_mode", text(item.attributes.get(name)), item.time_ns)


def tool_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    part = ToolPart(
        tool_name=text(a.get("gen_ai.tool.name")),
        started_at=instant(item.start_ns),
        ended_at=instant(item.end_ns),
        duration_ms=item.duration_ms,
        status="error" if item.has_failed else "success",
        error_type=text(a.get("error.type")),
        external_call_id=text(a.get("gen_ai.tool.call_id")),
        trace_id=item.trace_id,
        span_id=item.span_id,
        parent_span_id=item.parent_span_id,
        extra=extra(a, _SPAN_KEYS),
    )
    if out.keeps_content:
        part.arguments = content(a.get("gen_ai.input.messages"))
        part.result = content(a.get("gen_ai.output.messages"))
    out.tool(session, CODE, item.key, SPAN, part, rank=RANK_SPAN, span=item.key)


def model_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    part = ModelPart(
        started_at=instant(item.start_ns),
        ended_at=instant(item.end_ns),
        duration_ms=item.duration_ms,
        status="error" if item.has_failed else "success",
        error_type=text(a.get("error.type")),
        error_message=text(item.message, MAX_TEXT) if item.has_failed else None,
        turn_id=text(a.get("gen_ai.prompt.name")),
        trace_id=item.trace_id,
        span_id=item.span_id,
        parent_span_id=item.parent_span_id,
        request_model=text(a.get("gen_ai.request.model")),
        response_model=text(a.get("gen_ai.response.model")),
        extra=extra(a, _SPAN_KEYS),
    )
    # Without thoughts and tools, of which only the log record tells.
    model_tokens(
        part,
        total=count(a.get("gen_ai.usage.input_tokens")),
        output=count(a.get("gen_ai.usage.output_tokens")),
    )
    out.model(session, CODE, item.key, SPAN, part, rank=RANK_SPAN)


def turn_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    keep_span(item, session, out, AGENT, kind="turn")


def _span_kind(item: SpanItem) -> str:
    return "http" if is_http(item) else item.name


AGENT = Agent(
    code=CODE,
    scopes=frozenset({"gemini-cli"}),
    prefixes=("gemini_cli.",),
    services=frozenset({"gemini-cli"}),
    logs={
        "tool_call": tool_call,
        "api_response": api_response,
        "api_error": api_error,
        "user_prompt": user_prompt,
        "chat_compression": chat_compression,
        "config": config,
        "approval_mode_switch": approval_mode_switch,
        "plan.approval_mode_switch": approval_mode_switch,
        "conversation_finished": conversation_finished,
        "end_session": end_session,
        "agent.start": subagent,
        "agent.finish": subagent,
        "gen_ai.client.inference.operation.details": ignore,
    },
    spans={
        "tool_call": tool_span,
        "llm_call": model_span,
        "user_prompt": turn_span,
        "http": ignore,
    },
    span_kind=_span_kind,
    metrics=METRICS,
    content=CONTENT,
    # It holds the version of Node.
    deaf=frozenset({"service.version"}),
)
