"""The runtime login's pool, and single connections of the owner."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from sqlalchemy.util import greenlet_spawn

from metrics_service.db.tenancy import NOBODY, ContextConnection
from metrics_service.errors import DatabaseUnreachableError

CONNECT_TIMEOUT_S = 5


def runtime_engine(dsn: str, *, pool_max: int = 10, pool_timeout_ms: int = 5000) -> AsyncEngine:
    """Make the pool of the runtime login; it connects when first used.

    The DSN goes to asyncpg as it is, so that all of libpq's parameters work.
    """

    async def connect() -> ContextConnection:
        connection: ContextConnection = await asyncpg.connect(
            dsn,
            connection_class=ContextConnection,
            timeout=CONNECT_TIMEOUT_S,
            server_settings={"application_name": "metrics-service"},
        )
        # SQLAlchemy asks a new server for its version before anyone borrows the connection.
        connection.context = NOBODY
        return connection

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=pool_max,
        max_overflow=0,
        pool_timeout=pool_timeout_ms / 1000,
        pool_use_lifo=True,
    )
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    return engine


def _refuse_closed(dbapi_connection: DBAPIConnection, *_: Any) -> None:
    """After the server went away and came back, the whole pool is stale: found out once, not by each."""
    if dbapi_connection.driver_connection.is_closed():
        raise InvalidatePoolError


async def warm(engine: AsyncEngine, count: int) -> None:
    """Open the first `count` connections of the pool now, rather than for the first requests."""
    held = [await greenlet_spawn(engine.sync_engine.pool.connect) for _ in range(count)]
    for proxied in held:
        proxied.close()


@asynccontextmanager
async def owner_connection(dsn: str) -> AsyncIterator[AsyncConnection]:
    """Connect as the migrator for one command; raises `DatabaseUnreachableError`.

    The connection is not in a transaction yet: open one with `begin()`.
    """

    async def connect() -> asyncpg.Connection[Any]:
        try:
            return await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError) as error:
            raise DatabaseUnreachableError(unreachable(error)) from error

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


def unreachable(error: BaseException) -> str:
    """One line for an operator; a DSN is never part of it."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"the database cannot be reached: {reason}"
