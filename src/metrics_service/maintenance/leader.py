"""Who maintains: of all processes that could, the one whose connection holds the lock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from metrics_service.db.connect import UNREACHABLE, is_pooled
from metrics_service.db.engine import CONNECT_TIMEOUT_S, unreachable
from metrics_service.errors import DatabaseUnreachableError
from metrics_service.fleet.jobs import CHANNEL

TRY_EVERY_S = 2.0
PROVE_EVERY_S = 1.0
PROOF_TIMEOUT_S = 5.0

# Not waited for in the database: a statement that waits holds back what VACUUM may clean. On a standby
# there are locks too, beside those of the first server, and nothing there can be maintained.
TRY = """
    SELECT CASE WHEN pg_is_in_recovery() THEN false
                ELSE pg_try_advisory_lock(hashtextextended('maintenance', 0)) END
"""

# Of a machine that is gone without a word, PostgreSQL would keep the lock for hours.
SOON_MISSED = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}

BEHIND_A_POOLER = "a pooler stands before the database; DATABASE_DIRECT_URL must pass by it"


class Lead:
    """The lock, for as long as its connection lives, and an ear for jobs that are queued."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._is_told = asyncio.Event()

    async def try_once(self) -> bool:
        """Take the lock unless another process has it, or the server takes no changes."""
        return bool(await self._connection.fetchval(TRY, timeout=PROOF_TIMEOUT_S))

    async def listen(self) -> None:
        await self._connection.add_listener(CHANNEL, self._heard)

    async def told(self, within_s: float) -> None:
        """Wait until a job is queued, and no longer than that."""
        try:
            async with asyncio.timeout(within_s):
                await self._is_told.wait()
        except TimeoutError:
            pass
        self._is_told.clear()

    async def prove(self) -> None:
        """Ask for ever whether the connection lives; raise when it does not."""
        while True:
            await self._connection.execute("SELECT 1", timeout=PROOF_TIMEOUT_S)
            await asyncio.sleep(PROVE_EVERY_S)

    def _heard(self, *_: Any) -> None:
        self._is_told.set()


@asynccontextmanager
async def candidate(dsn: str) -> AsyncIterator[Lead]:
    """Connect; whoever may be lead afterwards is so until this is closed.

    The address must pass by a pooler. Raises `DatabaseUnreachableError`.
    """
    try:
        connection = await asyncpg.connect(
            dsn, timeout=CONNECT_TIMEOUT_S, server_settings=SOON_MISSED
        )
    except asyncpg.ProtocolViolationError as error:
        # One that takes no settings of a session.
        raise DatabaseUnreachableError(BEHIND_A_POOLER) from error
    except UNREACHABLE as error:
        raise DatabaseUnreachableError(unreachable(error)) from error
    try:
        if await is_pooled(connection):
            # Two of its clients could have the same lock.
            raise DatabaseUnreachableError(BEHIND_A_POOLER)
        yield Lead(connection)
    finally:
        # Nothing is said to a connection that may be dead; the server ends what it has of it.
        connection.terminate()
