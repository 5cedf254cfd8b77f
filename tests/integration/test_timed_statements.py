"""Every statement is timed, on every way to the database; who waits for whom, and what may be told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection, runtime_engine, warm
from metrics_service.db.tenancy import (
    TenantContext,
    hot_door,
    registry_connection,
    registry_writing,
    tenant_connection,
    tenant_session,
)
from metrics_service.errors import MetricsServiceError
from metrics_service.observability import catalog
from metrics_service.observability.slow import SLOW, SlowStatement, set_slow_threshold_ms, tell_slow
from metrics_service.observability.work import WAIT, Span, Work, keep_spans, span, working

CANARY = "canary4711"

Told = list[tuple[Work | None, list[SlowStatement]]]


@pytest.fixture
def traced() -> Iterator[None]:
    stop = keep_spans(lambda _, __: True, lambda _: None)
    yield
    stop()


@pytest.fixture
def told() -> Iterator[Told]:
    """What was told of statements that took longer than 40 ms, as those do that are to.

    On a busy machine others may, too.
    """
    heard: Told = []
    before = SLOW.threshold_s
    set_slow_threshold_ms(40)

    def hear(work: Work | None, slow: list[SlowStatement]) -> None:
        if meant := [one for one in slow if "pg_sleep" in one.text or "lock_shared" in one.text]:
            heard.append((work, meant))

    stop = tell_slow(hear)
    yield heard
    stop()
    SLOW.threshold_s = before


def names(work: Work) -> list[str]:
    return [one.name for one in work.spans]


def statement(work: Work, name: str) -> Span:
    (found,) = [one for one in work.spans if one.name == name]
    return found


async def test_a_transaction_is_a_wait_a_beginning_statements_and_an_end(
    engine: AsyncEngine, new_tenant, traced: None
) -> None:
    tenant = await new_tenant()
    await warm(engine, 1)

    with working("reading") as work, span("page") as _:
        async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
            await connection.fetch("SELECT 1 FROM generate_series(1, 3)")
            await connection.fetch("SELECT id FROM metrics_sessions WHERE agent = $1", CANARY)

    assert names(work) == [
        WAIT,
        "BEGIN",
        "SELECT",
        "SELECT metrics_sessions",
        "COMMIT",
        "page",
    ]
    page = statement(work, "page")
    assert {one.parent_id for one in work.spans[:-1]} == {page.span_id}
    wait, begin, series, sessions, commit = work.spans[:-1]
    assert begin.statement is not None
    assert begin.statement.normalised == "BEGIN; SELECT shared.enter_tenant($1, $2, $3)"
    assert begin.attributes == {
        "metrics_service.db.wait_ms": pytest.approx((wait.ended - wait.started) * 1000, abs=0.01)
    }
    assert (series.row_count, sessions.row_count, commit.row_count) == (3, 0, None)
    assert wait.ended <= begin.started <= begin.ended <= series.started <= sessions.ended
    assert {one.kind for one in work.spans} == {"internal", "client"}
    assert CANARY not in repr(work)
    assert tenant.id.hex not in repr(work)


async def test_the_orm_and_the_hot_door_are_timed_alike(
    engine: AsyncEngine, new_tenant, traced: None
) -> None:
    tenant = await new_tenant()

    with working("orm") as work:
        async with tenant_session(engine, TenantContext(tenant.id)) as tx:
            await tx.execute(text("SELECT id FROM users WHERE email = :it"), {"it": CANARY})
            await tx.execute(
                text("INSERT INTO users (email) VALUES (:it)"),
                [{"it": f"{number}@example.com"} for number in range(2)],
            )
            connection = await hot_door(tx)
            await connection.fetchval("SELECT count(*) FROM users")
            await connection.execute("UPDATE users SET name = $1", CANARY)

    assert [one.name for one in work.spans] == [
        WAIT,
        "BEGIN",
        "SELECT users",
        "INSERT users",
        "SELECT users",
        "UPDATE users",
        "COMMIT",
    ]
    assert [one.row_count for one in work.spans[2:6]] == [0, None, 1, 2]
    assert CANARY not in repr(work)


async def test_the_registry_is_read_and_written_in_transactions_that_are_timed(
    engine: AsyncEngine, traced: None
) -> None:
    with working("registry") as work:
        async with registry_connection(engine) as connection:
            await connection.fetch("SELECT * FROM public.count_schemas($1)", [])
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await connection.execute("CREATE TEMPORARY TABLE t (a int)")
    assert [one.error for one in work.spans if one.name == "CREATE"] == ["25006"]

    async with registry_writing(engine) as connection:
        await connection.execute("SELECT public.note_activity('[]')")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetch("SELECT * FROM public.tenants")


async def test_what_fails_is_told_by_its_code_alone(
    engine: AsyncEngine, new_tenant, traced: None
) -> None:
    tenant = await new_tenant()

    with working("failing") as work, pytest.raises(asyncpg.DataError):
        async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
            await connection.fetch(f"SELECT '{CANARY}'::uuid")
    with working("failing"), pytest.raises(MetricsServiceError):
        async with tenant_connection(engine, TenantContext(tenant.id, timeout_ms=20)) as connection:
            await connection.fetch("SELECT pg_sleep(5)")

    assert [(one.name, one.error) for one in work.spans] == [
        (WAIT, None),
        ("BEGIN", None),
        ("SELECT", "22P02"),
        ("ROLLBACK", None),
    ]
    assert CANARY not in repr(work)


async def test_a_slow_statement_is_told_with_its_tenant_when_its_work_ends(
    engine: AsyncEngine, new_tenant, told: Told
) -> None:
    tenant, other = await new_tenant(), await new_tenant()

    with working("slow", route="the route") as work:
        async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
            await connection.fetch("SELECT pg_sleep(0.05), $1::text", CANARY)
            assert told == []
        async with tenant_connection(engine, TenantContext(other.id)) as connection:
            await connection.fetch("SELECT 1")
            await connection.fetch(f"SELECT pg_sleep(0.05), '{CANARY}'")

    ((whose, (first, second)),) = told
    assert whose is work
    assert (first.tenant_id, second.tenant_id) == (tenant.id, other.id)
    assert first.is_planned_as == TenantContext(tenant.id)
    assert (first.row_count, first.error) == (1, None)
    assert 40 <= first.duration_ms < 5000
    assert first.wait_ms is not None
    assert second.statement.normalised == "SELECT pg_sleep(?), ?"
    assert first.text == "SELECT pg_sleep(0.05), $1::text"
    assert CANARY not in repr(first)
    assert work.spans == []


async def test_slow_ones_of_the_orm_of_nobody_and_of_the_owner_are_told_too(
    engine: AsyncEngine, addresses: Addresses, new_tenant, told: Told
) -> None:
    tenant = await new_tenant()

    async with tenant_session(engine, TenantContext(tenant.id)) as tx:
        await tx.execute(text("SELECT pg_sleep(0.05)"))
    async with registry_connection(engine) as connection:
        await connection.fetch("SELECT pg_sleep(0.05)")
    async with owner_connection(addresses.require_owner()) as owner:
        await owner.execute(text("SELECT pg_sleep(0.05)"))

    assert [(work, len(slow), slow[0].tenant_id) for work, slow in told] == [
        (None, 1, tenant.id),
        (None, 1, None),
        (None, 1, None),
    ]
    assert [slow[0].is_planned_as for _, slow in told[1:]] == [None, None]


async def test_a_statement_that_was_given_up_is_slow_too(
    engine: AsyncEngine, new_tenant, told: Told
) -> None:
    tenant = await new_tenant()

    with pytest.raises(MetricsServiceError):
        async with tenant_connection(engine, TenantContext(tenant.id, timeout_ms=60)) as connection:
            await connection.fetch("SELECT pg_sleep(5)")
    with pytest.raises(TimeoutError):
        async with (
            asyncio.timeout(0.06),
            tenant_connection(engine, TenantContext(tenant.id)) as connection,
        ):
            await connection.fetch("SELECT pg_sleep(5)")

    assert [slow[0].error for _, slow in told] == ["57014", "CancelledError"]


async def test_a_lock_that_is_waited_for_at_the_beginning_is_the_beginnings_time(
    engine: AsyncEngine, addresses: Addresses, new_tenant, told: Told
) -> None:
    tenant = await new_tenant()
    context = TenantContext(tenant.id, shared_lock="some lock")
    begun = context.begin()
    key = begun.rpartition("(")[2].rstrip(")")
    holder = await asyncpg.connect(addresses.runtime)
    await holder.execute(f"SELECT pg_advisory_lock({key})")

    async def hold() -> None:
        await asyncio.sleep(0.1)
        await holder.close()

    holding = asyncio.create_task(hold())
    async with tenant_connection(engine, context) as connection:
        await connection.fetch("SELECT 1")
    await holding

    ((_, (slow,)),) = told
    assert slow.statement.operation == "BEGIN"
    assert slow.tenant_id == tenant.id
    # There is no plan of it.
    assert slow.is_planned_as is None
    assert tenant.id.hex not in repr(slow.text + slow.statement.normalised)
    assert key not in slow.statement.normalised


async def test_the_wait_for_a_connection_is_told_apart(
    addresses: Addresses, new_tenant, told: Told
) -> None:
    tenant = await new_tenant()
    small = runtime_engine(addresses.runtime, pool_max=1)
    context = TenantContext(tenant.id)
    stop = keep_spans(lambda _, __: True, lambda _: None)
    is_held = asyncio.Event()

    async def hold() -> None:
        async with tenant_connection(small, context) as connection:
            await connection.fetch("SELECT 1")
            is_held.set()
            await asyncio.sleep(1)

    try:
        holding = asyncio.create_task(hold())
        await is_held.wait()
        with working("waiting") as work:
            async with tenant_connection(small, context) as connection:
                await connection.fetch("SELECT pg_sleep(0.05)")
        await holding
    finally:
        stop()
        await small.dispose()

    ((_, (slow,)),) = told
    assert slow.wait_ms is not None
    assert slow.wait_ms > 100
    assert slow.duration_ms < slow.wait_ms
    wait = statement(work, WAIT)
    assert (wait.ended - wait.started) * 1000 == pytest.approx(slow.wait_ms, abs=0.01)
    assert statement(work, "SELECT").is_slow


async def test_statements_are_counted_by_what_they_do_and_nothing_else(
    engine: AsyncEngine, new_tenant
) -> None:
    tenant = await new_tenant()

    def counts() -> dict[str, int]:
        return {
            str(point.values[0]): point.count for point in catalog.DB_OPERATION_DURATION.points()
        }

    before = counts()
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        await connection.fetch("SELECT 1")
        await connection.executemany("SELECT $1::text", [("a",), ("b",)])
    after = counts()

    grown = {name: count - before.get(name, 0) for name, count in after.items()}
    assert {name: by for name, by in grown.items() if by} == {"BEGIN": 1, "SELECT": 2, "COMMIT": 1}


async def test_prepared_statements_are_timed_each_time(
    engine: AsyncEngine, new_tenant, traced: None
) -> None:
    tenant = await new_tenant()

    # Read only: a change whose statement failed could not be stored.
    context = TenantContext(tenant.id, read_only=True)
    with working("prepared") as work:
        async with tenant_connection(engine, context) as connection:
            prepared = await connection.prepare("SELECT $1::int AS a")
            assert await prepared.fetchval(5) == 5
            assert await prepared.fetchrow(6) == (6,)
            assert await prepared.fetchmany([(7,), (8,)]) == [(7,), (8,)]
            await prepared.executemany([(9,)])
            with pytest.raises(asyncpg.PostgresSyntaxError):
                await connection.prepare(f"SELEC '{CANARY}'")

    statements = [one for one in work.spans if one.name in ("SELECT", "OTHER")]
    assert [one.error for one in statements] == [None, None, None, None, "42601"]
    assert CANARY not in repr(work)
