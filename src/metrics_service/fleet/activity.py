"""What tenants do, by five minutes: requests, what became of them, records and bytes.

Every request is noted in memory; one write each ten seconds tells the registry. What a process cannot
write before it ends is lost, and what is cut off while it is written may be counted twice: these are
figures for operators to look at, not to bill by.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import msgspec
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.tenancy import registry_writing
from metrics_service.errors import MetricsServiceError
from metrics_service.observability import catalog

SLOT_S = 60
"""How exactly it is remembered when something was: five minutes may end meanwhile."""
WRITTEN_EVERY_S = 10.0
PATIENCE_S = 5.0
# Nobody waits for longer when the process ends.
LAST_WORDS_S = 3.0

MAX_ENTRIES = 10_000
"""Of a tenant and a minute, while they cannot be written: what is more is only counted."""
ROWS_A_STATEMENT = 1000

# By the database's clock, which all processes have in common: theirs may be set.
NOTE = """
SELECT public.note_activity(json_agg(noted)) FROM (
    SELECT tenant_id,
           date_bin('5 minutes', now() - age_s * interval '1 second', 'epoch') AS bucket,
           sum(requests) AS requests, sum(failures) AS failures, sum(refusals) AS refusals,
           sum(records) AS records, sum(duplicates) AS duplicates, sum(bytes) AS bytes
    FROM json_to_recordset($1::json) AS r
        (tenant_id uuid, age_s double precision, requests bigint, failures bigint, refusals bigint,
         records bigint, duplicates bigint, bytes bigint)
    GROUP BY tenant_id, bucket
) AS noted
"""

log = structlog.get_logger(__name__)

Key = tuple[str, int]


class Done(msgspec.Struct):
    """What one tenant did in a minute."""

    requests: int = 0
    failures: int = 0
    """Requests that we failed to answer: 5xx."""
    refusals: int = 0
    """Requests that were refused: 4xx."""
    records: int = 0
    """What was taken in; telemetry that is sent twice counts twice, since one item is many things."""
    duplicates: int = 0
    """What was there already, of what was not telemetry."""
    bytes: int = 0

    def add(self, other: Done) -> None:
        self.requests += other.requests
        self.failures += other.failures
        self.refusals += other.refusals
        self.records += other.records
        self.duplicates += other.duplicates
        self.bytes += other.bytes


class Activity:
    """What one process has to tell of its tenants. Noting never waits and never fails."""

    def __init__(self, engine: AsyncEngine, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._done: dict[Key, Done] = {}
        self._is_over = asyncio.Event()

    def note(
        self,
        tenant_id: str,
        *,
        status: int,
        records: int = 0,
        duplicates: int = 0,
        size: int = 0,
    ) -> None:
        """Note an answered request of a tenant, what of it was stored, and its size in bytes."""
        key = (tenant_id, int(self._clock()) // SLOT_S)
        done = self._done.get(key)
        if done is None:
            if len(self._done) >= MAX_ENTRIES:
                catalog.ACTIVITY_LOST.add(1)
                return
            done = self._done[key] = Done()
        done.requests += 1
        if status >= 500:
            done.failures += 1
        elif status >= 400:
            done.refusals += 1
        done.records += records
        done.duplicates += duplicates
        done.bytes += size

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Write in the background while this is open, and what is left in the end."""
        keeper = asyncio.create_task(self._keep(), name="activity")
        try:
            yield
        finally:
            self._is_over.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS_S):
                    await keeper
                    await self.flush()

    async def flush(self) -> None:
        """Write what is noted; what cannot be written is kept."""
        noted, self._done = self._done, {}
        # In one order everywhere: or two processes wait for each other.
        keys = sorted(noted)
        for start in range(0, len(keys), ROWS_A_STATEMENT):
            piece = keys[start : start + ROWS_A_STATEMENT]
            if not await self._write(noted, piece):
                self._take_back({key: noted[key] for key in keys[start:]})
                return

    async def _keep(self) -> None:
        while not self._is_over.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(WRITTEN_EVERY_S):
                    await self._is_over.wait()
            await self.flush()

    async def _write(self, noted: dict[Key, Done], keys: Sequence[Key]) -> bool:
        now = self._clock()
        rows = [_row(key, noted[key], now) for key in keys]
        try:
            async with asyncio.timeout(PATIENCE_S), registry_writing(self._engine) as connection:
                await connection.execute(NOTE, msgspec.json.encode(rows).decode())
        except (MetricsServiceError, TimeoutError) as error:
            log.warning("activity is written later", reason=str(error) or type(error).__name__)
            return False
        except Exception:
            # Nobody waits for it, and what follows must be written.
            log.exception("activity is written later")
            return False
        return True

    def _take_back(self, noted: dict[Key, Done]) -> None:
        for key, done in noted.items():
            known = self._done.get(key)
            if known is not None:
                known.add(done)
            elif len(self._done) < MAX_ENTRIES:
                self._done[key] = done
            else:
                catalog.ACTIVITY_LOST.add(done.requests)


def _row(key: Key, done: Done, now: float) -> dict[str, object]:
    tenant_id, slot = key
    age_s = max(0.0, now - (slot + 1) * SLOT_S)
    return {"tenant_id": tenant_id, "age_s": age_s, **msgspec.structs.asdict(done)}
