"""Tells all processes, soon after a commit, whose data changed.

NOTIFY inside of a transaction takes a lock on the whole database until it is committed, so that all
commits of all tenants would wait for each other. So whoever wrote only notes it, in memory, and one
transaction a second tells what was noted. What is noted when a process is killed is never told: pages
then show it with the next change.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.tenancy import registry_connection
from metrics_service.errors import MetricsServiceError
from metrics_service.tenants.changed import CHANGES_CHANNEL, Changed, payloads_of

TOLD_EVERY_S = 1.0
PATIENCE_S = 5.0
# What cannot be told when the process ends is lost: nobody waits for longer.
LAST_WORDS_S = 1.0
MAX_TENANTS = 1000

TELL = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload"

log = structlog.get_logger(__name__)


class Changes:
    """What one process has to tell. Noting never waits and never fails."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # The one that was noted first is the first, and the first to go when there are too many.
        self._noted: OrderedDict[UUID, Changed] = OrderedDict()
        self._is_noted = asyncio.Event()
        self._is_over = asyncio.Event()

    def note(self, tenant_id: UUID, sessions: Iterable[UUID] | None) -> None:
        """Note, after its commit, a change of these sessions; None are many."""
        changed = self._noted.get(tenant_id)
        if changed is None:
            changed = self._noted[tenant_id] = Changed()
            if len(self._noted) > MAX_TENANTS:
                self._noted.popitem(last=False)
            self._is_noted.set()
        changed.add(sessions)

    @asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        """Tell in the background while this is open, and what is left in the end."""
        teller = asyncio.create_task(self._keep_telling(), name="changes")
        try:
            yield
        finally:
            self._is_over.set()
            self._is_noted.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_S):
                    await teller
                    await self._tell()

    async def _keep_telling(self) -> None:
        while not self._is_over.is_set():
            await self._is_noted.wait()
            await self._tell()
            # Whatever comes meanwhile is told together; and a database that is away is left alone.
            with suppress(TimeoutError):
                async with asyncio.timeout(TOLD_EVERY_S):
                    await self._is_over.wait()

    async def _tell(self) -> None:
        self._is_noted.clear()
        noted, self._noted = self._noted, OrderedDict()
        if not noted:
            return
        try:
            async with asyncio.timeout(PATIENCE_S), registry_connection(self._engine) as connection:
                await connection.execute(TELL, CHANGES_CHANNEL, payloads_of(noted))
        except (MetricsServiceError, TimeoutError) as error:
            log.warning("changes are told later", reason=str(error) or type(error).__name__)
            self._take_back(noted)
        except Exception:
            # Nobody waits for it, and what follows must be told.
            log.exception("changes are told later")
            self._take_back(noted)

    def _take_back(self, noted: OrderedDict[UUID, Changed]) -> None:
        for tenant_id, changed in self._noted.items():
            noted.setdefault(tenant_id, Changed()).join(changed)
        while len(noted) > MAX_TENANTS:
            noted.popitem(last=False)
        self._noted = noted
        self._is_noted.set()
