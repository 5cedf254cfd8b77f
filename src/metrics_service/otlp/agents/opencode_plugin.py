"""opencode-plugin-otel, the plugin that makes opencode send logs and metrics, and spans of its own.

Its logs tell of the calls that opencode's spans tell of, without their id: so in sessions that have
such logs spans do not count.

Source: github.com/DEVtheOPS/opencode-plugin-otel (src/handlers).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from metrics_service.ingest.content import rest, size
from metrics_service.ingest.parts import (
    DECISION,
    RANK_INNER,
    RANK_SPAN,
    RESULT,
    SPAN,
    UNDONE,
    ModelPart,
    ToolPart,
)
from metrics_service.ingest.telemetry import SessionPart, Telemetry, instant
from metrics_service.otlp.agents.agent import Agent, Metric
from metrics_service.otlp.agents.events import keep_log, keep_span, log_key
from metrics_service.otlp.agents.genai import call_status
from metrics_service.otlp.agents.opencode_family import (
    CODE,
    CONTENT,
    error_message,
    error_type,
    refuse,
    tool_kind,
    tool_of,
)
from metrics_service.otlp.items import LogItem, SpanItem, Value
from metrics_service.otlp.values import (
    MAX_TEXT,
    content,
    count,
    flag,
    milliseconds,
    strings,
    text,
)
from metrics_service.otlp.words import STANDARD, decided, ended, micros, model_tokens

_LOG_KEYS = STANDARD | {"agent", "agent.name", "duration_ms"}
_RESULT_KEYS = _LOG_KEYS | {"tool_name", "success", "tool_result_size_bytes", "error"}
_DECISION_KEYS = _LOG_KEYS | {"tool_name", "tool_type", "decision", "source"}
_REQUEST_KEYS = _LOG_KEYS | {
    "model", "provider", "gen_ai.provider.name", "cost_usd", "input_tokens", "output_tokens",
    "reasoning_tokens", "cache_read_tokens", "cache_creation_tokens", "error",
}  # fmt: skip
_SPAN_KEYS = STANDARD | {
    "openinference.span.kind", "agent.name", "tool.id", "tool.name", "tool.success", "tool.error",
    "tool.result_size_bytes", "tool.parameters", "input.value", "input.mime_type",
    "output.value", "output.mime_type",
    "llm.model_name", "llm.provider", "llm.system", "gen_ai.provider.name", "llm.finish_reason",
    "llm.token_count.prompt", "llm.token_count.completion", "llm.token_count.total",
    "llm.token_count.completion_details.reasoning", "llm.token_count.prompt_details.cache_read",
    "llm.token_count.prompt_details.cache_write", "llm.cost.total", "cost_usd", "duration_ms",
}  # fmt: skip


def tool_result(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    duration_ms = milliseconds(a.get("duration_ms"))
    part = ToolPart(
        tool_name=text(a.get("tool_name")),
        # Unlike other clients' records, this one bears the time of the beginning.
        started_at=instant(item.time_ns),
        ended_at=instant(item.time_ns + int((duration_ms or 0) * 1e6)),
        duration_ms=duration_ms,
        status=ended(a.get("success")),
        error_message=text(a.get("error"), MAX_TEXT),
        trace_id=item.trace_id,
        span_id=item.span_id,
        tool_kind=tool_kind(a.get("tool_name")),
        output_bytes=count(a.get("tool_result_size_bytes")),
        extra=rest(a, _RESULT_KEYS, CONTENT),
    )
    refuse(part, a.get("error"))
    out.tool(session, CODE, log_key(item), RESULT, part)


def tool_decision(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    decision, mode = decided(a.get("decision"), a.get("source"))
    if _is_always(a.get("source")) and decision == "accept":
        mode = "user_always"
    part = ToolPart(
        # The name is what was asked for, a command for instance; the type is the tool that asked.
        tool_name=text(a.get("tool_type")) or text(a.get("tool_name")),
        started_at=instant(item.time_ns),
        status=UNDONE.get(decision or ""),
        decision=decision,
        decision_mode=mode,
        decision_raw=text(a.get("decision")),
        decision_source_raw=text(a.get("source")),
        trace_id=item.trace_id,
        tool_kind=tool_kind(a.get("tool_type")),
        extra=rest(a, _DECISION_KEYS, CONTENT),
    )
    if out.keeps_content:
        part.arguments = content(a.get("tool_name"))
    # The call has a result too, refused or not, and nothing says which: so this must not be a second.
    out.tool(session, CODE, log_key(item), DECISION, part, rank=RANK_INNER)


def _request(item: LogItem, session: SessionPart | None, out: Telemetry, status: str) -> None:
    a = item.attributes
    duration_ms = milliseconds(a.get("duration_ms"))
    part = ModelPart(
        # With a duration the record bears the time of the beginning, without one that of the end.
        started_at=instant(item.time_ns),
        ended_at=instant(item.time_ns + int((duration_ms or 0) * 1e6)),
        duration_ms=duration_ms,
        status=status,
        error_message=text(a.get("error"), MAX_TEXT),
        error_type=_error_class(a.get("error")) if status == "error" else None,
        trace_id=item.trace_id,
        span_id=item.span_id,
        provider=text(a.get("provider") or a.get("gen_ai.provider.name")),
        request_model=text(a.get("model")),
        cost_usd_micros=micros(None, a.get("cost_usd")),
        query_source=text(a.get("agent")),
        agent_name=text(a.get("agent.name") or a.get("agent")),
        extra=rest(a, _REQUEST_KEYS, CONTENT),
    )
    model_tokens(
        part,
        uncached=count(a.get("input_tokens")),
        cache_read=count(a.get("cache_read_tokens")),
        cache_write=count(a.get("cache_creation_tokens")),
        output=count(a.get("output_tokens")),
        reasoning=count(a.get("reasoning_tokens")),
    )
    out.model(session, CODE, log_key(item), RESULT, part)


def api_request(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    _request(item, session, out, "success")


def api_error(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    _request(item, session, out, "error")


def user_prompt(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    keep_log(item, session, out, AGENT, kind="prompt", said=("prompt",))


def session_created(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    if session is not None and flag(item.attributes.get("is_subagent")):
        session.say("is_subagent", True, item.time_ns)
    keep_log(item, session, out, AGENT, kind="start")


def session_idle(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    # Not its end: the next prompt goes on with it. Its totals are sums of what was told already.
    keep_log(item, session, out, AGENT, kind="idle")


def session_error(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    keep_log(item, session, out, AGENT, kind="error")


def tool_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    call_id = text(a.get("tool.id"))
    part = tool_of(item, a.get("tool.name"), call_id, _SPAN_KEYS)
    part.error_message = text(a.get("tool.error"), MAX_TEXT) or part.error_message
    part.input_bytes = size(a.get("input.value"))
    part.output_bytes = count(a.get("tool.result_size_bytes"))
    refuse(part, a.get("tool.error"))
    if out.keeps_content:
        part.arguments = content(a.get("input.value"))
        part.result = content(a.get("output.value"))
    out.tool(session, CODE, call_id or item.key, SPAN, part, rank=RANK_SPAN)


def request_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    part = ModelPart(
        started_at=instant(item.start_ns),
        ended_at=instant(item.end_ns),
        duration_ms=item.duration_ms,
        status="error" if item.has_failed else "success",
        error_type=error_type(item),
        error_message=error_message(item),
        finish_reasons=strings(a.get("llm.finish_reason")),
        trace_id=item.trace_id,
        span_id=item.span_id,
        parent_span_id=item.parent_span_id,
        provider=text(a.get("llm.provider") or a.get("gen_ai.provider.name")),
        request_model=text(a.get("llm.model_name")),
        cost_usd_micros=micros(None, a.get("cost_usd") or a.get("llm.cost.total")),
        agent_name=text(a.get("agent.name")),
        extra=rest(a, _SPAN_KEYS, CONTENT),
    )
    model_tokens(
        part,
        # Without the cache, although the convention wants it included.
        uncached=count(a.get("llm.token_count.prompt")),
        cache_read=count(a.get("llm.token_count.prompt_details.cache_read")),
        cache_write=count(a.get("llm.token_count.prompt_details.cache_write")),
        output=count(a.get("llm.token_count.completion")),
        reasoning=count(a.get("llm.token_count.completion_details.reasoning")),
    )
    # The AI SDK's own span of the request, where it is sent too, knows more.
    out.model(session, CODE, item.key, SPAN, part, rank=RANK_INNER)


def _is_always(source: Value) -> bool:
    return isinstance(source, str) and source.lower().endswith("always")


def _error_class(error: Value) -> str | None:
    """The class in `ProviderError: overloaded`; None where it reads like a sentence."""
    name, colon, _ = error.partition(": ") if isinstance(error, str) else ("", "", "")
    return name[:255] if colon and name.replace(".", "_").isidentifier() else None


def turn_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    keep_span(item, session, out, AGENT, kind="turn")


def _span_kind(item: SpanItem) -> str:
    return text(item.attributes.get("openinference.span.kind")) or item.name


class _UnderAnyPrefix(Mapping[str, "Metric | None"]):
    """Metrics by the end of their name: the user chooses what it begins with."""

    def __init__(self, metrics: Mapping[str, Metric | None]) -> None:
        self._metrics = metrics

    def __getitem__(self, name: str) -> Metric | None:
        for known, metric in self._metrics.items():
            if name == known or name.endswith(f".{known}"):
                return metric
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._metrics)

    def __len__(self) -> int:
        return len(self._metrics)


AGENT = Agent(
    code=CODE,
    scopes=frozenset({"com.opencode"}),
    prefixes=("opencode.",),
    logs={
        "tool_result": tool_result,
        "tool_decision": tool_decision,
        "api_request": api_request,
        "api_error": api_error,
        "user_prompt": user_prompt,
        "session.created": session_created,
        "session.idle": session_idle,
        "session.error": session_error,
    },
    spans={"TOOL": tool_span, "LLM": request_span, "AGENT": turn_span},
    span_kind=_span_kind,
    metrics=_UnderAnyPrefix(
        {
            "session.count": Metric(name="session.count"),
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
            "tool.duration": Metric(name="tool.duration", unit="ms", status=call_status),
        }
    ),
    content=CONTENT,
)
