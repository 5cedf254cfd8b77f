"""Whoever follows the OpenTelemetry GenAI and MCP conventions, or OpenInference.

Sources: OpenTelemetry semantic conventions for generative AI and MCP, state November 2026, with the
names that they had before; OpenInference semantic conventions. What other clients share with them is
here as well: a mapper of theirs takes `tool_of` or `request_of` and adds what is its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from metrics_service.ingest.content import rest, size
from metrics_service.ingest.parts import (
    DETAILS,
    RANK_INNER,
    RANK_SERVER,
    RANK_SPAN,
    SPAN,
    ModelPart,
    ToolPart,
)
from metrics_service.ingest.telemetry import Key, SessionPart, Telemetry, instant
from metrics_service.otlp.agents.agent import Agent, Metric
from metrics_service.otlp.agents.events import keep_log, keep_span, log_key
from metrics_service.otlp.items import KIND_SERVER, Attributes, LogItem, SpanItem, Value
from metrics_service.otlp.values import (
    MAX_TEXT,
    content,
    count,
    number,
    seconds,
    strings,
    text,
)
from metrics_service.otlp.words import STANDARD, ended, model_tokens

# The names of one thing, newest first.
_TOOL_NAME = ("gen_ai.tool.name", "tool.name")
_CALL_ID = ("gen_ai.tool.call.id", "tool.id", "tool_call.id")
_ARGUMENTS = ("gen_ai.tool.call.arguments", "input.value", "tool_arguments")
_RESULT = ("gen_ai.tool.call.result", "output.value", "tool_response")
_PROVIDER = ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system")
_MODEL = ("gen_ai.request.model", "llm.model_name", "embedding.model_name")
_INPUT = ("gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt")
_OUTPUT = (
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.completion_tokens",
    "llm.token_count.completion",
)
_CACHE_READ = (
    "gen_ai.usage.cache_read.input_tokens",
    "llm.token_count.prompt_details.cache_read",
)
_CACHE_WRITE = (
    "gen_ai.usage.cache_creation.input_tokens",
    "llm.token_count.prompt_details.cache_write",
)
_REASONING = (
    "gen_ai.usage.reasoning.output_tokens",
    "gen_ai.usage.reasoning_tokens",
    "llm.token_count.completion_details.reasoning",
)
_TOTAL = ("gen_ai.usage.total_tokens", "llm.usage.total_tokens", "llm.token_count.total")

_COMMON_KEYS = STANDARD | {
    "gen_ai.operation.name", "openinference.span.kind", "error.type", "gen_ai.agent.id",
    "input.mime_type", "output.mime_type",
}  # fmt: skip
_TOOL_KEYS = _COMMON_KEYS.union(
    _TOOL_NAME, _CALL_ID, _ARGUMENTS, _RESULT, ("gen_ai.tool.type", "process.exit.code")
)
_REQUEST_KEYS = _COMMON_KEYS.union(
    _PROVIDER, _MODEL, _INPUT, _OUTPUT, _CACHE_READ, _CACHE_WRITE, _REASONING, _TOTAL,
    (
        "gen_ai.response.model", "gen_ai.response.id", "gen_ai.response.finish_reasons",
        "gen_ai.response.time_to_first_chunk", "gen_ai.request.reasoning.level",
        "gen_ai.agent.name",
    ),
)  # fmt: skip

# Lists that are written as one attribute for each of their values: prompts, answers, documents.
_LISTS = (
    "gen_ai.prompt.",
    "gen_ai.completion.",
    "llm.input_messages.",
    "llm.output_messages.",
    "llm.prompts.",
    "llm.tools.",
    "retrieval.documents.",
    "reranker.",
    "embedding.embeddings.",
)
CONTENT = frozenset(
    {
        "tool.parameters", "tool.description", "tool_call.function.arguments",
        "llm.invocation_parameters", "llm.function_call", "llm.prompt_template.template",
        "llm.prompt_template.variables",
        # As pydantic-ai names them.
        "all_messages_events", "pydantic_ai.all_messages", "final_result", "tool_arguments",
        "tool_response", "model_request_parameters", "events",
    }
)  # fmt: skip
_TOOL_TYPES = frozenset({"function", "extension", "datastore"})
_OPENINFERENCE = {
    "TOOL": "execute_tool",
    "LLM": "chat",
    "EMBEDDING": "embeddings",
    "AGENT": "invoke_agent",
}


def first(a: Attributes, names: tuple[str, ...]) -> Value:
    """The value of the first of these attributes that is there."""
    for name in names:
        if (value := a.get(name)) is not None:
            return value
    return None


def span_kind(item: SpanItem) -> str:
    """The operation of a span in the conventions' words; empty for what is no agent's span."""
    a = item.attributes
    operation = a.get("gen_ai.operation.name")
    if isinstance(operation, str) and operation:
        return operation
    kind = a.get("openinference.span.kind")
    if isinstance(kind, str) and kind:
        return _OPENINFERENCE.get(kind.upper(), kind.upper())
    if "mcp.method.name" in a:
        return "execute_tool" if a["mcp.method.name"] == "tools/call" else ""
    word = item.name.partition(" ")[0]
    # Anybody's span may be called `chat`.
    return word if "_" in word or any(name.startswith("gen_ai.") for name in a) else ""


def _without_lists(a: Attributes) -> Attributes:
    return {name: value for name, value in a.items() if not name.startswith(_LISTS)}


def others(
    a: Attributes, known: frozenset[str], content: frozenset[str] = CONTENT
) -> Attributes | None:
    """The attributes that have no column."""
    return rest(_without_lists(a), known, content)


def exit_code(value: Value) -> int | None:
    """What a process ended with; negative where a signal ended it."""
    found = number(value)
    return int(found) if found is not None else None


def tool_kind(a: Attributes) -> str | None:
    """What kind of tool it was, as far as that is said."""
    if "mcp.method.name" in a:
        return "mcp"
    kind = text(a.get("gen_ai.tool.type"))
    return kind if kind in _TOOL_TYPES else None


def _tool_name(item: SpanItem) -> str | None:
    word, _, target = item.name.partition(" ")
    in_name = target if target and word in ("execute_tool", "tools/call") else item.name
    return text(first(item.attributes, _TOOL_NAME)) or text(in_name)


def tool_of(item: SpanItem, out: Telemetry, known: frozenset[str] = frozenset()) -> ToolPart:
    """What a span says about a tool call; `known` are attributes that the caller has a place for."""
    a = item.attributes
    given, returned = first(a, _ARGUMENTS), first(a, _RESULT)
    kind = tool_kind(a)
    name = _tool_name(item)
    part = ToolPart(
        tool_name=name,
        started_at=instant(item.start_ns),
        ended_at=instant(item.end_ns),
        duration_ms=item.duration_ms,
        status="error" if item.has_failed else "success",
        error_type=text(a.get("error.type")),
        error_message=text(item.message, MAX_TEXT) if item.has_failed else None,
        external_call_id=text(first(a, _CALL_ID)),
        trace_id=item.trace_id,
        span_id=item.span_id,
        parent_span_id=item.parent_span_id,
        tool_kind=kind,
        mcp_tool=name if kind == "mcp" else None,
        agent_instance_id=text(a.get("gen_ai.agent.id")),
        input_bytes=size(given),
        output_bytes=size(returned),
        exit_code=exit_code(a.get("process.exit.code")),
        extra=others(a, _TOOL_KEYS | known),
    )
    if out.keeps_content:
        part.arguments = content(given)
        part.result = content(returned)
    return part


def request_of(item: SpanItem | LogItem, known: frozenset[str] = frozenset()) -> ModelPart:
    """What a span or a log record says about a request to a model."""
    a = item.attributes
    operation = span_kind(item) if isinstance(item, SpanItem) else a.get("gen_ai.operation.name")
    part = ModelPart(
        started_at=instant(item.time_ns),
        ended_at=instant(item.time_ns),
        ttft_ms=seconds(a.get("gen_ai.response.time_to_first_chunk")),
        status="error" if "error.type" in a else "success",
        error_type=text(a.get("error.type")),
        finish_reasons=strings(a.get("gen_ai.response.finish_reasons")),
        request_id=text(a.get("gen_ai.response.id")),
        trace_id=item.trace_id,
        provider=text(first(a, _PROVIDER)),
        request_model=text(first(a, _MODEL)),
        response_model=text(a.get("gen_ai.response.model")),
        operation=text(operation),
        total_tokens_reported=count(first(a, _TOTAL)),
        agent_name=text(a.get("gen_ai.agent.name")),
        agent_instance_id=text(a.get("gen_ai.agent.id")),
        effort=text(a.get("gen_ai.request.reasoning.level")),
        extra=others(a, _REQUEST_KEYS | known),
    )
    model_tokens(
        part,
        total=count(first(a, _INPUT)),
        cache_read=count(first(a, _CACHE_READ)),
        cache_write=count(first(a, _CACHE_WRITE)),
        output=count(first(a, _OUTPUT)),
        reasoning=count(first(a, _REASONING)),
    )
    if isinstance(item, SpanItem):
        part.ended_at = instant(item.end_ns)
        part.duration_ms = item.duration_ms
        part.span_id = item.span_id
        part.parent_span_id = item.parent_span_id
        if item.has_failed:
            part.status = "error"
            part.error_message = text(item.message, MAX_TEXT)
    return part


def _request_key(item: SpanItem | LogItem) -> Key:
    """What names a request: its span together with the id of its response.

    A log record is written inside the span of its request, or inside one around it. With the span
    alone all the requests inside one would be the same, with the id alone those to a server that
    always answers with the same.
    """
    response_id = text(item.attributes.get("gen_ai.response.id"))
    if response_id is not None and item.trace_id is not None and item.span_id is not None:
        return item.trace_id, f"{item.span_id}/{response_id}"
    return item.key if isinstance(item, SpanItem) else log_key(item)


def execute_tool(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    # The client of an MCP server works inside the span of the tool call, where there is one.
    rank = RANK_SPAN
    if "mcp.method.name" in item.attributes:
        rank = RANK_SERVER if item.kind == KIND_SERVER else RANK_INNER
    code = AGENT.code_of(item.source)
    out.tool(session, code, item.key, SPAN, tool_of(item, out), rank=rank, span=item.key)


def request(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    code = AGENT.code_of(item.source)
    out.model(session, code, _request_key(item), SPAN, request_of(item), rank=RANK_SPAN)


def invoke_agent(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    # Its tokens are the sum of its requests': kept with the event, added to nothing.
    keep_span(_plain(item), session, out, AGENT, kind="turn")


def step(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    """A span that is a part of an agent's work, and neither a tool call nor a request."""
    keep_span(_plain(item), session, out, AGENT)


def _plain(item: SpanItem) -> SpanItem:
    return msgspec.structs.replace(item, attributes=_without_lists(item.attributes))


def details(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    code = AGENT.code_of(item.source)
    out.model(session, code, _request_key(item), DETAILS, request_of(item))


def message(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    """What was said to a model or by one; each request says again all that was said before."""
    keep_log(item, session, out, AGENT, kind="message")


def call_status(a: Mapping[str, Value]) -> str | None:
    """The status of the tool calls that are counted or logged, from their attribute `success`."""
    return ended(a.get("success"))


def _tokens(kind: str) -> Metric:
    return Metric(name="token.usage", unit="{token}", fixed_kind=kind, model="gen_ai.request.model")


_MODEL_DURATION = Metric(
    name="model.duration",
    unit="ms",
    factor=1000,
    kind="gen_ai.operation.name",
    # The same histogram measures what is around the requests and between them.
    kinds={
        "invoke_agent": None,
        "create_agent": None,
        "invoke_workflow": None,
        "plan": None,
        "execute_tool": None,
    },
    model="gen_ai.request.model",
)
REQUESTS = ("chat", "generate_content", "text_completion", "embeddings")
"""The operations that ask a model."""
METRICS: dict[str, Metric | None] = {
    "gen_ai.client.token.usage": Metric(
        name="token.usage",
        unit="{token}",
        kind="gen_ai.token.type",
        model="gen_ai.request.model",
    ),
    "gen_ai.client.inference.usage.input_tokens": _tokens("input"),
    "gen_ai.client.inference.usage.output_tokens": _tokens("output"),
    "gen_ai.client.inference.usage.cache_read.input_tokens": _tokens("cache_read"),
    "gen_ai.client.inference.usage.cache_write.input_tokens": _tokens("cache_write"),
    "gen_ai.client.inference.usage.reasoning.output_tokens": _tokens("reasoning"),
    "gen_ai.client.operation.duration": _MODEL_DURATION,
    "gen_ai.client.inference.duration": _MODEL_DURATION,
    "gen_ai.execute_tool.duration": Metric(
        name="tool.duration", unit="ms", factor=1000, tool="gen_ai.tool.name"
    ),
}

AGENT = Agent(
    logs={
        "gen_ai.client.inference.operation.details": details,
        "gen_ai.system.message": message,
        "gen_ai.user.message": message,
        "gen_ai.assistant.message": message,
        "gen_ai.tool.message": message,
        "gen_ai.choice": message,
    },
    spans={
        **dict.fromkeys(REQUESTS, request),
        "execute_tool": execute_tool,
        "invoke_agent": invoke_agent,
        "create_agent": step,
        "invoke_workflow": step,
        "plan": step,
        "CHAIN": step,
        "RETRIEVER": step,
    },
    span_kind=span_kind,
    metrics=METRICS,
    content=CONTENT,
)
