"""Writes slow statements down: a log line for each at once, rows every second, plans of some.

Noting one never waits and never fails. What cannot be written waits for the next second; when there
is too much of it, the newest of whoever has most are dropped and counted.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import UUID

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.failures import VALUES_REFUSED
from metrics_service.db.tenancy import registry_writing
from metrics_service.errors import MetricsServiceError
from metrics_service.fleet.plans import PlanTaker
from metrics_service.fleet.slow_queries import Execution
from metrics_service.observability.slow import SlowStatement, tell_slow
from metrics_service.observability.work import Work, working

WRITTEN_EVERY_S = 1.0
WRITE_TIMEOUT_S = 10.0
# What still cannot be written when the process ends is lost: nobody waits for longer.
LAST_WORDS_S = 3.0
MAX_WAITING = 1000
MAX_ROWS_A_WRITE = 200
MAX_STATEMENT_LENGTH = 8192
NO_WORK = "background"

NOTE_ROWS = "SELECT public.note_slow_queries($1::json)"
NOTE_PLAN = "SELECT public.note_plan($1, $2)"
# When the database is slow, writing that down is slow as well, and would be written down.
OWN_WORK = "slow queries"

log = structlog.get_logger(__name__)


class _Row(Execution, frozen=True, kw_only=True):
    """As the registry's function takes it."""

    tenant_id: UUID | None


class SlowQueryWriter:
    """One process's slow statements, of all tenants."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._plans = PlanTaker(engine)
        self._waiting: deque[tuple[_Row, SlowStatement]] = deque()
        self._dropped = 0
        self._turn = asyncio.Lock()
        self._is_wanted = asyncio.Event()
        self._is_over = asyncio.Event()

    def take(self, work: Work | None, statements: list[SlowStatement]) -> None:
        """Note the slow statements of a work, or of none."""
        if work is not None and work.name == OWN_WORK:
            return
        for slow in statements:
            row = _row(work, slow)
            _tell(row)
            if len(self._waiting) >= MAX_WAITING:
                self._dropped += 1
                if not self._makes_room(row.tenant_id):
                    continue
            self._waiting.append((row, slow))
        if self._waiting:
            self._is_wanted.set()

    def _makes_room(self, tenant_id: UUID | None) -> bool:
        """Drop the newest of whoever has most; no tenant keeps out what another has to tell."""
        waiting = Counter(row.tenant_id for row, _ in self._waiting)
        [(most, count)] = waiting.most_common(1)
        if count <= waiting[tenant_id] + 1:
            return False
        places = (place for place, (row, _) in enumerate(self._waiting) if row.tenant_id == most)
        del self._waiting[max(places)]
        return True

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Listen and write while this is open; all that is left is written in the end."""
        stop_listening = tell_slow(self.take)
        keeper = asyncio.create_task(self._keep(), name="slow queries")
        try:
            yield
        finally:
            stop_listening()
            self._is_over.set()
            self._is_wanted.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_S):
                    await keeper
                    await self.flush()
            if self._waiting:
                log.error("slow queries not written", count=len(self._waiting))

    async def flush(self) -> None:
        """Write down what waits now, and has begun to be written; what cannot be written waits on."""
        with working(OWN_WORK):
            async with self._turn:
                await self._flush()

    async def _flush(self) -> None:
        while self._waiting:
            batch = [
                self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_ROWS_A_WRITE))
            ]
            if not await self._write(batch):
                return
            for _, slow in batch:
                if not self._is_over.is_set() and self._plans.is_due(slow):
                    await self._plan(slow)
        if self._dropped:
            log.warning("slow queries dropped", count=self._dropped)
            self._dropped = 0

    async def _keep(self) -> None:
        while not self._is_over.is_set():
            await self._is_wanted.wait()
            self._is_wanted.clear()
            # For others to come along, unless it is over.
            with suppress(TimeoutError):
                async with asyncio.timeout(WRITTEN_EVERY_S):
                    await self._is_over.wait()
            if not self._is_over.is_set():
                await self.flush()

    async def _write(self, batch: list[tuple[_Row, SlowStatement]]) -> bool:
        """Whether it need not be tried again."""
        try:
            rows = msgspec.json.encode([row for row, _ in batch]).decode()
            async with (
                asyncio.timeout(WRITE_TIMEOUT_S),
                registry_writing(self._engine) as connection,
            ):
                await connection.execute(NOTE_ROWS, rows)
        except (MetricsServiceError, TimeoutError) as error:
            log.warning("slow queries are written later", reason=str(error) or type(error).__name__)
            self._waiting.extendleft(reversed(batch))
            self._is_wanted.set()
            return False
        except VALUES_REFUSED:
            # A bug of ours; tried again it would be refused again.
            log.exception("slow queries refused by the database")
        except Exception:
            # Nobody waits for it, and the next ones must be written.
            log.exception("slow queries not written")
        except BaseException:
            self._waiting.extendleft(reversed(batch))
            raise
        return True

    async def _plan(self, slow: SlowStatement) -> None:
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                plan = await self._plans.take(slow)
                if plan is not None:
                    async with registry_writing(self._engine) as connection:
                        await connection.execute(NOTE_PLAN, slow.id, plan)
        except (MetricsServiceError, TimeoutError) as error:
            log.info("plan not taken", reason=type(error).__name__)
        except Exception:
            # As above.
            log.exception("plan not taken")


def _row(work: Work | None, slow: SlowStatement) -> _Row:
    return _Row(
        id=slow.id,
        at=slow.at,
        tenant_id=slow.tenant_id,
        fingerprint=slow.statement.fingerprint,
        statement=_clean(slow.statement.normalised)[:MAX_STATEMENT_LENGTH],
        operation=slow.statement.operation,
        table_name=None if slow.statement.table is None else _clean(slow.statement.table),
        route=NO_WORK if work is None else work.route or work.name,
        duration_ms=round(slow.duration_ms, 3),
        wait_ms=None if slow.wait_ms is None else round(slow.wait_ms, 3),
        row_count=slow.row_count,
        trace_id=work.trace_id.hex() if work is not None and work.is_sampled else None,
        request_id=None if work is None else work.request_id,
        error=slow.error,
    )


def _clean(text: str) -> str:
    # What the server refused may be no text to it either.
    return text.replace("\0", "").encode("utf-8", "replace").decode()


def _tell(row: _Row) -> None:
    log.warning(
        "slow query",
        fingerprint=row.fingerprint,
        operation=row.operation,
        table=row.table_name,
        route=row.route,
        duration_ms=row.duration_ms,
        wait_ms=row.wait_ms,
        rows=row.row_count,
        tenant=None if row.tenant_id is None else str(row.tenant_id),
        trace_id=row.trace_id,
        request_id=row.request_id,
        error=row.error,
    )
