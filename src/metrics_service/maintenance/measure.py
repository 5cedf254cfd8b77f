"""Measures tenants: how many bytes and rows they have, and how many sessions, today's apart."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.maintenance.each import Turn, each_tenant
from metrics_service.maintenance.place import Housed, as_owner

# Up to here sessions are counted; to count more takes longer than anybody's interest in the last digit.
COUNTED_UP_TO = 100_000

# All at once: the catalog has no way from a schema to its tables, but for reading all of it.
TABLES = """
SELECT n.nspname, array_agg(c.oid) AS tables
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname IN (SELECT schema_name FROM public.tenants)
GROUP BY n.nspname
"""

# Rows are as many as the statistics say, which follow every commit; after a crash they begin again at
# nothing, and what the last VACUUM or ANALYZE saw is nearer to the truth.
MEASURE = f"""
SELECT t.bytes::bigint, t.row_count::bigint,
       CASE WHEN t.sessions > {COUNTED_UP_TO} THEN t.sessions::bigint
            ELSE (SELECT count(*) FROM metrics_sessions) END AS sessions,
       (SELECT count(*) FROM metrics_sessions s, date_trunc('day', now(), 'UTC') AS today
        WHERE s.started_at >= today AND s.started_at < today + interval '1 day') AS sessions_today
FROM (
    SELECT coalesce(sum(c.bytes), 0) AS bytes, coalesce(sum(c.row_count), 0) AS row_count,
           coalesce(sum(c.row_count) FILTER (WHERE c.relname = 'metrics_sessions'), 0) AS sessions
    FROM (
        SELECT c.relname, pg_total_relation_size(c.oid) AS bytes,
               coalesce(nullif(pg_stat_get_live_tuples(c.oid), 0), greatest(c.reltuples, 0)::bigint)
                   AS row_count
        FROM pg_class c
        WHERE c.oid = ANY (CAST(:tables AS oid[]))
    ) c
) t
"""

KEEP = """
INSERT INTO public.tenant_sizes
    (tenant_id, measured_at, bytes, row_count, sessions, sessions_today)
VALUES (:tenant_id, clock_timestamp(), :bytes, :row_count, :sessions, :sessions_today)
ON CONFLICT (tenant_id) DO UPDATE
SET measured_at = excluded.measured_at, bytes = excluded.bytes, row_count = excluded.row_count,
    sessions = excluded.sessions, sessions_today = excluded.sessions_today
"""


async def measure(connection: AsyncConnection) -> Turn:
    """Measure every tenant; the figures are in `public.tenant_sizes`, one line a tenant."""
    async with as_owner(connection):
        found = await connection.execute(text(TABLES))
        tables: dict[str, list[int]] = {row.nspname: row.tables for row in found}

    async def measure_one(connection: AsyncConnection, housed: Housed) -> int:
        if housed.schema_name not in tables:
            # It was made a moment ago.
            return 0
        measured = await connection.execute(text(MEASURE), {"tables": tables[housed.schema_name]})
        figures = measured.mappings().one()
        await connection.execute(text(KEEP), {"tenant_id": housed.tenant_id, **figures})
        return 1

    return await each_tenant(connection, measure_one)
