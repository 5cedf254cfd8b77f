"""Tells operators that maintenance lives, whether it leads, and what keeps it from its work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.pool import figures_of
from metrics_service.db.tenancy import registry_writing
from metrics_service.errors import MetricsServiceError
from metrics_service.fleet.processes import ThisProcess, leave_process, report_process
from metrics_service.health.schemas import MemoryReport, ProcessReport
from metrics_service.maintenance.process import Maintenance
from metrics_service.observability.resources import resident_bytes, unique_bytes, uptime_s

LEAVING_S = 1.0

log = structlog.get_logger(__name__)


@asynccontextmanager
async def reported(
    maintenance: Maintenance, engine: AsyncEngine, *, interval_s: float
) -> AsyncIterator[None]:
    """Report this process while it is open; a database that does not hear it is no reason to end."""
    this = ThisProcess.of("maintenance")
    task = asyncio.create_task(_report(engine, this, maintenance, interval_s))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        try:
            async with asyncio.timeout(LEAVING_S), registry_writing(engine) as connection:
                await leave_process(connection, this)
        except (MetricsServiceError, asyncpg.PostgresError, TimeoutError) as error:
            log.info("process did not leave", reason=type(error).__name__)


async def _report(
    engine: AsyncEngine, this: ThisProcess, maintenance: Maintenance, interval_s: float
) -> None:
    while True:
        check = maintenance.standing.report()
        report = ProcessReport(
            uptime_s=round(uptime_s(), 3),
            is_ready=maintenance.is_leading,
            is_ending=False,
            memory=MemoryReport(resident_bytes(), unique_bytes()),
            pool=figures_of(engine),
            server=None,
            checks=[check],
        )
        try:
            async with registry_writing(engine) as connection:
                await report_process(connection, this, check.status, report)
        except (MetricsServiceError, asyncpg.PostgresError) as error:
            reason = str(error) if isinstance(error, MetricsServiceError) else type(error).__name__
            log.warning("process not reported", reason=reason)
        await asyncio.sleep(interval_s)
