"""Runs maintenance from beginning to end, with all that a process of the service tells of itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from metrics_service.db.engine import runtime_engine
from metrics_service.db.pool import breaker_of
from metrics_service.fleet.slow_query_writer import SlowQueryWriter
from metrics_service.maintenance.place import Place
from metrics_service.maintenance.process import Maintenance
from metrics_service.maintenance.reporting import reported
from metrics_service.observability.export import load_otel_settings, start_export
from metrics_service.observability.own_exports import know_own_exports
from metrics_service.observability.resources import read_resources
from metrics_service.observability.siblings import Siblings
from metrics_service.observability.slow import set_slow_threshold_ms
from metrics_service.settings import Settings

# Together they stay within five seconds, whatever the database and the collector do.
ENDS_WITHIN_S = 3.0
LAST_EXPORT_S = 1.0


async def keep_maintaining(settings: Settings, place: Place, is_told: asyncio.Event) -> None:
    """Maintain until told to end; a job that is being done then is put back."""
    if settings.metrics_secret_key is not None:
        know_own_exports(settings.metrics_secret_key.encode())
    async with _export():
        maintaining = asyncio.create_task(_maintain(settings, place))
        told = asyncio.create_task(is_told.wait())
        await asyncio.wait({maintaining, told}, return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        maintaining.cancel()
        await asyncio.wait({maintaining}, timeout=ENDS_WITHIN_S)
        if maintaining.done() and not maintaining.cancelled():
            # It ends by itself only where it went wrong.
            maintaining.result()


async def _maintain(settings: Settings, place: Place) -> None:
    set_slow_threshold_ms(settings.slow_query_threshold_ms)
    read_resources()
    maintenance = Maintenance(place)
    engine = runtime_engine(
        place.runtime_dsn,
        pool_max=1,
        prepared_statements=settings.database_prepared_statements,
    )
    interval_s = settings.metrics_health_interval_ms / 1000
    try:
        async with (
            breaker_of(engine).kept(),
            Siblings("maintenance").answering(),
            SlowQueryWriter(engine).kept(),
            reported(maintenance, engine, interval_s=interval_s),
        ):
            await maintenance.run()
    finally:
        await engine.dispose()


@asynccontextmanager
async def _export() -> AsyncIterator[None]:
    export = start_export(load_otel_settings(), process="maintenance")
    try:
        yield
    finally:
        if export is not None:
            await asyncio.to_thread(export.stop, LAST_EXPORT_S)
