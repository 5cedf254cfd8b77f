"""All reading SQL of sessions. No `tenant_id` in sight: row security filters by it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from asyncpg import Record

from metrics_service.db.listing import as_raw, keyset
from metrics_service.db.pages import Position
from metrics_service.db.statements import Where
from metrics_service.db.tenancy import ContextConnection
from metrics_service.rollups.ledger import Ledger
from metrics_service.sessions.schemas import SessionPatch, SessionQuery, SessionUser, SessionView

# Agents seldom say that they end: a session of telemetry is over when nothing happened for a while, and
# goes on when something does. Decided when it is read, so nobody has to come by and close it.
IS_IDLE = "s.telemetry IS NOT NULL AND s.last_event_at < now() - interval '30 minutes'"

COLUMNS = f"""
    s.id, s.agent, s.external_id, s.session_type, s.started_at,
    coalesce(s.ended_at, CASE WHEN {IS_IDLE} THEN s.last_event_at END) AS ended_at, s.user_id,
    u.email AS user_email, u.name AS user_name, s.repository, s.branch, s.team,
    ARRAY(SELECT t.tag FROM session_tags t
          WHERE t.tenant_id = s.tenant_id AND t.session_id = s.id ORDER BY t.tag) AS tags,
    s.productivity_score, s.metadata::text AS metadata, s.last_event_at, s.tool_call_count, s.tool_error_count,
    s.model_call_count, s.input_tokens, s.output_tokens, s.cost_usd_micros, s.lines_added,
    s.lines_removed, s.created_at, s.updated_at, s.tool_reject_count, s.model_error_count,
    s.cache_read_tokens, s.cache_write_tokens, s.reasoning_tokens, s.prompt_count, s.turn_count,
    s.compactions, s.commits, s.pull_requests, s.active_seconds_user, s.active_seconds_agent,
    s.signals, s.is_subagent, s.parent_session_id, s.start_type,
    coalesce(s.end_reason, CASE WHEN s.ended_at IS NULL AND {IS_IDLE} THEN 'idle' END) AS end_reason,
    s.project,
    s.environment, s.commit_sha, s.cost_center, s.workspace_paths, s.agent_version, s.entrypoint,
    s.terminal_type, s.os_type, s.os_version, s.host_arch, s.surface, s.permission_mode,
    s.sandbox_policy, s.approval_policy, s.reasoning_effort, s.user_key, s.user_key_kind,
    s.user_source, s.claims::text AS claims
"""
TABLES = """
    metrics_sessions s
    LEFT JOIN users u ON u.tenant_id = s.tenant_id AND u.id = s.user_id
"""

FILTERS = {
    "started_after": "s.started_at >= ?",
    "started_before": "s.started_at < ?",
    "user_id": "s.user_id = ?",
    "agent": "s.agent = ?",
    "external_id": "s.external_id = ?",
    "session_type": "s.session_type = ?",
    "tag": """EXISTS (SELECT FROM session_tags t
              WHERE t.tenant_id = s.tenant_id AND t.session_id = s.id AND t.tag = ?)""",
    "repository": "s.repository = ?",
    "branch": "s.branch = ?",
    "team": "s.team = ?",
    "project": "s.project = ?",
    "environment": "s.environment = ?",
    "parent_session_id": "s.parent_session_id = ?",
}
OWNED = (
    "tool_metrics",
    "model_calls",
    "session_events",
    "counter_deltas",
    "session_tags",
)
"""The tables whose rows belong to sessions."""

DROP_SPANS = """
DELETE FROM tool_spans WHERE id IN (
    SELECT id FROM tool_spans
    WHERE tool_metric_id IN (SELECT id FROM tool_metrics WHERE session_id = $1)
    FOR UPDATE SKIP LOCKED)
"""
DROP_TRACES = """
DELETE FROM trace_sessions WHERE trace_id IN (
    SELECT trace_id FROM trace_sessions WHERE session_id = $1 FOR UPDATE SKIP LOCKED)
"""

STATUS = {
    "open": f"s.ended_at IS NULL AND NOT ({IS_IDLE})",
    "closed": f"(s.ended_at IS NOT NULL OR ({IS_IDLE}))",
}

FAILED = "s.tool_error_count + s.model_error_count"

# Cheap ones first: what is found in them is not looked for elsewhere.
FOUND = (
    "s.external_id ILIKE {0}",
    "s.repository ILIKE {0}",
    "s.branch ILIKE {0}",
)
FOUND_IN_TAGS = """EXISTS (SELECT FROM session_tags t
    WHERE t.tenant_id = s.tenant_id AND t.session_id = s.id AND t.tag ILIKE {0})"""
# Not joined to the session, so that people are looked through once and not for each session.
FOUND_IN_PEOPLE = (
    "s.user_id IN (SELECT p.id FROM users p WHERE p.name ILIKE {0} OR p.email ILIKE {0})"
)


def like(text: str) -> str:
    """A pattern that finds the text itself, anywhere in another."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def _where(query: SessionQuery, *, sees_people: bool) -> Where:
    where = Where()
    for name, condition in FILTERS.items():
        if (value := getattr(query, name)) is not None:
            where.add(condition, value)
    if query.status is not None:
        where.require(STATUS[query.status])
    if query.has_errors is not None:
        where.require(f"{FAILED} {'>' if query.has_errors else '='} 0")
    if query.q is not None:
        places = [*FOUND, FOUND_IN_TAGS, *([FOUND_IN_PEOPLE] if sees_people else [])]
        pattern = where.bind(like(query.q))
        where.require(f"({' OR '.join(place.format(pattern) for place in places)})")
    return where


async def fetch_sessions(
    connection: ContextConnection,
    query: SessionQuery,
    *,
    after: Position | None,
    limit: int,
    offset: int,
    sees_people: bool = True,
) -> Sequence[Record]:
    """A page, newest first unless the query sorts otherwise; `id` breaks ties.

    Who does not see people does not find sessions by them either.
    """
    where = _where(query, sees_people=sees_people)
    order = keyset(where, "s", query.sort, after)
    rows: Sequence[Record] = await connection.fetch(
        f"""
        SELECT {COLUMNS} FROM {TABLES} {where} {order}
        LIMIT {where.bind(limit)} OFFSET {where.bind(offset)}
        """,
        *where.values,
    )
    return rows


async def count_sessions(
    connection: ContextConnection, query: SessionQuery, *, sees_people: bool = True
) -> int:
    where = _where(query, sees_people=sees_people)
    return int(
        await connection.fetchval(f"SELECT count(*) FROM metrics_sessions s {where}", *where.values)
    )


async def has_sessions(connection: ContextConnection) -> bool:
    return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM metrics_sessions)"))


async def find_start(connection: ContextConnection, session_id: UUID) -> datetime | None:
    """When a session began."""
    started_at: datetime | None = await connection.fetchval(
        "SELECT started_at FROM metrics_sessions WHERE id = $1", session_id
    )
    return started_at


async def find_session(connection: ContextConnection, session_id: UUID) -> SessionView | None:
    """One session, with its resource attributes, which lists leave out."""
    row = await connection.fetchrow(
        f"SELECT {COLUMNS}, s.resource::text AS resource FROM {TABLES} WHERE s.id = $1", session_id
    )
    if row is None:
        return None
    *columns, resource = row
    return msgspec.structs.replace(session_view(columns), resource=as_raw(resource))


def session_view(row: Record | list[Any]) -> SessionView:
    (
        id_, agent, external_id, session_type, started_at, ended_at, user_id, user_email, user_name,
        repository, branch, team, tags, score, metadata, last_event_at, *others,
    ) = row  # fmt: skip
    others[-1] = as_raw(others[-1])
    return SessionView(
        id_,
        agent,
        external_id,
        session_type,
        started_at,
        ended_at,
        user_id,
        user_email,
        SessionUser(user_id, user_email, user_name) if user_id is not None else None,
        repository,
        branch,
        team,
        tags,
        score,
        msgspec.Raw(metadata.encode()),
        "open" if ended_at is None else "closed",
        ((ended_at or last_event_at) - started_at).total_seconds() * 1000,
        *others,
    )


async def change_session(
    connection: ContextConnection, session_id: UUID, patch: SessionPatch
) -> bool:
    """Set the given fields; False when there is no such session."""
    if not await _lock(connection, session_id):
        return False
    ledger = Ledger()
    await ledger.take_sessions(connection, [session_id])
    given = patch.given()
    tags = given.pop("tags", None)
    where = Where(session_id)
    changes = ["updated_at = now()"]
    for name, value in given.items():
        # Names come from the struct, never from the client.
        bound = msgspec.json.encode(value).decode() if name == "metadata" else value
        changes.append(f"{name} = {where.bind(bound)}")
    if "user_id" in given:
        changes.append(f"user_source = {where.bind('stated' if given['user_id'] else None)}")
    if "started_at" in given:
        # Bound again: on the right of SET, the column would still be the old one.
        started_at = where.bind(given["started_at"])
        changes.append(f"last_event_at = greatest(last_event_at, {started_at})")
    await connection.execute(
        f"UPDATE metrics_sessions SET {', '.join(changes)} WHERE id = $1", *where.values
    )
    if tags is not None:
        await _replace_tags(connection, session_id, tags)
    await ledger.put_sessions(connection)
    await ledger.write(connection)
    return True


async def _lock(connection: ContextConnection, session_id: UUID) -> bool:
    """Lock a session; False when there is none."""
    found = await connection.fetchval(
        "SELECT 1 FROM metrics_sessions WHERE id = $1 FOR UPDATE", session_id
    )
    return found is not None


async def _replace_tags(connection: ContextConnection, session_id: UUID, tags: list[str]) -> None:
    await connection.execute("DELETE FROM session_tags WHERE session_id = $1", session_id)
    await connection.execute(
        """
        INSERT INTO session_tags (session_id, tag)
        SELECT DISTINCT $1::uuid, value FROM json_array_elements_text($2::json)
        ON CONFLICT (tenant_id, session_id, tag) DO NOTHING
        """,
        session_id,
        msgspec.json.encode(tags).decode(),
    )


async def delete_session(connection: ContextConnection, session_id: UUID) -> bool:
    """Delete a session with everything that belongs to it; False when there is none."""
    # Locked first, so that a batch that is extending it is either seen whole or comes after.
    if not await _lock(connection, session_id):
        return False
    ledger = Ledger()
    await ledger.take_sessions(connection, [session_id])
    await ledger.enter_facts(connection, [session_id], sign=-1)
    # Writers lock these before the session: whoever holds one waits for us, and goes on with it.
    await connection.execute(DROP_SPANS, session_id)
    await connection.execute(DROP_TRACES, session_id)
    for table in OWNED:
        await connection.execute(f"DELETE FROM {table} WHERE session_id = $1", session_id)
    await connection.execute("DELETE FROM metrics_sessions WHERE id = $1", session_id)
    await ledger.write(connection)
    return True
