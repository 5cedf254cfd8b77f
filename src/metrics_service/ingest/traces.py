"""Traces whose session becomes known only later.

Spans end before the span around them does, and often only that one names the session. Until then they
belong to a session of their trace; the one that is named adopts them.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from metrics_service.db.tenancy import ContextConnection
from metrics_service.ingest.records import session_id_of
from metrics_service.ingest.rows import as_json
from metrics_service.ingest.telemetry import SessionPart, Telemetry

NAME = """
WITH given AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1::json) AS r(
        trace_id text, session_id uuid, agent text, external_id text, waiting text[])
)
INSERT INTO trace_sessions AS t (trace_id, session_id, agent, external_id, waiting)
SELECT trace_id, session_id, agent, external_id, waiting FROM given ORDER BY trace_id
ON CONFLICT (tenant_id, trace_id) DO UPDATE SET
    agent = CASE WHEN t.session_id IS NULL THEN excluded.agent ELSE t.agent END,
    external_id = CASE WHEN t.session_id IS NULL THEN excluded.external_id ELSE t.external_id END,
    session_id = coalesce(t.session_id, excluded.session_id),
    waiting = CASE WHEN t.waiting @> excluded.waiting OR cardinality(t.waiting) > 8 THEN t.waiting
                   ELSE t.waiting || excluded.waiting END,
    seen_at = now()
RETURNING trace_id, session_id, agent, external_id, waiting, xmax = 0 AS is_new
"""

ORPHANS = """
SELECT id FROM metrics_sessions
WHERE id IN (SELECT value::uuid FROM json_array_elements_text($1::json))
"""


class Adoption(msgspec.Struct):
    """The session of a trace, and the session that it turned out to be part of."""

    old_id: UUID
    new_id: UUID
    agent: str
    """The agent of the session that adopts."""


async def find_traces(connection: ContextConnection, out: Telemetry) -> list[Adoption]:
    """Give what named no session the session of its trace; return what is to be adopted.

    Traces are locked, in order, until the transaction ends.
    """
    nameless: dict[str, list[SessionPart]] = {}
    for part in out.sessions.values():
        if part.trace_id is not None:
            nameless.setdefault(part.trace_id, []).append(part)
    given = [
        {
            "trace_id": trace_id,
            "waiting": sorted(part.agent for part in nameless.get(trace_id, ())),
            **_named(out.traces.get(trace_id)),
        }
        for trace_id in out.traces.keys() | nameless.keys()
    ]
    if not given:
        return []
    maybe: dict[UUID, tuple[UUID, str]] = {}
    for row in await connection.fetch(NAME, as_json(given)):
        if row["session_id"] is None:
            continue
        trace_id = row["trace_id"]
        for part in nameless.get(trace_id, ()):
            _merge(out, part, row["agent"], row["external_id"], row["session_id"])
        for agent in () if row["is_new"] else row["waiting"]:
            old_id = session_id_of(out.tenant_id, agent, f"trace:{trace_id}")
            if old_id != row["session_id"]:
                maybe[old_id] = (row["session_id"], row["agent"])
    if not maybe:
        return []
    there = await connection.fetch(ORPHANS, as_json([str(old_id) for old_id in maybe]))
    return [Adoption(row["id"], *maybe[row["id"]]) for row in there]


def _named(session: SessionPart | None) -> dict[str, object]:
    if session is None or session.trace_id is not None:
        return {}
    return {"session_id": session.id, "agent": session.agent, "external_id": session.external_id}


def _merge(
    out: Telemetry, nameless: SessionPart, agent: str, external_id: str, session_id: UUID
) -> None:
    """Make the trace's session the one that was named, in place: calls hold on to it."""
    del out.sessions[nameless.agent, nameless.external_id]
    real = out.sessions.get((agent, external_id))
    nameless.id, nameless.agent, nameless.external_id = session_id, agent, external_id
    nameless.trace_id = None
    if real is None:
        out.sessions[agent, external_id] = nameless
        return
    real.first_ns = min(real.first_ns, nameless.first_ns)
    real.last_ns = max(real.last_ns, nameless.last_ns)
    real.signals |= nameless.signals
    for column, (time_ns, value) in nameless.said.items():
        real.say(column, value, time_ns)
