"""Connects to a server of the database, or to a pooler that stands before it, and finds out which it is.

A pooler in transaction mode, as PgBouncer, lends another server connection to each transaction. What
belongs to a session is lost there, or is found by the next one: a prepared statement, LISTEN, a
session's lock, SET without LOCAL. Whoever connects here keeps to transactions and to what is local to
them, and asks for nothing at the start but a name: PgBouncer refuses other parameters of a session.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import asyncpg
from sqlalchemy.engine.interfaces import DBAPIConnection

from metrics_service.settings import PreparedStatements

KEPT_STATEMENTS = 100
"""How many are kept prepared on a connection: as many as asyncpg itself would keep."""

UNREACHABLE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What a server that is away, ends, refuses, or is not the one asked for does to whoever asks it."""

ConnectionT = TypeVar("ConnectionT", bound=asyncpg.Connection)


async def connect(
    dsn: str,
    *,
    connection_class: type[ConnectionT] = asyncpg.Connection,
    application_name: str | None,
    timeout: float,  # noqa: ASYNC109  # for all of it, as asyncpg's own
    prepared_statements: PreparedStatements = "auto",
    **settings: Any,
) -> ConnectionT:
    """Connect, and be ready to be used, within the time; raises what asyncpg does.

    The DSN goes to asyncpg as it is, so that all of libpq's parameters work; `settings` are asyncpg's.
    """
    async with asyncio.timeout(timeout):
        connection: ConnectionT = await asyncpg.connect(
            dsn,
            connection_class=connection_class,
            # Even what asyncpg asks by itself while it connects would stay behind in the pooler.
            statement_cache_size=KEPT_STATEMENTS if prepared_statements == "on" else 0,
            server_settings=None
            if application_name is None
            else {"application_name": application_name},
            **settings,
        )
        if prepared_statements == "auto":
            try:
                if not await is_pooled(connection):
                    _keep_statements(connection)
            except BaseException:
                connection.terminate()
                raise
    return connection


async def is_pooled(connection: asyncpg.Connection) -> bool:
    """Whether a pooler answers, rather than the server: it says another process than its own.

    Asked without preparing anything, so that the question itself is safe behind a pooler.
    """
    pid = int(connection.get_server_pid())
    # Not by way of `fetchval`, which prepares; the status says how many rows there were.
    status = await asyncpg.Connection.execute(
        connection, f"SELECT WHERE pg_catalog.pg_backend_pid() = {pid}"
    )
    return bool(status != "SELECT 1")


def keeps_statements(connection: asyncpg.Connection) -> bool:
    """Whether its statements stay prepared from one transaction to the next."""
    return bool(connection._stmt_cache_enabled)  # noqa: SLF001  # asyncpg 0.32 has no public word for it


def follow(dbapi_connection: DBAPIConnection, *_: Any) -> None:
    """Let SQLAlchemy keep statements where its driver does: for the `connect` event of its pools."""
    if not keeps_statements(dbapi_connection.driver_connection):
        dbapi_connection._prepared_statement_cache = None  # noqa: SLF001  # what `prepared_statement_cache_size=0` makes of it


def _keep_statements(connection: asyncpg.Connection) -> None:
    # As `statement_cache_size` would have had it, which can only be said before one is connected.
    connection._stmt_cache.set_max_size(KEPT_STATEMENTS)  # noqa: SLF001  # see above
    connection._stmt_cache_enabled = True  # noqa: SLF001  # see above
