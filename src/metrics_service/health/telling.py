"""What this process says of its health: to the log, to listeners, and to the registry for operators."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime

import structlog

from metrics_service.db.probe import Probe, UnreachableError
from metrics_service.fleet.health_events import HealthDiary, HealthEvent
from metrics_service.fleet.processes import ThisProcess, leave_process, report_process
from metrics_service.fleet.views import EventKind, HealthStatus
from metrics_service.health.listeners import Listeners
from metrics_service.health.schemas import ProcessReport

LAST_WORDS_S = 1.0

log = structlog.get_logger(__name__)


class Teller:
    """Never waits for the database while something happens: what it cannot take now is told later."""

    def __init__(self, process: ThisProcess) -> None:
        self.listeners = Listeners()
        self._process = process
        self._diary = HealthDiary(process.id)

    def tell(
        self,
        kind: EventKind,
        check: str,
        detail: str,
        *,
        before: HealthStatus | None = None,
        status: HealthStatus | None = None,
    ) -> None:
        """Something happened just now."""
        is_good = kind == "connection-recovery" or status == "healthy"
        write = log.info if is_good else log.warning
        write(kind, check=check, before=before, status=status, detail=detail)
        event = HealthEvent(
            kind=kind,
            check_name=check,
            at=datetime.now(UTC),
            status_before=before,
            status=status,
            detail=detail,
        )
        self._diary.note(event)
        self.listeners.tell(event)

    async def write(self, probe: Probe, status: HealthStatus, report: ProcessReport) -> None:
        """Leave word in the registry of what happened, and how the process is."""
        try:
            async with probe.reached() as connection:
                await self._diary.write(connection)
                await report_process(connection, self._process, status, report)
        except UnreachableError as error:
            log.warning("the process cannot be reported", reason=str(error))

    async def leave(self, probe: Probe) -> None:
        """The process ends, as it should."""
        with suppress(UnreachableError, TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S), probe.reached() as connection:
                await self._diary.write(connection)
                await leave_process(connection, self._process)
