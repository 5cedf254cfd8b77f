"""All reading SQL of session events. No `tenant_id` in sight: row security filters by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from asyncpg import Record

from metrics_service.db.listing import as_raw, keyset
from metrics_service.db.pages import Position
from metrics_service.db.statements import Where
from metrics_service.db.tenancy import ContextConnection
from metrics_service.session_events.schemas import SessionEventQuery, SessionEventView

COLUMNS = """
    e.id, e.session_id, e.agent, e.user_id, e.kind, e.name, e.occurred_at, e.signal,
    e.received_at, e.duration_ms, e.turn_id, e.trace_id, e.span_id, e.parent_span_id, e.severity,
    e.content, e.attributes::text AS attributes
"""


def _where(query: SessionEventQuery, session_id: UUID) -> Where:
    where = Where()
    where.add("e.session_id = ?", session_id)
    if query.kind is not None:
        where.add("e.kind = ?", query.kind)
    if query.name is not None:
        where.add("e.name = ?", query.name)
    return where


async def fetch_session_events(
    connection: ContextConnection,
    query: SessionEventQuery,
    *,
    session_id: UUID,
    after: Position | None,
    limit: int,
    offset: int,
) -> Sequence[Record]:
    """A page, in order unless the query sorts otherwise; `id` breaks ties."""
    where = _where(query, session_id)
    order = keyset(where, "e", query.sort, after)
    rows: Sequence[Record] = await connection.fetch(
        f"""
        SELECT {COLUMNS} FROM session_events e {where} {order}
        LIMIT {where.bind(limit)} OFFSET {where.bind(offset)}
        """,
        *where.values,
    )
    return rows


async def count_session_events(
    connection: ContextConnection, query: SessionEventQuery, *, session_id: UUID
) -> int:
    where = _where(query, session_id)
    return int(
        await connection.fetchval(f"SELECT count(*) FROM session_events e {where}", *where.values)
    )


def session_event_view(row: Record) -> SessionEventView:
    columns: list[Any] = list(row)
    columns[-1] = as_raw(columns[-1])
    return SessionEventView(*columns)
