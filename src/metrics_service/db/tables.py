"""Which tables a tenant schema at head has, and which schema lacks one of them."""

from __future__ import annotations

from typing import Any

import asyncpg

# Held against the migrations by a test.
TENANT_TABLES = (
    *("users", "user_identities", "user_passwords", "sign_ins", "identity_rules"),
    *("metrics_sessions", "session_tags", "session_events", "trace_sessions"),
    *("tool_names", "tool_metrics", "tool_spans", "model_calls"),
    *("metric_streams", "counter_deltas"),
    *("ingest_log", "ingest_refusals", "raw_requests", "idempotency_keys"),
    *("dashboard_configs", "dashboard_versions", "dashboard_shares"),
    *("tenant_settings", "data_versions"),
    *("sessions_hourly", "sessions_daily"),
    *("tool_metrics_hourly", "tool_metrics_daily", "tool_metrics_daily_all"),
    *("model_calls_hourly", "model_calls_daily", "model_calls_daily_all"),
)

MISSING = """
    SELECT n.nspname || '.' || t.name
    FROM pg_namespace n
    CROSS JOIN unnest($1::text[]) AS t (name)
    LEFT JOIN pg_class c
      ON c.relnamespace = n.oid AND c.relname = t.name AND c.relkind IN ('r', 'p')
    WHERE n.nspname ~ '^t_[a-z0-9]+$' AND c.oid IS NULL
    ORDER BY 1
"""


async def missing_tables(connection: asyncpg.Connection[Any]) -> list[str]:
    """`schema.table` of each that is not there; every login may ask."""
    rows = await connection.fetch(MISSING, TENANT_TABLES)
    return [row[0] for row in rows]
