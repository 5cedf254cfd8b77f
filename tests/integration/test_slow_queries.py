"""Slow statements from where they happen to where they are read: rows, plans, bounds, who sees which."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import asyncpg
import msgspec
import pytest
from command_line import on_database
from sqlalchemy import text
from structlog.testing import capture_logs

from metrics_service.db import coverage
from metrics_service.db.addresses import MIGRATOR_LOGIN, RUNTIME_LOGIN, Addresses
from metrics_service.db.engine import owner_connection, runtime_engine
from metrics_service.db.tenancy import (
    TenantContext,
    registry_connection,
    tenant_connection,
    tenant_session,
)
from metrics_service.errors import StatementTimeoutError
from metrics_service.fleet import plans, slow_query_writer
from metrics_service.fleet.plan_tree import tree_of
from metrics_service.fleet.slow_queries import (
    FleetSlowQuery,
    FleetSlowQuerySummary,
    SlowQuery,
    SlowQueryFilter,
    SlowQuerySummary,
    count_slow_queries,
    list_slow_queries,
    of_operator,
    of_tenant,
    summarise_slow_queries,
    with_statistics,
)
from metrics_service.fleet.slow_query_writer import SlowQueryWriter
from metrics_service.fleet.statement_statistics import fetch_statistics
from metrics_service.observability.slow import SLOW, SlowStatement, set_slow_threshold_ms
from metrics_service.observability.statements import describe
from metrics_service.observability.work import working
from metrics_service.tenants.initialise import initialise, target_of
from metrics_service.tenants.new_tenant import NewTenant
from metrics_service.tenants.provision import create_tenant

CANARY = "canary-of-a-client"
LITERAL = "canary-literal"
NUMBER = "471147114711"  # long enough to be in no identity by chance
SLOW_READ = f"""
    SELECT pg_sleep(0.03), (SELECT count(*) FROM tool_metrics t
                            WHERE t.tool_name = $1 AND t.status <> '{LITERAL}' AND t.wait_ms > {NUMBER})
"""
EVERYTHING = SlowQueryFilter()
POSTGRESQL_15 = Path("/usr/lib/postgresql/15/bin")


@pytest.fixture
def threshold():
    before = SLOW.threshold_s
    set_slow_threshold_ms(20)
    yield
    SLOW.threshold_s = before


@asynccontextmanager
async def kept(engine):
    writer = SlowQueryWriter(engine)
    async with writer.kept():
        yield writer


@pytest.fixture
async def writer(engine, threshold):
    async with kept(engine) as made:
        yield made


async def new_operator(addresses):
    """The hash of an operator's key."""
    key_hash = sha256(uuid4().bytes).digest()
    async with owner_connection(addresses.require_owner()) as connection, connection.begin():
        await connection.exec_driver_sql(
            "INSERT INTO public.operator_keys (id, prefix, key_hash, name) VALUES ($1, $2, $3, $4)",
            (uuid4(), uuid4().hex[:16], key_hash, "test"),
        )
    return key_hash


@pytest.fixture(scope="module")
async def operator(addresses):
    return await new_operator(addresses)


async def execute(engine, tenant, statement=SLOW_READ, *values, **context):
    if statement == SLOW_READ:
        values = (CANARY,)
    with working("GET /slow"):
        async with tenant_connection(engine, TenantContext(tenant.id, **context)) as connection:
            await connection.fetch(statement, *values)


async def seen_by(engine, tenant, wanted=EVERYTHING, **how):
    """But for the ends of transactions, which are slow too where the machine is busy."""
    rows = await all_seen_by(engine, tenant, wanted, **how)
    return [one for one in rows if one.operation not in {"BEGIN", "COMMIT", "ROLLBACK"}]


async def all_seen_by(engine, tenant, wanted=EVERYTHING, **how):
    async with tenant_connection(engine, TenantContext(tenant.id, read_only=True)) as connection:
        return await list_slow_queries(
            connection, of_tenant, wanted, kind=SlowQuery, **{"limit": 500, **how}
        )


async def summary_of(engine, tenant, wanted=EVERYTHING, **how):
    async with tenant_connection(engine, TenantContext(tenant.id, read_only=True)) as connection:
        return await summarise_slow_queries(
            connection, of_tenant, wanted, kind=SlowQuerySummary, **{"limit": 500, **how}
        )


def slow(tenant, statement="SELECT 1", **changes):
    """One that was told, without the time it took."""
    told = SlowStatement(
        id=uuid4(),
        at=datetime.now(UTC),
        text=statement,
        statement=describe(statement),
        duration_ms=30.0,
        wait_ms=1.0,
        row_count=1,
        tenant_id=tenant.id,
        is_planned_as=None,
        error=None,
    )
    return msgspec.structs.replace(told, **changes)


# -- who sees what ----------------------------------------------------------------------------------


async def test_a_slow_statement_is_seen_by_its_tenant_and_the_operator_and_nobody_else(
    engine, writer, new_tenant, operator
):
    tenant, stranger = await new_tenant(), await new_tenant()
    await execute(engine, tenant)

    await writer.flush()

    [own] = await seen_by(engine, tenant)
    assert own.duration_ms >= 20
    assert own.wait_ms >= 0
    assert (own.route, own.row_count, own.operation) == ("GET /slow", 1, "SELECT")
    assert own.table_name == "tool_metrics"
    assert own.plan is not None
    async with registry_connection(engine) as connection:
        # On a busy machine its transaction may begin and end slowly too.
        of_one = SlowQueryFilter(
            tenant_id=tenant.id, route="GET /slow", fingerprint=own.fingerprint
        )
        source = of_operator(operator)
        of_all = await list_slow_queries(connection, source, of_one, kind=FleetSlowQuery, limit=10)
        summary = await summarise_slow_queries(
            connection, source, of_one, kind=FleetSlowQuerySummary, limit=10
        )
        assert await count_slow_queries(connection, source, of_one) == 1
    assert [(one.id, one.tenant_id, one.plan) for one in of_all] == [(own.id, tenant.id, own.plan)]
    assert [(one.tenant_count, one.calls, one.plan) for one in summary.rows] == [(1, 1, own.plan)]
    assert await seen_by(engine, stranger) == []
    assert (await summary_of(engine, stranger)).rows == []


async def test_without_a_living_operator_key_nothing_is_told(engine, writer, new_tenant, operator):
    await execute(engine, await new_tenant())
    await writer.flush()

    for key_hash in (b"", b"\0" * 32, operator[::-1]):
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            async with registry_connection(engine) as connection:
                await list_slow_queries(
                    connection, of_operator(key_hash), EVERYTHING, kind=FleetSlowQuery, limit=10
                )


async def test_no_tenant_may_call_the_operators_function_or_read_the_table(
    engine, new_tenant, operator
):
    tenant = await new_tenant()

    for statement, values in (
        ("SELECT id FROM public.operator_slow_queries($1, now())", (operator,)),
        ("SELECT id FROM public.slow_queries", ()),
        ("SELECT query FROM public.statement_statistics()", ()),
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
                await connection.fetch(statement, *values)


# -- what is written --------------------------------------------------------------------------------


async def test_no_value_and_no_literal_is_in_row_plan_or_log(engine, writer, new_tenant):
    tenant = await new_tenant()
    with capture_logs() as lines:
        await execute(engine, tenant)
        await writer.flush()

    [own] = await seen_by(engine, tenant)

    assert "$1" in bytes(own.plan).decode()
    assert "tool_metrics" in bytes(own.plan).decode()
    # Another application in this process may tell of it too.
    line = next(line for line in lines if line.get("fingerprint") == own.fingerprint)
    assert line["event"] == "slow query"
    assert line["tenant"] == str(tenant.id)
    told = msgspec.json.encode(own).decode() + str(lines)
    for word in (CANARY, LITERAL, NUMBER, tenant.tenant.schema_name, tenant.key):
        assert word not in told
    assert str(tenant.id) not in msgspec.json.encode(own).decode()


async def test_statements_of_the_orm_have_rows_and_plans_too(engine, writer, new_tenant):
    tenant = await new_tenant()
    statement = text("SELECT pg_sleep(:s), (SELECT count(*) FROM users WHERE name = :name)")
    with working("GET /orm"):
        async with tenant_session(engine, TenantContext(tenant.id)) as tx:
            await tx.execute(statement, {"s": 0.03, "name": CANARY})

    await writer.flush()

    [own] = await seen_by(engine, tenant)
    assert (own.route, own.table_name) == ("GET /orm", "users")
    assert "users" in str(tree_of(own.plan))


async def test_what_writes_is_planned_and_not_executed_again(engine, writer, new_tenant):
    tenant = await new_tenant()
    await execute(
        engine,
        tenant,
        """
        WITH rest AS MATERIALIZED (SELECT pg_sleep(0.03))
        INSERT INTO users (id, email, role) SELECT $1::uuid, $2::text, 'viewer' FROM rest
        RETURNING id
        """,
        uuid4(),
        "ada@example.com",
    )

    await writer.flush()

    [own] = await seen_by(engine, tenant)
    assert (own.operation, own.table_name) == ("INSERT", "users")
    assert tree_of(own.plan).title == "Insert on users"
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        assert await connection.fetchval("SELECT count(*) FROM users") == 1


async def test_one_that_ran_out_of_time_has_its_code_and_its_plan(engine, writer, new_tenant):
    tenant = await new_tenant()
    with pytest.raises(StatementTimeoutError):
        await execute(
            engine, tenant, "SELECT pg_sleep(5) FROM shared.list_api_keys()", timeout_ms=50
        )

    await writer.flush()

    [own] = await seen_by(engine, tenant)
    assert own.error == "57014"
    assert own.row_count is None
    assert own.plan is not None


async def test_a_tenants_statement_is_planned_once_in_ten_minutes_and_for_each_tenant(
    engine, new_tenant, monkeypatch
):
    tenant, other = await new_tenant(), await new_tenant()
    now = 1000.0
    async with kept(engine) as writer:
        writer._plans = plans.PlanTaker(engine, clock=lambda: now)

        def told(whose):
            context = TenantContext(whose.id)
            return slow(whose, "SELECT id FROM users WHERE name = $1", is_planned_as=context)

        for whose in (tenant, tenant, other):
            writer.take(None, [told(whose)])
            await writer.flush()
        now += plans.APART_S
        writer.take(None, [told(tenant)])
        await writer.flush()

    has_plan = [one.plan is not None for one in await seen_by(engine, tenant, sort="at")]
    assert has_plan == [True, False, True]
    assert [one.plan is not None for one in await seen_by(engine, other)] == [True]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1; DELETE FROM users",
        "SELECT nothing FROM nowhere",
        "SELECT $1",
        "SELECT " + "1," * 40_000 + "1",
        "SELECT '" + "x" * 1_000_000 + "'",
        "NOTIFY metrics_registry, 'x'",
        "SELECT id FROM users WHERE name = '\0\ud800'",
        "",
    ],
    ids=["several", "unknown", "untyped", "long", "megabyte", "no query", "no text", "empty"],
)
async def test_odd_statements_are_noted_and_hurt_nobody(engine, new_tenant, statement):
    tenant = await new_tenant()
    async with kept(engine) as writer:
        writer.take(None, [slow(tenant, statement, is_planned_as=TenantContext(tenant.id))])
        await writer.flush()

    [own] = await seen_by(engine, tenant)

    assert len(own.statement) <= 8192
    assert "xxx" not in own.statement
    assert own.route == "background"


async def test_nothing_that_was_prepared_stays_on_the_connection(addresses, new_tenant):
    tenant = await new_tenant()
    engine = runtime_engine(addresses.runtime, pool_max=1)
    taker = plans.PlanTaker(engine)
    good = slow(tenant, "SELECT id FROM users", is_planned_as=TenantContext(tenant.id))
    # It can be prepared, and is found out when it is planned.
    bad = msgspec.structs.replace(good, text="SELECT 1 / 0 FROM users WHERE 1 / 0 = 1")
    try:
        assert await taker.take(good) is not None
        assert await taker.take(bad) is None
        assert await taker.take(good) is not None
        async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
            left = await connection.fetchval(
                "SELECT count(*) FROM pg_prepared_statements WHERE from_sql"
            )
            mode = await connection.fetchval("SHOW plan_cache_mode")
    finally:
        await engine.dispose()
    assert (left, mode) == (0, "auto")


async def test_a_plan_waits_for_no_connection(addresses, new_tenant):
    tenant = await new_tenant()
    engine = runtime_engine(addresses.runtime, pool_max=1)
    told = slow(tenant, "SELECT id FROM users", is_planned_as=TenantContext(tenant.id))
    try:
        async with tenant_connection(engine, TenantContext(tenant.id)):
            assert await plans.PlanTaker(engine).take(told) is None
    finally:
        await engine.dispose()


def test_which_plans_were_taken_is_remembered_of_so_many(engine):
    taker = plans.PlanTaker(engine)

    class Anyone(msgspec.Struct):
        id: object

    for _ in range(plans.MAX_REMEMBERED + 10):
        whose = Anyone(uuid4())
        assert taker.is_due(slow(whose, is_planned_as=TenantContext(whose.id)))
    assert len(taker._taken) == plans.MAX_REMEMBERED


# -- what cannot be written -------------------------------------------------------------------------


async def test_what_the_writer_does_itself_is_never_noted(engine, new_tenant):
    tenant = await new_tenant()
    before = SLOW.threshold_s
    async with kept(engine) as writer:
        set_slow_threshold_ms(0)
        try:
            await execute(engine, tenant, "SELECT id FROM users")
            async with asyncio.timeout(10):
                await writer.flush()
        finally:
            SLOW.threshold_s = before

        assert len(writer._waiting) == 0
    noted = [one.statement for one in await all_seen_by(engine, tenant, sort="at")]
    assert [one.split()[0].strip(";") for one in noted] == ["BEGIN", "SELECT", "COMMIT"]


async def test_no_tenant_keeps_out_what_another_has_to_tell(engine, new_tenant):
    loud, quiet = await new_tenant(), await new_tenant()
    async with kept(engine) as writer:
        for _ in range(slow_query_writer.MAX_WAITING + 50):
            writer.take(None, [slow(loud)])
        for _ in range(3):
            writer.take(None, [slow(quiet)])

        assert len(writer._waiting) == slow_query_writer.MAX_WAITING

    assert len(await seen_by(engine, quiet)) == 3


async def test_rows_wait_while_the_database_is_away_and_are_bounded(
    engine, addresses, new_tenant, monkeypatch
):
    tenant = await new_tenant()
    away = runtime_engine("postgresql://nobody@127.0.0.1:1/nothing", pool_max=1)
    with capture_logs() as lines:
        async with kept(away) as writer:
            for _ in range(slow_query_writer.MAX_WAITING + 7):
                writer.take(None, [slow(tenant)])
            await writer.flush()
            assert len(writer._waiting) == slow_query_writer.MAX_WAITING
            writer._engine = engine
            await writer.flush()
            assert len(writer._waiting) == 0
    await away.dispose()

    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        count = await count_slow_queries(connection, of_tenant, EVERYTHING)
    assert count == slow_query_writer.MAX_WAITING
    assert {"event": "slow queries dropped", "count": 7, "log_level": "warning"} in lines


async def test_they_are_written_within_seconds_and_in_the_end(engine, new_tenant):
    tenant = await new_tenant()
    async with kept(engine) as writer:
        writer.take(None, [slow(tenant)])
        async with asyncio.timeout(10):
            while not await seen_by(engine, tenant):
                await asyncio.sleep(0.1)
        writer.take(None, [slow(tenant)])

    assert len(await seen_by(engine, tenant)) == 2


async def test_the_end_is_not_waited_for_when_the_database_says_nothing(new_tenant, monkeypatch):
    monkeypatch.setattr(slow_query_writer, "WRITTEN_EVERY_S", 0.01)
    monkeypatch.setattr(slow_query_writer, "LAST_WORDS_S", 0.2)
    tenant, is_asked = await new_tenant(), asyncio.Event()

    async def say_nothing(reader, writer):
        is_asked.set()
        await reader.read()
        writer.close()

    silence = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = silence.sockets[0].getsockname()[1]
    silent = runtime_engine(f"postgresql://nobody@127.0.0.1:{port}/nothing", pool_max=1)
    with capture_logs() as lines:
        async with kept(silent) as writer:
            writer.take(None, [slow(tenant)])
            await is_asked.wait()
            told_at = time.monotonic()
    silence.close()
    await silent.dispose()

    assert time.monotonic() - told_at < 2
    assert {"event": "slow queries not written", "count": 1, "log_level": "error"} in lines


async def test_the_end_is_not_waited_for_when_the_database_is_away(new_tenant):
    tenant = await new_tenant()
    away = runtime_engine("postgresql://nobody@127.0.0.1:1/nothing", pool_max=1)
    async with asyncio.timeout(slow_query_writer.LAST_WORDS_S + 3):
        async with kept(away) as writer:
            writer.take(None, [slow(tenant)])
    await away.dispose()


async def test_the_newest_of_each_tenant_are_kept(engine, new_tenant):
    tenant, quiet = await new_tenant(), await new_tenant()
    start = datetime.now(UTC) - timedelta(hours=1)
    async with kept(engine) as writer:
        writer.take(None, [slow(quiet, at=start)])
        for turn in range(3):
            writer.take(
                None,
                [
                    slow(tenant, at=start + timedelta(seconds=turn * 800 + n), duration_ms=n)
                    for n in range(800)
                ],
            )
            await writer.flush()

    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        assert await count_slow_queries(connection, of_tenant, EVERYTHING) == 2000
    assert (await seen_by(engine, tenant, sort="at", limit=1))[0].at >= start + timedelta(
        seconds=400
    )
    assert len(await seen_by(engine, quiet)) == 1


# -- added up ---------------------------------------------------------------------------------------


async def test_executions_are_added_up_by_fingerprint(engine, new_tenant):
    tenant = await new_tenant()
    start = datetime.now(UTC) - timedelta(hours=2)
    async with kept(engine) as writer:
        for n in range(1, 21):
            with working(f"GET /r{n % 2}") as work:
                writer.take(
                    work,
                    [
                        slow(
                            tenant,
                            "SELECT a FROM b",
                            duration_ms=n * 10.0,
                            row_count=n,
                            at=start + timedelta(minutes=n),
                            error="57014" if n == 3 else None,
                        )
                    ],
                )
        writer.take(None, [slow(tenant, "SELECT c FROM d", duration_ms=5000.0, row_count=None)])
        await writer.flush()

    found = await summary_of(engine, tenant)

    assert found.total == 2
    slowest, often = found.rows
    assert (slowest.statement, slowest.row_count, slowest.plan) == ("SELECT c FROM d", None, None)
    assert (often.calls, often.error_count, often.row_count) == (20, 1, 210)
    assert (often.total_ms, often.mean_ms, often.worst_ms) == (2100.0, 105.0, 200.0)
    # The nearest rank: the nineteenth of twenty.
    assert often.p95_ms == 190.0
    assert often.routes == ["GET /r0", "GET /r1"]
    assert (often.first_at, often.last_at) == (
        start + timedelta(minutes=1),
        start + timedelta(minutes=20),
    )
    by_calls = await summary_of(engine, tenant, sort="-calls", limit=1)
    assert ([one.calls for one in by_calls.rows], by_calls.total) == ([20], 2)
    narrowed = await summary_of(
        engine,
        tenant,
        SlowQueryFilter(
            since=start + timedelta(minutes=5),
            until=start + timedelta(minutes=15),
            route="GET /r1",
            min_duration_ms=70,
            fingerprint=often.fingerprint,
        ),
    )
    assert [one.calls for one in narrowed.rows] == [4]  # of the minutes 7, 9, 11 and 13


# -- with what the server counts --------------------------------------------------------------------


@contextmanager
def postgresql_15(*settings):
    """Debian's, thrown away in the end; its user is no superuser of the machine."""
    home = Path(tempfile.mkdtemp(prefix="postgresql-15-"))
    home.chmod(0o755)
    user = "postgres" if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(home, user)

    def run(program, *arguments):
        subprocess.run(
            [POSTGRESQL_15 / program, "-D", home / "data", *arguments],
            user=user, group=user, extra_groups=[] if user else None,
            cwd=home, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    run("initdb", "-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C")
    options = " ".join(f"-c {one}" for one in (*settings, "listen_addresses=''", "fsync=off"))
    run("pg_ctl", "-l", home / "log", "-w", "-s", "-o", f"-k {home} {options}", "start")
    try:
        yield lambda login, database="postgres": f"postgresql://{login}@/{database}?host={home}"
    finally:
        run("pg_ctl", "-m", "fast", "-s", "stop")
        shutil.rmtree(home)


@pytest.fixture(scope="module")
def counting():
    """A server that counts statements, with our database and one tenant on it."""
    if not POSTGRESQL_15.exists():
        pytest.skip("PostgreSQL 15 is not installed")
    with postgresql_15("shared_preload_libraries=pg_stat_statements") as dsn:
        addresses = Addresses(
            runtime=dsn(RUNTIME_LOGIN), direct=dsn(RUNTIME_LOGIN), owner=dsn(MIGRATOR_LOGIN)
        )
        notes = asyncio.run(initialise(addresses, dsn("postgres")))
        yield addresses, dsn, notes


async def test_counts_of_the_server_are_joined_by_fingerprint(counting, threshold):
    addresses, _, notes = counting
    assert not [note for note in notes if "pg_stat_statements" in note]
    operator = await new_operator(addresses)
    new = NewTenant.of("counted", name=None, domain=None, plan="basic", base_domain="localhost")
    async with owner_connection(addresses.require_owner()) as connection:
        tenant = await create_tenant(connection, new, target_of(addresses))
    engine = runtime_engine(addresses.runtime, pool_max=2)
    try:
        async with kept(engine) as writer:
            await execute(engine, tenant)
            SLOW.threshold_s = 100
            await execute(engine, tenant)
            await writer.flush()
        async with registry_connection(engine) as connection:
            summaries = await summarise_slow_queries(
                connection, of_operator(operator), EVERYTHING, kind=FleetSlowQuerySummary, limit=10
            )
            statistics = await fetch_statistics(connection, operator)
            with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
                await fetch_statistics(connection, b"x" * 32)
    finally:
        await engine.dispose()

    [one] = [
        one
        for one in with_statistics(summaries.rows, statistics)
        if one.table_name == "tool_metrics"
    ]
    assert one.calls == 1
    assert one.statistics.calls == 2
    assert one.statistics.total_ms >= 60
    assert one.statistics.mean_ms == pytest.approx(one.statistics.total_ms / 2, abs=0.01)
    shown = on_database(addresses)("db", "slow-queries", "--json").json()
    assert 2 in [line["statistics"]["calls"] for line in shown if line["statistics"]]


async def test_nobody_but_the_owner_may_read_what_the_server_counts(counting):
    addresses, dsn, _ = counting
    async with owner_connection(addresses.require_owner()) as connection, connection.begin():
        assert await coverage.tenant_holes(connection) == []
        assert await coverage.role_holes(connection, RUNTIME_LOGIN) == []
        assert await connection.scalar(text("SELECT count(*) FROM public.pg_stat_statements")) > 0
    connection = await asyncpg.connect(addresses.runtime)
    try:
        for statement in (
            "SELECT query FROM public.pg_stat_statements",
            "SELECT query FROM public.pg_stat_statements(true)",
            "SELECT query FROM public.statement_statistics()",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch(statement)
    finally:
        await connection.close()
    # Again, where all of it is there already.
    assert await initialise(addresses, dsn("postgres")) == []


async def test_an_administrator_who_may_not_is_told_what_is_missing(counting):
    _, dsn, _ = counting
    admin = await asyncpg.connect(dsn("postgres"))
    try:
        await admin.execute("CREATE ROLE boss LOGIN CREATEROLE")
        await admin.execute("CREATE DATABASE plain OWNER boss")
    finally:
        await admin.close()
    addresses = Addresses(
        runtime=dsn("serving", "plain"),
        direct=dsn("serving", "plain"),
        owner=dsn("migrating", "plain"),
    )

    notes = await initialise(addresses, dsn("boss", "plain"))

    assert [note for note in notes if note.startswith("pg_stat_statements is loaded, but")]
    assert on_database(addresses)("db", "slow-queries").code == 0


async def test_a_server_that_does_not_count_has_no_statistics(engine, operator):
    async with registry_connection(engine) as connection:
        assert await fetch_statistics(connection, operator) == {}
