"""Storing events and counter deltas: each once, by an id that follows from what it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from uuid import UUID

from metrics_service.db.tenancy import ContextConnection
from metrics_service.ingest.calls import Place
from metrics_service.ingest.parts import IMPORT
from metrics_service.ingest.rows import array, batched_ids, encode
from metrics_service.ingest.session_state import Figures, Tally, add, figures_of_point
from metrics_service.ingest.telemetry import Event, Point, SessionPart, instant
from metrics_service.ingest.temporality import Delta
from metrics_service.observability import catalog

EVENTS = """
WITH item AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1::json) AS r(
        id uuid, session_id uuid, agent text, user_id uuid, kind text, name text,
        occurred_at timestamptz, duration_ms double precision, turn_id text, trace_id text,
        span_id text, parent_span_id text, severity integer, signal text, attributes jsonb,
        content text)
)
INSERT INTO session_events AS t
    (id, session_id, agent, user_id, kind, name, occurred_at, duration_ms, turn_id, trace_id,
     span_id, parent_span_id, severity, signal, attributes, content)
SELECT id, session_id, agent, user_id, kind, name, occurred_at, duration_ms, turn_id, trace_id,
       span_id, parent_span_id, severity, coalesce(signal, 'logs'), attributes, content
FROM item
ON CONFLICT (tenant_id, id) DO UPDATE SET
    name = excluded.name, occurred_at = excluded.occurred_at, duration_ms = excluded.duration_ms,
    turn_id = excluded.turn_id, trace_id = excluded.trace_id, span_id = excluded.span_id,
    parent_span_id = excluded.parent_span_id, severity = excluded.severity,
    signal = excluded.signal, attributes = excluded.attributes, content = excluded.content
-- What was said live is better than what was brought in.
WHERE t.signal = 'import' AND excluded.signal <> 'import'
RETURNING t.id, xmax <> 0 AS is_replaced
"""

DELTAS = """
WITH item AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1::json) AS r(
        id uuid, session_id uuid, agent text, user_id uuid, metric text, kind text, unit text,
        instrument text, is_delta boolean, window_start timestamptz, window_end timestamptz,
        value double precision, count bigint, bounds double precision[], buckets bigint[],
        model text, tool_name text, language text, status text, attributes jsonb)
)
INSERT INTO counter_deltas
    (id, session_id, agent, user_id, metric, kind, unit, instrument, is_delta, window_start,
     window_end, value, count, bounds, buckets, model, tool_name, language, status, attributes)
SELECT id, session_id, agent, user_id, metric, kind, unit, instrument, is_delta, window_start,
       window_end, value, count, bounds, buckets, model, tool_name, language, status, attributes
FROM item
ON CONFLICT (tenant_id, id) DO NOTHING RETURNING id
"""


async def store_events(
    connection: ContextConnection,
    events: Mapping[int, Event],
    places: Mapping[UUID, Place],
) -> dict[UUID, Tally]:
    """Store the events; return what new ones add to the counts of their sessions."""
    tallies: dict[UUID, Tally] = {}
    for row_ids in batched_ids(events):
        rows = []
        for row_id in row_ids:
            event = events[row_id]
            head = _head(event.session, event.agent, places)
            rows.append(b'%b,"id":"%032x",%b' % (head, row_id, encode(event.record)[1:]))
        stored = await connection.fetch(EVENTS, array(rows))
        replaced = sum(found["is_replaced"] for found in stored)
        catalog.note_rows(
            "session_events",
            inserted=len(stored) - replaced,
            changed=replaced,
            unchanged=len(rows) - len(stored),
        )
        for found in stored:
            event = events[found["id"].int]
            if event.counts is not None and event.session is not None:
                tally = tallies.setdefault(event.session.id, Tally())
                if found["is_replaced"]:
                    tally.count(event.counts, IMPORT, sign=-1)
                tally.count(
                    event.counts, event.record.signal, has_common_name=event.has_common_name
                )
    return tallies


async def store_deltas(
    connection: ContextConnection,
    deltas: Iterable[Delta],
    places: Mapping[UUID, Place],
) -> dict[UUID, Figures]:
    """Store the deltas; return what new ones add to the meters of their sessions."""
    by_id = {delta.id: delta for delta in deltas}
    meters: dict[UUID, Figures] = {}
    for row_ids in batched_ids(by_id):
        rows = []
        for row_id in row_ids:
            delta = by_id[row_id]
            head = _head(delta.point.session, delta.point.agent, places)
            rows.append(b'%b,"id":"%032x",%b' % (head, row_id, _encoded(delta)[1:]))
        stored = await connection.fetch(DELTAS, array(rows))
        catalog.note_rows("counter_deltas", inserted=len(stored), unchanged=len(rows) - len(stored))
        for found in stored:
            delta = by_id[found["id"].int]
            session = delta.point.session
            if session is not None and delta.is_delta and delta.value is not None:
                figures = figures_of_point(delta.point, delta.value)
                add(meters.setdefault(session.id, {}), figures)
    return meters


def _head(session: SessionPart | None, agent: str, places: Mapping[UUID, Place]) -> bytes:
    return places[session.id].head if session is not None else b'{"agent":%b' % encode(agent)


def _encoded(delta: Delta) -> bytes:
    point: Point = delta.point
    return encode(
        {
            "metric": point.metric,
            "kind": point.kind,
            "unit": point.unit,
            "instrument": point.instrument,
            "is_delta": delta.is_delta,
            "window_start": instant(delta.start_ns) if delta.start_ns else None,
            "window_end": instant(point.time_ns),
            "value": delta.value,
            "count": delta.count,
            "bounds": point.bounds,
            "buckets": delta.buckets,
            "model": point.model,
            "tool_name": point.tool_name,
            "language": point.language,
            "status": point.status,
            "attributes": point.attributes,
        }
    )
