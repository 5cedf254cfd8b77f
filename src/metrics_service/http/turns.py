"""Bounds how many of a process's connections one tenant takes at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

import msgspec

from metrics_service.errors import UnavailableError

# As long as the pool lets wait by default, and half of what many OTLP clients wait in all.
PATIENCE_S = 5.0


class _Line(msgspec.Struct):
    free: asyncio.Semaphore
    users: int = 0
    """Those whose turn it is and those who wait."""


class Turns:
    """Lets so many requests of a tenant in at a time; the others wait without a connection."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines: dict[Hashable, _Line] = {}

    @asynccontextmanager
    async def take(self, tenant: Hashable) -> AsyncIterator[None]:
        """Wait for one of the tenant's turns; raises `UnavailableError` when none comes in time."""
        line = self._lines.get(tenant)
        if line is None:
            line = self._lines[tenant] = _Line(asyncio.Semaphore(self._limit))
        line.users += 1
        try:
            await _acquire(line.free)
            try:
                yield
            finally:
                line.free.release()
        finally:
            line.users -= 1
            if not line.users:
                del self._lines[tenant]


async def _acquire(free: asyncio.Semaphore) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            await free.acquire()
    except TimeoutError:
        raise UnavailableError(
            "too many requests of this tenant wait for the database", retry_after_s=1
        ) from None
