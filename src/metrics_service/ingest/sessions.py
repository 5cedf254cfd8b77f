"""Sessions as the write path sees them: stated by a client, or extended by what happened in them.

Every statement takes its rows in the order of their ids, and every transaction takes users, then
facts, then sessions: so no two of them wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import msgspec

from metrics_service.db.tenancy import ContextConnection
from metrics_service.errors import NotFoundError
from metrics_service.ingest.records import SessionRecord, session_id_of


class Extent(msgspec.Struct, omit_defaults=True):
    """What a batch adds to one session."""

    id: UUID
    agent: str
    external_id: str
    started_at: datetime
    last_event_at: datetime
    user_id: UUID | None = None
    tool_call_count: int = 0
    tool_error_count: int = 0
    model_call_count: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd_micros: int = 0


EXTEND = """
WITH extent AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1::json) AS r(
        id uuid, agent text, external_id text, started_at timestamptz, last_event_at timestamptz,
        user_id uuid, tool_call_count bigint, tool_error_count bigint, model_call_count bigint,
        input_tokens bigint, output_tokens bigint, cost_usd_micros bigint)
)
INSERT INTO metrics_sessions AS s
    (id, agent, external_id, started_at, last_event_at, user_id, tool_call_count,
     tool_error_count, model_call_count, input_tokens, output_tokens, cost_usd_micros)
SELECT id, agent, external_id, started_at, last_event_at, user_id,
       coalesce(tool_call_count, 0), coalesce(tool_error_count, 0), coalesce(model_call_count, 0),
       coalesce(input_tokens, 0), coalesce(output_tokens, 0), coalesce(cost_usd_micros, 0)
FROM extent ORDER BY id
ON CONFLICT (tenant_id, id) DO UPDATE SET
    started_at = least(s.started_at, excluded.started_at),
    last_event_at = greatest(s.last_event_at, excluded.last_event_at),
    user_id = coalesce(s.user_id, excluded.user_id),
    tool_call_count = s.tool_call_count + excluded.tool_call_count,
    tool_error_count = s.tool_error_count + excluded.tool_error_count,
    model_call_count = s.model_call_count + excluded.model_call_count,
    input_tokens = s.input_tokens + excluded.input_tokens,
    output_tokens = s.output_tokens + excluded.output_tokens,
    cost_usd_micros = s.cost_usd_micros + excluded.cost_usd_micros,
    updated_at = now()
"""

STATE = """
WITH stated AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1::json) AS r(
        id uuid, agent text, external_id text, session_type text, started_at timestamptz,
        ended_at timestamptz, user_id uuid, repository text, branch text, team text,
        productivity_score double precision, metadata jsonb)
)
INSERT INTO metrics_sessions AS s
    (id, agent, external_id, session_type, started_at, ended_at, last_event_at, user_id,
     repository, branch, team, productivity_score, metadata)
SELECT id, agent, external_id, session_type, started_at, ended_at, coalesce(ended_at, started_at),
       user_id, repository, branch, team, productivity_score, coalesce(metadata, '{}')
FROM stated ORDER BY id
ON CONFLICT (tenant_id, id) DO UPDATE SET
    session_type = coalesce(excluded.session_type, s.session_type),
    started_at = excluded.started_at,
    ended_at = CASE WHEN coalesce(excluded.ended_at, s.ended_at) < excluded.started_at
                    THEN excluded.started_at ELSE coalesce(excluded.ended_at, s.ended_at) END,
    last_event_at = greatest(s.last_event_at, excluded.last_event_at),
    user_id = coalesce(excluded.user_id, s.user_id),
    repository = coalesce(excluded.repository, s.repository),
    branch = coalesce(excluded.branch, s.branch),
    team = coalesce(excluded.team, s.team),
    productivity_score = coalesce(excluded.productivity_score, s.productivity_score),
    -- Of what was stated: the row proposed for insertion has no null left to tell.
    metadata = coalesce((SELECT t.metadata FROM stated t WHERE t.id = s.id), s.metadata),
    updated_at = now()
RETURNING id, xmax = 0 AS is_new
"""

DROP_TAGS = """
WITH stated AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1::json) AS r(session_id uuid, tag text)
)
DELETE FROM session_tags WHERE session_id IN (SELECT session_id FROM stated)
    AND (session_id, tag) NOT IN (SELECT session_id, tag FROM stated WHERE tag IS NOT NULL)
"""

ADD_TAGS = """
WITH stated AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1::json) AS r(session_id uuid, tag text)
)
INSERT INTO session_tags (session_id, tag)
SELECT session_id, tag FROM stated WHERE tag IS NOT NULL ORDER BY session_id, tag
ON CONFLICT (tenant_id, session_id, tag) DO NOTHING
"""

NAMED = """
SELECT id, agent, external_id FROM metrics_sessions
WHERE id IN (SELECT value::uuid FROM json_array_elements_text($1::json))
"""


class SessionName(msgspec.Struct, frozen=True):
    """How a client names a session."""

    agent: str
    external_id: str


async def find_named(
    connection: ContextConnection, session_ids: Iterable[UUID]
) -> dict[UUID, SessionName]:
    """The sessions among these ids that the tenant has."""
    ids = list(session_ids)
    if not ids:
        return {}
    rows = await connection.fetch(NAMED, _json(ids))
    return {row["id"]: SessionName(row["agent"], row["external_id"]) for row in rows}


async def require_session(connection: ContextConnection, session_id: UUID) -> None:
    """Raises `NotFoundError` unless the tenant has the session."""
    if not await find_named(connection, [session_id]):
        raise NotFoundError("session", session_id)


async def extend_sessions(connection: ContextConnection, extents: Iterable[Extent]) -> None:
    """Create or extend sessions by what a batch really inserted."""
    rows = list(extents)
    if rows:
        await connection.execute(EXTEND, _json(rows))


class _StatedRow(SessionRecord):
    id: UUID | None = None


async def state_sessions(
    connection: ContextConnection,
    tenant_id: UUID,
    records: list[SessionRecord],
    users: dict[str, UUID],
) -> dict[UUID, bool]:
    """Create or update sessions as their clients describe them; say for each id if it is new.

    `users` maps emails to ids. The last of several records of one session wins.
    """
    rows = {}
    for record in records:
        row_id = session_id_of(tenant_id, record.agent, record.external_id)
        user_id = users[record.user_email] if record.user_email is not None else record.user_id
        rows[row_id] = _StatedRow(
            **{
                **msgspec.structs.asdict(record),
                "user_id": user_id,
                "user_email": None,
                "id": row_id,
            }
        )
    found = await connection.fetch(STATE, _json(list(rows.values())))
    await _state_tags(connection, rows)
    return {row["id"]: row["is_new"] for row in found}


async def _state_tags(connection: ContextConnection, rows: dict[UUID, _StatedRow]) -> None:
    tags = [
        {"session_id": row_id, "tag": tag}
        for row_id, row in rows.items()
        if row.tags is not None
        # A row without a tag says that the session's tags are known, and are none.
        for tag in (*row.tags, None)
    ]
    if tags:
        await connection.execute(DROP_TAGS, _json(tags))
        await connection.execute(ADD_TAGS, _json(tags))


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
