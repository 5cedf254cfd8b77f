"""Spans inside the span of a tool call: its run and the wait for permission, in several clients."""

from __future__ import annotations

from metrics_service.ingest.parts import UNDONE, WAIT, ToolPart
from metrics_service.ingest.telemetry import SessionPart, Telemetry, instant
from metrics_service.otlp.items import SpanItem
from metrics_service.otlp.values import milliseconds, text
from metrics_service.otlp.words import decided


def add_inside(
    item: SpanItem,
    session: SessionPart | None,
    out: Telemetry,
    code: str,
    name: str,
    part: ToolPart,
) -> None:
    """Add a part to its call: by the call's id, else by the span around this one."""
    if part.external_call_id is not None:
        out.tool(session, code, part.external_call_id, name, part)
    elif item.parent_span_id is not None:
        out.inside_tool(code, (item.trace_id, item.parent_span_id), name, part)


def add_wait(
    item: SpanItem,
    session: SessionPart | None,
    out: Telemetry,
    code: str,
    *,
    tool_name: str | None,
    call_id: str | None,
) -> None:
    """Add how long a human was waited for, and what they decided."""
    a = item.attributes
    decision, mode = decided(a.get("decision"), a.get("source"))
    wait_ms = milliseconds(a.get("duration_ms"))
    part = ToolPart(
        tool_name=tool_name,
        started_at=instant(item.start_ns),
        wait_ms=item.duration_ms if wait_ms is None else wait_ms,
        status=UNDONE.get(decision or ""),
        decision=decision,
        decision_mode=mode,
        decision_raw=text(a.get("decision")),
        decision_source_raw=text(a.get("source")),
        external_call_id=call_id,
    )
    add_inside(item, session, out, code, WAIT, part)
