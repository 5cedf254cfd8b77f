"""Behind PgBouncer in transaction mode: what finds it out, what still holds there, and what would not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import asyncpg
import pytest
from poolers import Pooler, is_installed, pooler_to
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.addresses import Addresses
from metrics_service.db.connect import connect, is_pooled, keeps_statements
from metrics_service.db.engine import owner_connection, runtime_engine
from metrics_service.db.probe import Probe
from metrics_service.db.tenancy import (
    TenantContext,
    registry_connection,
    tenant_connection,
    tenant_session,
)
from metrics_service.errors import DatabaseUnreachableError, UnavailableError
from metrics_service.fleet import plans
from metrics_service.health.wall import look_at_wall
from metrics_service.maintenance.leader import candidate
from metrics_service.tenants.listener import RegistryListener
from metrics_service.tenants.registry import CHANNEL, Tenant
from metrics_service.tenants.upgrade import one_at_a_time

pytestmark = pytest.mark.skipif(not is_installed(), reason="PgBouncer is not installed")

CLIENTS = 8
"""More than the pooler has connections to the server."""
TIMEOUT_S = 10.0
BACK_WITHIN_S = 5.0

NAMES = "SELECT tenant_id, name FROM tool_names"


@pytest.fixture(scope="module")
def pooler(addresses: Addresses) -> Iterator[Pooler]:
    with pooler_to(addresses.direct) as started:
        yield started


@pytest.fixture(scope="module")
async def pooled(pooler: Pooler) -> AsyncIterator[AsyncEngine]:
    """The service's own pool, in front of that of the pooler."""
    engine = runtime_engine(pooler.dsn, pool_max=CLIENTS)
    yield engine
    await engine.dispose()


@asynccontextmanager
async def connected(pooler: Pooler, **how: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(pooler.dsn, application_name="test", timeout=TIMEOUT_S, **how)
    yield connection
    connection.terminate()


# -- found out by itself ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "kept_directly", "kept_behind"),
    [("auto", True, False), ("on", True, True), ("off", False, False)],
)
async def test_statements_are_kept_where_they_stay_unless_it_is_said_otherwise(
    addresses, pooler, said, kept_directly, kept_behind
):
    found = {}
    for name, dsn in (("directly", addresses.direct), ("behind", pooler.dsn)):
        connection = await connect(
            dsn, application_name="test", timeout=TIMEOUT_S, prepared_statements=said
        )
        found[name] = await is_pooled(connection), keeps_statements(connection)
        connection.terminate()

    assert found == {"directly": (False, kept_directly), "behind": (True, kept_behind)}


async def test_what_is_kept_directly_is_prepared_once(addresses):
    connection = await connect(addresses.direct, application_name="test", timeout=TIMEOUT_S)
    for _ in range(3):
        await connection.fetch("SELECT 1 AS once")

    prepared = await connection.fetchval(
        "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT 1 AS once'"
    )
    connection.terminate()
    assert prepared == 1


async def test_a_parameter_of_the_session_is_refused_by_the_pooler(pooler):
    # Why none is sent.
    with pytest.raises(asyncpg.PostgresError, match="unsupported startup parameter"):
        await asyncpg.connect(pooler.dsn, server_settings={"statement_timeout": "1s"})


# -- both doors -------------------------------------------------------------------------------------


async def use_all_doors(engine: AsyncEngine, tenant_id: UUID, times: int) -> int:
    """The same statements over and over, whichever server connection it is; rows of others are counted."""
    foreign = 0
    context = TenantContext(tenant_id)
    for _ in range(times):
        async with tenant_connection(engine, context) as connection:
            await connection.execute("INSERT INTO tool_names (name) VALUES ($1)", uuid4().hex)
            foreign += sum(row[0] != tenant_id for row in await connection.fetch(NAMES))
        async with tenant_session(engine, context) as tx:
            rows = await tx.execute(text(f"{NAMES} WHERE name <> :name"), {"name": "none"})
            foreign += sum(row[0] != tenant_id for row in rows)
        async with registry_connection(engine) as connection:
            await connection.fetch("SELECT id FROM public.resolve_host($1)", "nobody")
    return foreign


async def test_both_doors_work_for_more_clients_than_there_are_servers(pooled, new_tenant):
    tenants = [await new_tenant() for _ in range(CLIENTS)]

    found = await asyncio.gather(*(use_all_doors(pooled, tenant.id, 25) for tenant in tenants))

    assert found == [0] * CLIENTS
    async with tenant_connection(pooled, TenantContext(tenants[0].id)) as connection:
        assert len(await connection.fetch(NAMES)) == 25


async def test_kept_statements_are_not_found_again(pooler, new_tenant):
    # The control of the test above: so it would be if the pooler were not found out.
    tenant = await new_tenant()
    engine = runtime_engine(pooler.dsn, pool_max=CLIENTS, prepared_statements="on")
    try:
        found = await asyncio.gather(
            *(use_all_doors(engine, tenant.id, 25) for _ in range(CLIENTS)), return_exceptions=True
        )
    finally:
        await engine.dispose()

    assert "prepared statement" in " ".join(str(error) for error in found)


async def test_a_client_that_dies_in_a_transaction_leaves_nothing(pooler, pooled, new_tenant):
    tenant, other = await new_tenant(), await new_tenant()

    async def die() -> None:
        async with connected(pooler) as connection:
            await connection.execute(TenantContext(tenant.id).begin())
            await connection.execute("INSERT INTO tool_names (name) VALUES ('lost')")

    await asyncio.gather(*(die() for _ in range(CLIENTS)))

    for whose in (tenant, other):
        async with tenant_connection(pooled, TenantContext(whose.id)) as connection:
            assert await connection.fetch(NAMES) == []
    async with connected(pooler) as connection:
        for _ in range(CLIENTS):
            assert not await connection.fetchval("SELECT current_setting('app.tenant_id', true)")


# -- what belongs to a session ----------------------------------------------------------------------

LEFT = """
    SELECT current_setting('app.tenant_id', true) AS tenant, current_user AS role,
           current_setting('search_path') AS path, pg_backend_pid() AS backend
"""


async def be_careless(pooler: Pooler, tenant: Tenant) -> None:
    """Enter a tenant by the settings of a session, as one must not."""
    async with connected(pooler) as careless:
        await careless.execute(f"SET search_path = {tenant.schema_name}, shared, pg_temp")
        await careless.execute(f"SET app.tenant_id = '{tenant.id}'")
        await careless.execute(f"SET ROLE {tenant.schema_name}")


async def found_by_others(pooler: Pooler) -> list[asyncpg.Record]:
    """What clients find that have set nothing."""
    found = []
    for _ in range(CLIENTS):
        async with connected(pooler) as other:
            found.append(await other.fetchrow(LEFT))
    return found


async def test_a_context_of_a_session_leaks_to_every_other_client(addresses, engine, new_tenant):
    tenant = (await new_tenant()).tenant
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        await connection.execute("INSERT INTO tool_names (name) VALUES ('secret')")
    # A pooler of its own: what leaks stays in it for good.
    with pooler_to(addresses.direct, settings={"default_pool_size": "1"}) as pooler:
        before = await found_by_others(pooler)
        async with connected(pooler) as careful, careful.transaction():
            await careful.execute(TenantContext(tenant.id).begin().partition("; ")[2])
        after_a_transactions = await found_by_others(pooler)
        await be_careless(pooler, tenant)
        after_a_sessions = await found_by_others(pooler)
        async with connected(pooler) as other:
            seen = await other.fetch("SELECT name FROM tool_names")

    assert [one["role"] for one in after_a_transactions] == [one["role"] for one in before]
    assert {one["tenant"] or None for one in after_a_transactions} == {None}
    assert {one["tenant"] for one in after_a_sessions} == {str(tenant.id)}
    assert {one["role"] for one in after_a_sessions} == {tenant.schema_name}
    assert [row["name"] for row in seen] == ["secret"]


async def test_the_settings_that_we_hand_out_are_a_second_wall(addresses, new_tenant):
    tenant = (await new_tenant()).tenant
    ours = {"default_pool_size": "1", "server_reset_query_always": "1"}
    with pooler_to(addresses.direct, settings=ours) as pooler:
        before = await found_by_others(pooler)
        await be_careless(pooler, tenant)
        after = await found_by_others(pooler)

    # By the very server connection that was left so.
    assert {one["backend"] for one in after} == {one["backend"] for one in before}
    assert {one["tenant"] or None for one in after} == {None}
    assert {(one["role"], one["path"]) for one in after} == {
        (one["role"], one["path"]) for one in before
    }


async def test_who_listens_behind_a_pooler_hears_nothing_and_knows_it(
    addresses, pooler, new_tenant
):
    tenant = await new_tenant()
    told = []
    deaf, hearing = RegistryListener(pooler.dsn), RegistryListener(addresses.direct)
    for listener in (deaf, hearing):
        listener.tell(lambda tenant_id, who=listener: told.append((who, tenant_id)))
        listener.start()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            while deaf.deafness is None or not hearing.hears():
                await asyncio.sleep(0.02)
            teller = await asyncpg.connect(addresses.direct)
            await teller.execute("SELECT pg_notify($1, $2)", CHANNEL, str(tenant.id))
            await teller.close()
            while (hearing, tenant.id) not in told:
                await asyncio.sleep(0.02)
    finally:
        await deaf.stop()
        await hearing.stop()

    assert (deaf, tenant.id) not in told
    assert not deaf.hears()
    assert deaf.ttl_s() == 1


# -- who looks after it -----------------------------------------------------------------------------


async def test_health_asks_and_reports_through_a_pooler(pooler, addresses):
    probe, direct = Probe(pooler.dsn, name="test"), Probe(addresses.direct, name="test")
    try:
        states = [await probe.ask() for _ in range(5)]
        expected = await direct.ask()
        async with probe.reached() as connection:
            for _ in range(5):
                assert await connection.fetchval("SELECT $1::text", "asked") == "asked"
    finally:
        probe.close()
        direct.close()

    assert {state.started_at for state in states} == {expected.started_at}


async def test_the_wall_is_looked_at_through_a_pooler_and_leaves_no_limits_there(
    pooler, addresses, new_tenant
):
    schema = (await new_tenant()).tenant.schema_name

    found = await asyncio.gather(*(look_at_wall(pooler.dsn) for _ in range(3)))

    # Other tests of this process may leave schemas that are behind.
    directly = (await look_at_wall(addresses.direct)).missing
    assert [wall.missing for wall in found] == [directly] * 3
    assert not [name for name in directly if name.startswith(schema)]
    assert [wall.holes for wall in found] == [[]] * 3
    async with connected(pooler) as connection:
        for _ in range(CLIENTS):
            # The role has one of its own.
            assert await connection.fetchval("SHOW lock_timeout") != "1s"


async def test_a_plan_is_taken_although_somebody_was_cut_off_taking_one(pooled, new_tenant):
    tenant = await new_tenant()
    context = TenantContext(tenant.id, read_only=True)
    for _ in range(CLIENTS):
        async with tenant_connection(pooled, context) as connection:
            # On whichever server connections it can be: where it is already, it is refused.
            try:
                async with connection.transaction():
                    await connection.execute(f"PREPARE {plans.NAME} AS SELECT 1")
            except asyncpg.DuplicatePreparedStatementError:
                continue

    for _ in range(CLIENTS):
        async with tenant_connection(pooled, context) as connection:
            plan = await plans._explain(connection, "SELECT name FROM tool_names WHERE name = $1")
            left = await connection.fetchval("SELECT count(*) FROM pg_prepared_statements")
        assert "tool_names" in str(plan)
        assert left == 0


async def test_a_server_that_comes_back_behind_the_pooler_is_used_again(own):
    loop = asyncio.get_running_loop()
    with pooler_to(own.addresses.runtime) as pooler:
        engine = runtime_engine(pooler.dsn, pool_max=2)
        try:
            await ask(engine)
            with own.stopped():
                for _ in range(3):
                    with pytest.raises(UnavailableError):
                        await ask(engine)
            returned_at = loop.time()
            async with asyncio.timeout(TIMEOUT_S):
                while not await answers(engine):
                    await asyncio.sleep(0.05)
            assert loop.time() - returned_at < BACK_WITHIN_S
        finally:
            await engine.dispose()


async def answers(engine: AsyncEngine) -> bool:
    try:
        await ask(engine)
    except UnavailableError:
        return False
    return True


async def ask(engine: AsyncEngine) -> None:
    async with registry_connection(engine) as connection:
        await connection.fetch("SELECT id FROM public.resolve_host('nobody')")


# -- what must pass by it ---------------------------------------------------------------------------


async def test_nobody_leads_or_migrates_by_a_lock_that_others_could_have_too(
    addresses: Addresses, pooler: Pooler
):
    with pytest.raises(DatabaseUnreachableError, match="DATABASE_DIRECT_URL"):
        async with candidate(pooler.dsn):
            pytest.fail("it may lead")
    with pooler_to(addresses.require_owner()) as before_owner:
        async with owner_connection(before_owner.dsn) as owner:
            with pytest.raises(DatabaseUnreachableError, match="DATABASE_OWNER_URL"):
                async with one_at_a_time(owner):
                    pytest.fail("it may migrate")
