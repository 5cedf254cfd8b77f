"""`db advise` and `db slow-queries`: what a database needs, said with what to run for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from command_line import on_database

from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import runtime_engine
from metrics_service.db.pool import PoolFigures
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.fleet.advice.indexes import REGISTRY_INDEXES, TENANT_INDEXES
from metrics_service.fleet.slow_query_writer import SlowQueryWriter
from metrics_service.observability.slow import SLOW, set_slow_threshold_ms
from metrics_service.observability.work import working
from metrics_service.tenants.initialise import initialise

PAGE_INDEX = "tool_metrics_page_ix"


class Database:
    """A database of these tests' own, with the command line on it."""

    def __init__(self, addresses: Addresses, admin: str) -> None:
        self.addresses = addresses
        self.admin = admin
        self.line = on_database(addresses)

    def run(self, work: Callable[[asyncpg.Connection], Any], *, dsn: str | None = None) -> Any:
        async def connected() -> Any:
            connection = await asyncpg.connect(dsn or self.admin)
            try:
                return await work(connection)
            finally:
                await connection.close()

        return asyncio.run(connected())

    def sql(self, statement: str, *values: Any) -> list[asyncpg.Record]:
        return self.run(lambda connection: connection.fetch(statement, *values))

    def as_owner(self, *statements: str) -> None:
        """Each by itself, as an operator types them."""

        async def typed(connection: asyncpg.Connection) -> None:
            for statement in statements:
                await connection.execute(statement)

        self.run(typed, dsn=self.addresses.require_owner())

    def tenant(self) -> dict[str, Any]:
        return self.line.here("tenant", "create", f"a{uuid4().hex[:12]}", "--json").json()

    def advice(self, *arguments: str) -> list[dict[str, Any]]:
        return self.line.here("db", "advise", "--json", *arguments).json()


@pytest.fixture(scope="module")
def database(
    new_database: Callable[[], Addresses], admin_url: Callable[[str], str]
) -> Iterator[Database]:
    made = new_database()
    admin = admin_url(urlsplit(made.runtime).path.removeprefix("/"))
    asyncio.run(initialise(made, admin))
    database = Database(made, admin)
    yield database
    # Roles belong to the server: those of a database that is gone would stay.
    database.line.here("db", "reset", "--yes")


def of_kind(findings: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in findings if one["kind"] == kind]


def test_a_new_database_needs_nothing(database):
    slug = database.tenant()["slug"]

    ended = database.line.here("db", "advise", "--tenant", slug)

    assert (ended.code, ended.out, ended.err) == (0, "", "nothing to do\n")
    assert database.advice("--tenant", slug) == []


def test_the_list_of_indexes_is_what_the_migrations_make(database):
    tenant = database.tenant()
    made = """
        SELECT i.relname, t.relname, substring(pg_get_indexdef(i.oid) from ' USING btree (.*)'),
               CASE WHEN k.contype = 'p' THEN 'primary key'
                    WHEN k.condeferred THEN 'deferred unique key'
                    WHEN k.contype = 'u' THEN 'unique key'
                    WHEN x.indisunique THEN 'unique index' ELSE 'index' END
        FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
        JOIN pg_namespace n ON n.oid = t.relnamespace
        LEFT JOIN pg_constraint k ON k.conindid = i.oid AND k.conrelid = t.oid AND k.contype IN ('p', 'u')
        WHERE n.nspname = $1
    """

    for schema, listed in ((tenant["schema_name"], TENANT_INDEXES), ("public", REGISTRY_INDEXES)):
        found = {tuple(row) for row in database.sql(made, schema)}
        assert found == {(one.name, one.table, one.definition, one.kind) for one in listed}


def test_the_index_that_was_dropped_is_named_and_made_again_by_the_statement(database):
    tenant, other = database.tenant(), database.tenant()
    schema = tenant["schema_name"]
    database.as_owner(f"DROP INDEX {schema}.{PAGE_INDEX}")

    [finding] = database.advice("--tenant", tenant["slug"])

    assert finding["kind"] == "missing-index"
    assert finding["object"] == f"{schema}.{PAGE_INDEX}"
    assert finding["tenant"] == tenant["slug"]
    assert PAGE_INDEX in finding["reason"]
    assert finding["statements"] == [
        f"CREATE INDEX CONCURRENTLY {PAGE_INDEX} ON {schema}.tool_metrics (tenant_id, started_at, id)"
    ]
    assert finding in database.advice()
    assert database.advice("--tenant", other["slug"]) == []
    printed = database.line.here("db", "advise", "--tenant", tenant["slug"])
    assert printed.out.splitlines() == [
        f"warning  missing-index  {schema}.{PAGE_INDEX}  (tenant {tenant['slug']})",
        f"  {finding['reason']}",
        f"    {finding['statements'][0]}",
    ]

    done(database, finding)


def test_every_index_and_key_is_made_again_as_it_was(database):
    tenant = database.tenant()
    schema = tenant["schema_name"]
    definitions = (
        "SELECT 'index ' || indexname, indexdef FROM pg_indexes WHERE schemaname = $1 ORDER BY 1"
    )
    constraints = """
        SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = $1::regnamespace AND contype IN ('p', 'u') ORDER BY 1
    """

    def keys():
        return {
            row[0]: row[1]
            for text in (definitions, constraints)
            for row in database.sql(text, schema)
        }

    before = keys()
    database.as_owner(
        *(
            f"ALTER TABLE {schema}.{one.table} DROP CONSTRAINT {one.name} CASCADE"
            if one.kind.endswith("key")
            else f"DROP INDEX {schema}.{one.name}"
            for one in TENANT_INDEXES
        )
    )

    findings = database.advice("--tenant", tenant["slug"])

    assert len(of_kind(findings, "missing-index")) == len(TENANT_INDEXES)
    database.as_owner(*(statement for one in findings for statement in one["statements"]))
    assert keys() == before
    assert database.advice("--tenant", tenant["slug"]) == []


def filled(database: Database, tenant: dict[str, Any], rows: int = 12_000) -> str:
    """Tool metrics in a table that nobody attends to by himself."""
    table = f"{tenant['schema_name']}.tool_metrics"
    database.as_owner(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    database.sql(
        f"""
        INSERT INTO {table} (tenant_id, id, tool_name, status, started_at)
        SELECT $1, gen_random_uuid(), 'Read', 'success', now() - n * interval '1 second' FROM generate_series(1, $2::integer) n
        """,
        UUID(tenant["id"]),
        rows,
    )
    return table


def done(database: Database, finding: dict[str, Any]) -> None:
    """Do as it says; afterwards it is not said again."""
    database.as_owner(*finding["statements"])
    again = database.advice()
    assert (finding["kind"], finding["object"]) not in [
        (one["kind"], one["object"]) for one in again
    ]


def test_a_table_that_nobody_looked_after_is_named_until_somebody_did(database):
    tenant = database.tenant()
    table = filled(database, tenant)

    [unattended] = database.advice("--tenant", tenant["slug"])

    assert (unattended["kind"], unattended["object"]) == ("never-vacuumed", table)
    assert "12,000 rows" in unattended["reason"]
    assert unattended["statements"] == [f"VACUUM (ANALYZE) {table}"]
    done(database, unattended)

    database.sql(f"DELETE FROM {table} WHERE started_at < now() - interval '6000 seconds'")
    [dead] = database.advice("--tenant", tenant["slug"])
    assert (dead["kind"], dead["object"]) == ("dead-rows", table)
    assert "6,0" in dead["reason"]
    done(database, dead)
    assert database.advice("--tenant", tenant["slug"]) == []


def test_a_smaller_table_without_statistics_is_analyzed(database):
    tenant = database.tenant()
    table = filled(database, tenant, rows=1000)

    [finding] = database.advice("--tenant", tenant["slug"])

    assert (finding["kind"], finding["statements"]) == ("never-analyzed", [f"ANALYZE {table}"])
    done(database, finding)


def test_what_is_read_whole_again_and_again_is_named(database):
    tenant = database.tenant()
    table = filled(database, tenant)
    database.as_owner(f"VACUUM (ANALYZE) {table}")

    async def read(connection: asyncpg.Connection) -> None:
        for _ in range(50):
            await connection.fetchval(f"SELECT max(duration_ms) FROM {table}")

    database.run(read)

    [finding] = database.advice("--tenant", tenant["slug"])

    assert (finding["severity"], finding["kind"]) == ("hint", "sequential-scans")
    assert "scans read about 1" in finding["reason"]


def test_a_table_that_is_mostly_air_is_named(database):
    tenant = database.tenant()
    table = f"{tenant['schema_name']}.session_events"
    database.as_owner(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    database.sql(
        f"""
        INSERT INTO {table} (tenant_id, id, kind, signal, name, occurred_at, attributes)
        SELECT $1, gen_random_uuid(), 'event', 'logs', 'e', now(), jsonb_build_object('n', n, 'x', repeat('x', 1200))
        FROM generate_series(1, 12000) n
        """,
        UUID(tenant["id"]),
    )
    database.sql(f"DELETE FROM {table} WHERE (attributes ->> 'n')::integer % 20 <> 0")
    database.as_owner(f"VACUUM (ANALYZE) {table}")

    [finding] = database.advice("--tenant", tenant["slug"])

    assert (finding["kind"], finding["object"]) == ("bloat", table)
    assert finding["statements"] == [f"VACUUM (FULL, ANALYZE) {table}"]
    done(database, finding)


def test_an_index_that_was_never_finished_is_named_and_mended(database):
    tenant = database.tenant()
    table = filled(database, tenant, rows=2)
    with pytest.raises(asyncpg.UniqueViolationError):
        database.as_owner(
            f"CREATE UNIQUE INDEX CONCURRENTLY half_made ON {table} (tenant_id, tool_name)"
        )

    [finding] = database.advice("--tenant", tenant["slug"])

    assert (finding["kind"], finding["object"]) == (
        "invalid-index",
        f"{tenant['schema_name']}.half_made",
    )
    assert finding["statements"] == [f"REINDEX INDEX CONCURRENTLY {finding['object']}"]
    database.sql(f"DELETE FROM {table}")
    done(database, finding)


def test_a_statement_that_waited_for_a_lock_in_vain_is_told(database):
    tenant = database.tenant()

    async def noted(connection: asyncpg.Connection) -> None:
        row = {
            "id": str(uuid4()),
            "at": datetime.now(UTC).isoformat(),
            "tenant_id": str(tenant["id"]),
            "fingerprint": "0123456789abcdef",
            "statement": "SELECT id FROM users",
            "operation": "SELECT",
            "table_name": "users",
            "route": "/api/v1/users",
            "duration_ms": 5000.0,
            "error": "55P03",
        }
        await connection.execute(
            "SELECT public.note_slow_queries($1)", msgspec.json.encode([row]).decode()
        )

    database.run(noted, dsn=database.addresses.runtime)

    [finding] = of_kind(database.advice(), "lock-waits")

    assert (finding["tenant"], finding["object"]) == (tenant["slug"], tenant["schema_name"])
    assert "1 slow executions gave up waiting for a lock" in finding["reason"]
    database.as_owner(*finding["statements"])


def test_processes_that_ran_out_of_connections_want_more(database):
    pool = PoolFigures(
        size=7, open=7, in_use=7, waiting=3, timeouts=12, acquire_p50_ms=None, acquire_p95_ms=None
    )
    # As a process reports it.
    report = {"pool": pool}
    process_id = uuid4()

    async def reported(connection: asyncpg.Connection) -> None:
        await connection.execute(
            "SELECT public.report_process($1, 'http', 'h', 1, '0', now(), 'degraded', $2)",
            process_id,
            msgspec.json.encode(report).decode(),
        )
        event = {
            "at": datetime.now(UTC).isoformat(),
            "process_id": str(process_id),
            "kind": "health-change",
            "check_name": "pool",
            "status_before": "healthy",
            "status": "degraded",
        }
        await connection.execute(
            "SELECT public.note_health_events($1)", msgspec.json.encode([event]).decode()
        )

    database.run(reported, dsn=database.addresses.runtime)

    [finding] = of_kind(database.advice(), "pool-too-small")

    assert finding["object"] == "1 http with 7 connections each"
    assert finding["reason"].startswith(
        "12 requests got no connection in time, 3 wait now, 1 report"
    )
    assert finding["statements"] == ["DATABASE_POOL_MAX=14"]
    database.run(
        lambda connection: connection.execute("SELECT public.leave_process($1)", process_id),
        dsn=database.addresses.runtime,
    )


def provoke(database: Database, tenant: dict[str, Any], statement: str, *values: Any) -> None:
    """Execute it for the tenant as the service does, with every statement slow."""

    async def provoked() -> None:
        engine = runtime_engine(database.addresses.runtime, pool_max=2)
        writer = SlowQueryWriter(engine)
        try:
            async with writer.kept():
                with working("GET /provoked"):
                    context = TenantContext(UUID(tenant["id"]))
                    async with tenant_connection(engine, context) as connection:
                        set_slow_threshold_ms(0)
                        try:
                            await connection.fetch(statement, *values)
                        finally:
                            SLOW.threshold_s = before
                await writer.flush()
        finally:
            await engine.dispose()

    before = SLOW.threshold_s
    asyncio.run(provoked())


PAGE = "SELECT id, started_at FROM tool_metrics WHERE tool_name <> $1 ORDER BY started_at DESC LIMIT 10"


def test_slow_statements_are_blamed_on_the_index_that_is_missing(database):
    tenant = database.tenant()
    table = filled(database, tenant)
    database.as_owner(
        f"VACUUM (ANALYZE) {table}", f"DROP INDEX {tenant['schema_name']}.{PAGE_INDEX}"
    )
    provoke(database, tenant, PAGE, "a-value-of-a-client")

    findings = database.advice("--tenant", tenant["slug"])

    [line] = database.line.here("db", "slow-queries", "--tenant", tenant["slug"], "--json").json()
    [missing] = of_kind(findings, "missing-index")
    [scans] = of_kind(findings, "sequential-scans")
    assert missing["severity"] == "critical"
    assert line["fingerprint"] in missing["reason"]
    assert scans["severity"] == "warning"
    assert missing["statements"] == scans["statements"]
    assert missing["statements"][0].startswith(
        f"CREATE INDEX CONCURRENTLY {PAGE_INDEX} ON {table} "
    )


def test_the_command_line_shows_slow_statements_of_all_and_of_one(database):
    tenant, other = database.tenant(), database.tenant()
    provoke(database, tenant, PAGE, "a-value-of-a-client")
    provoke(database, other, "SELECT count(*) FROM model_calls WHERE agent = $1", "another-value")
    shown = database.line.here("db", "slow-queries", "--tenant", tenant["slug"])

    [one] = database.line.here("db", "slow-queries", "--tenant", tenant["slug"], "--json").json()
    everyones = database.line.here("db", "slow-queries", "--json").json()
    whole = database.line.here("db", "slow-queries", "--fingerprint", one["fingerprint"])
    as_json = database.line.here(
        "db", "slow-queries", "--fingerprint", one["fingerprint"], "--json"
    ).json()

    assert one["statement"] == PAGE.replace("10", "?")
    assert one["table_name"] == "tool_metrics"
    assert one["fingerprint"] in shown.out
    assert {one["fingerprint"]} < {each["fingerprint"] for each in everyones}
    assert "on tool_metrics" in whole.out
    assert "GET /provoked" in whole.out
    assert tenant["slug"] in whole.out
    assert tenant["id"] in {each["tenant_id"] for each in as_json["executions"]}
    for text in (shown.out, whole.out, str(everyones), str(as_json)):
        assert "a-value-of-a-client" not in text
        assert "another-value" not in text


def test_the_command_line_refuses_what_it_does_not_know(database):
    tenant = database.tenant()
    line = database.line.here

    assert line("db", "slow-queries", "--fingerprint", "x").code == 2
    assert line("db", "slow-queries", "--fingerprint", "0" * 16).code == 3
    assert line("db", "slow-queries", "--since", "soon").code == 2
    assert line("db", "slow-queries", "--tenant", "nobody").code == 3
    assert line("db", "advise", "--tenant", "nobody").code == 3
    none = line("db", "slow-queries", "--tenant", tenant["slug"])
    assert (none.code, none.out, none.err) == (0, "", "no statement took too long\n")
