"""Mapping again what was kept as it arrived, after a mapper was mended.

Each request is a transaction of its own, the oldest first. What the old mapper made of a request and
the new one does not make any more is noted with it, and removed in the end; so a run that was killed is
simply run again.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar, cast
from uuid import UUID

import msgspec
from asyncpg import Record

from metrics_service.db.failures import VALUES_REFUSED
from metrics_service.errors import (
    BodyTooLargeError,
    ConflictError,
    MalformedRequestError,
    MetricsServiceError,
    UnavailableError,
)
from metrics_service.fields import Signal
from metrics_service.ingest import raw_requests
from metrics_service.ingest.left_out import LATE, Arrived, find_gone, leave_out
from metrics_service.ingest.prices import Prices
from metrics_service.ingest.raw_requests import Connection, Door, told_by, uncompressed
from metrics_service.ingest.retract import Stale, drop_empty_sessions, retract
from metrics_service.ingest.rows import as_uuids
from metrics_service.ingest.telemetry import Telemetry, ns_of
from metrics_service.ingest.tool_names import ToolNames
from metrics_service.ingest.write_again import (
    ADDED,
    CHANGED,
    SESSIONS,
    Retelling,
    TelemetryRewriter,
)
from metrics_service.otlp.decode import Reading, read_in_turns
from metrics_service.tenants.allowed import read_allowed

Result = TypeVar("Result")

LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended('otlp replay:' || $1::text, 0))"
# Whoever holds the lock has nothing else to do for as long as it takes.
STAY = "SET LOCAL idle_in_transaction_session_timeout = 0"

EVER = datetime(2000, 1, 1, tzinfo=UTC)
PAGE = 100
IDS_A_STEP = 500
TRIES = 5
PAUSE_S = 0.5
MAX_REASONS = 10

OnRequest = Callable[[int, int], None]
"""Gets how many requests are done, and how many there are."""


class Changes(msgspec.Struct, frozen=True):
    """Rows of one table."""

    added: int
    changed: int
    removed: int


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a tenant's kept requests."""

    requests: int
    failed_requests: int
    """Those that cannot be read or stored any more; their rows stay as they were."""
    failures: list[str]
    items: int
    refused_items: int
    left_out: int
    """Calls, events and data points of what was deleted since."""
    metrics_sessions: Changes
    tool_metrics: Changes
    model_calls: Changes
    session_events: Changes
    seconds: float


class _DryRunError(Exception):
    """Ends a transaction of which nothing is to stay."""


@asynccontextmanager
async def alone(door: Door, tenant_id: UUID) -> AsyncIterator[None]:
    """Let nobody else replay the tenant; raises `ConflictError` when somebody does."""
    async with door() as connection:
        await connection.execute(STAY)
        if not await connection.fetchval(LOCK, str(tenant_id)):
            raise ConflictError("another replay of this tenant is running")
        yield


class Replay:
    """One run over the kept requests of one tenant."""

    def __init__(
        self,
        door: Door,
        tenant_id: UUID,
        prices: Prices,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        is_dry: bool = False,
    ) -> None:
        self._door = door
        self._tenant_id = tenant_id
        self._began_at = datetime.now(UTC)
        self._since = since or EVER
        self._until = until or self._began_at
        self._is_dry = is_dry
        self._retelling = Retelling()
        self._writer = TelemetryRewriter(ToolNames(), prices, self._retelling)
        self._gone: set[int] = set()
        self._stale: set[int] = set()
        self._told: set[int] = set()
        """Both only of a dry run; otherwise they stand with the requests."""
        self._keeps_content = False
        self._counts: Counter[str] = Counter()
        self._failures: list[str] = []
        self._removed: Counter[str] = Counter()

    async def run(self, on_request: OnRequest = lambda _done, _total: None) -> Replayed:
        """Map everything again. Requests that arrive meanwhile are not this run's."""
        started = time.monotonic()
        async with self._door() as connection:
            self._keeps_content = (await read_allowed(connection)).keeps_content
            self._gone = await find_gone(connection)
            total = await connection.fetchval(raw_requests.COUNT, self._since, self._until)
        after = (EVER, UUID(int=0))
        on_request(0, total)
        while page := await self._page(after):
            for row in page:
                await self._again(row["id"])
                on_request(self._counts["requests"], total)
            after = (page[-1]["received_at"], page[-1]["id"])
        await self._remove_stale()
        return self._result(time.monotonic() - started)

    async def _page(self, after: tuple[datetime, UUID]) -> list[Record]:
        async with self._door() as connection:
            return list(
                await connection.fetch(raw_requests.NEXT, self._since, self._until, *after, PAGE)
            )

    async def _again(self, raw_id: UUID) -> None:
        """Map one request again, whatever it takes."""
        self._counts["requests"] += 1
        try:
            await self._with_patience(partial(self._map, raw_id))
        except (MalformedRequestError, BodyTooLargeError, *VALUES_REFUSED) as error:
            self._retelling.forget_request()
            self._counts["failed"] += 1
            if len(self._failures) < MAX_REASONS:
                self._failures.append(f"{raw_id}: {_reason(error)}")

    async def _map(self, raw_id: UUID) -> None:
        self._retelling.forget_request()
        names: set[str] = set()
        counted: Counter[str] = Counter()
        async with self._transaction() as connection:
            row = await connection.fetchrow(raw_requests.TAKE, raw_id)
            if row is None:
                # It has grown too old in this moment.
                return
            out = Telemetry(self._tenant_id, keeps_content=self._keeps_content)
            reading = await _read(row, out)
            told = told_by(out)
            arrived = Arrived(row["received_at"], {one.int for one in row["row_ids"]})
            counted["left_out"] = await leave_out(connection, out, self._gone, arrived)
            counted["items"] = reading.accepted + reading.rejected
            counted["refused"] = reading.rejected
            if not out.is_empty:
                names = await self._writer.write(
                    connection, out, owner=row["owner_id"], key_id=row["key_id"]
                )
            await self._note(connection, row, arrived.told, told)
        if not self._is_dry:
            self._writer.remember(self._tenant_id, names)
        self._retelling.end_request()
        self._counts += counted

    async def _note(
        self, connection: Connection, row: Record, before: set[int], told: set[int]
    ) -> None:
        """Keep what the request tells of now, and what it told of before."""
        stale_before = {one.int for one in row["stale_ids"]}
        stale = (stale_before | before) - told
        if self._is_dry:
            self._told |= told
            self._stale |= stale
        elif told != before or stale != stale_before:
            await connection.execute(raw_requests.NOTE, row["id"], as_uuids(told), as_uuids(stale))

    async def _remove_stale(self) -> None:
        async with self._door() as connection:
            # A dry run leaves the requests as they are: only the others can still tell of anything.
            asked_at = self._until if self._is_dry else datetime.now(UTC) - LATE
            kept_since = await connection.fetchval(raw_requests.OLDEST)
            stale = await self._find_stale(connection)
        if kept_since is None:
            return
        steps = [
            Stale(stale[start : start + IDS_A_STEP], kept_since, asked_at)
            for start in range(0, len(stale), IDS_A_STEP)
        ]
        for step in steps:
            self._removed += await self._with_patience(partial(self._retract, step))
        if not self._is_dry:
            # When all rows are gone: only then is known which sessions are empty.
            for step in steps:
                self._removed[SESSIONS] += await self._with_patience(partial(self._drop, step))
            async with self._door() as connection:
                await connection.execute(raw_requests.CLEAR_STALE)

    async def _find_stale(self, connection: Connection) -> list[int]:
        if not self._is_dry:
            return sorted(row["id"].int for row in await connection.fetch(raw_requests.STALE))
        stale = self._stale - self._told
        told = await connection.fetch(
            raw_requests.TOLD_ELSEWHERE, as_uuids(stale), self._since, self._until
        )
        return sorted(stale - {row["id"].int for row in told})

    async def _retract(self, step: Stale) -> Counter[str]:
        async with self._transaction() as connection:
            removed = await retract(connection, self._tenant_id, step)
            if self._is_dry:
                removed[SESSIONS] = await drop_empty_sessions(connection, step)
        return removed

    async def _drop(self, step: Stale) -> int:
        async with self._transaction() as connection:
            return await drop_empty_sessions(connection, step)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        """One that commits, unless nothing is to stay."""
        with suppress(_DryRunError):
            async with self._door() as connection:
                yield connection
                if self._is_dry:
                    raise _DryRunError

    async def _with_patience(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Do it again when somebody was in the way."""
        for attempt in range(1, TRIES):
            try:
                return await work()
            except UnavailableError:
                await asyncio.sleep(PAUSE_S * attempt)
        return await work()

    def _result(self, seconds: float) -> Replayed:
        counts = self._retelling.counts
        changes = {
            table: Changes(counts[ADDED, table], counts[CHANGED, table], self._removed[table])
            for table in ("metrics_sessions", "tool_metrics", "model_calls", "session_events")
        }
        return Replayed(
            requests=self._counts["requests"],
            failed_requests=self._counts["failed"],
            failures=self._failures,
            items=self._counts["items"],
            refused_items=self._counts["refused"],
            left_out=self._counts["left_out"],
            seconds=round(seconds, 3),
            **changes,
        )


async def _read(row: Record, out: Telemetry) -> Reading:
    body = uncompressed(row["body"], row["body_bytes"])
    return await read_in_turns(
        cast("Signal", row["signal"]),
        body,
        is_json=row["is_json"],
        received_ns=ns_of(row["received_at"]),
        out=out,
    )


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, MetricsServiceError) else "a value cannot be stored"
