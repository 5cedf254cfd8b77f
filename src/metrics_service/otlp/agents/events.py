"""Keeps what is neither a tool call nor a model call as an event of its session."""

from __future__ import annotations

from hashlib import sha256

import msgspec

from metrics_service.ingest.content import is_content, rest, size
from metrics_service.ingest.parts import LOGS, TRACES
from metrics_service.ingest.telemetry import (
    EventRecord,
    SessionPart,
    Telemetry,
    instant,
)
from metrics_service.otlp.agents.agent import Agent
from metrics_service.otlp.items import Attributes, LogItem, SpanItem
from metrics_service.otlp.values import content, milliseconds, text
from metrics_service.otlp.words import STANDARD

_canonical = msgspec.json.Encoder(order="deterministic").encode


def log_key(item: LogItem) -> str:
    """What names a log record: its id, its client's counter, else its content and time."""
    a = item.attributes
    if isinstance(event_id := a.get("cursor.event.id"), str):
        return event_id
    if "event.sequence" in a:
        return f"{item.name}\0{a['event.sequence']}\0{a.get('event.timestamp') or item.time_ns}"
    time_ns = item.time_ns if item.is_timed else 0
    named = (item.name, time_ns, a, item.body, item.trace_id, item.span_id)
    return sha256(item.source.digest + _canonical(named)).hexdigest()


def keep_log(
    item: LogItem,
    session: SessionPart | None,
    out: Telemetry,
    agent: Agent,
    *,
    kind: str = "log",
    said: tuple[str, ...] = (),
    name: str | None = None,
) -> None:
    """Store a log record as an event; `said` are the attributes that are its content.

    `name` is what both its live record and its line in a transcript call it.
    """
    attributes = rest(item.attributes, STANDARD, agent.content) or {}
    # The body of a record whose name stands elsewhere is text that somebody wrote.
    is_text = item.body is not None and agent.own(str(item.body)) != agent.own(item.name)
    if is_text:
        attributes["body_bytes"] = size(item.body)
    record = EventRecord(
        kind=kind,
        name=agent.own(item.name)[:255],
        occurred_at=instant(item.time_ns),
        duration_ms=milliseconds(item.attributes.get("duration_ms")),
        turn_id=_turn(item.attributes),
        trace_id=item.trace_id,
        span_id=item.span_id,
        severity=item.severity or None,
        signal=LOGS,
        attributes=attributes or None,
    )
    if out.keeps_content:
        record.content = _content(item.attributes, said, agent, item.body if is_text else None)
    out.event(
        session,
        agent.code_of(item.source),
        name or log_key(item),
        record,
        has_common_name=name is not None,
    )


def keep_span(
    item: SpanItem,
    session: SessionPart | None,
    out: Telemetry,
    agent: Agent,
    *,
    kind: str = "span",
) -> None:
    """Store a span as an event."""
    attributes = rest(item.attributes, STANDARD, agent.content) or {}
    if item.has_failed:
        attributes.setdefault("status", "error")
    record = EventRecord(
        kind=kind,
        name=agent.own(item.name)[:255],
        occurred_at=instant(item.start_ns),
        duration_ms=item.duration_ms,
        turn_id=_turn(item.attributes),
        trace_id=item.trace_id,
        span_id=item.span_id,
        parent_span_id=item.parent_span_id,
        signal=TRACES,
        attributes=attributes or None,
    )
    if out.keeps_content:
        record.content = _content(item.attributes, (), agent, None)
    out.event(session, agent.code_of(item.source), item.key, record)


def _turn(attributes: Attributes) -> str | None:
    for name in ("prompt.id", "prompt_id", "turn.id"):
        if (found := text(attributes.get(name))) is not None:
            return found
    return None


def _content(
    attributes: Attributes, said: tuple[str, ...], agent: Agent, body: object
) -> str | None:
    for name in said:
        if (found := content(attributes.get(name))) is not None:
            return found
    if said:
        return None
    if body is not None:
        return content(body)  # type: ignore[arg-type]  # a value of an attribute
    found_all = {
        name: value
        for name, value in attributes.items()
        if (name in agent.content or is_content(name)) and content(value) is not None
    }
    return content(found_all) if found_all else None
