"""What the advice is drawn from: the catalogs, the server's counts, what processes and tenants saw.

Read as the owner in one transaction that only reads. No row of a tenant is looked at: the owner could
not, and need not.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from metrics_service.fleet.plan_tree import tree_of

REGISTRY = "public"
# A bloated table below that is not worth a lock.
MIN_BLOAT_BYTES = 10 * 1024 * 1024
# The header of a row and the pointer to it; and of a page, whose size is that of all servers in use.
ROW_BYTES, PAGE_HEADER_BYTES, PAGE_BYTES = 28, 24, 8192
SEEN_AT_MOST = timedelta(minutes=5)
MAX_PLANS = 5000


class Schema(msgspec.Struct, frozen=True):
    """One schema of ours, and whose it is."""

    name: str
    tenant_id: UUID | None
    slug: str | None
    is_at_head: bool


class IndexState(msgspec.Struct, frozen=True):
    """One index that is there."""

    schema: str
    table: str
    name: str
    is_valid: bool
    is_being_built: bool


class TableState(msgspec.Struct, frozen=True):
    """One table that is there, as the server counts it."""

    schema: str
    name: str
    bytes: int
    live_rows: int
    dead_rows: int
    changed_rows: int
    """Since its statistics were made."""
    vacuumed_at: datetime | None
    analyzed_at: datetime | None
    whole_scans: int
    rows_a_whole_scan: float
    age: int
    """Transactions since its oldest row that is not frozen."""
    bloat_bytes: int = 0

    @property
    def qualified(self) -> str:
        return f"{self.schema}.{self.name}"


class WholeRead(msgspec.Struct, frozen=True):
    """A slow statement whose plan reads a table from beginning to end."""

    tenant_id: UUID
    table: str
    fingerprint: str
    calls: int
    worst_ms: float


class LockWaits(msgspec.Struct, frozen=True):
    """Statements of one tenant that gave up waiting for a lock in the last day."""

    tenant_id: UUID
    calls: int
    last_at: datetime
    fingerprints: list[str]


class PoolState(msgspec.Struct, frozen=True):
    """The pools of processes of one kind that have the same size."""

    kind: str
    size: int
    processes: int
    waiting: int
    timeouts: int
    was_short: int
    """How often one of them reported in the last day that its pool was nearly used up."""


class Server(msgspec.Struct, frozen=True):
    """The settings that matter."""

    freeze_max_age: int
    is_autovacuum_on: bool


class Evidence(msgspec.Struct, frozen=True):
    schemas: list[Schema]
    indexes: list[IndexState]
    tables: list[TableState]
    whole_reads: list[WholeRead]
    lock_waits: list[LockWaits]
    pools: list[PoolState]
    server: Server


_SCHEMAS = """
    SELECT s.schema_name AS name, t.id AS tenant_id, t.slug::text AS slug,
           s.status = 'ready' AND s.revision = CASE s.schema_name WHEN 'public' THEN $1 ELSE $2 END
               AS is_at_head
    FROM public.tenant_schemas s LEFT JOIN public.tenants t ON t.schema_name = s.schema_name
    WHERE $3::uuid IS NULL OR t.id = $3
    ORDER BY s.schema_name
"""
_INDEXES = """
    SELECT n.nspname::text AS schema, t.relname::text AS table, i.relname::text AS name,
           x.indisvalid AND x.indisready AS is_valid,
           EXISTS (SELECT FROM pg_stat_progress_create_index p WHERE p.relid = x.indrelid)
               AS is_being_built
    FROM pg_index x
    JOIN pg_class i ON i.oid = x.indexrelid
    JOIN pg_class t ON t.oid = x.indrelid
    JOIN pg_namespace n ON n.oid = t.relnamespace
    WHERE n.nspname = ANY ($1::text[])
    ORDER BY 1, 2, 3
"""
_TABLES = """
    SELECT n.nspname::text AS schema, c.relname::text AS name,
           pg_total_relation_size(c.oid) AS bytes, pg_relation_size(c.oid) AS own_bytes,
           c.reltuples::bigint AS rows_thought,
           coalesce(s.n_live_tup, 0) AS live_rows, coalesce(s.n_dead_tup, 0) AS dead_rows,
           coalesce(s.n_mod_since_analyze, 0) AS changed_rows,
           greatest(s.last_vacuum, s.last_autovacuum) AS vacuumed_at,
           greatest(s.last_analyze, s.last_autoanalyze) AS analyzed_at,
           coalesce(s.seq_scan, 0) AS whole_scans,
           coalesce(s.seq_tup_read::double precision / nullif(s.seq_scan, 0), 0) AS rows_a_whole_scan,
           greatest(age(c.relfrozenxid), mxid_age(c.relminmxid),
                    (SELECT greatest(age(o.relfrozenxid), mxid_age(o.relminmxid))
                     FROM pg_class o WHERE o.oid = c.reltoastrelid)) AS age
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
    WHERE c.relkind = 'r' AND n.nspname = ANY ($1::text[])
      AND c.relowner = (SELECT r.oid FROM pg_roles r WHERE r.rolname = $2)
    ORDER BY 1, 2
"""
_PLANS = """
    SELECT q.tenant_id, q.fingerprint, count(*) AS calls, max(q.duration_ms) AS worst_ms,
           (array_agg(q.plan ORDER BY q.at DESC) FILTER (WHERE q.plan IS NOT NULL))[1] AS plan
    FROM public.slow_queries q
    WHERE q.tenant_id = ANY ($1::uuid[])
    GROUP BY q.tenant_id, q.fingerprint HAVING count(q.plan) > 0
    ORDER BY sum(q.duration_ms) DESC LIMIT $2
"""
_LOCK_WAITS = """
    SELECT q.tenant_id, count(*) AS calls, max(q.at) AS last_at,
           (array_agg(DISTINCT q.fingerprint::text))[:3] AS fingerprints
    FROM public.slow_queries q
    WHERE q.tenant_id = ANY ($1::uuid[]) AND q.error = '55P03'
      AND q.at > clock_timestamp() - interval '1 day'
    GROUP BY q.tenant_id
"""
_POOLS = """
    SELECT p.kind, (p.report -> 'pool' ->> 'size')::integer AS size, count(*) AS processes,
           coalesce(sum((p.report -> 'pool' ->> 'waiting')::bigint), 0)::bigint AS waiting,
           coalesce(sum((p.report -> 'pool' ->> 'timeouts')::bigint), 0)::bigint AS timeouts,
           (SELECT count(*) FROM public.health_events e
            WHERE e.check_name = 'pool' AND e.status IN ('degraded', 'unhealthy')
              AND e.at > clock_timestamp() - interval '1 day'
              AND e.process_id = ANY (array_agg(p.id))) AS was_short
    FROM public.service_processes p
    WHERE p.seen_at > clock_timestamp() - $1::interval AND p.report -> 'pool' ->> 'size' IS NOT NULL
    GROUP BY 1, 2 ORDER BY 1, 2
"""
_SERVER = """
    SELECT current_setting('autovacuum_freeze_max_age')::integer AS freeze_max_age,
           current_setting('autovacuum')::boolean AND current_setting('track_counts')::boolean
               AS is_autovacuum_on
"""


async def gather(
    connection: asyncpg.Connection[Any],
    *,
    registry_head: str,
    tenant_head: str,
    owner: str,
    tenant_id: UUID | None,
) -> Evidence:
    """All there is to know, of one tenant or of all and what they share."""
    schemas = [
        Schema(**row)
        for row in await connection.fetch(_SCHEMAS, registry_head, tenant_head, tenant_id)
    ]
    names = [schema.name for schema in schemas]
    tenant_ids = [schema.tenant_id for schema in schemas if schema.tenant_id is not None]
    server = await connection.fetchrow(_SERVER)
    return Evidence(
        schemas=schemas,
        indexes=[IndexState(**row) for row in await connection.fetch(_INDEXES, names)],
        tables=[
            await _table(connection, row) for row in await connection.fetch(_TABLES, names, owner)
        ],
        whole_reads=[
            read
            for row in await connection.fetch(_PLANS, tenant_ids, MAX_PLANS)
            for read in _whole_reads(row)
        ],
        lock_waits=[LockWaits(**row) for row in await connection.fetch(_LOCK_WAITS, tenant_ids)],
        pools=[]
        if tenant_id is not None
        else [PoolState(**row) for row in await connection.fetch(_POOLS, SEEN_AT_MOST)],
        server=Server(**server),
    )


async def _table(connection: asyncpg.Connection[Any], row: asyncpg.Record) -> TableState:
    values = {name: row[name] for name in TableState.__struct_fields__ if name in row}
    return TableState(**values, bloat_bytes=await _bloat(connection, row))


async def _bloat(connection: asyncpg.Connection[Any], row: asyncpg.Record) -> int:
    """How much of a large table its rows do not need, as far as its statistics tell.

    The planner knows how wide they are thought to be; the statistics themselves are hidden from the
    owner by row security. A column that is often null is thought too wide: what is found is there.
    """
    if row["own_bytes"] < MIN_BLOAT_BYTES or row["rows_thought"] < 0:
        return 0
    # The connections of SQLAlchemy read JSON themselves.
    explained = await connection.fetchval(
        f"EXPLAIN (FORMAT JSON) TABLE {row['schema']}.{row['name']}"
    )
    width = explained[0]["Plan"]["Plan Width"]
    rows_a_page = (PAGE_BYTES - PAGE_HEADER_BYTES) / (width + ROW_BYTES)
    return max(0, int(row["own_bytes"] - row["rows_thought"] / rows_a_page * PAGE_BYTES))


def _whole_reads(row: asyncpg.Record) -> list[WholeRead]:
    return [
        WholeRead(row["tenant_id"], table, row["fingerprint"], row["calls"], row["worst_ms"])
        for table in sorted(tree_of(row["plan"]).whole_tables())
    ]
