"""Lists of tool metrics and of model calls: what both are asked, and its SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal
from uuid import UUID

import msgspec
from asyncpg import Record

from metrics_service.db.listing import After, Before, ListQuery, keyset
from metrics_service.db.pages import Position
from metrics_service.db.statements import Where
from metrics_service.db.tenancy import ContextConnection
from metrics_service.fields import ShortText


class FactQuery(ListQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The filters that tool metrics and model calls share with sessions."""

    started_after: After | None = None
    started_before: Before | None = None
    user_id: UUID | None = None
    agent: ShortText | None = None
    session_type: ShortText | None = None
    tag: ShortText | None = None
    repository: ShortText | None = None
    branch: ShortText | None = None
    team: ShortText | None = None
    project: ShortText | None = None
    environment: ShortText | None = None
    sort: Literal["started_at", "-started_at"] = "-started_at"


def _of_session(column: str) -> str:
    return f"""f.session_id IN (
        SELECT s.id FROM metrics_sessions s
        WHERE s.tenant_id = f.tenant_id AND s.{column} = ?)"""


# Telemetry keeps the times that its clients' clocks say; these tell when they are wrong.
CLOCK = """
    CASE WHEN f.started_at > f.received_at + interval '1 day' THEN 'ahead'
         WHEN f.started_at < '2015-01-01T00:00:00Z' THEN 'behind' END AS clock
"""

FILTERS = {
    "started_after": "f.started_at >= ?",
    "started_before": "f.started_at < ?",
    "user_id": "f.user_id = ?",
    "agent": "f.agent = ?",
    **{
        name: _of_session(name)
        for name in ("session_type", "repository", "branch", "team", "project", "environment")
    },
    "tag": """f.session_id IN (
        SELECT t.session_id FROM session_tags t WHERE t.tenant_id = f.tenant_id AND t.tag = ?)""",
    "session_id": "f.session_id = ?",
    "tool_name": "f.tool_name = ?",
    "request_model": "f.request_model = ?",
    "status": "f.status = ?",
    "decision": "f.decision = ?",
}


class FactTable(msgspec.Struct, frozen=True):
    """How one of the two tables is listed, `f` in every expression: the calls that count."""

    name: str
    columns: str
    joins: str = ""
    """Of what the columns are from besides."""

    async def fetch(
        self,
        connection: ContextConnection,
        query: FactQuery,
        *,
        session_id: UUID | None,
        after: Position | None,
        limit: int,
        offset: int,
    ) -> Sequence[Record]:
        """A page, newest first unless the query sorts otherwise; `id` breaks ties."""
        where = _where(query, session_id)
        order = keyset(where, "f", query.sort, after)
        rows: Sequence[Record] = await connection.fetch(
            f"""
            SELECT {self.columns} FROM {self.name} f {self.joins} {where} {order}
            LIMIT {where.bind(limit)} OFFSET {where.bind(offset)}
            """,
            *where.values,
        )
        return rows

    async def count(
        self, connection: ContextConnection, query: FactQuery, *, session_id: UUID | None
    ) -> int:
        where = _where(query, session_id)
        return int(
            await connection.fetchval(f"SELECT count(*) FROM {self.name} f {where}", *where.values)
        )


def _where(query: FactQuery, session_id: UUID | None) -> Where:
    where = Where()
    where.require("f.is_counted")
    for name, value in {**query.filters(), "session_id": session_id}.items():
        if value is not None and name in FILTERS:
            where.add(FILTERS[name], value)
    return where
