"""The only way to reach a tenant's rows: one transaction, one tenant, two doors.

BEGIN carries the tenant with it, in the same message, so the context costs no round trip and no
transaction can exist without one. COMMIT of a change carries the note that the tenant's data changed,
so none can be stored without it. `tenant_connection` is the door for hot SQL, `tenant_session` the
one for the ORM. Everything is local to the transaction: a pooled connection never carries a tenant
to its next user.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from hashlib import sha256
from time import perf_counter
from types import TracebackType
from typing import Any, cast
from uuid import UUID

import asyncpg
import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from metrics_service.db.attempts import ATTEMPT
from metrics_service.db.breaker import Breaker
from metrics_service.db.failures import (
    BROKEN,
    IN_READ_ONLY,
    domain_error,
    tells_of_absence,
    translated,
)
from metrics_service.db.timed import TimedConnection
from metrics_service.errors import CommitUnknownError

# A backend keeps what it learnt about every schema it has touched, about 0.2 MB each, for life.
SCHEMAS_A_CONNECTION = 250

DEFAULT_TIMEOUT_MS = 10_000
MARGIN_S = 2.0
"""How much longer than the server's own limit for a statement is waited for its answer."""
ROLLBACK_S = 1.0
"""A transaction that is given up, and a connection that is closed, must not wait for a server that is away."""
CLOSE_S = 1.0

# The version of a tenant's data is the sum of its parts; several, because whoever changes one holds it
# until the COMMIT is through.
# By a step of chance, so that one version never stands for two histories, as after a failover that lost
# what had been committed, or after a backup came back.
NOTE_CHANGE = """
    INSERT INTO data_versions AS v (part, version)
    VALUES (pg_backend_pid() % 8, 1 + (random() * 1000000)::int)
    ON CONFLICT (tenant_id, part) DO UPDATE SET version = v.version + excluded.version
"""
_NOTE_CHANGE_AND_COMMIT = f"{' '.join(NOTE_CHANGE.split())}; COMMIT"


class MissingContextError(RuntimeError):
    """A transaction was begun without saying for whom: a bug of ours, never a client's fault."""


class TenantContext(msgspec.Struct, frozen=True):
    """Whose rows a transaction sees, and for how long one statement may run."""

    tenant_id: UUID
    user_id: UUID | None = None
    timeout_ms: int = DEFAULT_TIMEOUT_MS
    read_only: bool = False
    notes_change: bool = True
    """Whether its COMMIT notes that the tenant's data changed; for what no page and no dashboard shows, not."""
    is_snapshot: bool = False
    """Whether all of its statements see the rows of one moment."""
    shared_lock: str | None = None
    """A lock of the tenant's, by name, that it holds together with others like it until it ends."""

    def begin(self) -> str:
        """BEGIN and the context in one message; digits of uuids and an integer need no quoting."""
        mode = " ISOLATION LEVEL REPEATABLE READ" if self.is_snapshot else ""
        if self.read_only:
            mode += " READ ONLY"
        user = f"'{self.user_id.hex}'" if self.user_id else "NULL"
        begun = (
            f"BEGIN{mode}; "
            f"SELECT shared.enter_tenant('{self.tenant_id.hex}', {user}, {int(self.timeout_ms)})"
        )
        if self.shared_lock is None:
            return begun
        key = lock_key(self.tenant_id, self.shared_lock)
        return f"{begun}; SELECT pg_advisory_xact_lock_shared({key})"

    @property
    def shape(self) -> str:
        """What `begin` says, the same for all tenants."""
        return _BEGUN if self.shared_lock is None else _BEGUN_LOCKED


_BEGUN = "BEGIN; SELECT shared.enter_tenant($1, $2, $3)"
_BEGUN_LOCKED = f"{_BEGUN}; SELECT pg_advisory_xact_lock_shared($4)"


def lock_key(tenant_id: UUID, name: str) -> int:
    """The number by which a tenant's lock goes, in this process as in all others."""
    digest = sha256(f"{name}\0{tenant_id.hex}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


class Nobody:
    """The context of a transaction that calls registry functions: it sees no table at all."""

    timeout_ms = DEFAULT_TIMEOUT_MS
    notes_change = False

    def __init__(self, *, read_only: bool) -> None:
        self.read_only = read_only
        self.shape = "BEGIN READ ONLY" if read_only else "BEGIN"

    def begin(self) -> str:
        return self.shape


NOBODY = Nobody(read_only=True)
_NOBODY_WRITING = Nobody(read_only=False)


class ContextConnection(TimedConnection):
    """A connection on which BEGIN carries the context, and fails where there is none."""

    context: TenantContext | Nobody | None = None
    tenants_seen: set[UUID]
    is_astray: bool = False
    """A BEGIN was cut off, so what the server began nobody knows."""
    is_outdated: bool = False
    """Not to be used by anybody else: another server answers by now, or the same one again."""
    breaker: Breaker | None = None
    """Of the pool that it is of."""
    _config: Any
    _answered_within_ms: int = DEFAULT_TIMEOUT_MS

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109  # overrides
        # asyncpg's and SQLAlchemy's transactions both begin and end with this call.
        if query.startswith("BEGIN"):
            return await self._enter(timeout)
        if query.startswith("COMMIT"):
            return await self._commit(query, timeout)
        if query.startswith("ROLLBACK") and timeout is None:
            timeout = ROLLBACK_S
        return await super().execute(query, *args, timeout=timeout)

    def allow(self, timeout_ms: int) -> None:
        """Wait for the answer to a statement as long as the server may take for it, and a little longer."""
        if timeout_ms != self._answered_within_ms:
            # asyncpg looks there for each statement (0.32), and takes no other word for it once connected.
            within_s = timeout_ms / 1000 + MARGIN_S
            self._config = self._config._replace(command_timeout=within_s)
            self._answered_within_ms = timeout_ms

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109  # overrides
        breaker = self.breaker
        if breaker is not None and breaker.is_doubtful:
            self.terminate()
            return
        try:
            await super().close(timeout=min(timeout or CLOSE_S, CLOSE_S))
        except TimeoutError:
            # asyncpg has cut it off; the next one is not to wait as long.
            if breaker is not None:
                breaker.suspect()

    def failed(self, error: BaseException, now: float) -> None:
        if isinstance(error, asyncpg.PostgresError) and not tells_of_absence(error):
            self.heard_at = now
            if error.sqlstate == IN_READ_ONLY:
                self._wrote_in_vain()
        elif tells_of_absence(error):
            if isinstance(error, TimeoutError):
                # What the server does with it nobody knows, and its answer is never to be taken for
                # that to the next statement.
                self.terminate()
            if self.breaker is not None:
                self.breaker.suspect()

    def _wrote_in_vain(self) -> None:
        context = self.context
        if self.breaker is not None and context is not None and not context.read_only:
            # A standby stands in the place of the server that took writes, or this one became one.
            self.breaker.note_wrong_server()

    async def _enter(self, timeout: float | None) -> str:  # noqa: ASYNC109  # asyncpg's
        try:
            begun, shape = self._begin()
            return await self._tell(begun, shape, timeout)
        except BaseException as error:
            # Else asyncpg would take it for begun, and what the next user begins for a savepoint.
            self._top_xact = None
            self.is_astray = not isinstance(error, (asyncpg.PostgresError, MissingContextError))
            raise

    async def _commit(self, query: str, timeout: float | None) -> str:  # noqa: ASYNC109  # asyncpg's
        context = self.context
        if context is None or context.read_only or self.is_closed():
            return await self._tell(query, query, timeout)
        attempt = ATTEMPT.get()
        has_committed = attempt is not None and attempt.has_committed
        if attempt is not None:
            attempt.has_committed = True
        message = _NOTE_CHANGE_AND_COMMIT if context.notes_change else query
        try:
            return await self._tell(message, "COMMIT", timeout)
        except (asyncpg.PostgresError, *BROKEN) as error:
            if tells_of_absence(error):
                raise CommitUnknownError from error
            # The server said that it did not.
            if attempt is not None:
                attempt.has_committed = has_committed
            raise

    def _begin(self) -> tuple[str, str]:
        context = self.context
        if context is None:
            raise MissingContextError("BEGIN without a tenant")
        return context.begin(), context.shape

    def _planned_as(self) -> TenantContext | None:
        return self.context if isinstance(self.context, TenantContext) else None


def tenant_connection(engine: AsyncEngine, context: TenantContext) -> _Transaction:
    """Open a transaction on the asyncpg connection itself; commit at the end, else roll back."""
    return _Transaction(engine, context)


def registry_connection(engine: AsyncEngine) -> _Transaction:
    """Open a read-only transaction as the runtime login, which may only call registry functions."""
    return _Transaction(engine, NOBODY)


def registry_writing(engine: AsyncEngine) -> _Transaction:
    """As `registry_connection`, to call those that note something; commits when it closes."""
    return _Transaction(engine, _NOBODY_WRITING)


@asynccontextmanager
async def tenant_session(
    engine: AsyncEngine, context: TenantContext
) -> AsyncIterator[AsyncSession]:
    """Open a transaction for the ORM; commit at the end, roll back on an exception."""
    with translated():
        asked = perf_counter()
        async with engine.connect() as outer:
            proxied = await outer.get_raw_connection()
            connection = _entered(proxied, context, asked)
            try:
                async with AsyncSession(outer, expire_on_commit=False) as tx, tx.begin():
                    yield tx
            finally:
                await _left(connection, proxied)


async def hot_door(tx: AsyncSession) -> ContextConnection:
    """The asyncpg connection of a `tenant_session`, for hot SQL in the same transaction."""
    proxied = await (await tx.connection()).get_raw_connection()
    connection = cast("ContextConnection", proxied.driver_connection)
    if not connection.is_in_transaction():
        # The ORM's adapter begins with its first statement.
        await tx.execute(text("SELECT 1"))
    return connection


class _Transaction(AbstractAsyncContextManager[ContextConnection]):
    """A connection borrowed for one transaction.

    A class, and the pool of SQLAlchemy without its connection object, because every request pays for
    it: together a third of the cost of generators around `engine.connect()`.
    """

    def __init__(self, engine: AsyncEngine, context: TenantContext | Nobody) -> None:
        self._pool = engine.sync_engine.pool
        self._context = context

    async def __aenter__(self) -> ContextConnection:
        with translated():
            asked = perf_counter()
            self._proxied = await greenlet_spawn(self._pool.connect)
            self._connection = _entered(self._proxied, self._context, asked)
            try:
                # Both ask the connection whether it lives: one that was killed while it was idle does not.
                self._transaction = self._connection.transaction()
                await self._transaction.start()
            except BaseException:
                await self._give_back()
                raise
        return self._connection

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with translated():
            try:
                if error is None:
                    await self._transaction.commit()
                elif not self._connection.is_closed():
                    await self._roll_back()
            finally:
                await self._give_back()
            if error is not None and domain_error(error) is not None:
                raise error

    async def _roll_back(self) -> None:
        try:
            await self._transaction.rollback()
        except (asyncpg.PostgresError, *BROKEN):
            # The server does so by itself when it has lost us; why we gave up is what is told.
            self._connection.terminate()

    async def _give_back(self) -> None:
        try:
            await _left(self._connection, self._proxied)
        finally:
            # In a greenlet, because giving up a broken or surplus connection waits for it to close.
            if self._proxied.is_valid and not self._connection.is_closed():
                self._proxied.close()
            else:
                await greenlet_spawn(self._proxied.close)


def _entered(
    proxied: PoolProxiedConnection, context: TenantContext | Nobody, asked: float
) -> ContextConnection:
    connection = cast("ContextConnection", proxied.driver_connection)
    connection.context = context
    connection.allow(context.timeout_ms)
    connection.came(asked)
    return connection


async def _left(connection: ContextConnection, proxied: PoolProxiedConnection) -> None:
    context, connection.context = connection.context, None
    if not proxied.is_valid:
        # SQLAlchemy has given it up already.
        return
    if connection.is_closed() or connection.is_astray or connection.is_outdated:
        proxied.invalidate()
        return
    if connection.is_in_transaction():
        # A context that was refused leaves the transaction it was to open, aborted.
        try:
            await connection.execute("ROLLBACK")
        except BaseException as error:
            proxied.invalidate()
            if not isinstance(error, (asyncpg.PostgresError, *BROKEN)):
                raise
            return
    if isinstance(context, TenantContext) and _is_worn_out(connection, context.tenant_id):
        proxied.invalidate(soft=True)


def _is_worn_out(connection: ContextConnection, tenant_id: UUID) -> bool:
    try:
        seen = connection.tenants_seen
    except AttributeError:
        seen = connection.tenants_seen = set()
    seen.add(tenant_id)
    return len(seen) > SCHEMAS_A_CONNECTION
