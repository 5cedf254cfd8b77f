"""opencode on its own: spans of its tool calls and of its requests to models, most of them the AI SDK's.

Each tool call has two with the provider's call id: `ai.toolCall` of the Vercel AI SDK, and inside it
opencode's own `Tool.execute`. What the plugin adds is in `opencode_plugin.py`.

Sources: github.com/anomalyco/opencode (tool/tool.ts, session/llm.ts), and what opencode 1.18.33 sends.
"""

from __future__ import annotations

import msgspec

from metrics_service.ingest.content import rest, size
from metrics_service.ingest.parts import EXECUTION, RANK_SPAN, SPAN, ModelPart
from metrics_service.ingest.telemetry import SessionPart, Telemetry, instant
from metrics_service.otlp.agents import genai, opencode_plugin
from metrics_service.otlp.agents.agent import Agent, ignore
from metrics_service.otlp.agents.events import keep_span
from metrics_service.otlp.agents.opencode_family import (
    CODE,
    CONTENT,
    error_message,
    error_type,
    tool_of,
)
from metrics_service.otlp.items import Attributes, SpanItem, Value
from metrics_service.otlp.values import (
    content,
    count,
    mapping,
    milliseconds,
    strings,
    text,
)
from metrics_service.otlp.words import STANDARD, model_tokens

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
_INPUT = ("ai.usage.inputTokens", "gen_ai.usage.input_tokens", "ai.usage.promptTokens")
_CACHE_READ = ("ai.usage.inputTokenDetails.cacheReadTokens", "ai.usage.cachedInputTokens")
_OUTPUT = ("ai.usage.outputTokens", "gen_ai.usage.output_tokens", "ai.usage.completionTokens")
_REASONING = ("ai.usage.outputTokenDetails.reasoningTokens", "ai.usage.reasoningTokens")

# What was sent to the provider, whose headers may be secrets.
_HEADERS = "ai.request.headers."


def call_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    call_id = text(a.get("ai.toolCall.id"))
    given, result = a.get("ai.toolCall.args"), a.get("ai.toolCall.result")
    part = tool_of(item, a.get("ai.toolCall.name"), call_id, _CALL_SPAN_KEYS)
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
    part = tool_of(item, a.get("tool.name"), call_id, _CALL_SPAN_KEYS)
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
        error_type=error_type(item),
        error_message=error_message(item),
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
        extra=rest(_without_headers(a), _REQUEST_SPAN_KEYS, CONTENT),
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


def turn_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    item = msgspec.structs.replace(item, attributes=_without_headers(item.attributes))
    keep_span(item, session, out, AGENT, kind="turn")


def _exit_code(result: Value) -> int | None:
    """A shell command's exit code: opencode sends it with the output."""
    if not isinstance(result, str) or '"exit"' not in result:
        return None
    return genai.exit_code(mapping(mapping(result).get("metadata")).get("exit"))


def _without_headers(a: Attributes) -> Attributes:
    return {name: value for name, value in a.items() if not name.startswith(_HEADERS)}


def _first_count(a: Attributes, names: tuple[str, ...]) -> int | None:
    found = (count(a.get(name)) for name in names)
    return next((number for number in found if number is not None), None)


_PLUMBING = "plumbing"


def _span_kind(item: SpanItem) -> str:
    is_work = item.name == "Tool.execute" or item.name.startswith("ai.")
    # Each function of its own is a span too: a thousand for one prompt, most of them SQL.
    return item.name if is_work or "gen_ai.operation.name" in item.attributes else _PLUMBING


AGENT = Agent(
    code=CODE,
    scopes=frozenset({"opencode"}),
    services=frozenset({"opencode"}),
    # The plugin's, when the scope that says so got lost on the way.
    logs=opencode_plugin.AGENT.logs,
    metrics=opencode_plugin.AGENT.metrics,
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
        _PLUMBING: ignore,
    },
    span_kind=_span_kind,
    content=CONTENT,
)
