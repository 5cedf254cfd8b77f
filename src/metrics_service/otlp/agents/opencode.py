"""opencode: on its own it sends spans; with the plugin opencode-plugin-otel also logs and metrics.

On its own, each tool call has two spans with the provider's call id: `ai.toolCall` of the Vercel AI
SDK, and inside it opencode's own `Tool.execute`. The plugin's logs tell of the same calls without the
id, so in sessions that have such logs spans do not count.

Sources: github.com/anomalyco/opencode (tool/tool.ts, session/llm.ts), what opencode 1.18.33 sends, and
github.com/DEVtheOPS/opencode-plugin-otel (src/handlers).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import msgspec

from metrics_service.ingest.content import rest, size
from metrics_service.ingest.parts import (
    DECISION,
    EXECUTION,
    RANK_INNER,
    RANK_SPAN,
    RESULT,
    SPAN,
    UNDONE,
    ModelPart,
    ToolPart,
)
from metrics_service.ingest.telemetry import SessionPart, Telemetry, instant
from metrics_service.otlp.agents.agent import Agent, Metric, ignore
from metrics_service.otlp.agents.events import keep_log, keep_span, log_key
from metrics_service.otlp.items import Attributes, LogItem, SpanItem, Value
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
from metrics_service.otlp.words import STANDARD, decided, micros, model_tokens

CODE = "opencode"

_LOG_KEYS = STANDARD | {"agent", "agent.name", "duration_ms"}
_RESULT_KEYS = _LOG_KEYS | {"tool_name", "success", "tool_result_size_bytes", "error"}
_DECISION_KEYS = _LOG_KEYS | {"tool_name", "tool_type", "decision", "source"}
_REQUEST_KEYS = _LOG_KEYS | {
    "model", "provider", "gen_ai.provider.name", "cost_usd", "input_tokens", "output_tokens",
    "reasoning_tokens", "cache_read_tokens", "cache_creation_tokens", "error",
}  # fmt: skip
_CALL_SPAN_KEYS = STANDARD | {
    "operation.name", "resource.name", "ai.operationId", "ai.toolCall.name", "ai.toolCall.id",
    "ai.toolCall.args", "ai.toolCall.result", "tool.name", "tool.call_id",
}  # fmt: skip
_REQUEST_SPAN_KEYS = STANDARD | {
    "operation.name", "resource.name", "ai.operationId", "ai.telemetry.functionId",
    "ai.model.provider", "ai.model.id", "gen_ai.system", "gen_ai.request.model",
    "ai.response.msToFirstChunk", "ai.response.finishReason", "ai.response.id",
    "ai.response.model", "ai.response.timestamp", "gen_ai.response.id", "gen_ai.response.model",
    "gen_ai.response.finish_reasons", "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens",
    "ai.usage.inputTokens", "ai.usage.promptTokens", "ai.usage.outputTokens",
    "ai.usage.completionTokens", "ai.usage.totalTokens", "ai.usage.reasoningTokens",
    "ai.usage.cachedInputTokens", "ai.usage.inputTokenDetails.noCacheTokens",
    "ai.usage.inputTokenDetails.cacheReadTokens", "ai.usage.inputTokenDetails.cacheWriteTokens",
    "ai.usage.outputTokenDetails.textTokens", "ai.usage.outputTokenDetails.reasoningTokens",
}  # fmt: skip
_PLUGIN_SPAN_KEYS = STANDARD | {
    "openinference.span.kind", "agent.name", "tool.id", "tool.name", "tool.success", "tool.error",
    "tool.result_size_bytes", "tool.parameters", "input.value", "input.mime_type",
    "output.value", "output.mime_type",
    "llm.model_name", "llm.provider", "llm.system", "gen_ai.provider.name", "llm.finish_reason",
    "llm.token_count.prompt", "llm.token_count.completion", "llm.token_count.total",
    "llm.token_count.completion_details.reasoning", "llm.token_count.prompt_details.cache_read",
    "llm.token_count.prompt_details.cache_write", "llm.cost.total", "cost_usd", "duration_ms",
}  # fmt: skip

# What a refused call's error begins with; opencode says it in no other way.
_by_user = re.compile(r"(?:[\w.]+: )?The user rejected permission ").match
_by_rule = re.compile(r"(?:[\w.]+: )?The user has specified a rule which prevents ").match
# What was sent to the provider, whose headers may be secrets.
_HEADERS = "ai.request.headers."


# -- the plugin's logs ------------------------------------------------------------------------------


def tool_result(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    duration_ms = milliseconds(a.get("duration_ms"))
    success = flag(a.get("success"))
    part = ToolPart(
        tool_name=text(a.get("tool_name")),
        # Unlike other clients' records, this one bears the time of the beginning.
        started_at=instant(item.time_ns),
        ended_at=instant(item.time_ns + int((duration_ms or 0) * 1e6)),
        duration_ms=duration_ms,
        status="unknown" if success is None else "success" if success else "error",
        error_message=text(a.get("error"), MAX_TEXT),
        trace_id=item.trace_id,
        span_id=item.span_id,
        tool_kind=_kind(a.get("tool_name")),
        output_bytes=count(a.get("tool_result_size_bytes")),
        extra=rest(a, _RESULT_KEYS, AGENT.content),
    )
    _refuse(part, a.get("error"))
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
        tool_kind=_kind(a.get("tool_type")),
        extra=rest(a, _DECISION_KEYS, AGENT.content),
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
        extra=rest(a, _REQUEST_KEYS, AGENT.content),
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
    keep_log(item, session, out, AGENT, kind="prompt", counts="prompt_count", said=("prompt",))


def session_created(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    if session is not None and flag(item.attributes.get("is_subagent")):
        session.say("is_subagent", True, item.time_ns)
    keep_log(item, session, out, AGENT, kind="start")


def session_idle(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    # Not its end: the next prompt goes on with it. Its totals are sums of what was told already.
    keep_log(item, session, out, AGENT, kind="idle")


def session_error(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    keep_log(item, session, out, AGENT, kind="error")


# -- opencode's own spans ---------------------------------------------------------------------------


def call_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    call_id = text(a.get("ai.toolCall.id"))
    given, result = a.get("ai.toolCall.args"), a.get("ai.toolCall.result")
    part = _call(item, a.get("ai.toolCall.name"), call_id)
    part.total_ms = item.duration_ms
    part.input_bytes = size(given)
    part.output_bytes = size(result)
    part.exit_code = _exit_code(result)
    if out.keeps_content:
        part.arguments = content(given)
        part.result = content(result)
    out.tool(session, CODE, call_id or item.key, SPAN, part, rank=RANK_SPAN, span=item.key)


def execution_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    call_id = text(a.get("tool.call_id"))
    part = _call(item, a.get("tool.name"), call_id)
    # What is around it is told by the span of the call; and why it failed, where it cannot tell.
    part.span_id = part.parent_span_id = None
    if item.has_failed and part.error_message is None:
        part.status = None
    out.tool(session, CODE, call_id or item.key, EXECUTION, part, rank=RANK_SPAN)


def request_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    part = ModelPart(
        started_at=instant(item.start_ns),
        ended_at=instant(item.end_ns),
        duration_ms=item.duration_ms,
        ttft_ms=milliseconds(a.get("ai.response.msToFirstChunk")),
        status="error" if item.has_failed else "success",
        error_type=_error_type(item),
        error_message=_error_message(item),
        finish_reasons=strings(
            a.get("gen_ai.response.finish_reasons") or a.get("ai.response.finishReason")
        ),
        request_id=text(a.get("gen_ai.response.id") or a.get("ai.response.id")),
        trace_id=item.trace_id,
        span_id=item.span_id,
        parent_span_id=item.parent_span_id,
        provider=text(a.get("gen_ai.system") or a.get("ai.model.provider")),
        request_model=text(a.get("gen_ai.request.model") or a.get("ai.model.id")),
        response_model=text(a.get("gen_ai.response.model") or a.get("ai.response.model")),
        query_source=text(a.get("ai.telemetry.functionId")),
        extra=rest(_without_headers(a), _REQUEST_SPAN_KEYS, AGENT.content),
    )
    uncached = count(a.get("ai.usage.inputTokenDetails.noCacheTokens"))
    model_tokens(
        part,
        total=_first_count(a, _INPUT) if uncached is None else None,
        uncached=uncached,
        cache_read=_first_count(a, _CACHE_READ),
        cache_write=count(a.get("ai.usage.inputTokenDetails.cacheWriteTokens")),
        output=_first_count(a, _OUTPUT),
        reasoning=_first_count(a, _REASONING),
    )
    out.model(session, CODE, item.key, SPAN, part, rank=RANK_SPAN)


_INPUT = ("ai.usage.inputTokens", "gen_ai.usage.input_tokens", "ai.usage.promptTokens")
_CACHE_READ = ("ai.usage.inputTokenDetails.cacheReadTokens", "ai.usage.cachedInputTokens")
_OUTPUT = ("ai.usage.outputTokens", "gen_ai.usage.output_tokens", "ai.usage.completionTokens")
_REASONING = ("ai.usage.outputTokenDetails.reasoningTokens", "ai.usage.reasoningTokens")


def turn_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    item = msgspec.structs.replace(item, attributes=_without_headers(item.attributes))
    keep_span(item, session, out, AGENT, kind="turn", counts="turn_count")


# -- the plugin's spans -----------------------------------------------------------------------------


def plugin_tool_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    call_id = text(a.get("tool.id"))
    part = _call(item, a.get("tool.name"), call_id, _PLUGIN_SPAN_KEYS)
    part.error_message = text(a.get("tool.error"), MAX_TEXT) or part.error_message
    part.input_bytes = size(a.get("input.value"))
    part.output_bytes = count(a.get("tool.result_size_bytes"))
    _refuse(part, a.get("tool.error"))
    if out.keeps_content:
        part.arguments = content(a.get("input.value"))
        part.result = content(a.get("output.value"))
    out.tool(session, CODE, call_id or item.key, SPAN, part, rank=RANK_SPAN)


def plugin_request_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    part = ModelPart(
        started_at=instant(item.start_ns),
        ended_at=instant(item.end_ns),
        duration_ms=item.duration_ms,
        status="error" if item.has_failed else "success",
        error_type=_error_type(item),
        error_message=_error_message(item),
        finish_reasons=strings(a.get("llm.finish_reason")),
        trace_id=item.trace_id,
        span_id=item.span_id,
        parent_span_id=item.parent_span_id,
        provider=text(a.get("llm.provider") or a.get("gen_ai.provider.name")),
        request_model=text(a.get("llm.model_name")),
        cost_usd_micros=micros(None, a.get("cost_usd") or a.get("llm.cost.total")),
        agent_name=text(a.get("agent.name")),
        extra=rest(a, _PLUGIN_SPAN_KEYS, AGENT.content),
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


# -- reading ----------------------------------------------------------------------------------------


def _call(
    item: SpanItem, name: Value, call_id: str | None, known: frozenset[str] = _CALL_SPAN_KEYS
) -> ToolPart:
    part = ToolPart(
        tool_name=text(name),
        started_at=instant(item.start_ns),
        ended_at=instant(item.end_ns),
        duration_ms=item.duration_ms,
        status="error" if item.has_failed else "success",
        error_type=_error_type(item),
        error_message=_error_message(item),
        external_call_id=call_id,
        trace_id=item.trace_id,
        span_id=item.span_id,
        parent_span_id=item.parent_span_id,
        tool_kind=_kind(name),
        extra=rest(item.attributes, known, AGENT.content),
    )
    _refuse(part, part.error_message)
    return part


def _kind(name: Value) -> str | None:
    # Whose the others are is not said: MCP servers' and plugins' tools have names of their own making.
    return {"task": "subagent", "skill": "skill"}.get(name) if isinstance(name, str) else None


def _refuse(part: ToolPart, error: Value) -> None:
    """Call an error what it was where somebody refused the call."""
    if not isinstance(error, str):
        return
    if _by_user(error):
        part.status, part.decision, part.decision_mode = "rejected", "reject", "user_once"
    elif _by_rule(error):
        part.status, part.decision, part.decision_mode = "rejected", "reject", "auto"


def _is_always(source: Value) -> bool:
    return isinstance(source, str) and source.lower().endswith("always")


def _error_class(error: Value) -> str | None:
    """The class in `ProviderError: overloaded`; None where it reads like a sentence."""
    name, colon, _ = error.partition(": ") if isinstance(error, str) else ("", "", "")
    return name[:255] if colon and name.replace(".", "_").isidentifier() else None


def _error_type(item: SpanItem) -> str | None:
    if not item.has_failed:
        return None
    return text(item.attributes.get("error.type")) or _of_exception(item, "exception.type", 255)


def _error_message(item: SpanItem) -> str | None:
    if not item.has_failed:
        return None
    return text(item.message, MAX_TEXT) or _of_exception(item, "exception.message", MAX_TEXT)


def _of_exception(item: SpanItem, name: str, limit: int) -> str | None:
    found = (text(event.attributes.get(name), limit) for event in item.events)
    return next((word for word in found if word is not None), None)


def _exit_code(result: Value) -> int | None:
    """A shell command's exit code: opencode sends it with the output."""
    if not isinstance(result, str) or '"exit"' not in result:
        return None
    exit_code = mapping(mapping(result).get("metadata")).get("exit")
    is_code = isinstance(exit_code, int) and not isinstance(exit_code, bool)
    return exit_code if is_code and abs(exit_code) < 2**31 else None  # type: ignore[return-value,arg-type]  # an int


def _without_headers(a: Attributes) -> Attributes:
    return {name: value for name, value in a.items() if not name.startswith(_HEADERS)}


def _first_count(a: Attributes, names: tuple[str, ...]) -> int | None:
    found = (count(a.get(name)) for name in names)
    return next((number for number in found if number is not None), None)


_PLUGIN_KINDS = {"TOOL": "plugin.tool", "LLM": "plugin.llm", "AGENT": "plugin.agent"}
_PLUMBING = "plumbing"


def _span_kind(item: SpanItem) -> str:
    if (kind := _PLUGIN_KINDS.get(str(item.attributes.get("openinference.span.kind")))) is not None:
        return kind
    is_work = item.name == "Tool.execute" or item.name.startswith("ai.")
    # Each function of its own is a span too: a thousand for one prompt, most of them SQL.
    return item.name if is_work or "gen_ai.operation.name" in item.attributes else _PLUMBING


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


def _outcome(attributes: Mapping[str, object]) -> str | None:
    success = flag(attributes.get("success"))  # type: ignore[arg-type]  # an attribute's value
    return None if success is None else "success" if success else "error"


AGENT = Agent(
    code=CODE,
    scopes=frozenset({"com.opencode"}),
    prefixes=("opencode.",),
    services=frozenset({"opencode"}),
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
    spans={
        "ai.toolCall": call_span,
        "Tool.execute": execution_span,
        "ai.streamText.doStream": request_span,
        "ai.generateText.doGenerate": request_span,
        "ai.streamObject.doStream": request_span,
        "ai.generateObject.doGenerate": request_span,
        "ai.streamText": turn_span,
        "ai.generateText": turn_span,
        "ai.streamObject": turn_span,
        "ai.generateObject": turn_span,
        "plugin.tool": plugin_tool_span,
        "plugin.llm": plugin_request_span,
        "plugin.agent": turn_span,
        _PLUMBING: ignore,
    },
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
            "tool.duration": Metric(name="tool.duration", unit="ms", status=_outcome),
        }
    ),
    content=frozenset(
        {
            "prompt",
            "description",
            "tool.parameters",
            "ai.toolCall.input",
            "ai.toolCall.output",
            "ai.response.reasoning",
            "ai.response.files",
            "ai.value",
            "ai.values",
        }
    ),
)
