"""One connection to a server of the database, kept to ask it how it is: the first one, or a replica.

Not one of the pool's: a pool that is exhausted says nothing about the server behind it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any

import asyncpg
import msgspec

from metrics_service.db.connect import UNREACHABLE, connect

PATIENCE_S = 5.0
"""For connecting and asking together."""

# The timeline of a standby is that of its last checkpoint, which may be long ago: it says nothing.
WHICH = """
    host(inet_server_addr()) AS address, inet_server_port() AS port,
    pg_postmaster_start_time() AS started_at,
    CASE WHEN NOT pg_is_in_recovery()
         THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END AS timeline
"""
STATE = f"""
    SELECT pg_is_in_recovery() AS is_standby, {WHICH},
           current_setting('server_version_num')::int AS version_number,
           (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                 ELSE pg_current_wal_lsn() END - '0/0'::pg_lsn)::bigint AS wal_position,
           extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp())::float8
               AS replayed_ago_s
"""


class ServerState(msgspec.Struct, frozen=True):
    """Which server answered, and how it is."""

    is_standby: bool
    address: str | None
    """None over a unix socket."""
    port: int | None
    started_at: datetime
    version_number: int
    timeline: str | None
    """Another one after each promotion; None of a standby."""
    wal_position: int | None
    """How far it has written; a standby, how far it has replayed."""
    replayed_ago_s: float | None
    """When what a standby replayed last was committed; None of other servers."""
    latency_ms: float
    """How long it took to say this."""


class UnreachableError(Exception):
    """The server does not answer; the text says how, and never repeats anything of a DSN."""


class Probe:
    """Asks one server how it is, and connects again when it has to."""

    def __init__(self, dsn: str, *, name: str) -> None:
        self._dsn = dsn
        self._name = name
        self._connection: asyncpg.Connection[Any] | None = None

    async def ask(self) -> ServerState:
        """Raises `UnreachableError`."""
        is_kept = self._connection is not None
        try:
            state = await self._ask()
        except UnreachableError as error:
            # A connection that was idle may have been cut off by anybody on the way.
            if not is_kept or isinstance(error.__cause__, TimeoutError):
                raise
            state = await self._ask()
        if state.is_standby:
            # Perhaps the address leads to another one by now.
            self.close()
        return state

    @asynccontextmanager
    async def reached(self) -> AsyncIterator[asyncpg.Connection[Any]]:
        """The connection, for one more question; raises `UnreachableError` whatever goes wrong."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                yield await self._connected()
        except TimeoutError as error:
            self.close()
            raise UnreachableError(f"no answer within {PATIENCE_S:g} s") from error
        except UNREACHABLE as error:
            self.close()
            raise UnreachableError(reason_of(error)) from error
        except BaseException:
            # Left in the middle of a question, it would refuse the next one.
            self.close()
            raise

    async def _ask(self) -> ServerState:
        async with self.reached() as connection:
            begun = time.perf_counter()
            row = await connection.fetchrow(STATE)
            latency_ms = (time.perf_counter() - begun) * 1000
        return ServerState(**dict(row), latency_ms=latency_ms)

    async def _connected(self) -> asyncpg.Connection[Any]:
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        connection: asyncpg.Connection[Any] = await connect(
            self._dsn, application_name=self._name, timeout=PATIENCE_S
        )
        self._connection = connection
        # Planning it for the first time is not what is timed.
        await connection.fetchrow(STATE)
        return connection

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*UNREACHABLE):
                connection.terminate()


def reason_of(error: BaseException) -> str:
    """What went wrong, in words of the system's or PostgreSQL's own."""
    if isinstance(error, asyncpg.PostgresError):
        return f"{type(error).__name__.removesuffix('Error')} ({error.sqlstate})"
    if isinstance(error, socket.gaierror):
        return "the host's name cannot be resolved"
    if isinstance(error, OSError) and error.errno:
        # Its own text says the address, and that of asyncio no reason.
        return os.strerror(error.errno)
    return type(error).__name__
