"""Sessions as the write path sees them: stated by a client, or extended by what happened in them.

Every statement takes its rows in the order of their ids, and every transaction takes users, then
facts, then sessions, then rollups: so no two of them wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import msgspec

from metrics_service.db.tenancy import ContextConnection
from metrics_service.errors import NotFoundError
from metrics_service.ingest.records import SessionRecord, session_id_of
from metrics_service.rollups.ledger import Ledger
from metrics_service.rollups.sources import SESSIONS
from metrics_service.rollups.statements import contributions


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
    tool_reject_count: int = 0
    model_call_count: int = 0
    model_error_count: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd_micros: int = 0


def hold(*columns: str) -> str:
    """The SQL that locks sessions, making those that are not there; a row each, as it is now.

    In the order of their ids, and nothing but their existence is decided. Besides the columns, which
    may have a cast, `is_new` and `rows`, which is what the session adds to rollups.
    """
    names = (*SESSIONS.needs, *(column.partition("::")[0] for column in columns))
    returned = ", ".join(f"s.{name}" for name in dict.fromkeys(names))
    shown = ", ".join(f"h.{name}" for name in columns)
    return f"""
    WITH given AS MATERIALIZED (
        SELECT * FROM json_to_recordset($1::json) AS r(
            id uuid, agent text, external_id text, started_at timestamptz,
            last_event_at timestamptz)
    ), held AS (
        INSERT INTO metrics_sessions AS s (id, agent, external_id, started_at, last_event_at)
        SELECT id, agent, external_id, started_at, coalesce(last_event_at, started_at)
        FROM given ORDER BY id
        ON CONFLICT (tenant_id, id) DO UPDATE SET agent = s.agent
        RETURNING {returned}, s.xmax = 0 AS is_new
    )
    SELECT {shown}, h.is_new, c.rows
    FROM held h JOIN ({contributions(SESSIONS, "held")}) c ON c.id = h.id
    """


HOLD = hold("id", "team", "repository")

EXTEND = f"""
WITH changed AS (
UPDATE metrics_sessions s SET
    started_at = least(s.started_at, e.started_at),
    last_event_at = greatest(s.last_event_at, e.last_event_at),
    user_id = coalesce(s.user_id, e.user_id),
    user_source = CASE WHEN s.user_id IS NULL AND e.user_id IS NOT NULL
                       THEN 'stated' ELSE s.user_source END,
    tool_call_count = s.tool_call_count + coalesce(e.tool_call_count, 0),
    tool_error_count = s.tool_error_count + coalesce(e.tool_error_count, 0),
    tool_reject_count = s.tool_reject_count + coalesce(e.tool_reject_count, 0),
    model_call_count = s.model_call_count + coalesce(e.model_call_count, 0),
    model_error_count = s.model_error_count + coalesce(e.model_error_count, 0),
    input_tokens = s.input_tokens + coalesce(e.input_tokens, 0),
    output_tokens = s.output_tokens + coalesce(e.output_tokens, 0),
    cache_read_tokens = s.cache_read_tokens + coalesce(e.cache_read_tokens, 0),
    cache_write_tokens = s.cache_write_tokens + coalesce(e.cache_write_tokens, 0),
    reasoning_tokens = s.reasoning_tokens + coalesce(e.reasoning_tokens, 0),
    cost_usd_micros = s.cost_usd_micros + coalesce(e.cost_usd_micros, 0),
    updated_at = now()
FROM json_to_recordset($1::json) AS e(
    id uuid, started_at timestamptz, last_event_at timestamptz, user_id uuid,
    tool_call_count bigint, tool_error_count bigint, tool_reject_count bigint,
    model_call_count bigint, model_error_count bigint, input_tokens bigint, output_tokens bigint,
    cache_read_tokens bigint, cache_write_tokens bigint, reasoning_tokens bigint,
    cost_usd_micros bigint)
WHERE s.id = e.id
RETURNING {SESSIONS.needed("s")}
) {contributions(SESSIONS, "changed")}
"""

STATE = f"""
WITH changed AS (
UPDATE metrics_sessions s SET
    session_type = coalesce(r.session_type, s.session_type),
    started_at = r.started_at,
    ended_at = CASE WHEN coalesce(r.ended_at, s.ended_at) < r.started_at
                    THEN r.started_at ELSE coalesce(r.ended_at, s.ended_at) END,
    last_event_at = greatest(s.last_event_at, r.ended_at, r.started_at),
    user_id = coalesce(r.user_id, s.user_id),
    user_source = CASE WHEN r.user_id IS NOT NULL THEN 'stated' ELSE s.user_source END,
    repository = coalesce(r.repository, s.repository),
    branch = coalesce(r.branch, s.branch),
    team = coalesce(r.team, s.team),
    productivity_score = coalesce(r.productivity_score, s.productivity_score),
    metadata = coalesce(r.metadata, s.metadata),
    updated_at = now()
FROM json_to_recordset($1::json) AS r(
    id uuid, session_type text, started_at timestamptz, ended_at timestamptz, user_id uuid,
    repository text, branch text, team text, productivity_score double precision, metadata jsonb)
WHERE s.id = r.id
RETURNING {SESSIONS.needed("s")}
) {contributions(SESSIONS, "changed")}
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


async def extend_sessions(
    connection: ContextConnection, extents: Iterable[Extent], ledger: Ledger
) -> None:
    """Create or extend sessions by what a batch really inserted."""
    rows = list(extents)
    if not rows:
        return
    await _hold(connection, rows, ledger)
    await ledger.put_sessions(connection, await connection.fetch(EXTEND, _json(rows)))


async def _hold(
    connection: ContextConnection, rows: Iterable[msgspec.Struct], ledger: Ledger
) -> dict[UUID, bool]:
    """Lock the sessions, making those that are not there; say for each id if it is new."""
    known = {}
    for row in await connection.fetch(HOLD, _json(list(rows))):
        known[row["id"]] = row["is_new"]
        if row["is_new"]:
            ledger.make_session(row["id"])
        else:
            ledger.take_session(row)
    return known


class _StatedRow(SessionRecord):
    id: UUID | None = None


async def state_sessions(
    connection: ContextConnection,
    tenant_id: UUID,
    records: list[SessionRecord],
    users: dict[str, UUID],
    ledger: Ledger,
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
    known = await _hold(connection, rows.values(), ledger)
    changed = await connection.fetch(STATE, _json(list(rows.values())))
    await _state_tags(connection, rows)
    await ledger.put_sessions(connection, changed)
    return known


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
