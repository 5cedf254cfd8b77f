"""What opencode and its plugin have in common: tools, refusals, and what spans say of errors."""

from __future__ import annotations

import re

from metrics_service.ingest.content import rest
from metrics_service.ingest.parts import (
    ToolPart,
)
from metrics_service.ingest.telemetry import instant
from metrics_service.otlp.items import SpanItem, Value
from metrics_service.otlp.values import (
    MAX_TEXT,
    text,
)

CODE = "opencode"

_KINDS = {"task": "subagent", "skill": "skill"}
CONTENT = frozenset(
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
)

# What a refused call's error begins with; opencode says it in no other way.
_by_user = re.compile(r"(?:[\w.]+: )?The user rejected permission ").match
_by_rule = re.compile(r"(?:[\w.]+: )?The user has specified a rule which prevents ").match


def tool_of(item: SpanItem, name: Value, call_id: str | None, known: frozenset[str]) -> ToolPart:
    """What a span says about a tool call; `known` are attributes that have a place."""
    part = ToolPart(
        tool_name=text(name),
        started_at=instant(item.start_ns),
        ended_at=instant(item.end_ns),
        duration_ms=item.duration_ms,
        status="error" if item.has_failed else "success",
        error_type=error_type(item),
        error_message=error_message(item),
        external_call_id=call_id,
        trace_id=item.trace_id,
        span_id=item.span_id,
        parent_span_id=item.parent_span_id,
        tool_kind=tool_kind(name),
        extra=rest(item.attributes, known, CONTENT),
    )
    refuse(part, part.error_message)
    return part


def tool_kind(name: Value) -> str | None:
    # Whose the others are is not said: MCP servers' and plugins' tools have names of their own making.
    return _KINDS.get(name) if isinstance(name, str) else None


def refuse(part: ToolPart, error: Value) -> None:
    """Call an error what it was where somebody refused the call."""
    if not isinstance(error, str):
        return
    if _by_user(error):
        part.status, part.decision, part.decision_mode = "rejected", "reject", "user_once"
    elif _by_rule(error):
        part.status, part.decision, part.decision_mode = "rejected", "reject", "auto"


def error_type(item: SpanItem) -> str | None:
    if not item.has_failed:
        return None
    return text(item.attributes.get("error.type")) or _of_exception(item, "exception.type", 255)


def error_message(item: SpanItem) -> str | None:
    if not item.has_failed:
        return None
    return text(item.message, MAX_TEXT) or _of_exception(item, "exception.message", MAX_TEXT)


def _of_exception(item: SpanItem, name: str, limit: int) -> str | None:
    found = (text(event.attributes.get(name), limit) for event in item.events)
    return next((word for word in found if word is not None), None)
