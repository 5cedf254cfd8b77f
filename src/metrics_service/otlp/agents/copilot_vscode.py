"""GitHub Copilot in VS Code: spans that say most, logs and metrics that say it again.

Sources: VS Code documentation, "Monitor agent usage with OpenTelemetry"; the extension's own source,
microsoft/vscode-copilot-chat `src/platform/otel/`, state 2026.
"""

from __future__ import annotations

from metrics_service.ingest.parts import DETAILS, RANK_SPAN, RESULT, SPAN, ToolPart
from metrics_service.ingest.telemetry import Key, SessionPart, Telemetry, instant
from metrics_service.otlp.agents import genai
from metrics_service.otlp.agents.agent import Agent, Metric
from metrics_service.otlp.agents.events import keep_log, keep_span, log_key
from metrics_service.otlp.items import Attributes, LogItem, SpanItem
from metrics_service.otlp.values import flag, milliseconds, text
from metrics_service.otlp.words import STANDARD

CODE = "copilot-vscode"

# The older namespace has the same values.
_NAMESPACES = ("github.copilot.", "copilot_chat.")
_PARAMETERS = "github.copilot.tool.parameters."
_TTFT = tuple(f"{namespace}time_to_first_token" for namespace in _NAMESPACES)
_CANCELED = tuple(f"{namespace}canceled" for namespace in _NAMESPACES)
_TOOL_CALL_KEYS = STANDARD | {
    "gen_ai.tool.name", "gen_ai.tool.type", "duration_ms", "success", "error.type",
}  # fmt: skip
_TOOL_SPAN_KEYS = frozenset(
    _PARAMETERS + name for name in ("skill_name", "mcp_server_name_hash", "mcp_tool_name")
)
_CONTENT = genai.CONTENT | {
    f"{namespace}{name}"
    for namespace in _NAMESPACES
    for name in (
        "reasoning_content",
        "user_request",
        "prompt_context",
        "prompt_instructions",
        "markdown_content",
    )
}


def _request_key(item: SpanItem | LogItem) -> Key:
    """The id of a response is the extension's own, and each has one; a log record is not in its span."""
    response_id = text(item.attributes.get("gen_ai.response.id"))
    if response_id is not None and item.trace_id is not None:
        return item.trace_id, response_id
    return item.key if isinstance(item, SpanItem) else log_key(item)


def _was_canceled(a: Attributes) -> bool:
    return flag(genai.first(a, _CANCELED)) is True


def chat_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    part = genai.request_of(item, frozenset(_TTFT + _CANCELED) | _CONTENT)
    first_token_ms = milliseconds(genai.first(a, _TTFT))
    part.ttft_ms = part.ttft_ms if first_token_ms is None else first_token_ms
    if _was_canceled(a):
        part.status = "cancelled"
    out.model(session, CODE, _request_key(item), SPAN, part, rank=RANK_SPAN)


def tool_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    part = genai.tool_of(item, out, _TOOL_SPAN_KEYS)
    part.skill_name = text(a.get(f"{_PARAMETERS}skill_name"))
    part.mcp_server = text(a.get(f"{_PARAMETERS}mcp_server_name_hash"))
    part.mcp_tool = text(a.get(f"{_PARAMETERS}mcp_tool_name"))
    if part.mcp_tool is not None or part.mcp_server is not None:
        part.tool_kind = "mcp"
    elif part.skill_name is not None:
        part.tool_kind = "skill"
    out.tool(session, CODE, item.key, SPAN, part, rank=RANK_SPAN, span=item.key)


def agent_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    # Its tokens are the sum of its requests': kept with the event, added to nothing.
    keep_span(item, session, out, AGENT, kind="turn")


def tool_call(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    if session is None:
        _leave_to_the_span(item, out)
        return
    a = item.attributes
    duration_ms = milliseconds(a.get("duration_ms"))
    part = ToolPart(
        tool_name=text(a.get("gen_ai.tool.name")),
        started_at=instant(item.time_ns - int((duration_ms or 0) * 1e6)),
        ended_at=instant(item.time_ns),
        duration_ms=duration_ms,
        status=genai.call_status(a),
        error_type=text(a.get("error.type")),
        trace_id=item.trace_id,
        # The record is written when the span of the call has ended, in the one around it.
        parent_span_id=item.span_id,
        tool_kind=genai.tool_kind(a),
        extra=genai.others(a, _TOOL_CALL_KEYS, _CONTENT),
    )
    out.tool(session, CODE, log_key(item), RESULT, part)


def details(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    if session is None:
        _leave_to_the_span(item, out)
        return
    part = genai.request_of(item)
    out.model(session, CODE, _request_key(item), DETAILS, part)


def _leave_to_the_span(item: LogItem, out: Telemetry) -> None:
    """Keep a record outside every trace: nothing ties it to the span that tells of the same call."""
    keep_log(item, None, out, AGENT)


def agent_turn(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    # One round of the agent's loop, with tokens that its request has already.
    keep_log(item, session, out, AGENT)


def session_start(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    keep_log(item, session, out, AGENT, kind="session")


def edit_outcome(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    """What became of generated code afterwards; it is no decision on a tool call."""
    keep_log(item, session, out, AGENT, kind="edit_outcome")


AGENT = Agent(
    code=CODE,
    scopes=frozenset({"copilot-chat"}),
    prefixes=("copilot_chat.",),
    services=frozenset({"copilot-chat"}),
    logs={
        "tool.call": tool_call,
        "gen_ai.client.inference.operation.details": details,
        "agent.turn": agent_turn,
        "session.start": session_start,
        "edit.feedback": edit_outcome,
        "edit.hunk.action": edit_outcome,
        "edit.survival": edit_outcome,
        "inline.done": edit_outcome,
    },
    spans={
        **dict.fromkeys(genai.REQUESTS, chat_span),
        "execute_tool": tool_span,
        "invoke_agent": agent_span,
    },
    span_kind=genai.span_kind,
    metrics=genai.METRICS
    | {
        # The extension sends no units; the conventions' metrics have theirs by name.
        "session.count": Metric(name="session.count", unit="{session}"),
        "pull_request.count": Metric(name="pull_request.count", unit="{pull_request}"),
        "lines_of_code.count": Metric(
            name="code.lines", unit="{line}", kind="type", language="copilot_chat.language_id"
        ),
        "tool.call.count": Metric(
            name="tool.calls", unit="{call}", tool="gen_ai.tool.name", status=genai.call_status
        ),
        "tool.call.duration": Metric(name="tool.duration", unit="ms", tool="gen_ai.tool.name"),
        "edit.acceptance.count": Metric(
            name="edit.outcome",
            unit="{edit}",
            kind="copilot_chat.edit.outcome",
            language="copilot_chat.language_id",
        ),
        "agent.invocation.duration": Metric(
            name="copilot_chat.agent.invocation.duration", unit="s"
        ),
        "time_to_first_token": Metric(
            name="copilot_chat.time_to_first_token", unit="s", model="gen_ai.request.model"
        ),
    },
    content=_CONTENT,
    # Of the resource: the editor's window.
    has_resource_session=False,
)
