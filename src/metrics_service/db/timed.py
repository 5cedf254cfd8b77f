"""Times every statement on its way: for the counts, for the trace, and for who wants to know of slow ones.

asyncpg has three ways to the server, and all of a connection's go through here: statements without
arguments, those with, and prepared ones, which are SQLAlchemy's. Its own `query_logger` would do, but
makes a record and a callback of each (asyncpg 0.32).
"""

from __future__ import annotations

from datetime import UTC, datetime
from time import perf_counter
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from metrics_service.observability import catalog
from metrics_service.observability.slow import SLOW, SlowStatement, tell
from metrics_service.observability.statements import REMEMBERED, describe, operation_of
from metrics_service.observability.work import (
    CURRENT,
    Attribute,
    current,
    keep_statement,
    keep_wait,
    name_of,
)

if TYPE_CHECKING:
    from metrics_service.db.tenancy import TenantContext

# What has no plan.
_UNPLANNED = frozenset({"BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "SET", "SHOW"})

_record = catalog.DB_OPERATION_DURATION.record
_known = REMEMBERED.get
_work = CURRENT.get
# What it is put in the place of; `super()` is looked up anew at each call.
_execute_alone = asyncpg.Connection.execute
_execute = asyncpg.Connection._execute  # noqa: SLF001  # asyncpg's own way to extend it


class TimedConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """An asyncpg connection that tells how long its statements took."""

    waited_s: float | None = None
    """How long whoever has it now waited for it."""
    came_at: float = 0.0
    """When whoever has it now got it, by `perf_counter`."""
    heard_at: float = 0.0
    """When the server answered last."""

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:  # noqa: ASYNC109  # overrides
        if args:
            return cast("str", await super().execute(query, *args, timeout=timeout))
        return await self._tell(query, query, timeout)

    async def _tell(self, query: str, shape: str, timeout: float | None) -> str:  # noqa: ASYNC109  # asyncpg's
        """Execute a statement without arguments; `shape` is what is told of it."""
        started = perf_counter()
        try:
            status = await _execute_alone(self, query, timeout=timeout)
        except BaseException as error:
            self.ended(shape, started, None, error)
            raise
        self.ended(shape, started, status)
        return cast("str", status)

    async def _execute(
        self,
        query: str,
        args: Any,
        limit: int,
        timeout: float | None,  # noqa: ASYNC109  # overrides
        **how: Any,
    ) -> Any:
        started = perf_counter()
        try:
            result = await _execute(self, query, args, limit, timeout, **how)
        except BaseException as error:
            self.ended(query, started, None, error)
            raise
        self.ended(query, started, result)
        return result

    async def _executemany(self, query: str, *args: Any, **how: Any) -> Any:
        started = perf_counter()
        try:
            result = await super()._executemany(query, *args, **how)
        except BaseException as error:
            self.ended(query, started, None, error)
            raise
        self.ended(query, started, result)
        return result

    async def _prepare(self, query: str, **how: Any) -> TimedStatement:
        started = perf_counter()
        try:
            prepared = await super()._prepare(query, **how)
        except BaseException as error:
            # A mistake in it, or a lock that it waits for, is found here already.
            self.ended(query, started, None, error)
            raise
        return TimedStatement(self, query, prepared._state)  # noqa: SLF001  # asyncpg's own way to make one

    def came(self, asked: float) -> None:
        """Note that who asked for it at that time has it from now on."""
        now = perf_counter()
        self.came_at = now
        self.waited_s = now - asked
        work = _work()
        if work is not None and work.is_sampled:
            keep_wait(work, asked, now)

    def ended(
        self, text: str, started: float, result: Any, error: BaseException | None = None
    ) -> None:
        """A statement is over, with what asyncpg made of it."""
        # Every statement pays for these lines, so they look up what they can beforehand.
        now = perf_counter()
        elapsed = now - started
        if error is None:
            self.heard_at = now
        else:
            self.failed(error, now)
        known = _known(text)
        _record(elapsed, operation_of(text) if known is None else known.operation)
        work = _work()
        if elapsed >= SLOW.threshold_s or (work is not None and work.is_sampled):
            self._note(text, started, now, result, error)

    def failed(self, error: BaseException, now: float) -> None:
        """A statement ended so: what that says of the server is for those to know who share it."""

    def _note(
        self, text: str, started: float, ended: float, result: Any, error: BaseException | None
    ) -> None:
        work = current()
        statement = describe(text)
        is_slow = ended - started >= SLOW.threshold_s
        row_count = _row_count(result)
        failure = None if error is None else name_of(error)
        waited_ms = None if self.waited_s is None else round(self.waited_s * 1000, 3)
        if work is not None and work.is_sampled:
            attributes: dict[str, Attribute] | None = None
            if statement.operation == "BEGIN" and waited_ms is not None:
                attributes = {"metrics_service.db.wait_ms": waited_ms}
            keep_statement(
                work,
                statement,
                started=started,
                ended=ended,
                row_count=row_count,
                error=failure,
                is_slow=is_slow,
                attributes=attributes,
            )
        if not is_slow or (work is not None and work.is_own_export):
            return
        catalog.SLOW_STATEMENTS.add(1, statement.operation)
        context = self._planned_as()
        slow = SlowStatement(
            id=uuid4(),
            at=datetime.now(UTC),
            text=text,
            statement=statement,
            duration_ms=round((ended - started) * 1000, 3),
            wait_ms=waited_ms,
            row_count=row_count,
            tenant_id=None if context is None else context.tenant_id,
            is_planned_as=None if statement.operation in _UNPLANNED else context,
            error=failure,
        )
        if work is None:
            tell(None, [slow])
        else:
            work.note_slow(slow)

    def _planned_as(self) -> TenantContext | None:
        """In whose transaction it is."""
        return None


class TimedStatement(PreparedStatement):  # type: ignore[misc]  # asyncpg has no types
    """A prepared statement of a connection that tells how long its statements took."""

    __slots__ = ()

    async def fetch(self, *args: Any, timeout: float | None = None) -> Any:  # noqa: ASYNC109  # overrides
        return await self._told(super().fetch(*args, timeout=timeout))

    async def fetchval(self, *args: Any, **how: Any) -> Any:
        return await self._told(super().fetchval(*args, **how))

    async def fetchrow(self, *args: Any, **how: Any) -> Any:
        return await self._told(super().fetchrow(*args, **how))

    async def fetchmany(self, *args: Any, **how: Any) -> Any:
        return await self._told(super().fetchmany(*args, **how))

    async def executemany(self, *args: Any, **how: Any) -> Any:
        return await self._told(super().executemany(*args, **how))

    async def _told(self, execution: Any) -> Any:
        started = perf_counter()
        connection = self._connection
        try:
            result = await execution
        except BaseException as error:
            connection.ended(self._query, started, None, error)
            raise
        connection.ended(self._query, started, result)
        return result


def _row_count(result: Any) -> int | None:
    """How many rows came, or were changed where none come; None where that is not said."""
    if isinstance(result, list):
        return len(result)
    if isinstance(result, tuple):
        # Rows and the server's word on what it did, such as `INSERT 0 5`.
        rows, status, *_ = result
        return len(rows) if rows else _said(status)
    return _said(result)


def _said(status: Any) -> int | None:
    words = status.split() if isinstance(status, (bytes, str)) else []
    return int(words[-1]) if len(words) > 1 and words[-1].isdigit() else None
