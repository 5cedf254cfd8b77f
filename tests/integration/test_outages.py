"""A database that goes, freezes, refuses and moves: what those who ask hear, and when they are served again."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from broken_servers import accepting, full, hang_up, say_nothing
from own_servers import OwnServer
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.addresses import RUNTIME_LOGIN, SUPERUSER
from metrics_service.db.attempts import ATTEMPT, Attempt
from metrics_service.db.engine import owner_connection, runtime_engine, warm
from metrics_service.db.pool import breaker_of, metered_pool_of
from metrics_service.db.tenancy import (
    MARGIN_S,
    TenantContext,
    registry_connection,
    registry_writing,
    tenant_connection,
    tenant_session,
)
from metrics_service.errors import CommitUnknownError, TransientError, UnavailableError
from metrics_service.tenants.initialise import target_of
from metrics_service.tenants.listener import RegistryListener
from metrics_service.tenants.new_tenant import NewTenant
from metrics_service.tenants.provision import create_tenant
from metrics_service.tenants.registry import CHANNEL, Tenant

CLIENTS = 64


@pytest.fixture(scope="module")
async def tenant(own: OwnServer) -> Tenant:
    new = NewTenant.of(
        f"t{uuid4().hex[:16]}", name=None, domain=None, plan="basic", base_domain="localhost"
    )
    async with owner_connection(own.addresses.require_owner()) as connection:
        return await create_tenant(connection, new, target_of(own.addresses))


@pytest.fixture
async def admin(own: OwnServer) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    async def ask(query: str, *values: object) -> Any:
        connection = await asyncpg.connect(own.admin_dsn)
        try:
            return await connection.fetch(query, *values)
        finally:
            await connection.close()

    return ask


@asynccontextmanager
async def kept_engine(dsn: str, **how: Any) -> AsyncIterator[AsyncEngine]:
    """A pool as a serving process keeps it."""
    engine = runtime_engine(dsn, **how)
    try:
        async with breaker_of(engine).kept():
            yield engine
    finally:
        begun = time.perf_counter()
        await engine.dispose()
        assert time.perf_counter() - begun < 3, "closing hung"


async def read(engine: AsyncEngine, tenant: Tenant) -> list[Any]:
    context = TenantContext(tenant.id, read_only=True)
    async with tenant_connection(engine, context) as connection:
        return await connection.fetch("SELECT name FROM tool_names")


async def write(engine: AsyncEngine, tenant: Tenant, name: str) -> None:
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        await connection.execute("INSERT INTO tool_names (name) VALUES ($1)", name)


async def until(condition: Callable[[], object], within_s: float = 10.0) -> float:
    begun = time.perf_counter()
    while not condition():
        assert time.perf_counter() - begun < within_s, "it does not come to that"
        await asyncio.sleep(0.01)
    return time.perf_counter() - begun


async def served_again(engine: AsyncEngine, tenant: Tenant, within_s: float = 10.0) -> float:
    """How long it takes until a request is answered."""
    begun = time.perf_counter()
    while True:
        with suppress(UnavailableError):
            await read(engine, tenant)
            return time.perf_counter() - begun
        assert time.perf_counter() - begun < within_s, "it is not served again"
        await asyncio.sleep(0.01)


# -- away -----------------------------------------------------------------------------------------


async def session_door(engine: AsyncEngine, tenant: Tenant) -> None:
    async with tenant_session(engine, TenantContext(tenant.id)) as tx:
        await tx.execute(text("SELECT 1"))


async def registry_door(engine: AsyncEngine, _: Tenant) -> None:
    async with registry_connection(engine) as connection:
        await connection.fetch("SELECT 1")


async def noting_door(engine: AsyncEngine, _: Tenant) -> None:
    async with registry_writing(engine) as connection:
        await connection.fetch("SELECT 1")


async def test_while_it_is_stopped_all_are_refused_at_once_and_soon_after_it_is_back_served(
    own, tenant
):
    took_s: list[float] = []

    async def ask(door: Any) -> None:
        begun = time.perf_counter()
        with pytest.raises(UnavailableError) as refused:
            await door(engine, tenant)
        took_s.append(time.perf_counter() - begun)
        assert refused.value.retry_after_s >= 1

    async with kept_engine(own.addresses.runtime, pool_max=4) as engine:
        await read(engine, tenant)
        with own.stopped():
            while not breaker_of(engine).is_open:
                # What the server said last may be read after it went: the first look is then in doubt.
                with suppress(UnavailableError):
                    await read(engine, tenant)
                await asyncio.sleep(0.01)
            for door in (read, session_door, registry_door, noting_door):
                for _ in range(CLIENTS):
                    await ask(door)
            at_once = sorted(took_s)
            took_s.clear()
            # Else this process may do so in the middle of one, for a tenth of a second.
            gc.collect()
            await asyncio.gather(*(ask(read) for _ in range(CLIENTS)))
            together = sorted(took_s)
        back_s = await served_again(engine, tenant)
        await asyncio.gather(*(read(engine, tenant) for _ in range(CLIENTS)))

    assert at_once[len(at_once) // 2] < 0.001
    assert together[-1] < 0.1
    assert back_s < 2


async def test_a_process_that_starts_while_it_is_away_mends_itself(own, tenant):
    async with AsyncExitStack() as stack:
        with own.stopped():
            engine = await stack.enter_async_context(kept_engine(own.addresses.runtime, pool_max=2))
            await warm(engine, 2)
            await until(lambda: breaker_of(engine).is_open)
        assert await served_again(engine, tenant) < 2


async def test_a_crash_is_survived_without_a_restart(own, tenant, admin):
    async with kept_engine(own.addresses.runtime, pool_max=4) as engine:
        await asyncio.gather(*(read(engine, tenant) for _ in range(8)))
        with suppress(UnavailableError):
            async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
                # As the kernel does when memory is short: all others are thrown out with it.
                os.kill(connection.get_server_pid(), signal.SIGKILL)
                await connection.fetch("SELECT pg_sleep(5)")
        assert await served_again(engine, tenant) < 5
        await asyncio.gather(*(read(engine, tenant) for _ in range(8)))


# -- silent ---------------------------------------------------------------------------------------


async def test_a_frozen_server_is_found_out_and_lets_go_of_those_who_wait(own, tenant):
    failures: list[tuple[str, float]] = []

    async def ask() -> None:
        begun = time.perf_counter()
        try:
            await read(engine, tenant)
        except UnavailableError as error:
            failures.append((type(error).__name__, time.perf_counter() - begun))

    async with kept_engine(own.addresses.runtime, pool_max=4) as engine:
        await asyncio.gather(*(read(engine, tenant) for _ in range(8)))
        with own.frozen():
            asked = [asyncio.create_task(ask()) for _ in range(CLIENTS)]
            found_s = await until(lambda: breaker_of(engine).is_open)
            await asyncio.gather(*asked)
            begun = time.perf_counter()
            with pytest.raises(UnavailableError):
                await read(engine, tenant)
            refused_s = time.perf_counter() - begun
        back_s = await served_again(engine, tenant)
        await asyncio.gather(*(read(engine, tenant) for _ in range(8)))
        assert metered_pool_of(engine).checkedout() == 0

    assert found_s < 3
    assert len(failures) == CLIENTS
    assert max(took_s for _, took_s in failures) < 5
    assert refused_s < 0.01
    assert back_s < 2


async def test_whoever_leaves_while_it_is_frozen_does_not_wait_for_it(own, tenant):
    async with kept_engine(own.addresses.runtime, pool_max=2) as engine:
        await read(engine, tenant)
        with own.frozen():
            for _ in range(2):
                begun = time.perf_counter()
                with suppress(TimeoutError, UnavailableError):
                    async with asyncio.timeout(0.2):
                        await read(engine, tenant)
                assert time.perf_counter() - begun < 2
        assert await served_again(engine, tenant) < 3


async def test_a_statement_that_is_never_answered_is_given_up_soon_after_its_limit(own, tenant):
    # Without the watch, which would have found it out before.
    engine = runtime_engine(own.addresses.runtime, pool_max=1)
    await read(engine, tenant)
    context = TenantContext(tenant.id, timeout_ms=100)
    with pytest.raises(UnavailableError) as refused:
        async with tenant_connection(engine, context) as connection:
            with own.frozen():
                begun = time.perf_counter()
                try:
                    await connection.fetch("SELECT 1")
                finally:
                    took_s = time.perf_counter() - begun

    assert not isinstance(refused.value, TransientError)
    assert 0.1 + MARGIN_S <= took_s < 0.1 + MARGIN_S + 1
    assert connection.is_closed()
    assert await served_again(engine, tenant) < 2
    await engine.dispose()


@pytest.mark.parametrize("talk", [say_nothing, hang_up])
async def test_a_program_that_is_no_database_is_found_out(talk, tenant):
    with accepting(talk) as port:
        dsn = f"postgresql://{RUNTIME_LOGIN}:x@127.0.0.1:{port}/metrics"
        async with kept_engine(dsn, pool_max=2) as engine:
            await until(lambda: breaker_of(engine).is_open, within_s=3)
            with pytest.raises(UnavailableError):
                await read(engine, tenant)


async def test_an_address_that_takes_no_connection_is_found_out(tenant):
    with full() as port:
        dsn = f"postgresql://{RUNTIME_LOGIN}:x@127.0.0.1:{port}/metrics"
        async with kept_engine(dsn, pool_max=2) as engine:
            await until(lambda: breaker_of(engine).is_open, within_s=3)
            with pytest.raises(UnavailableError):
                await read(engine, tenant)


# -- there, but in trouble ------------------------------------------------------------------------


async def test_a_storm_of_terminated_backends_opens_nothing(own, tenant, admin):
    told: list[UnavailableError] = []
    read_count = 0

    async def ask() -> None:
        nonlocal read_count
        while time.perf_counter() < end_at:
            try:
                await read(engine, tenant)
                read_count += 1
            except UnavailableError as error:
                told.append(error)

    async with kept_engine(own.addresses.runtime, pool_max=4) as engine:
        await read(engine, tenant)
        end_at = time.perf_counter() + 3
        asking = [asyncio.create_task(ask()) for _ in range(8)]
        while time.perf_counter() < end_at:
            await admin(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1",
                RUNTIME_LOGIN,
            )
            await asyncio.sleep(0.05)
        await asyncio.gather(*asking)
        openings = breaker_of(engine).figures().openings

    assert openings == 0
    assert read_count > 100
    assert told
    assert all(isinstance(error, TransientError) for error in told), told


async def test_while_the_server_has_no_connection_to_spare_ours_are_shared(own, tenant, admin):
    async with AsyncExitStack() as stack:
        await admin(f"ALTER ROLE {RUNTIME_LOGIN} CONNECTION LIMIT 1")
        stack.push_async_callback(admin, f"ALTER ROLE {RUNTIME_LOGIN} CONNECTION LIMIT -1")
        engine = runtime_engine(own.addresses.runtime, pool_max=4, pool_timeout_ms=20_000)
        stack.push_async_callback(engine.dispose)

        results = await asyncio.gather(
            *(read(engine, tenant) for _ in range(16)), return_exceptions=True
        )
        breaker_of(engine).suspect()
        await until(lambda: not breaker_of(engine).is_doubtful)

        assert [one for one in results if isinstance(one, BaseException)] == []
        assert breaker_of(engine).figures().openings == 0


async def test_who_finds_no_connection_and_has_none_is_refused(own, tenant, admin):
    await admin(f"ALTER ROLE {RUNTIME_LOGIN} CONNECTION LIMIT 0")
    engine = runtime_engine(own.addresses.runtime, pool_max=4)
    try:
        begun = time.perf_counter()
        with pytest.raises(UnavailableError) as refused:
            await read(engine, tenant)
    finally:
        await admin(f"ALTER ROLE {RUNTIME_LOGIN} CONNECTION LIMIT -1")

    assert time.perf_counter() - begun < 2
    assert not isinstance(refused.value, TransientError)
    assert not breaker_of(engine).is_open
    await read(engine, tenant)
    await engine.dispose()


async def test_a_login_that_is_not_let_in_is_told_as_what_it_is(own, tenant, admin):
    engine = runtime_engine(own.addresses.runtime, pool_max=1)
    await admin(f"ALTER ROLE {RUNTIME_LOGIN} NOLOGIN")
    try:
        for door in (read, session_door):
            with pytest.raises(UnavailableError, match="does not let the service in"):
                await door(engine, tenant)
    finally:
        await admin(f"ALTER ROLE {RUNTIME_LOGIN} LOGIN")

    await read(engine, tenant)
    assert not breaker_of(engine).is_open
    await engine.dispose()


async def test_while_new_connections_are_not_let_in_those_that_there_are_serve(own, tenant, admin):
    async with kept_engine(own.addresses.runtime, pool_max=2) as engine:
        await read(engine, tenant)
        await until(lambda: not breaker_of(engine).is_doubtful)
        await admin(f"ALTER ROLE {RUNTIME_LOGIN} NOLOGIN")
        try:
            breaker_of(engine).suspect()
            await until(lambda: not breaker_of(engine).is_doubtful)
            await read(engine, tenant)
            openings = breaker_of(engine).figures().openings
        finally:
            await admin(f"ALTER ROLE {RUNTIME_LOGIN} LOGIN")

    assert openings == 0


async def test_a_server_that_takes_no_writes_is_read_and_written_again_when_it_does(
    own, tenant, admin
):
    async with kept_engine(own.addresses.runtime, pool_max=2) as engine:
        await write(engine, tenant, "before")
        await admin("ALTER SYSTEM SET default_transaction_read_only = on")
        await admin("SELECT pg_reload_conf()")
        try:
            await asyncio.sleep(0.3)
            with pytest.raises(TransientError):
                await write(engine, tenant, "meanwhile")
            assert len(await read(engine, tenant)) == 1
            assert breaker_of(engine).figures().openings == 0
        finally:
            admin_connection = await asyncpg.connect(own.admin_dsn)
            await admin_connection.execute("SET default_transaction_read_only = off")
            await admin_connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
            await admin_connection.execute("SELECT pg_reload_conf()")
            await admin_connection.close()
        await asyncio.sleep(0.3)
        await write(engine, tenant, "after")

        assert {row["name"] for row in await read(engine, tenant)} == {"before", "after"}


# -- somewhere else -------------------------------------------------------------------------------


async def test_a_failover_from_a_frozen_server_is_survived(own, tenant):
    with own.standby() as standby:
        both = (
            f"postgresql://{RUNTIME_LOGIN}@/metrics?host={own.server.socket_dir},{standby.home}"
            "&port=5432,5433&target_session_attrs=read-write"
        )
        async with kept_engine(both, pool_max=4) as engine:
            await asyncio.gather(*(read(engine, tenant) for _ in range(8)))
            with own.frozen():
                with suppress(UnavailableError):
                    await read(engine, tenant)
                await until(lambda: breaker_of(engine).is_open)
                await asyncio.to_thread(standby.promote)
                back_s = await served_again(engine, tenant)
                begun = time.perf_counter()
                await asyncio.gather(*(write(engine, tenant, f"failover-{n}") for n in range(16)))
                together_s = time.perf_counter() - begun
            names = {row["name"] for row in await read(engine, tenant)}

    assert back_s < 3
    assert together_s < 2, "who connects still asks the frozen one first"
    assert names >= {f"failover-{n}" for n in range(16)}


async def test_an_address_that_leads_to_another_server_is_followed(own, tenant):
    with own.standby() as standby, an_address() as (link, dsn):
        link.symlink_to(own.server.socket_dir / ".s.PGSQL.5432")
        async with kept_engine(dsn, pool_max=2) as engine:
            await write(engine, tenant, "there")
            await until(lambda: not breaker_of(engine).is_doubtful)
            # The standby takes over the address while it is one still: connections are made anew, in
            # vain at first.
            await caught_up(own, standby)
            link.unlink()
            link.symlink_to(standby.home / ".s.PGSQL.5433")
            breaker_of(engine).suspect()
            await until(lambda: not breaker_of(engine).is_doubtful)
            with pytest.raises(TransientError):
                await write(engine, tenant, "too-early")
            assert len(await read(engine, tenant)) > 0
            await asyncio.to_thread(standby.promote)
            await write(engine, tenant, "here")
            async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
                timeline = await connection.fetchval(
                    "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)"
                )
            openings = breaker_of(engine).figures().openings

    assert timeline == "00000002"
    assert openings == 0


# -- who hears of changes ---------------------------------------------------------------------------


async def test_who_listens_finds_the_server_that_can_be_listened_to(own):
    with own.standby() as standby:
        # The standby is asked first, and answers: but it takes no LISTEN. Whoever has asked both knows.
        both = (
            f"postgresql://{RUNTIME_LOGIN}@/metrics?host={own.server.socket_dir},{standby.home}"
            "&port=5432,5433"
        )
        async with listening(both) as listener:
            with own.frozen():
                await until(lambda: not listener.hears())
                # Long enough that it is connected to the standby meanwhile.
                await asyncio.sleep(5)
            await until(listener.hears)


async def test_who_listens_moves_with_the_connections_of_the_pool(own, tenant):
    with own.standby() as standby, an_address() as (link, dsn):
        link.symlink_to(own.server.socket_dir / ".s.PGSQL.5432")
        async with kept_engine(dsn, pool_max=1) as engine, listening(dsn) as listener:
            breaker_of(engine).on_another_server(listener.listen_anew)
            heard: list[UUID | None] = []
            listener.tell(heard.append)
            await until(lambda: not breaker_of(engine).is_doubtful)
            await caught_up(own, standby)
            # What stood there before is up still, and those who are connected to it may stay.
            link.unlink()
            link.symlink_to(standby.home / ".s.PGSQL.5433")
            await asyncio.to_thread(standby.promote)
            breaker_of(engine).suspect()
            await until(lambda: not breaker_of(engine).is_doubtful)
            is_believed = listener.hears()
            await until(listener.hears)
            heard.clear()
            there = await asyncpg.connect(standby.dsn(SUPERUSER))
            await there.execute("SELECT pg_notify($1, $2)", CHANNEL, str(tenant.id))
            await there.close()
            await until(lambda: tenant.id in heard, 2)

    assert not is_believed, "what the old server did not tell is taken for unchanged"


@asynccontextmanager
async def listening(dsn: str) -> AsyncIterator[RegistryListener]:
    listener = RegistryListener(dsn)
    listener.start()
    try:
        await until(listener.hears)
        yield listener
    finally:
        await listener.stop()


@contextmanager
def an_address() -> Iterator[tuple[Path, str]]:
    """A link that leads to a server's socket, and the DSN that goes by it."""
    with tempfile.TemporaryDirectory(prefix="address-") as place:
        link = Path(place) / ".s.PGSQL.5432"
        yield link, f"postgresql://{RUNTIME_LOGIN}@/metrics?host={place}"


async def caught_up(own: OwnServer, standby: Any) -> None:
    first = await asyncpg.connect(own.admin_dsn)
    second = await asyncpg.connect(standby.dsn(SUPERUSER))
    written = await first.fetchval("SELECT pg_current_wal_lsn()")
    while not await second.fetchval("SELECT pg_last_wal_replay_lsn() >= $1::pg_lsn", written):
        await asyncio.sleep(0.02)
    await first.close()
    await second.close()


# -- in the middle of COMMIT ----------------------------------------------------------------------


@asynccontextmanager
async def held_versions(own: OwnServer, tenant: Tenant) -> AsyncIterator[None]:
    """Nobody's COMMIT of a change gets through: the row that it notes it in is held."""
    connection = await asyncpg.connect(own.admin_dsn)
    try:
        async with connection.transaction():
            await connection.execute(f"LOCK TABLE {tenant.schema_name}.data_versions IN SHARE MODE")
            yield
    finally:
        await connection.close()


async def by_connection(engine: AsyncEngine, tenant: Tenant, name: str) -> None:
    await write(engine, tenant, name)


async def by_session(engine: AsyncEngine, tenant: Tenant, name: str) -> None:
    async with tenant_session(engine, TenantContext(tenant.id)) as tx:
        await tx.execute(text("INSERT INTO tool_names (name) VALUES (:name)"), {"name": name})


WAITS_FOR_COMMIT = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE usename = $1 AND wait_event_type = 'Lock' AND query LIKE '%data_versions%COMMIT'
"""


@pytest.mark.parametrize("door", [by_connection, by_session])
async def test_a_connection_lost_while_commit_is_under_way_is_told_as_what_it_is(
    own, tenant, admin, door
):
    attempt = Attempt()
    token = ATTEMPT.set(attempt)
    async with kept_engine(own.addresses.runtime, pool_max=2) as engine:
        await read(engine, tenant)
        async with held_versions(own, tenant):
            writing = asyncio.create_task(door(engine, tenant, "unknown"))
            while not await admin(WAITS_FOR_COMMIT, RUNTIME_LOGIN):
                await asyncio.sleep(0.02)
            with pytest.raises(CommitUnknownError, match="may be stored, or not"):
                await writing
        await door(engine, tenant, f"known-{door.__name__}")
        assert metered_pool_of(engine).checkedout() == 0
        names = {row["name"] for row in await read(engine, tenant)}
    ATTEMPT.reset(token)

    assert attempt.has_committed
    assert "unknown" not in names
    assert f"known-{door.__name__}" in names


@pytest.mark.parametrize("door", [by_connection, by_session])
async def test_a_commit_that_the_server_refuses_is_known_not_to_have_been(own, tenant, admin, door):
    attempt = Attempt()
    token = ATTEMPT.set(attempt)
    async with kept_engine(own.addresses.runtime, pool_max=2) as engine:
        await admin(f"ALTER ROLE {RUNTIME_LOGIN} SET lock_timeout = '200ms'")
        try:
            async with held_versions(own, tenant):
                with pytest.raises(UnavailableError) as refused:
                    await door(engine, tenant, "refused")
        finally:
            await admin(f"ALTER ROLE {RUNTIME_LOGIN} SET lock_timeout = '5s'")
        names = {row["name"] for row in await read(engine, tenant)}
    ATTEMPT.reset(token)

    assert not isinstance(refused.value, (CommitUnknownError, TransientError))
    assert not attempt.has_committed
    assert "refused" not in names
