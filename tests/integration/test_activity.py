"""What tenants do, told to the registry by the runtime login; and what is told of the pool meanwhile."""

from __future__ import annotations

import asyncio
import time
from uuid import uuid4

import asyncpg
import pytest
from sqlalchemy import text

from metrics_service.db.engine import owner_connection, runtime_engine
from metrics_service.db.pool import LATEST, figures_of, pool_read
from metrics_service.db.tenancy import TenantContext, registry_connection, tenant_connection
from metrics_service.errors import UnavailableError
from metrics_service.fleet import activity as activity_module
from metrics_service.fleet.activity import Activity
from metrics_service.observability import catalog


class Clock:
    """What has passed since something; it has nothing to do with the time of day."""

    now = 12_345.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def stored(addresses):
    """What the registry knows of these tenants: for each, in order, how old the minutes are, and what."""

    async def read(*tenants) -> dict:
        async with owner_connection(addresses.require_owner()) as connection:
            rows = await connection.execute(
                text(
                    "SELECT tenant_id, extract(epoch FROM now() - bucket)::float, requests, failures,"
                    " refusals, records, duplicates, bytes, date_bin('5 minutes', bucket, 'epoch') ="
                    " bucket FROM public.tenant_activity WHERE tenant_id = ANY (:ids)"
                    " ORDER BY bucket"
                ),
                {"ids": [tenant.id for tenant in tenants]},
            )
            found = {tenant.id: [] for tenant in tenants}
            for tenant_id, age_s, *figures, is_even in rows:
                assert is_even
                found[tenant_id].append((age_s, tuple(figures)))
            return found

    return read


def added_up(lines) -> tuple[int, ...]:
    """Five minutes may end between two writes of a test."""
    return tuple(sum(column) for column in zip(*(figures for _, figures in lines), strict=True))


async def test_what_a_tenant_did_is_added_up(engine, new_tenant, stored) -> None:
    activity = Activity(engine, clock=Clock())
    tenant, other = await new_tenant(), await new_tenant()

    for status in (200, 404, 429, 503, 499):
        activity.note(str(tenant.id), status=status)
    activity.note(str(tenant.id), status=200, records=10, duplicates=3, size=4096)
    activity.note(str(other.id), status=200, records=1, size=100)
    await activity.flush()
    activity.note(str(tenant.id), status=200, records=5, size=1)
    await activity.flush()

    found = await stored(tenant, other)
    assert added_up(found[tenant.id]) == (7, 1, 3, 15, 3, 4097)
    assert added_up(found[other.id]) == (1, 0, 0, 1, 0, 100)
    assert all(0 <= age_s < 330 for lines in found.values() for age_s, _ in lines)


async def test_what_is_written_late_is_of_when_it_was(engine, new_tenant, stored) -> None:
    clock = Clock()
    activity = Activity(engine, clock=clock)
    tenant = await new_tenant()

    # Several minutes may be of the same five.
    for _ in range(20):
        activity.note(str(tenant.id), status=200)
        clock.now += 60
    clock.now += 3600
    activity.note(str(tenant.id), status=503)
    await activity.flush()

    lines = (await stored(tenant))[tenant.id]
    assert added_up(lines) == (21, 1, 0, 0, 0, 0)
    assert len(lines) in {5, 6}
    late, *early = reversed(lines)
    assert late[1][:2] == (1, 1)
    assert 0 <= late[0] < 330
    assert all(3600 - 60 <= age_s < 3600 + 1200 + 330 for age_s, _ in early)


@pytest.mark.parametrize("years", [-30, 30])
async def test_a_clock_that_is_set_changes_nothing(
    engine, new_tenant, stored, monkeypatch, years
) -> None:
    activity = Activity(engine)
    tenant = await new_tenant()
    now = time.time() + years * 365 * 86400
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: now)

        activity.note(str(tenant.id), status=200)
        await activity.flush()

    [(age_s, figures)] = (await stored(tenant))[tenant.id]
    assert 0 <= age_s < 330
    assert figures == (1, 0, 0, 0, 0, 0)


async def test_several_processes_and_turns_add_to_the_same_line(engine, new_tenant, stored) -> None:
    processes = [Activity(engine) for _ in range(4)]
    tenants = [await new_tenant() for _ in range(3)]

    for _ in range(5):
        for process in processes:
            # In another order each, which must not become the order of their locks.
            for tenant in tenants if process is processes[0] else reversed(tenants):
                process.note(str(tenant.id), status=200, records=2)
        await asyncio.gather(*(process.flush() for process in processes))

    found = await stored(*tenants)
    assert all(added_up(found[tenant.id]) == (20, 0, 0, 40, 0, 0) for tenant in tenants)


async def test_a_tenant_that_is_gone_takes_nobody_with_it(engine, new_tenant, stored) -> None:
    activity = Activity(engine)
    tenant = await new_tenant()

    activity.note(str(uuid4()), status=200)
    activity.note(str(tenant.id), status=200)
    await activity.flush()

    assert added_up((await stored(tenant))[tenant.id]) == (1, 0, 0, 0, 0, 0)
    assert not activity._done


async def test_what_cannot_be_written_is_kept_and_written_later(
    addresses, engine, new_tenant, stored
) -> None:
    nowhere = runtime_engine("postgresql://app_runtime:x@127.0.0.1:1/none")
    activity = Activity(nowhere)
    tenant = await new_tenant()
    activity.note(str(tenant.id), status=200, records=7)

    await activity.flush()
    activity.note(str(tenant.id), status=500)
    activity._engine = engine
    await activity.flush()
    await nowhere.dispose()

    assert added_up((await stored(tenant))[tenant.id]) == (2, 1, 0, 7, 0, 0)


async def test_what_is_noted_is_bounded_and_the_rest_is_counted(engine) -> None:
    activity = Activity(engine, clock=Clock())
    before = sum(point.value for point in catalog.ACTIVITY_LOST.points())

    for number in range(activity_module.MAX_ENTRIES + 500):
        activity.note(f"tenant {number}", status=200)
    # One that is known is noted all the same.
    activity.note("tenant 0", status=200)

    assert len(activity._done) == activity_module.MAX_ENTRIES
    assert sum(point.value for point in catalog.ACTIVITY_LOST.points()) - before == 500


async def test_ten_thousand_tenants_are_written_within_seconds(engine) -> None:
    activity = Activity(engine)
    for _ in range(activity_module.MAX_ENTRIES):
        activity.note(str(uuid4()), status=200)

    begun = time.monotonic()
    await activity.flush()

    assert not activity._done
    assert time.monotonic() - begun < 5


async def test_the_last_is_written_when_the_process_ends(engine, new_tenant, stored) -> None:
    activity = Activity(engine)
    tenant = await new_tenant()

    async with activity.kept():
        activity.note(str(tenant.id), status=200)

    assert added_up((await stored(tenant))[tenant.id]) == (1, 0, 0, 0, 0, 0)


async def test_it_is_written_by_itself(engine, new_tenant, stored, monkeypatch) -> None:
    monkeypatch.setattr(activity_module, "WRITTEN_EVERY_S", 0.05)
    activity = Activity(engine)
    tenant = await new_tenant()

    async with activity.kept():
        activity.note(str(tenant.id), status=200)
        until = time.monotonic() + 10
        while not (lines := (await stored(tenant))[tenant.id]) and time.monotonic() < until:
            await asyncio.sleep(0.05)

    assert added_up(lines) == (1, 0, 0, 0, 0, 0)


async def test_a_database_that_is_away_does_not_hold_up_the_end() -> None:
    nowhere = runtime_engine("postgresql://app_runtime:x@127.0.0.1:1/none")
    activity = Activity(nowhere)
    begun = time.monotonic()

    async with activity.kept():
        activity.note(str(uuid4()), status=200)

    assert time.monotonic() - begun < activity_module.LAST_WORDS_S + 1
    await nowhere.dispose()


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT count(*) FROM public.tenant_activity",
        "SELECT * FROM public.operator_activity(''::bytea, NULL)",
        "SELECT public.note_activity('[]')",
    ],
)
async def test_a_tenant_reads_and_writes_nothing_of_it(engine, new_tenant, statement) -> None:
    tenant = await new_tenant()

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
            await connection.fetch(statement)


async def test_without_an_operators_key_the_runtime_login_reads_nothing_of_it(engine) -> None:
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        async with registry_connection(engine) as connection:
            await connection.fetch("SELECT * FROM public.operator_activity(''::bytea, NULL)")


# -- the pool ----------------------------------------------------------------------------------------


def read_of_the_pool() -> dict:
    return {
        (instrument.name.rpartition(".")[2], *point.values[1:]): point.value
        for instrument in (
            catalog.DB_CONNECTION_COUNT,
            catalog.DB_CONNECTION_MAX,
            catalog.DB_PENDING_REQUESTS,
        )
        for point in instrument.points()
    }


async def test_who_has_a_connection_and_who_waits_for_one_is_known(addresses) -> None:
    pool = runtime_engine(addresses.runtime, pool_max=2)
    before = read_of_the_pool()

    def more() -> dict:
        return {key: value - before.get(key, 0) for key, value in read_of_the_pool().items()}

    with pool_read(pool):
        unused = more()
        async with registry_connection(pool), registry_connection(pool):
            third = asyncio.create_task(take_one(pool))
            await asyncio.sleep(0.05)
            full, figures = more(), figures_of(pool)
        await third
        idle = more()
    await pool.dispose()

    nothing = {("count", "used"): 0, ("count", "idle"): 0, ("pending_requests",): 0}
    assert unused == {**nothing, ("max",): 2}
    assert full == {**nothing, ("max",): 2, ("count", "used"): 2, ("pending_requests",): 1}
    assert (figures.size, figures.open, figures.in_use, figures.waiting) == (2, 2, 2, 1)
    assert idle == {**nothing, ("max",): 2, ("count", "idle"): 2}
    assert read_of_the_pool() == before


async def take_one(pool) -> None:
    async with registry_connection(pool) as connection:
        await connection.execute("SELECT 1")


async def test_how_long_it_takes_to_get_one_is_known_and_how_many_got_none(addresses) -> None:
    pool = runtime_engine(addresses.runtime, pool_max=1, pool_timeout_ms=100)
    waits_before = sum(point.count for point in catalog.DB_CONNECTION_WAIT_TIME.points())
    timeouts_before = sum(point.value for point in catalog.DB_CONNECTION_TIMEOUTS.points())

    async with registry_connection(pool):
        with pytest.raises(UnavailableError):
            await take_one(pool)
        second = asyncio.create_task(take_one(pool))
        await asyncio.sleep(0.05)
    await second
    figures = figures_of(pool)
    await pool.dispose()

    assert figures.timeouts == 1
    assert figures.waiting == 0
    assert figures.acquire_p95_ms is not None
    assert figures.acquire_p95_ms > 30
    waits = sum(point.count for point in catalog.DB_CONNECTION_WAIT_TIME.points())
    timeouts = sum(point.value for point in catalog.DB_CONNECTION_TIMEOUTS.points())
    assert (waits - waits_before, timeouts - timeouts_before) == (2, 1)


async def test_a_pool_that_was_made_anew_is_still_read(addresses) -> None:
    pool = runtime_engine(addresses.runtime, pool_max=2)
    with pool_read(pool):
        await take_one(pool)
        await pool.dispose()
        after = figures_of(pool)
        await take_one(pool)
        again = figures_of(pool)
    await pool.dispose()

    assert (after.open, after.acquire_p50_ms) == (0, None)
    assert (again.open, again.in_use, again.idle) == (1, 0, 1)


async def test_only_the_latest_waits_are_kept(addresses) -> None:
    pool = runtime_engine(addresses.runtime, pool_max=1)
    for _ in range(LATEST + 50):
        pool.sync_engine.pool._latest_s.append(1.0)
    figures = figures_of(pool)

    assert len(pool.sync_engine.pool._latest_s) == LATEST
    assert (figures.acquire_p50_ms, figures.acquire_p95_ms) == (1000.0, 1000.0)
