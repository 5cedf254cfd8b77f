"""What every process that serves tenants stands on: one pool, who is who, and what handlers share."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.cache.second_level import SecondLevel
from metrics_service.db.breaker import RUNTIME
from metrics_service.db.engine import runtime_engine, warm
from metrics_service.db.pages import CursorSigner
from metrics_service.db.pool import breaker_of, pool_read
from metrics_service.db.replica import Replica, replica_names
from metrics_service.fleet.activity import Activity
from metrics_service.fleet.slow_query_writer import SlowQueryWriter
from metrics_service.http.admission import LARGE_PATIENCE_S, Admission
from metrics_service.http.changes import Changes
from metrics_service.http.dependencies import Database
from metrics_service.http.links import LinkSigner
from metrics_service.http.rate import RateLimit
from metrics_service.http.replica_reads import ReplicaReads
from metrics_service.http.sealing import Sealer
from metrics_service.http.throttle import PasswordThrottle
from metrics_service.ingest.diary import Diary
from metrics_service.ingest.prices import load_prices
from metrics_service.ingest.raw_requests import RawSweeper
from metrics_service.ingest.tool_names import ToolNames
from metrics_service.ingest.write_telemetry import TelemetryWriter
from metrics_service.observability.export import Export, load_otel_settings, start_export
from metrics_service.observability.own_exports import know_own_exports
from metrics_service.observability.resources import read_resources
from metrics_service.observability.slow import set_slow_threshold_ms
from metrics_service.settings import Settings
from metrics_service.tenants.allowed import SettingsDirectory
from metrics_service.tenants.authenticate import KeyRing
from metrics_service.tenants.listener import RegistryListener
from metrics_service.tenants.looked_up import Shared
from metrics_service.tenants.passwords import Passwords
from metrics_service.tenants.resolve import TenantDirectory
from metrics_service.tenants.sign_ins import SignIns


class Foundation(msgspec.Struct, frozen=True):
    """Made before anything runs; it connects while `standing` is open."""

    engine: AsyncEngine
    second: SecondLevel | None
    """Redis, where there is one."""
    listener: RegistryListener
    directory: TenantDirectory
    keys: KeyRing
    database: Database
    activity: Activity
    slow_queries: SlowQueryWriter
    pool_min: int

    @asynccontextmanager
    async def standing(self, process: str) -> AsyncIterator[Export | None]:
        """Connect, listen, and let go of both in the end; `process` is its kind.

        Gives what tells the outside of it, where `OTEL_*` says so.
        """
        read_resources()
        # What ends in the end is still told.
        export = start_export(load_otel_settings(), process=process)
        try:
            with pool_read(self.engine):
                async with self._connected():
                    yield export
        finally:
            if export is not None:
                await asyncio.to_thread(export.stop)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[None]:
        async with AsyncExitStack() as standing:
            if self.second is not None:
                # Before the listener, which tells by it too.
                await standing.enter_async_context(self.second.kept())
                await standing.enter_async_context(self.database.rate.exchanged(self.second))
            standing.push_async_callback(self.engine.dispose)
            standing.callback(self.database.passwords.close)
            self.listener.start()
            standing.push_async_callback(self.listener.stop)
            await standing.enter_async_context(breaker_of(self.engine).kept())
            if self.database.replicas is not None:
                await standing.enter_async_context(self.database.replicas.kept())
            await warm(self.engine, self.pool_min)
            # What start-up made lives as long as the process: a full collection that walks all of it
            # takes 70 ms, and large batches cause many.
            gc.collect()
            gc.freeze()
            for keeper in (
                self.slow_queries.kept(),
                self.activity.kept(),
                self.database.diary.kept(),
                self.database.changes.told(),
            ):
                await standing.enter_async_context(keeper)
            with self.database.admission.read():
                yield


def lay_foundation(settings: Settings, *, runtime_dsn: str, direct_dsn: str) -> Foundation:
    """Put together what one process holds for all its requests."""
    set_slow_threshold_ms(settings.slow_query_threshold_ms)
    engine = _engine(settings, runtime_dsn)
    secret = settings.secret_key()
    second = None if settings.redis_url is None else SecondLevel(settings.redis_url, secret=secret)
    listener = RegistryListener(direct_dsn, second=second)
    breaker_of(engine).on_another_server(listener.listen_anew)
    shared = None if second is None else Shared(second, listener)
    directory = TenantDirectory(
        engine, base_domain=settings.metrics_base_domain, ttl_s=listener.ttl_s, shared=shared
    )
    keys = KeyRing(engine, ttl_s=listener.ttl_s, shared=shared)
    listener.tell(directory.forget)
    listener.tell(keys.forget)
    sign_ins = SignIns(engine, ttl_s=listener.ttl_s, shared=shared)
    listener.tell(sign_ins.forget)
    know_own_exports(secret)
    tool_names = ToolNames()
    database = Database(
        engine=engine,
        replicas=_replicas(settings),
        signer=CursorSigner(secret),
        tool_names=tool_names,
        telemetry=TelemetryWriter(tool_names, load_prices(settings.prices_file)),
        admission=Admission(
            settings.database_pool_max, patience_s=settings.database_pool_timeout_ms / 1000
        ),
        # One at a time: several side by side would all be in memory, parsed and not yet mapped.
        large_bodies=Admission(1, patience_s=LARGE_PATIENCE_S, target_s=LARGE_PATIENCE_S / 3),
        rate=RateLimit(settings.metrics_requests_per_second),
        tenant_settings=SettingsDirectory(engine),
        sealer=Sealer(secret),
        links=LinkSigner(secret),
        sign_ins=sign_ins,
        passwords=Passwords(),
        password_throttle=PasswordThrottle(
            settings.metrics_auth_failures_per_minute,
            trusted_proxies=settings.trusted_proxies,
            second=second,
        ),
        diary=Diary(engine),
        changes=Changes(engine),
        raw_sweeper=RawSweeper(),
        query_timeout_ms=settings.database_query_timeout_ms,
    )
    return Foundation(
        engine=engine,
        second=second,
        listener=listener,
        directory=directory,
        keys=keys,
        database=database,
        activity=Activity(engine),
        slow_queries=SlowQueryWriter(engine),
        pool_min=settings.database_pool_min,
    )


def _engine(settings: Settings, dsn: str, *, name: str = RUNTIME) -> AsyncEngine:
    return runtime_engine(
        dsn,
        pool_max=settings.database_pool_max,
        pool_timeout_ms=settings.database_pool_timeout_ms,
        prepared_statements=settings.database_prepared_statements,
        name=name,
    )


def _replicas(settings: Settings) -> ReplicaReads | None:
    """A pool for each of DATABASE_REPLICA_URLS, as large as the primary's."""
    dsns = settings.replica_urls
    if not dsns:
        return None
    return ReplicaReads(
        [
            Replica(name, _engine(settings, dsn, name=name), places=settings.database_pool_max)
            for name, dsn in zip(replica_names(len(dsns)), dsns, strict=True)
        ]
    )
