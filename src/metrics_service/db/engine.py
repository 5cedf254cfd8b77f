"""The runtime login's pool, and single connections of the owner."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import structlog
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool, PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from metrics_service.db.breaker import RUNTIME, Breaker
from metrics_service.db.connect import UNREACHABLE, connect, follow
from metrics_service.db.failures import NOT_LET_IN, tells_of_absence, translated
from metrics_service.db.hosts import Hosts
from metrics_service.db.look import look_at
from metrics_service.db.pool import MeteredPool, metered_pool_of
from metrics_service.db.tenancy import DEFAULT_TIMEOUT_MS, MARGIN_S, NOBODY, ContextConnection
from metrics_service.db.timed import TimedConnection
from metrics_service.errors import DatabaseUnreachableError, UnavailableError
from metrics_service.settings import PreparedStatements

CONNECT_TIMEOUT_S = 5

log = structlog.get_logger(__name__)


def runtime_engine(
    dsn: str,
    *,
    pool_max: int = 10,
    pool_timeout_ms: int = 5000,
    prepared_statements: PreparedStatements = "auto",
    name: str = RUNTIME,
) -> AsyncEngine:
    """Make the pool of the runtime login; it connects when first used.

    The DSN goes to asyncpg as it is, so that all of libpq's parameters work.
    """
    hosts = Hosts(dsn)
    breaker = Breaker(lambda: look_at(hosts), begin_anew=hosts.begin_anew, name=name)

    async def make() -> ContextConnection:
        try:
            async with breaker.connecting(CONNECT_TIMEOUT_S):
                connection = await hosts.connect(
                    connection_class=ContextConnection,
                    application_name="metrics-service",
                    timeout=CONNECT_TIMEOUT_S,
                    prepared_statements=prepared_statements,
                    command_timeout=DEFAULT_TIMEOUT_MS / 1000 + MARGIN_S,
                )
        except NOT_LET_IN as error:
            # Once connected, the same codes come from functions, and mean something else.
            raise UnavailableError("the database does not let the service in") from error
        except Exception as error:
            if tells_of_absence(error):
                breaker.suspect()
            raise
        # SQLAlchemy asks a new server for its version before anyone borrows the connection.
        connection.context = NOBODY
        connection.breaker = breaker
        breaker.guard(connection)
        return connection

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=make,
        poolclass=MeteredPool,
        pool_size=pool_max,
        max_overflow=0,
        pool_timeout=pool_timeout_ms / 1000,
        pool_use_lifo=True,
    )
    metered_pool_of(engine).breaker = breaker
    event.listen(engine.sync_engine, "connect", follow)
    event.listen(engine.sync_engine, "checkout", _refuse_closed)
    event.listen(engine.sync_engine, "engine_disposed", lambda _: breaker.rest())
    return engine


def _refuse_closed(dbapi_connection: DBAPIConnection, *_: Any) -> None:
    """After the server went away and came back, the whole pool is stale: found out once, not by each."""
    if dbapi_connection.driver_connection.is_closed():
        raise InvalidatePoolError


async def warm(engine: AsyncEngine, count: int) -> None:
    """Open the first `count` connections of the pool now, rather than for the first requests.

    Where the database is away, there are none yet, and the first requests find that out.
    """
    held: list[PoolProxiedConnection] = []
    try:
        with translated():
            while len(held) < count:
                held += [await greenlet_spawn(engine.sync_engine.pool.connect)]
    except UnavailableError as error:
        log.warning("no connection yet", reason=str(error))
    for proxied in held:
        # Nobody has it from now on.
        cast("ContextConnection", proxied.driver_connection).context = None
        proxied.close()


@asynccontextmanager
async def owner_connection(dsn: str) -> AsyncIterator[AsyncConnection]:
    """Connect as the migrator for one command; raises `DatabaseUnreachableError`.

    The connection is not in a transaction yet: open one with `begin()`.
    """

    async def make() -> TimedConnection:
        try:
            return await connect(
                dsn,
                connection_class=TimedConnection,
                application_name=None,
                timeout=CONNECT_TIMEOUT_S,
            )
        except UNREACHABLE as error:
            raise DatabaseUnreachableError(unreachable(error)) from error

    engine = create_async_engine("postgresql+asyncpg://", async_creator=make, poolclass=NullPool)
    event.listen(engine.sync_engine, "connect", follow)
    try:
        async with engine.connect() as connection:
            yield connection
    finally:
        await engine.dispose()


def unreachable(error: BaseException) -> str:
    """One line for an operator; a DSN is never part of it."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"the database cannot be reached: {reason}"
