"""What people have deleted does not come back when a request is mapped again.

The ids of deleted sessions are not kept. But a kept request has the ids of what it told of: what is in
no table any more was deleted.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

import msgspec

from metrics_service.db.tenancy import ContextConnection
from metrics_service.ingest.parts import ModelPart, ToolPart
from metrics_service.ingest.rows import as_uuids
from metrics_service.ingest.telemetry import Call, Event, SessionPart, Telemetry

GONE = """
WITH told AS MATERIALIZED (
    SELECT DISTINCT t.id FROM raw_requests r, unnest(r.row_ids) AS t(id)
)
SELECT t.id FROM told t
WHERE NOT EXISTS (SELECT 1 FROM metrics_sessions x WHERE x.id = t.id)
  AND NOT EXISTS (SELECT 1 FROM tool_metrics x WHERE x.id = t.id)
  AND NOT EXISTS (SELECT 1 FROM model_calls x WHERE x.id = t.id)
  AND NOT EXISTS (SELECT 1 FROM session_events x WHERE x.id = t.id)
"""
SESSIONS = "SELECT id, created_at FROM metrics_sessions WHERE id = ANY ($1::text::uuid[])"
TRACES = """
SELECT trace_id, session_id FROM trace_sessions
WHERE trace_id = ANY ($1::text[]) AND session_id IS NOT NULL
"""
SPANS = """
SELECT id FROM tool_spans WHERE id = ANY ($1::text::uuid[]) AND tool_metric_id IS NOT NULL
"""

# From a request's arrival to its commit, with patience.
LATE = timedelta(minutes=1)

Row = TypeVar("Row", Call[ToolPart], Call[ModelPart], Event)


class Arrived(msgspec.Struct, frozen=True):
    """What is known of a request besides what it says."""

    at: datetime
    told: set[int]
    """The ids of what it told of before."""


async def find_gone(connection: ContextConnection) -> set[int]:
    """The ids that kept requests told of and that are nowhere now."""
    return {row["id"].int for row in await connection.fetch(GONE)}


async def leave_out(
    connection: ContextConnection, out: Telemetry, gone: set[int], arrived: Arrived
) -> int:
    """Take out of a request what was deleted; return how many calls, events and points that were."""
    homes = await _homes(connection, out)
    made = await _made_at(connection, homes.values())
    lost = {own for own, home in homes.items() if home.int in gone and home not in made}
    before, sessions = _items(out), _mentioned(out)
    out.tools = _kept(out.tools, lost, gone)
    out.models = _kept(out.models, lost, gone)
    out.events = _kept(out.events, lost, gone)
    # Points have no ids: a session that was made later than they arrived is another by the same name.
    others = {
        session_id
        for session_id, made_at in made.items()
        if session_id.int in arrived.told and made_at > arrived.at + LATE
    }
    out.points = [one for one in out.points if not _is_lost(one.session, lost | others)]
    if _items(out) == before and not lost:
        return 0
    left = _mentioned(out)
    out.sessions = {
        name: one
        for name, one in out.sessions.items()
        if one.id not in lost and (one.id in left or one.id not in sessions)
    }
    there = {one.id for one in out.sessions.values()}
    out.traces = {trace: one for trace, one in out.traces.items() if one.id in there}
    out.spans = {span: row_id for span, row_id in out.spans.items() if row_id in out.tools}
    if out.inside:
        # What is inside a call that was deleted would wait for it, with what it says.
        found = await connection.fetch(SPANS, as_uuids(out.inside))
        known = out.spans.keys() | {row["id"].int for row in found}
        out.inside = {span: parts for span, parts in out.inside.items() if span in known}
    return before - _items(out)


async def _homes(connection: ContextConnection, out: Telemetry) -> dict[UUID, UUID]:
    """The sessions of a request, each with the one that its trace belongs to if it names none."""
    parts = list(out.sessions.values())
    traces = [part.trace_id for part in parts if part.trace_id is not None]
    owners: dict[str, UUID] = {}
    if traces:
        owners = {
            row["trace_id"]: row["session_id"] for row in await connection.fetch(TRACES, traces)
        }
    owners |= {trace: one.id for trace, one in out.traces.items() if one.trace_id is None}
    return {part.id: owners.get(part.trace_id or "", part.id) for part in parts}


async def _made_at(connection: ContextConnection, ids: Iterable[UUID]) -> dict[UUID, datetime]:
    """When those of the sessions were made that are there."""
    rows = await connection.fetch(SESSIONS, as_uuids({one.int for one in ids}))
    return {row["id"]: row["created_at"] for row in rows}


def _mentioned(out: Telemetry) -> set[UUID]:
    """The sessions that have something in the request."""
    sessions = [
        *(one.session for one in out.tools.values()),
        *(one.session for one in out.models.values()),
        *(one.session for one in out.events.values()),
        *(one.session for one in out.points),
    ]
    return {session.id for session in sessions if session is not None}


def _kept(rows: dict[int, Row], lost: set[UUID], gone: set[int]) -> dict[int, Row]:
    return {
        row_id: row
        for row_id, row in rows.items()
        if row_id not in gone and not _is_lost(row.session, lost)
    }


def _is_lost(session: SessionPart | None, lost: set[UUID]) -> bool:
    return session is not None and session.id in lost


def _items(out: Telemetry) -> int:
    return len(out.tools) + len(out.models) + len(out.events) + len(out.points)
