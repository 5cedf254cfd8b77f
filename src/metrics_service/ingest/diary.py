"""The receiver's diary: who sent what, and what became of it.

Agents fail silently, so what was refused, and why, is written down for those who can mend it. Counts are
added up in memory and written every few seconds; what is refused is written at once, but no more than
once a second for a tenant, so that a flood is one write a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.cache.memory import TenantCache
from metrics_service.db.failures import VALUES_REFUSED
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.errors import MetricsServiceError, TenantSuspendedError
from metrics_service.ingest.diary_page import DiaryPage, Sender, Taken
from metrics_service.ingest.diary_tables import write_page

WRITTEN_EVERY_S = 5.0
REFUSALS_APART_S = 1.0
# What still cannot be written when the process ends is lost: nobody waits for longer.
LAST_WORDS_S = 5.0
TIMEOUT_MS = 3000

# Which lines a tenant has, so that not every write asks.
LINES = "lines"
MAX_TENANTS_REMEMBERED = 1000
REMEMBERED_S = 300.0

log = structlog.get_logger(__name__)


class Diary:
    """One process's notes about all tenants. Noting never waits and never fails."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        clock: Callable[[], float] = time.monotonic,
        calendar: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._calendar = calendar
        self._pages: dict[UUID, DiaryPage] = {}
        self._due: dict[UUID, float] = {}
        self._tried: dict[UUID, float] = {}
        # One write at a time: the diary never takes more than one of the pool's connections.
        self._writing = asyncio.Lock()
        self._known: TenantCache[frozenset[UUID]] = TenantCache(
            MAX_TENANTS_REMEMBERED, lambda: REMEMBERED_S
        )
        self._is_earlier = asyncio.Event()
        self._is_over = False

    # -- noting -------------------------------------------------------------------------------------

    def accept(self, tenant_id: UUID, sender: Sender, taken: Taken) -> None:
        """Note a request that was taken in, but for the items that were refused."""
        self._page(tenant_id).accept(sender, taken, self._calendar())
        if taken.refused:
            self._hurry(tenant_id)
        else:
            self._is_due(tenant_id, self._clock() + WRITTEN_EVERY_S)

    def refuse(self, tenant_id: UUID, sender: Sender, status: int, reason: str) -> None:
        """Note a request that was refused as a whole."""
        self._page(tenant_id).refuse(sender, status, reason, self._calendar())
        self._hurry(tenant_id)

    def _page(self, tenant_id: UUID) -> DiaryPage:
        page = self._pages.get(tenant_id)
        if page is None:
            page = self._pages[tenant_id] = DiaryPage()
        return page

    def _hurry(self, tenant_id: UUID) -> None:
        last = self._tried.get(tenant_id, float("-inf"))
        self._is_due(tenant_id, max(self._clock(), last + REFUSALS_APART_S))

    def _is_due(self, tenant_id: UUID, at: float) -> None:
        due = self._due.get(tenant_id)
        if due is None or at < due:
            self._due[tenant_id] = at
            self._is_earlier.set()

    # -- writing ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Write in the background while this is open; all that is left is written in the end."""
        keeper = asyncio.create_task(self._keep(), name="diary")
        try:
            yield
        finally:
            # Told, not cancelled: of a write that is cut off nobody knows whether it happened.
            self._is_over = True
            self._is_earlier.set()
            await keeper
            await self._write_last()

    async def flush(self, tenant_id: UUID) -> None:
        """Write now what is noted of a tenant; what cannot be written is kept, and tried again."""
        async with self._writing:
            await self._write(tenant_id)

    async def _keep(self) -> None:
        while not self._is_over:
            self._is_earlier.clear()
            for tenant_id in self._those_due():
                if self._is_over:
                    return
                await self.flush(tenant_id)
            await self._wait()

    def _those_due(self) -> list[UUID]:
        now = self._clock()
        self._tried = {
            tenant_id: at for tenant_id, at in self._tried.items() if now - at < REFUSALS_APART_S
        }
        return [tenant_id for tenant_id, at in self._due.items() if at <= now]

    async def _wait(self) -> None:
        until = min(self._due.values(), default=None)
        timeout = None if until is None else max(0.0, until - self._clock())
        try:
            async with asyncio.timeout(timeout):
                await self._is_earlier.wait()
        except TimeoutError:
            return

    async def _write_last(self) -> None:
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                for tenant_id in list(self._pages):
                    await self.flush(tenant_id)
        except TimeoutError:
            pass
        if self._pages:
            log.error("ingest diary not written", tenants=len(self._pages))

    async def _write(self, tenant_id: UUID) -> None:
        self._due.pop(tenant_id, None)
        page = self._pages.pop(tenant_id, None)
        if page is None:
            return
        self._tried[tenant_id] = self._clock()
        # What is noted is shown as it stands now, and by no answer that is kept.
        context = TenantContext(tenant_id, timeout_ms=TIMEOUT_MS, notes_change=False)
        try:
            async with tenant_connection(self._engine, context) as connection:
                known = self._known.get(tenant_id, LINES) or frozenset()
                known = await write_page(connection, page, known)
            self._known.put(tenant_id, LINES, known)
        except TenantSuspendedError:
            # Suspended or deleted meanwhile: there is nobody to read it.
            return
        except VALUES_REFUSED:
            # A bug of ours; tried again it would be refused again.
            log.exception("ingest diary refused by the database")
        except MetricsServiceError as error:
            log.warning("ingest diary is written later", reason=str(error))
            self._take_back(tenant_id, page)
        except Exception:
            # Nobody waits for it, and no count may be lost.
            log.exception("ingest diary is written later")
            self._take_back(tenant_id, page)
        except BaseException:
            self._take_back(tenant_id, page)
            raise

    def _take_back(self, tenant_id: UUID, page: DiaryPage) -> None:
        page.add(self._pages.get(tenant_id))
        self._pages[tenant_id] = page
        self._is_due(tenant_id, self._clock() + WRITTEN_EVERY_S)
