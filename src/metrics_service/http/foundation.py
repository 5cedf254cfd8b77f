"""What every process that serves tenants stands on: one pool, who is who, and what handlers share."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.engine import runtime_engine, warm
from metrics_service.db.pages import CursorSigner
from metrics_service.http.changes import Changes
from metrics_service.http.dependencies import Database
from metrics_service.http.links import LinkSigner
from metrics_service.http.sealing import Sealer
from metrics_service.http.throttle import PasswordThrottle
from metrics_service.http.turns import Turns
from metrics_service.ingest.diary import Diary
from metrics_service.ingest.prices import load_prices
from metrics_service.ingest.raw_requests import RawSweeper
from metrics_service.ingest.tool_names import ToolNames
from metrics_service.ingest.write_telemetry import TelemetryWriter
from metrics_service.settings import Settings
from metrics_service.tenants.allowed import SettingsDirectory
from metrics_service.tenants.authenticate import KeyRing
from metrics_service.tenants.listener import RegistryListener
from metrics_service.tenants.passwords import Passwords
from metrics_service.tenants.resolve import TenantDirectory
from metrics_service.tenants.sign_ins import SignIns


class Foundation(msgspec.Struct, frozen=True):
    """Made before anything runs; it connects while `standing` is open."""

    engine: AsyncEngine
    listener: RegistryListener
    directory: TenantDirectory
    keys: KeyRing
    database: Database
    pool_min: int

    @asynccontextmanager
    async def standing(self) -> AsyncIterator[None]:
        """Connect, listen, and let go of both in the end."""
        self.listener.start()
        try:
            await warm(self.engine, self.pool_min)
            # What start-up made lives as long as the process: a full collection that walks all of it
            # takes 70 ms, and large batches cause many.
            gc.collect()
            gc.freeze()
            async with self.database.diary.kept(), self.database.changes.told():
                yield
        finally:
            await self.listener.stop()
            self.database.passwords.close()
            await self.engine.dispose()


def lay_foundation(settings: Settings, *, runtime_dsn: str, direct_dsn: str) -> Foundation:
    """Put together what one process holds for all its requests."""
    engine = runtime_engine(
        runtime_dsn,
        pool_max=settings.database_pool_max,
        pool_timeout_ms=settings.database_pool_timeout_ms,
    )
    listener = RegistryListener(direct_dsn)
    directory = TenantDirectory(
        engine, base_domain=settings.metrics_base_domain, ttl_s=listener.ttl_s
    )
    keys = KeyRing(engine, ttl_s=listener.ttl_s)
    listener.tell(directory.forget)
    listener.tell(keys.forget)
    sign_ins = SignIns(engine, ttl_s=listener.ttl_s)
    listener.tell(sign_ins.forget)
    secret = settings.secret_key()
    tool_names = ToolNames()
    database = Database(
        engine=engine,
        signer=CursorSigner(secret),
        tool_names=tool_names,
        telemetry=TelemetryWriter(tool_names, load_prices(settings.prices_file)),
        # Half of the pool: a tenant whose writes are stuck leaves connections to the others.
        turns=Turns(max(1, settings.database_pool_max // 2)),
        # Fewer than that: each may read for as long as a statement may take.
        long_reads=Turns(max(1, settings.database_pool_max // 3)),
        large_reads=Turns(1),
        large_read=asyncio.Lock(),
        tenant_settings=SettingsDirectory(engine),
        sealer=Sealer(secret),
        links=LinkSigner(secret),
        sign_ins=sign_ins,
        passwords=Passwords(),
        password_throttle=PasswordThrottle(
            settings.metrics_auth_failures_per_minute, trusted_proxies=settings.trusted_proxies
        ),
        diary=Diary(engine),
        changes=Changes(engine),
        raw_sweeper=RawSweeper(),
        query_timeout_ms=settings.database_query_timeout_ms,
    )
    return Foundation(engine, listener, directory, keys, database, settings.database_pool_min)
