"""Whether this process may take traffic; asked by probes as often as they like."""

from __future__ import annotations

import asyncio
from time import monotonic

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.tenancy import registry_connection
from metrics_service.errors import MetricsServiceError
from metrics_service.http.ending import Ending
from metrics_service.tenants.revisions import REGISTRY, is_behind

PATIENCE_S = 2.0
REMEMBERED_S = 1.0


class Readiness:
    """Asks the database as a request would, by the pool; once for all who ask within a second."""

    def __init__(self, engine: AsyncEngine, ending: Ending) -> None:
        self._engine = engine
        self._ending = ending
        self._answer = False
        self._answered_at = float("-inf")
        self._asking: asyncio.Task[bool] | None = None

    @property
    def last(self) -> bool:
        """What was answered last."""
        return self._answer and not self._ending.is_near

    async def ask(self) -> bool:
        """The process is not about to end; its database answers and is current."""
        if self._ending.is_near:
            return False
        if monotonic() - self._answered_at < REMEMBERED_S:
            return self._answer
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(), name="readiness")
        # Whoever leaves early takes the answer from nobody else.
        return await asyncio.shield(self._asking)

    async def close(self) -> None:
        """Ask no longer: the pool is about to go."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> bool:
        try:
            self._answer = await _is_database_ready(self._engine)
            self._answered_at = monotonic()
        finally:
            self._asking = None
        return self._answer


async def _is_database_ready(engine: AsyncEngine) -> bool:
    try:
        async with asyncio.timeout(PATIENCE_S), registry_connection(engine) as connection:
            revision = await connection.fetchval("SELECT public.schema_revision($1)", REGISTRY)
    except (MetricsServiceError, TimeoutError, asyncpg.PostgresError):
        return False
    return not is_behind("registry", revision)
