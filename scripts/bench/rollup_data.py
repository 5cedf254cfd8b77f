"""Makes the data that `rollup_compare.py` reads: a tenant for each size, with a month of work.

    pip install duckdb
    python scripts/bench/rollup_data.py [--data DIR] [--rows 20000 1000000 10000000]

DuckDB makes the rows, the same ones at every run, keeps them as tables and as Parquet, and
PostgreSQL copies them from there; then the rollups are recomputed from them. A size that is there
already is kept, brought to the newest revision. Ten million rows take 7 GB and ten minutes. The tenants
may run a statement for ten minutes, because raw rows need it.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import duckdb
import msgspec
from common import admin_dsn, database

from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection, runtime_engine
from metrics_service.db.tenancy import TenantContext
from metrics_service.errors import NotFoundError
from metrics_service.rollups.rebuild import TABLES as ROLLUPS
from metrics_service.rollups.rebuild import rebuild_rollups
from metrics_service.seeds.agents import AGENTS
from metrics_service.tenants.initialise import prepare_embedded, target_of
from metrics_service.tenants.lifecycle import delete
from metrics_service.tenants.new_tenant import NewTenant
from metrics_service.tenants.provision import create_tenant
from metrics_service.tenants.registry import Tenant

ROLLUP_DATA = Path("/tmp/metrics-bench-rollups")  # noqa: S108 - as in `common`
SIZES = [20_000, 1_000_000, 10_000_000]
START = datetime(2026, 10, 1, tzinfo=UTC)
DAYS = 30
PATIENCE_MS = 600_000
SMALL = 50_000
"""Up to so many rows a tenant has few people."""
TABLES = ("metrics_sessions", "tool_metrics", "model_calls")

CALLS_A_SESSION = 33
SESSION_S = 3 * 3600
MOST_CALLS = 400
SLOTS = 4000
"""How finely weights are told apart."""
WEEKEND = 0.12
ERRORS = 1.5
"""The demonstration's agents fail less often than 6 calls in 100."""

# Work from eight to seven, less at noon, a little in the evening; machines work at night.
HOURS = (1, 1, 1, 1, 1, 1, 2, 6, 20, 34, 40, 38, 24, 30, 40, 40, 36, 26, 14, 8, 6, 5, 3, 2)

# What agents call beside their own tools: name, weight, median, spread, errors, asked.
MCP = (
    ("mcp__github__search_issues", 2.0, 640.0, 0.7, 0.03, 0.05),
    ("mcp__github__get_file", 1.5, 310.0, 0.6, 0.03, 0.05),
    ("mcp__jira__get_issue", 1.0, 480.0, 0.9, 0.05, 0.05),
    ("mcp__postgres__query", 1.0, 95.0, 1.4, 0.06, 0.3),
)


class Scale(msgspec.Struct, frozen=True):
    """A tenant of so many tool metrics."""

    rows: int

    @property
    def slug(self) -> str:
        return f"rollups-{self.rows}"

    @property
    def users(self) -> int:
        return 10 if self.rows <= SMALL else 200

    def tables(self, data: Path) -> Path:
        return data / "duckdb" / f"{self.slug}.duckdb"

    def parquet(self, data: Path, table: str) -> Path:
        return data / "duckdb" / f"{self.slug}.{table}.parquet"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROLLUP_DATA)
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    chosen = parser.parse_args()
    (chosen.data / "duckdb").mkdir(parents=True, exist_ok=True)
    with database(chosen.data) as addresses:
        asyncio.run(_make_all(addresses, chosen.data, [Scale(rows) for rows in chosen.rows]))


async def find_tenant(dsn: str, scale: Scale) -> tuple[UUID, str] | None:
    """The id and the schema of a tenant whose rows are all there."""
    connection = await asyncpg.connect(dsn)
    found = await connection.fetchrow(
        "SELECT id, schema_name FROM public.tenants WHERE slug = $1 AND metadata ? 'is_loaded'",
        scale.slug,
    )
    await connection.close()
    return (found["id"], found["schema_name"]) if found else None


async def _make_all(addresses: Addresses, data: Path, scales: list[Scale]) -> None:
    await prepare_embedded(addresses, upgrade=True)
    for scale in scales:
        if await find_tenant(admin_dsn(addresses), scale) is None:
            await _make(addresses, data, scale)


async def _make(addresses: Addresses, data: Path, scale: Scale) -> None:
    new = NewTenant.of(
        scale.slug, name=None, domain=None, plan="enterprise", base_domain="localhost"
    )
    async with owner_connection(addresses.require_owner()) as connection:
        # What an earlier run left half made.
        with suppress(NotFoundError):
            await delete(connection, scale.slug)
        tenant = await create_tenant(connection, new, target_of(addresses))
    await _be_patient(admin_dsn(addresses), tenant)
    with _timed(f"{scale.rows:,} rows by DuckDB"):
        duck = _generate(data, scale, tenant.id)
    with _timed(f"{scale.rows:,} rows into PostgreSQL"):
        await _load(admin_dsn(addresses), data, tenant.schema_name, duck)
    duck.close()
    with _timed(f"{scale.rows:,} rows rolled up"):
        engine = runtime_engine(addresses.runtime, pool_max=1)
        await rebuild_rollups(engine, TenantContext(tenant.id, timeout_ms=PATIENCE_MS))
        await engine.dispose()
    await _finish(admin_dsn(addresses), tenant)


def _generate(data: Path, scale: Scale, tenant_id: UUID) -> duckdb.DuckDBPyConnection:
    """Make the tables and Parquet files; they follow from size and tenant alone."""
    scale.tables(data).unlink(missing_ok=True)
    duck = duckdb.connect(scale.tables(data), config={"threads": 2, "memory_limit": "6GB"})
    duck.execute("SET TimeZone = 'UTC'")
    for name, columns, rows in (
        ("hours", _HOURS, _hours()),
        ("tools", _TOOLS, _tools()),
        ("models", _MODELS, _models()),
    ):
        duck.execute(f"CREATE TEMP TABLE {name} (weight DOUBLE, {columns})")
        places = ", ".join("?" for _ in rows[0])
        duck.executemany(f"INSERT INTO {name} VALUES ({places})", rows)
    facts = {
        "tenant": str(tenant_id),
        "users": scale.users,
        "rows": scale.rows,
        "agents": sorted(AGENTS),
    }
    for statement in (*_MACROS, *_SLOTS, _USERS, _WORK, _TOOL_METRICS, _MODEL_CALLS, _SESSIONS):
        wanted = {name: value for name, value in facts.items() if f"${name}" in statement}
        duck.execute(statement, wanted)
    for table in TABLES:
        duck.execute(f"COPY {table} TO '{scale.parquet(data, table)}' (FORMAT parquet)")
    duck.execute("CHECKPOINT")
    return duck


async def _load(dsn: str, data: Path, schema: str, duck: duckdb.DuckDBPyConnection) -> None:
    """Copy day by day, so that no piece is large; rows arrive in order of time as they do in life."""
    connection = await asyncpg.connect(dsn)
    await connection.execute("SET synchronous_commit = off")
    piece = data / "duckdb" / "piece.csv"
    for table in ("users", *TABLES):
        when = "created_at" if table == "users" else "started_at"
        columns = [name for (name, *_) in duck.execute(f"DESCRIBE {table}").fetchall()]
        for day in range(DAYS + 1):
            since = START + timedelta(days=day)
            duck.execute(
                f"COPY (SELECT * FROM {table} WHERE {when} >= '{since.isoformat()}' AND"
                f" {when} < '{(since + timedelta(days=1)).isoformat()}')"
                f" TO '{piece}' (FORMAT csv, HEADER false)"
            )
            with piece.open("rb") as rows:
                await connection.copy_to_table(
                    table, schema_name=schema, source=rows, columns=columns, format="csv"
                )
    piece.unlink()
    await connection.execute(
        f"INSERT INTO {schema}.tool_names (tenant_id, name)"
        f" SELECT DISTINCT tenant_id, tool_name FROM {schema}.tool_metrics"
    )
    await connection.close()


async def _finish(dsn: str, tenant: Tenant) -> None:
    connection = await asyncpg.connect(dsn)
    for table in ("users", "tool_names", *TABLES, *ROLLUPS):
        await connection.execute(f"VACUUM ANALYZE {tenant.schema_name}.{table}")
    await connection.execute("CHECKPOINT")
    await connection.execute(
        "UPDATE public.tenants SET metadata = metadata || '{\"is_loaded\": true}' WHERE id = $1",
        tenant.id,
    )
    await connection.close()


async def _be_patient(dsn: str, tenant: Tenant) -> None:
    """Whatever a process allows, a tenant's statement runs no longer than its plan does."""
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        """
        UPDATE public.tenants
        SET metadata = metadata || jsonb_build_object('statement_timeout_ms', $2::int)
        WHERE id = $1
        """,
        tenant.id,
        PATIENCE_MS,
    )
    await connection.close()


# Each of these has a weight before it: how often it is drawn.
_HOURS = "hour INTEGER"


def _hours() -> list[tuple[object, ...]]:
    """Hours since the start."""
    hours: list[tuple[object, ...]] = []
    for day in range(DAYS):
        is_weekend = (START + timedelta(days=day)).weekday() >= 5
        for hour, weight in enumerate(HOURS):
            # No session reaches beyond the last day.
            is_late = day == DAYS - 1 and (24 - hour) * 3600 <= SESSION_S
            if not is_late:
                hours.append((weight * (WEEKEND if is_weekend else 1), day * 24 + hour))
    return hours


_TOOLS = """
    agent VARCHAR, name VARCHAR, category VARCHAR, median_ms DOUBLE, spread DOUBLE,
    error_rate DOUBLE, asks DOUBLE, error_type VARCHAR, is_process BOOLEAN, output_bytes DOUBLE
"""


def _tools() -> list[tuple[object, ...]]:
    tools: list[tuple[object, ...]] = []
    for code, agent in AGENTS.items():
        tools += [
            (
                tool.weight, code, tool.name, tool.category, tool.median_ms, tool.spread,
                tool.error_rate * ERRORS, tool.asks, tool.errors[0], tool.is_process,
                tool.output_bytes,
            )
            for tool in agent.tools
        ]  # fmt: skip
        tools += [
            (weight, code, name, "mcp", median, spread, rate, asks, "mcp_error", False, 4e3)
            for name, weight, median, spread, rate, asks in MCP
        ]
    return tools


_MODELS = """
    agent VARCHAR, request VARCHAR, response VARCHAR, provider VARCHAR, price DOUBLE,
    cache_read_price DOUBLE, output_price DOUBLE, tokens_a_second DOUBLE, cost_source VARCHAR
"""


def _models() -> list[tuple[object, ...]]:
    return [
        (
            model.weight, code, model.request, model.response, model.provider, model.price,
            model.cache_read_price, model.output_price, model.tokens_a_second, agent.cost_source,
        )
        for code, agent in AGENTS.items()
        for model in agent.models
    ]  # fmt: skip


# Chance is a hash of what it is for, so that the rows are the same with any number of threads. A
# hash of that hash, because the first one only adds the two up: `normal` would not be.
_MACROS = (
    "CREATE TEMP MACRO chance(what, which) AS (hash(hash(what, which)) >> 11)::DOUBLE / 9007199254740992",
    """
    CREATE TEMP MACRO normal(what, which) AS
        sqrt(-2 * ln(1 - chance(what || '.r', which))) * cos(2 * pi() * chance(what || '.a', which))
    """,
    "CREATE TEMP MACRO pick(what, which, n) AS floor(chance(what, which) * n)::INTEGER",
    # Like the product's own: a call's begins with its time, a session's does not.
    """
    CREATE TEMP MACRO id_at(moment, digest) AS printf('%012x8%s8%s', epoch_ms(moment), digest[1:3],
        digest[4:18])::UUID
    """,
    "CREATE TEMP MACRO id_of(digest) AS (digest[1:12] || '8' || digest[13:15] || '8' || digest[16:30])::UUID",
)

# So many slots of an agent (or of the month), each at as many as its weight says: one look-up.
_SLOTS = tuple(
    f"""
    CREATE TEMP TABLE {one}_slots AS
    WITH reached AS (
        SELECT *, sum(weight) OVER (PARTITION BY {whose} ORDER BY rowid) AS upto,
               sum(weight) OVER (PARTITION BY {whose}) AS whole
        FROM {one}s
    )
    SELECT r.* EXCLUDE (weight, upto, whole), s.slot
    FROM reached r JOIN range({SLOTS}) AS s(slot)
      ON s.slot < upto / whole * {SLOTS} AND s.slot >= (upto - weight) / whole * {SLOTS}
    """
    for one, whose in (("hour", "1"), ("tool", "agent"), ("model", "agent"))
)

_USERS = f"""
    CREATE TABLE users AS
    SELECT $tenant::UUID AS tenant_id, id_of(md5('user' || n)) AS id,
           'user' || n || '@bench.example' AS email, 'team-' || pick('team', n, 12) AS team,
           TIMESTAMPTZ '{START.isoformat()}' AS created_at
    FROM range($users) AS r(n)
"""

# A session for each place of work; some people do more than others, and favour one agent.
_WORK = f"""
    CREATE TEMP TABLE work AS
    WITH drawn AS (
        SELECT n, floor($users * power(chance('user', n), 1.6))::INTEGER AS person,
               least({MOST_CALLS}, 1 + floor(-ln(1 - chance('calls', n)) * {CALLS_A_SESSION - 1}))
                   ::INTEGER AS calls,
               pick('hour', n, {SLOTS}) AS slot
        FROM range($rows // {CALLS_A_SESSION - 5} + 20) AS r(n)
    ), counted AS (
        SELECT *, sum(calls) OVER (ORDER BY n) AS upto FROM drawn
    )
    SELECT n, id_of(md5('session' || n)) AS session_id, person,
           id_of(md5('user' || person)) AS user_id, 'team-' || pick('team', person, 12) AS team,
           'acme/service-' || pick('repository' || pick('which', n, 1 + pick('many', person, 4)),
                                   person, 30) AS repository,
           $agents[1 + (pick('agent', person, 5) + if(chance('other', n) < 0.25, 1, 0)) % 5] AS agent,
           TIMESTAMPTZ '{START.isoformat()}' + to_hours(hour)
               + to_microseconds((chance('minute', n) * 3.6e9)::BIGINT) AS started_at,
           -- The last one has as many calls as are missing.
           least(calls, $rows - (upto - calls))::INTEGER AS calls
    FROM counted JOIN hour_slots USING (slot) WHERE upto - calls < $rows
"""

_TOOL_METRICS = f"""
    CREATE TABLE tool_metrics AS
    WITH drawn AS (
        SELECT w.* EXCLUDE (started_at), w.n * {MOST_CALLS} + c.k AS call,
               w.started_at + to_microseconds(
                   ((c.k + chance('gap', w.n * {MOST_CALLS} + c.k))
                    * least(40.0, {SESSION_S}.0 / w.calls) * 1e6)::BIGINT) AS started_at
        FROM work w, range(w.calls) AS c(k)
    ), felt AS (
        SELECT d.*, t.*, chance('asked', call) < t.asks AS is_asked, chance('fate', call) AS fate,
               CASE WHEN chance('asked', call) < t.asks * 0.06 THEN 'reject'
                    WHEN chance('asked', call) < t.asks * 0.09 THEN 'modify'
                    WHEN chance('asked', call) < t.asks THEN 'accept' END AS decision
        FROM drawn d
        JOIN tool_slots t ON t.agent = d.agent AND t.slot = pick('tool', d.call, {SLOTS})
    ), judged AS (
        SELECT *, CASE WHEN decision = 'reject' THEN 'rejected' WHEN fate < 0.004 THEN 'cancelled'
                       WHEN fate < 0.004 + error_rate * 0.07 THEN 'timeout'
                       WHEN fate < 0.004 + error_rate THEN 'error' ELSE 'success' END AS status,
               round(median_ms * exp(spread * normal('duration', call))
                     * if(chance('outlier', call) < 0.002, 30, 1), 3) AS ran_ms
        FROM felt
    )
    SELECT $tenant::UUID AS tenant_id, id_at(started_at, md5('call' || call)) AS id, session_id,
           agent, user_id, name AS tool_name, category AS tool_category, started_at,
           if(status IN ('rejected', 'cancelled'), NULL, ran_ms) AS duration_ms,
           if(is_asked, round(4000 * exp(normal('wait', call))), NULL) AS wait_ms, status,
           if(status IN ('error', 'timeout'), error_type, NULL) AS error_type,
           if(is_process AND decision IS DISTINCT FROM 'reject', round(ran_ms * 0.4, 3), NULL)
               AS cpu_ms,
           (output_bytes * exp(normal('output', call)))::BIGINT AS output_bytes, decision,
           if(is_asked, 'user_once', NULL) AS decision_mode,
           -- One in two hundred was told of by a lesser signal too.
           if(chance('rank', call) < 0.005, 2, 4)::SMALLINT AS source_rank,
           chance('rank', call) >= 0.005 AS is_counted, started_at + INTERVAL 2 SECOND AS received_at
    FROM judged ORDER BY started_at
"""

_MODEL_CALLS = f"""
    CREATE TABLE model_calls AS
    WITH drawn AS (
        SELECT w.* EXCLUDE (started_at), w.n * {MOST_CALLS} + c.k AS call,
               w.started_at + to_microseconds(
                   ((c.k + chance('turn', w.n * {MOST_CALLS} + c.k)) * 10
                    * least(40.0, {SESSION_S}.0 / w.calls) * 1e6)::BIGINT) AS started_at
        FROM work w, range(greatest(1, w.calls // 10)) AS c(k)
    ), judged AS (
        SELECT d.*, m.*, CASE WHEN chance('answer', call) < 0.02 THEN 'error'
                              WHEN chance('answer', call) < 0.03 THEN 'cancelled'
                              ELSE 'success' END AS status,
               (18000 * exp(0.8 * normal('input', call)))::BIGINT AS fresh,
               (60000 * exp(0.9 * normal('cached', call)))::BIGINT AS cached,
               (600 * exp(0.9 * normal('tokens', call)))::BIGINT AS output
        FROM drawn d
        JOIN model_slots m ON m.agent = d.agent AND m.slot = pick('model', d.call, {SLOTS})
    )
    SELECT $tenant::UUID AS tenant_id, id_at(started_at, md5('model call' || call)) AS id, session_id,
           agent, user_id, started_at,
           round(900 + output / tokens_a_second * 1000 * exp(0.2 * normal('speed', call)), 1)
               AS duration_ms,
           if(status = 'success', round(600 * exp(0.4 * normal('first', call)), 1), NULL) AS ttft_ms,
           status, if(status = 'error', 'overloaded', NULL) AS error_type, provider,
           request AS request_model, response AS response_model,
           if(status = 'success', fresh + cached, NULL) AS input_tokens,
           if(status = 'success', fresh, NULL) AS input_uncached_tokens,
           if(status = 'success', cached, NULL) AS cache_read_tokens,
           if(status = 'success', output, NULL) AS output_tokens,
           if(status = 'success', (fresh * price + cached * cache_read_price
                                   + output * output_price)::BIGINT, NULL) AS cost_usd_micros,
           if(status = 'success', cost_source, 'none') AS cost_source, true AS is_counted,
           started_at + INTERVAL 2 SECOND AS received_at
    FROM judged ORDER BY started_at
"""

_SESSIONS = """
    CREATE TABLE metrics_sessions AS
    WITH tools AS (
        SELECT session_id, count(*) AS calls, max(started_at) AS last_at,
               count(*) FILTER (WHERE status IN ('error', 'timeout')) AS errors,
               count(*) FILTER (WHERE status = 'rejected') AS rejects
        FROM tool_metrics WHERE is_counted GROUP BY ALL
    ), models AS (
        SELECT session_id, count(*) AS calls, max(started_at) AS last_at,
               count(*) FILTER (WHERE status = 'error') AS errors,
               sum(input_tokens) AS input_tokens, sum(output_tokens) AS output_tokens,
               sum(cache_read_tokens) AS cache_read_tokens, sum(cost_usd_micros) AS cost
        FROM model_calls GROUP BY ALL
    )
    SELECT $tenant::UUID AS tenant_id, w.session_id AS id, w.agent, 'session-' || w.n AS external_id,
           if(chance('kind', w.n) < 0.8, 'interactive', 'headless') AS session_type, w.started_at,
           coalesce(greatest(t.last_at, m.last_at), w.started_at) AS ended_at,
           coalesce(greatest(t.last_at, m.last_at), w.started_at) AS last_event_at, w.user_id,
           w.repository, 'main' AS branch, w.team,
           round(chance('score', w.n) * 100, 1) AS productivity_score,
           coalesce(t.calls, 0) AS tool_call_count, coalesce(t.errors, 0) AS tool_error_count,
           coalesce(t.rejects, 0) AS tool_reject_count, coalesce(m.calls, 0) AS model_call_count,
           coalesce(m.errors, 0) AS model_error_count,
           coalesce(m.input_tokens, 0)::BIGINT AS input_tokens,
           coalesce(m.output_tokens, 0)::BIGINT AS output_tokens,
           coalesce(m.cache_read_tokens, 0)::BIGINT AS cache_read_tokens,
           coalesce(m.cost, 0)::BIGINT AS cost_usd_micros,
           pick('added', w.n, 300) AS lines_added, pick('removed', w.n, 120) AS lines_removed,
           if(chance('commit', w.n) < 0.3, 1, 0) AS commits, 1 + w.calls // 12 AS prompt_count,
           w.started_at AS created_at
    FROM work w
    LEFT JOIN tools t ON t.session_id = w.session_id LEFT JOIN models m ON m.session_id = w.session_id
    ORDER BY w.started_at
"""


@contextmanager
def _timed(what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
