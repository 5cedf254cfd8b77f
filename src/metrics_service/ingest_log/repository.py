"""All reading SQL of the diary. No `tenant_id` in sight: row security filters by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from asyncpg import Record

from metrics_service.db.listing import keyset
from metrics_service.db.pages import Position
from metrics_service.db.statements import Where
from metrics_service.db.tenancy import ContextConnection
from metrics_service.ingest_log.advice import advice_of
from metrics_service.ingest_log.schemas import (
    IngestLine,
    IngestLogQuery,
    LoggedKey,
    Reason,
    Refusal,
)

COLUMNS = """
    l.id, l.signal, l.encoding, l.client, l.client_version, l.agent, l.agent_version,
    l.accepted_requests, l.accepted_items, l.refused_requests, l.refused_items, l.first_at, l.last_at,
    l.last_accepted_at, l.last_accepted_items, l.last_refused_at, l.key_id, k.name AS key_name,
    k.prefix AS key_prefix,
    k.id IS NOT NULL AND coalesce(least(k.expires_at, k.revoked_at) > now(), true) AS key_is_active,
    (SELECT json_agg(json_build_object('status', f.status, 'reason', f.reason, 'count', f.refused,
                                       'first_at', f.first_at, 'last_at', f.last_at)
                     ORDER BY f.last_at DESC, f.status, f.reason)
     FROM ingest_refusals f WHERE f.tenant_id = l.tenant_id AND f.log_id = l.id)::text AS reasons
"""
STATUS = {
    "accepted": "l.last_accepted_at IS NOT NULL",
    "refused": "l.last_refused_at IS NOT NULL",
}


_refusals = msgspec.json.Decoder(list[Refusal])


def _where(query: IngestLogQuery) -> Where:
    where = Where()
    if query.signal is not None:
        where.add("l.signal = ?", query.signal)
    if query.key_id is not None:
        where.add("l.key_id = ?", query.key_id)
    if query.status is not None:
        where.require(STATUS[query.status])
    return where


async def fetch_lines(
    connection: ContextConnection,
    query: IngestLogQuery,
    *,
    after: Position | None,
    limit: int,
    offset: int,
) -> Sequence[Record]:
    """A page, newest first unless the query sorts otherwise; `id` breaks ties."""
    where = _where(query)
    order = keyset(where, "l", query.sort, after)
    rows: Sequence[Record] = await connection.fetch(
        f"""
        SELECT {COLUMNS} FROM ingest_log l LEFT JOIN shared.list_api_keys() k ON k.id = l.key_id
        {where} {order} LIMIT {where.bind(limit)} OFFSET {where.bind(offset)}
        """,
        *where.values,
    )
    return rows


async def count_lines(connection: ContextConnection, query: IngestLogQuery) -> int:
    where = _where(query)
    return int(
        await connection.fetchval(f"SELECT count(*) FROM ingest_log l {where}", *where.values)
    )


def line_view(row: Record) -> IngestLine:
    columns: dict[str, Any] = {
        name: row[name] for name in IngestLine.__struct_fields__ if name not in ("key", "reasons")
    }
    return IngestLine(**columns, key=_key(row), reasons=_reasons(row))


def _key(row: Record) -> LoggedKey | None:
    if row["key_id"] is None:
        return None
    return LoggedKey(row["key_id"], row["key_name"], row["key_prefix"], row["key_is_active"])


def _reasons(row: Record) -> list[Reason]:
    return [
        Reason(
            **msgspec.structs.asdict(one),
            advice=advice_of(
                one.status, one.reason, signal=row["signal"], encoding=row["encoding"]
            ),
        )
        for one in _refusals.decode(row["reasons"] or "[]")
    ]
