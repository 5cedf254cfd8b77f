"""Looks for holes in the wall between tenants, and for tables that are gone.

It takes 70 ms where there are three tenants and 2 s where there are two hundred (10 ms each), of one
core of the database: so it is done every five minutes, and less often where it takes long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec

from metrics_service.db import coverage
from metrics_service.db.connect import UNREACHABLE, connect
from metrics_service.db.engine import CONNECT_TIMEOUT_S
from metrics_service.db.probe import UnreachableError, reason_of
from metrics_service.db.tables import missing_tables

PATIENCE_S = 120.0
EVERY_S = 300.0
AGAIN_AFTER_S = 60.0
"""What was found wrong, or could not be looked at, is looked at sooner."""
SHARE = 500
"""It may take this part of each process's time: a five-hundredth."""

APPLICATION_NAME = "metrics-service-health"
# Of the transaction, since a pooler takes none of a session. To read a constraint takes a lock on its
# table: whoever migrates it is left alone.
LIMITS = "SET LOCAL statement_timeout = '60s'; SET LOCAL lock_timeout = '1s'"


class Wall(msgspec.Struct, frozen=True):
    """What was found, and how long that took."""

    missing: list[str]
    tables_ms: float
    holes: list[str]
    coverage_ms: float

    @property
    def pause_s(self) -> float:
        usual_s = AGAIN_AFTER_S if self.missing or self.holes else EVERY_S
        return max(usual_s, SHARE * (self.tables_ms + self.coverage_ms) / 1000)


async def look_at_wall(dsn: str) -> Wall:
    """As the login of the DSN, which needs no rights; raises `UnreachableError`."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            # A connection of its own: a backend keeps for life what it has learnt about all schemas.
            connection: asyncpg.Connection[Any] = await connect(
                dsn, application_name=APPLICATION_NAME, timeout=CONNECT_TIMEOUT_S
            )
            try:
                return await _look(connection)
            finally:
                connection.terminate()
    except TimeoutError:
        raise UnreachableError(f"no answer within {PATIENCE_S:g} s") from None
    except UNREACHABLE as error:
        raise UnreachableError(reason_of(error)) from None


async def _look(connection: asyncpg.Connection[Any]) -> Wall:
    begun = time.perf_counter()
    async with _limited(connection):
        missing = await missing_tables(connection)
    between = time.perf_counter()
    async with _limited(connection):
        rows = await connection.fetch(coverage.TABLES_AND_VIEWS, None)
    async with _limited(connection):
        login = await connection.fetchval("SELECT current_user")
        rows += await connection.fetch(coverage.ROLES_AND_FUNCTIONS, login)
    ended = time.perf_counter()
    return Wall(
        missing=missing,
        tables_ms=(between - begun) * 1000,
        holes=[f"{row['object']}: {row['reason']}" for row in rows],
        coverage_ms=(ended - between) * 1000,
    )


@asynccontextmanager
async def _limited(connection: asyncpg.Connection[Any]) -> AsyncIterator[None]:
    """A transaction that waits for nobody for long, and holds its locks for one question."""
    async with connection.transaction(readonly=True):
        await connection.execute(LIMITS)
        yield
