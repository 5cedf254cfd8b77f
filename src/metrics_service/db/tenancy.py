"""The only way to reach a tenant's rows: one transaction, one tenant, two doors.

BEGIN carries the tenant with it, in the same message, so the context costs no round trip and no
transaction can exist without one. `tenant_connection` is the door for hot SQL, `tenant_session` the
one for the ORM. Everything is local to the transaction: a pooled connection never carries a tenant
to its next user.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from hashlib import sha256
from types import TracebackType
from typing import Any, cast
from uuid import UUID

import asyncpg
import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from metrics_service.db.failures import BROKEN, domain_error, translated

# A backend keeps what it learnt about every schema it has touched, about 0.2 MB each, for life.
SCHEMAS_A_CONNECTION = 250


class MissingContextError(RuntimeError):
    """A transaction was begun without saying for whom: a bug of ours, never a client's fault."""


class TenantContext(msgspec.Struct, frozen=True):
    """Whose rows a transaction sees, and for how long one statement may run."""

    tenant_id: UUID
    user_id: UUID | None = None
    timeout_ms: int = 10_000
    read_only: bool = False
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


def lock_key(tenant_id: UUID, name: str) -> int:
    """The number by which a tenant's lock goes, in this process as in all others."""
    digest = sha256(f"{name}\0{tenant_id.hex}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


class Nobody:
    """The context of a transaction that calls registry functions: it sees no table at all."""

    def begin(self) -> str:
        return "BEGIN READ ONLY"


NOBODY = Nobody()


class ContextConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """An asyncpg connection on which BEGIN carries the context, and fails where there is none."""

    context: TenantContext | Nobody | None = None
    tenants_seen: set[UUID]
    is_astray: bool = False
    """A BEGIN was cut off, so what the server began nobody knows."""

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109  # overrides
        # asyncpg's and SQLAlchemy's transactions both begin with this call.
        if not query.startswith("BEGIN"):
            return cast("str", await super().execute(query, *args, timeout=timeout))
        try:
            return cast("str", await super().execute(self._begin(), timeout=timeout))
        except BaseException as error:
            # Else asyncpg would take it for begun, and what the next user begins for a savepoint.
            self._top_xact = None
            self.is_astray = not isinstance(error, (asyncpg.PostgresError, MissingContextError))
            raise

    def _begin(self) -> str:
        if self.context is None:
            raise MissingContextError("BEGIN without a tenant")
        return self.context.begin()


def tenant_connection(engine: AsyncEngine, context: TenantContext) -> _Transaction:
    """Open a transaction on the asyncpg connection itself; commit at the end, else roll back."""
    return _Transaction(engine, context)


def registry_connection(engine: AsyncEngine) -> _Transaction:
    """Open a read-only transaction as the runtime login, which may only call registry functions."""
    return _Transaction(engine, NOBODY)


@asynccontextmanager
async def tenant_session(
    engine: AsyncEngine, context: TenantContext
) -> AsyncIterator[AsyncSession]:
    """Open a transaction for the ORM; commit at the end, roll back on an exception."""
    with translated():
        async with engine.connect() as outer:
            proxied = await outer.get_raw_connection()
            connection = _entered(proxied, context)
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
            self._proxied = await greenlet_spawn(self._pool.connect)
            self._connection = _entered(self._proxied, self._context)
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
                    await self._transaction.rollback()
            finally:
                await self._give_back()
            if error is not None and domain_error(error) is not None:
                raise error

    async def _give_back(self) -> None:
        try:
            await _left(self._connection, self._proxied)
        finally:
            # In a greenlet, because giving up a broken or surplus connection waits for it to close.
            if self._proxied.is_valid and not self._connection.is_closed():
                self._proxied.close()
            else:
                await greenlet_spawn(self._proxied.close)


def _entered(proxied: PoolProxiedConnection, context: TenantContext | Nobody) -> ContextConnection:
    connection = cast("ContextConnection", proxied.driver_connection)
    connection.context = context
    return connection


async def _left(connection: ContextConnection, proxied: PoolProxiedConnection) -> None:
    context, connection.context = connection.context, None
    if not proxied.is_valid:
        # SQLAlchemy has given it up already.
        return
    if connection.is_closed() or connection.is_astray:
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
