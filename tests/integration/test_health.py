"""How a process looks after itself: on servers that are stopped, restarted, promoted and filled."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from own_servers import OwnServer
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.addresses import RUNTIME_LOGIN
from metrics_service.db.engine import owner_connection, runtime_engine
from metrics_service.db.probe import Probe, UnreachableError
from metrics_service.db.tables import TENANT_TABLES
from metrics_service.db.tenancy import registry_connection
from metrics_service.errors import UnavailableError
from metrics_service.fleet.health_events import MAX_KEPT, HealthDiary, HealthEvent
from metrics_service.health.monitor import HealthMonitor
from metrics_service.http.ending import Ending
from metrics_service.settings import Settings
from metrics_service.tenants.initialise import target_of
from metrics_service.tenants.listener import RegistryListener
from metrics_service.tenants.new_tenant import NewTenant
from metrics_service.tenants.provision import create_tenant

INTERVAL_MS = 100
SOON_S = 20.0


class Watched:
    """A monitor that looks often, and what it told."""

    def __init__(self, monitor: HealthMonitor, engine: AsyncEngine, ending: Ending) -> None:
        self.monitor = monitor
        self.engine = engine
        self.ending = ending
        self.told: list[HealthEvent] = []
        for kind in ("health-change", "connection-error", "connection-recovery", "failover"):
            monitor.on(kind, self.told.append)

    def check(self, name: str) -> Any:
        return next(check for check in self.monitor.report().checks if check.name == name)

    def kinds(self, name: str) -> list[str]:
        return [event.kind for event in self.told if event.check_name == name]

    async def until(self, condition: Callable[[], object]) -> None:
        give_up_at = time.monotonic() + SOON_S
        while not condition():
            assert time.monotonic() < give_up_at, self.monitor.report()
            await asyncio.sleep(0.02)


@asynccontextmanager
async def watching(
    dsn: str, *, pool_max: int = 2, pool_timeout_ms: int = 50, **changes: Any
) -> AsyncIterator[Watched]:
    """Look after a process on this database."""
    settings = Settings(metrics_health_interval_ms=INTERVAL_MS, **changes)
    engine = runtime_engine(dsn, pool_max=pool_max, pool_timeout_ms=pool_timeout_ms)
    ending = Ending(0)
    listener = RegistryListener(dsn)
    monitor = HealthMonitor(
        engine,
        settings,
        runtime_dsn=dsn,
        kind="http",
        listener=listener,
        second=None,
        ending=ending,
    )
    watched = Watched(monitor, engine, ending)
    listener.start()
    try:
        async with monitor.kept():
            yield watched
    finally:
        await listener.stop()
        await engine.dispose()


@pytest.fixture
async def admin(own: OwnServer) -> AsyncIterator[Callable[..., Awaitable[list[Any]]]]:
    async def ask(query: str, *values: object) -> list[Any]:
        connection = await asyncpg.connect(own.admin_dsn)
        try:
            return await connection.fetch(query, *values)
        finally:
            await connection.close()

    return ask


# -- a database that goes and comes ---------------------------------------------------------------


async def test_a_database_that_goes_and_comes_is_told_and_written_down(own, admin):
    async with watching(own.addresses.runtime) as watched:
        await watched.until(lambda: watched.check("database").detail.startswith("answers"))
        with own.stopped():
            await watched.until(lambda: watched.check("database").status == "unhealthy")
            assert watched.monitor.status == "unhealthy"
            await watched.until(lambda: not watched.monitor.report().is_ready)
        await watched.until(lambda: watched.check("database").status == "healthy")
        process_id = watched.monitor.report().id
        await watched.until(lambda: "connection-recovery" in watched.kinds("database"))
        await asyncio.sleep(3 * INTERVAL_MS / 1000)

    assert watched.kinds("database") == [
        *("connection-error", "health-change"),
        *("connection-recovery", "health-change"),
    ]
    [recovery] = [event for event in watched.told if event.kind == "connection-recovery"]
    assert "the server was started meanwhile" in recovery.detail
    rows = await admin(
        "SELECT kind, status FROM public.health_events WHERE process_id = $1"
        " AND check_name = 'database' ORDER BY id",
        process_id,
    )
    assert [tuple(row) for row in rows] == [
        ("connection-error", None),
        ("health-change", "unhealthy"),
        ("connection-recovery", None),
        ("health-change", "healthy"),
    ]


async def test_a_connection_that_was_cut_off_is_no_outage(own, admin):
    async with watching(own.addresses.runtime) as watched:
        await watched.until(lambda: watched.check("database").detail.startswith("answers"))
        for _ in range(3):
            await admin(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'metrics-service-health'"
            )
            await asyncio.sleep(2 * INTERVAL_MS / 1000)

    assert watched.told == []


async def test_a_database_that_hangs_is_as_one_that_is_away(own, monkeypatch):
    monkeypatch.setattr("metrics_service.db.probe.PATIENCE_S", 0.5)
    monkeypatch.setattr("metrics_service.health.readiness.PATIENCE_S", 0.5)
    async with watching(own.addresses.runtime) as watched:
        await watched.until(lambda: watched.monitor.report().is_ready)
        with own.frozen():
            await watched.until(lambda: watched.check("database").status == "unhealthy")
            # What was answered a moment ago is answered for a second.
            await watched.until(lambda: not watched.monitor.report().is_ready)
        await watched.until(lambda: watched.check("database").status == "healthy")
        await watched.until(lambda: watched.monitor.report().is_ready)

    assert watched.told[0].detail == "no answer within 0.5 s"


async def test_a_standby_that_is_promoted_in_the_first_servers_place_is_a_failover(own):
    with own.standby() as standby:
        both = (
            f"postgresql://{RUNTIME_LOGIN}@/metrics?host={own.server.socket_dir},{standby.home}"
            "&port=5432,5433&target_session_attrs=read-write"
        )
        async with watching(both) as watched:
            await watched.until(lambda: watched.check("database").detail.startswith("answers"))
            with own.stopped():
                await watched.until(lambda: watched.check("database").status == "unhealthy")
                await asyncio.to_thread(standby.promote)
                await watched.until(lambda: watched.check("database").status == "healthy")
                await asyncio.sleep(3 * INTERVAL_MS / 1000)

    assert watched.kinds("database") == [
        *("connection-error", "health-change"),
        *("connection-recovery", "failover", "health-change"),
    ]
    [failover] = [event for event in watched.told if event.kind == "failover"]
    assert "its timeline is 2 and was 1" in failover.detail


# -- replicas -------------------------------------------------------------------------------------


async def test_a_replica_is_current_then_late_then_current_again_then_away(own, admin):
    with own.standby() as standby:
        replica = standby.dsn(RUNTIME_LOGIN)
        async with watching(
            own.addresses.runtime,
            database_replica_urls=replica,
            metrics_health_replica_lag_ms=1500,
        ) as watched:
            await watched.until(lambda: "behind" in watched.check("replica-1").detail)
            assert watched.check("replica-1").status == "healthy"
            paused = await asyncpg.connect(standby.dsn("postgres"))
            await paused.execute("SELECT pg_wal_replay_pause()")
            await admin("SELECT pg_logical_emit_message(false, 'test', 'x')")
            await watched.until(lambda: watched.check("replica-1").status == "degraded")
            assert watched.monitor.status == "degraded"
            assert await watched.monitor.readiness.ask()
            await paused.execute("SELECT pg_wal_replay_resume()")
            await paused.close()
            await watched.until(lambda: watched.check("replica-1").status == "healthy")
            await asyncio.to_thread(standby.promote)
            await watched.until(lambda: "no standby" in watched.check("replica-1").detail)
            await asyncio.to_thread(standby.control, "stop", "-m", "immediate")
            await watched.until(lambda: "connection-error" in watched.kinds("replica-1"))
            standby.control("start")

    assert "failover" in watched.kinds("replica-1")
    assert watched.kinds("database") == []


# -- the pool -------------------------------------------------------------------------------------


async def ask_in_vain(engine: AsyncEngine) -> None:
    async def ask() -> None:
        while True:
            with suppress(UnavailableError):
                async with registry_connection(engine):
                    pass

    # More than one, so that between two looks there is always one who gives up.
    await asyncio.gather(*(ask() for _ in range(10)))


async def test_a_pool_whose_connections_are_all_taken_is_told_apart_from_the_database(own):
    async with watching(own.addresses.runtime) as watched:
        await watched.until(lambda: watched.check("database").detail.startswith("answers"))
        async with registry_connection(watched.engine), registry_connection(watched.engine):
            await watched.until(lambda: watched.check("pool").status != "healthy")
            assert watched.check("database").status == "healthy"
            assert watched.monitor.report().pool.in_use == 2
            refused = asyncio.create_task(ask_in_vain(watched.engine))
            await watched.until(lambda: watched.check("pool").status == "unhealthy")
            refused.cancel()
            assert "got none in time" in watched.check("pool").detail
        await watched.until(lambda: watched.check("pool").status == "healthy")


async def test_ready_is_asked_of_the_database_once_for_all_who_ask_within_a_second(own, admin):
    async with watching(own.addresses.runtime) as watched:
        await watched.until(lambda: watched.monitor.report().is_ready)
        await asyncio.sleep(1.1)
        answers = await asyncio.gather(*(watched.monitor.readiness.ask() for _ in range(200)))
        begun = time.perf_counter()
        for _ in range(100):
            assert await watched.monitor.readiness.ask()
        took_s = time.perf_counter() - begun

    assert set(answers) == {True}
    assert took_s < 0.1


async def test_a_process_that_ends_is_not_ready(own):
    async with watching(own.addresses.runtime) as watched:
        assert await watched.monitor.readiness.ask()
        watched.ending.is_near = True
        assert not await watched.monitor.readiness.ask()
        assert watched.monitor.report().is_ending


# -- what is in the database ----------------------------------------------------------------------


@asynccontextmanager
async def a_tenant(own: OwnServer) -> AsyncIterator[str]:
    new = NewTenant.of(
        f"t{uuid4().hex[:16]}", name=None, domain=None, plan="basic", base_domain="localhost"
    )
    async with owner_connection(own.addresses.require_owner()) as connection:
        yield (await create_tenant(connection, new, target_of(own.addresses))).schema_name


async def test_a_table_that_is_gone_and_a_hole_in_the_wall_are_found_as_the_runtime_login(
    own, admin, monkeypatch
):
    monkeypatch.setattr("metrics_service.health.monitor.FIRST_LOOK_AFTER_S", (0, 0.1))
    monkeypatch.setattr("metrics_service.health.wall.EVERY_S", 0.2)
    monkeypatch.setattr("metrics_service.health.wall.SHARE", 1)
    monkeypatch.setattr("metrics_service.health.wall.AGAIN_AFTER_S", 0.2)
    async with a_tenant(own) as schema, watching(own.addresses.runtime) as watched:
        await watched.until(lambda: watched.check("coverage").latency_ms is not None)
        assert watched.monitor.status == "healthy"
        await admin(f"ALTER TABLE {schema}.session_tags NO FORCE ROW LEVEL SECURITY")
        await admin(f"ALTER TABLE {schema}.tool_names RENAME TO tool_names_kept")
        await watched.until(lambda: watched.check("coverage").status == "unhealthy")
        await watched.until(lambda: watched.check("tables").status == "degraded")
        coverage, tables = watched.check("coverage").detail, watched.check("tables").detail
        await admin(f"ALTER TABLE {schema}.tool_names_kept RENAME TO tool_names")
        await admin(f"ALTER TABLE {schema}.session_tags FORCE ROW LEVEL SECURITY")
        await watched.until(lambda: watched.monitor.status == "healthy")

    assert coverage.endswith(f"{schema}.session_tags: row security is not forced")
    assert tables == f"missing: {schema}.tool_names"


async def test_the_tables_that_are_looked_for_are_those_of_the_migrations(own, admin):
    async with a_tenant(own) as schema:
        rows = await admin("SELECT tablename FROM pg_tables WHERE schemaname = $1", schema)

    assert {row[0] for row in rows} == set(TENANT_TABLES)
    assert len(TENANT_TABLES) == len(set(TENANT_TABLES))


async def test_schemas_that_are_behind_or_failed_are_counted(own, admin):
    async with a_tenant(own) as schema, watching(own.addresses.runtime) as watched:
        await watched.until(lambda: "at head" in watched.check("migrations").detail)
        await admin(
            "UPDATE public.tenant_schemas SET revision = 'tenant_0002', status = 'failed'"
            " WHERE schema_name = $1",
            schema,
        )
        await watched.until(lambda: watched.check("migrations").status == "degraded")
        detail = watched.check("migrations").detail
        assert await watched.monitor.readiness.ask()
        await admin("DELETE FROM public.tenant_schemas WHERE schema_name = $1", schema)

    assert "schemas behind, 1 failed" in detail


async def test_a_database_without_a_registry_is_told_apart_from_one_that_is_away(own):
    elsewhere = own.server.dsn(RUNTIME_LOGIN, "postgres")
    async with watching(elsewhere) as watched:
        await watched.until(lambda: watched.check("migrations").status == "unhealthy")

    assert watched.check("migrations").detail == "the registry is not there"
    assert watched.check("database").status == "healthy"


# -- what is left in the registry -----------------------------------------------------------------


async def test_a_process_reports_itself_and_takes_leave(own, admin):
    find = "SELECT kind, pid, status, report FROM public.service_processes WHERE id = $1"
    async with watching(own.addresses.runtime) as watched:
        process_id = watched.monitor.report().id
        give_up_at = time.monotonic() + SOON_S
        while not (rows := await admin(find, process_id)):
            assert time.monotonic() < give_up_at
    left = await admin(find, process_id)

    [row] = rows
    report = json.loads(row["report"])
    assert (row["kind"], row["status"]) == ("http", "healthy")
    assert {check["name"] for check in report["checks"]} >= {"database", "pool", "coverage"}
    assert report["memory"]["rss_bytes"] > 0
    assert report["pool"]["size"] == 2
    assert report["is_ready"]
    assert left == []


async def test_what_is_noted_while_the_database_is_away_is_bounded_and_kept():
    diary = HealthDiary(uuid4())
    for number in range(MAX_KEPT + 5):
        diary.note(_event(f"number {number}"))
    written: list[str] = []

    class Away:
        async def execute(self, *_: object) -> None:
            diary.note(_event("meanwhile"))
            raise ConnectionRefusedError

    class Back:
        async def execute(self, _: str, rows: str) -> None:
            written.append(rows)

    with pytest.raises(ConnectionRefusedError):
        await diary.write(Away())
    await diary.write(Back())
    await diary.write(Back())

    [rows] = [json.loads(rows) for rows in written]
    assert len(rows) == MAX_KEPT
    assert (rows[0]["detail"], rows[-1]["detail"]) == ("number 6", "meanwhile")


def _event(detail: str) -> HealthEvent:
    at = datetime.now(UTC) - timedelta(hours=1)
    return HealthEvent(kind="connection-error", check_name="database", at=at, detail=detail)


# -- listeners, disk, secrets ---------------------------------------------------------------------


async def test_a_listener_that_fails_or_hangs_hurts_nobody(own):
    async def hang(_: HealthEvent) -> None:
        await asyncio.sleep(3600)

    def fail(_: HealthEvent) -> None:
        raise ZeroDivisionError

    async def fail_later(_: HealthEvent) -> None:
        raise ZeroDivisionError

    heard: list[HealthEvent] = []

    async def hear(event: HealthEvent) -> None:
        heard.append(event)

    async with watching("postgresql://nobody@127.0.0.1:1/none") as watched:
        for listener in (hang, fail, fail_later, hear):
            watched.monitor.on("connection-error", listener)
        await watched.until(lambda: heard)
        await watched.until(lambda: watched.check("database").status == "unhealthy")

    assert [event.check_name for event in heard] == ["database"]


async def test_the_disk_of_the_embedded_server_is_looked_at_and_no_other(own, addresses):
    root = str(own.server.data_dir.parent)
    async with watching(own.addresses.runtime, metrics_data_dir=root) as ours:
        await ours.until(lambda: "free" in ours.check("disk").detail)
    async with watching(
        own.addresses.runtime, metrics_data_dir=root, metrics_health_disk_free_percent=100
    ) as full:
        # Degraded, or worse where hardly a fifth of the disk is free.
        await full.until(lambda: full.check("disk").status != "healthy")
    async with watching("postgresql://app_runtime@127.0.0.1:1/x", metrics_data_dir=root) as theirs:
        names = {check.name for check in theirs.monitor.report().checks}

    assert "disk" not in names


async def test_no_password_is_in_what_a_failing_connection_tells(own):
    secret = "hunter2-canary"
    said = []
    for dsn in (
        f"postgresql://someone:{secret}@127.0.0.1:1/none",
        f"postgresql://someone:{secret}@localhost:1/none",
        f"postgresql://someone:{secret}@no-such-host.invalid/none",
        f"postgresql://nobody:{secret}@/metrics?host={own.server.socket_dir}",
        f"postgresql://someone:{secret}@/metrics?host=/nowhere&sslmode={secret}",
    ):
        with pytest.raises(UnreachableError) as raised:
            await Probe(dsn, name="test").ask()
        said.append(str(raised.value))

    assert said[0] == "Connection refused"
    assert not any(secret in words for words in said)
    assert all(said)
