"""The latest calls of one tool that failed, and how."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import msgspec

from metrics_service.db.statements import Where
from metrics_service.db.tenancy import ContextConnection

# Calls of all tools are looked through from the newest, to find those of one that failed.
MAX_SCANNED = 50_000
MAX_FAILURES = 200

COLUMNS = {"agent": "f.agent", "team": "s.team", "repository": "s.repository"}
"""What can be filtered by: the call's own, and its session's."""
SESSIONS = "JOIN metrics_sessions s ON s.tenant_id = f.tenant_id AND s.id = f.session_id"


class Failure(msgspec.Struct, frozen=True):
    """A call that failed."""

    id: UUID
    session_id: UUID | None
    agent: str | None
    started_at: datetime
    duration_ms: float | None
    status: str
    error_type: str | None
    error_message: str | None


async def fetch_failures(
    connection: ContextConnection,
    tool_name: str,
    start: datetime,
    end: datetime,
    *,
    filters: Mapping[str, str],
) -> list[Failure]:
    """Newest first, as far as they are among the latest calls of all tools."""
    where = Where(start, end, tool_name)
    where.require("f.tool_name = $3 AND f.status IN ('error', 'timeout')")
    for name, value in filters.items():
        where.add(f"{COLUMNS[name]} = ?", value)
    sessions = SESSIONS if filters.keys() & {"team", "repository"} else ""
    rows = await connection.fetch(
        f"""
        SELECT f.id, f.session_id, f.agent, f.started_at, f.duration_ms, f.status, f.error_type,
            f.error_message
        FROM (
            SELECT tenant_id, id, session_id, agent, tool_name, started_at, duration_ms, status,
                error_type, error_message
            FROM tool_metrics WHERE started_at >= $1 AND started_at < $2 AND is_counted
            ORDER BY started_at DESC, id DESC LIMIT {MAX_SCANNED}
        ) f {sessions} {where}
        ORDER BY f.started_at DESC, f.id DESC LIMIT {MAX_FAILURES}
        """,
        *where.values,
    )
    return [Failure(*row) for row in rows]
