"""Looks after one process: what it stands on, how that changes, and whom that concerns.

Nothing of it goes by the pool but the question whether the process is ready: when all connections are
taken, an operator reads here that they are.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from time import monotonic
from typing import TypeAlias

import asyncpg
import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.cache.second_level import SecondLevel
from metrics_service.db.pool import PoolFigures, breaker_of, figures_of
from metrics_service.db.probe import Probe, ServerState, UnreachableError
from metrics_service.fleet.processes import ThisProcess
from metrics_service.fleet.views import EventKind, HealthStatus, ProcessKind
from metrics_service.health import judging, wall
from metrics_service.health.disk import find_data_dir, room
from metrics_service.health.listeners import Listener
from metrics_service.health.readiness import Readiness
from metrics_service.health.replicas import Replicas
from metrics_service.health.schemas import (
    SEVERITY,
    HealthReport,
    MemoryReport,
    ProcessReport,
    ServerReport,
    worst,
)
from metrics_service.health.server import ServerWatch, judge_first
from metrics_service.health.standing import Finding, Standing
from metrics_service.health.telling import Teller
from metrics_service.http.ending import Ending
from metrics_service.observability import catalog
from metrics_service.observability.export.delivery import ExportState
from metrics_service.observability.export.settings import Kind
from metrics_service.observability.resources import resident_bytes, unique_bytes, uptime_s
from metrics_service.settings import Settings
from metrics_service.tenants.listener import RegistryListener
from metrics_service.tenants.revisions import REGISTRY, revisions

NAME = "metrics-service-health"
"""What the connections are called at the server."""
UNREACHED_EVERY_S = 1.0
"""A database that is away is asked again this soon."""
FIRST_LOOK_AFTER_S = (10.0, 30.0)
"""At the wall, which is the dearest: when the start is over, and spread over the workers."""

SCHEMAS = """
    SELECT public.schema_revision($1) AS registry, c.schemas, c.behind, c.failed
    FROM public.count_schemas($2) c
"""

NO_REGISTRY = (asyncpg.UndefinedFunctionError, asyncpg.InsufficientPrivilegeError)

ExportStates: TypeAlias = Callable[[], Mapping[Kind, ExportState]]

log = structlog.get_logger(__name__)


class HealthMonitor:
    """Made before anything runs; it looks while `kept` is open."""

    def __init__(
        self,
        engine: AsyncEngine,
        settings: Settings,
        *,
        runtime_dsn: str,
        kind: ProcessKind,
        listener: RegistryListener,
        second: SecondLevel | None,
        ending: Ending,
    ) -> None:
        self.readiness = Readiness(engine, ending)
        self._engine = engine
        self._settings = settings
        self._dsn = runtime_dsn
        self._listener = listener
        self._second = second
        self._ending = ending
        self._process = ThisProcess.of(kind)
        self._teller = Teller(self._process)
        self._server = ServerWatch(Probe(runtime_dsn, name=NAME), "database", self._teller.tell)
        self._replicas = Replicas(
            settings.replica_urls,
            application=NAME,
            lag_ms=settings.metrics_health_replica_lag_ms,
            tell=self._teller.tell,
        )
        self._data_dir = find_data_dir(settings.data_dir, runtime_dsn)
        self._export_states: ExportStates | None = None
        self._pool: PoolFigures | None = None
        self._standings: dict[str, Standing] = {}

    # -- what others ask -----------------------------------------------------------------------------

    @property
    def status(self) -> HealthStatus:
        """The worst of all checks."""
        return worst(*(standing.status for standing in self._standings.values()))

    def on(self, kind: EventKind, listener: Listener) -> None:
        """Call `listener` with each event of this kind; what it raises is logged."""
        self._teller.listeners.on(kind, listener)

    def report(self) -> HealthReport:
        """All that is known, without asking anybody."""
        report = self._report(MemoryReport(resident_bytes(), unique_bytes()))
        return HealthReport(
            status=self.status,
            **msgspec.structs.asdict(self._process),
            **msgspec.structs.asdict(report),
        )

    # -- what it does by itself ----------------------------------------------------------------------

    @asynccontextmanager
    async def kept(self, export_states: ExportStates | None = None) -> AsyncIterator[None]:
        """Look again and again while this is open, and take leave in the end."""
        self._export_states = export_states
        self._make_standings()
        keepers = [
            asyncio.create_task(self._keep_looking(), name="health"),
            asyncio.create_task(self._keep_looking_at_wall(), name="health-wall"),
        ]
        try:
            with ExitStack() as readers:
                for name, standing in self._standings.items():
                    readers.callback(catalog.HEALTH_STATUS.read_by(_severity_of(standing), name))
                yield
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            await self.readiness.close()
            await self._leave()

    def _make_standings(self) -> None:
        made = [
            Standing("database"),
            Standing("latency", looks_to_worsen=2),
            Standing("pool", looks_to_worsen=2),
            Standing("breaker"),
            Standing("cache", looks_to_worsen=2),
            Standing("migrations"),
            Standing("tables"),
            Standing("coverage"),
            Standing("server-version"),
            *(Standing(name, looks_to_worsen=2) for name in self._replicas.names),
        ]
        if self._second is not None:
            made.append(Standing("redis", looks_to_worsen=2))
        if self._data_dir is not None:
            made.append(Standing("disk"))
        if self._export_states is not None:
            made.append(Standing("exporter"))
        self._standings = {standing.name: standing for standing in made}

    async def _keep_looking(self) -> None:
        while True:
            begun = monotonic()
            try:
                await self._look()
            except Exception:
                # Nobody waits for it, and it must not be the last look.
                log.exception("health cannot be looked at")
            pause_s = self._settings.metrics_health_interval_ms / 1000
            if self._standings["database"].status == "unhealthy":
                pause_s = min(pause_s, UNREACHED_EVERY_S)
            await asyncio.sleep(max(0.0, begun + pause_s - monotonic()))

    async def _look(self) -> None:
        seen = await self._server.look()
        self._take("database", judge_first(seen))
        state = seen if isinstance(seen, ServerState) else None
        if state is not None:
            await self._look_at_database(state)
        for name, finding in (await self._replicas.look(state)).items():
            self._take(name, finding)
        self._look_at_process()
        await self.readiness.ask()
        await self._write()

    async def _look_at_database(self, state: ServerState) -> None:
        self._take(
            "latency", judging.judge_latency(state, self._settings.metrics_health_latency_ms)
        )
        self._take("server-version", judging.judge_version(state))
        known = list(revisions("tenant")[:-1])
        try:
            async with self._server.probe.reached() as connection:
                row = await connection.fetchrow(SCHEMAS, REGISTRY, known)
        except UnreachableError as error:
            # A server that went away just now is found out by the next look.
            if isinstance(error.__cause__, NO_REGISTRY):
                self._take("migrations", Finding("unhealthy", "the registry is not there"))
        else:
            self._take("migrations", judging.judge_schemas(judging.Schemas(**dict(row))))

    def _look_at_process(self) -> None:
        listener = self._listener
        self._take("cache", judging.judge_cache(hears=listener.hears(), deafness=listener.deafness))
        if self._second is not None:
            self._take("redis", judging.judge_redis(self._second.state))
        now = figures_of(self._engine)
        before, self._pool = self._pool or now, now
        busy_percent = self._settings.metrics_health_pool_percent
        self._take("pool", judging.judge_pool(now, before, busy_percent))
        self._take("breaker", judging.judge_breaker(breaker_of(self._engine).figures()))
        if self._data_dir is not None and (found := room(self._data_dir)) is not None:
            free, total = found
            threshold = self._settings.metrics_health_disk_free_percent
            self._take(
                "disk", judging.judge_disk(free=free, total=total, threshold_percent=threshold)
            )
        if self._export_states is not None:
            self._take("exporter", judging.judge_exports(self._export_states()))

    async def _keep_looking_at_wall(self) -> None:
        await asyncio.sleep(random.uniform(*FIRST_LOOK_AFTER_S))  # noqa: S311  # only to spread them
        while True:
            pause_s = wall.AGAIN_AFTER_S
            try:
                found = await wall.look_at_wall(self._dsn)
            except UnreachableError as error:
                log.info("the wall cannot be looked at", reason=str(error))
            except Exception:
                log.exception("the wall cannot be looked at")
            else:
                self._take("tables", judging.judge_tables(found.missing, found.tables_ms))
                self._take("coverage", judging.judge_coverage(found.holes, found.coverage_ms))
                pause_s = found.pause_s
            await asyncio.sleep(pause_s)

    # -- what it says --------------------------------------------------------------------------------

    def _take(self, name: str, finding: Finding) -> None:
        standing = self._standings[name]
        before = standing.take(finding)
        if before is None:
            return
        catalog.HEALTH_TRANSITIONS.add(1, name, standing.status)
        self._teller.tell(
            "health-change", name, finding.detail, before=before, status=standing.status
        )

    def _report(self, memory: MemoryReport) -> ProcessReport:
        return ProcessReport(
            uptime_s=round(uptime_s(), 3),
            is_ready=self.readiness.last,
            is_ending=self._ending.is_near,
            memory=memory,
            pool=figures_of(self._engine),
            server=_server_report(self._server.last),
            checks=[standing.report() for standing in self._standings.values()],
        )

    async def _write(self) -> None:
        """Leave word in the registry; what cannot be left now is left later."""
        if self._standings["database"].status == "unhealthy":
            return
        unique = await asyncio.to_thread(unique_bytes)
        report = self._report(MemoryReport(resident_bytes(), unique))
        await self._teller.write(self._server.probe, self.status, report)

    async def _leave(self) -> None:
        if self._standings["database"].status != "unhealthy":
            await self._teller.leave(self._server.probe)
        self._server.probe.close()
        self._replicas.close()
        await self._teller.listeners.close()


def _severity_of(standing: Standing) -> Callable[[], float]:
    return lambda: SEVERITY[standing.status]


def _server_report(state: ServerState | None) -> ServerReport | None:
    if state is None:
        return None
    major, minor = divmod(state.version_number, 10_000)
    return ServerReport(
        version=f"{major}.{minor}",
        address=None if state.address is None else f"{state.address}:{state.port}",
        is_standby=state.is_standby,
        timeline=state.timeline,
        started_at=state.started_at,
    )
