"""What arrived, as it arrived: kept where a tenant asked for it, to be mapped again.

A request is stored with what it told of, in the same transaction as its rows. Nothing here is shown
to anybody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias
from uuid import UUID

import msgspec
import structlog
import zstandard

from metrics_service.db.tenancy import ContextConnection
from metrics_service.ingest.rows import as_uuids
from metrics_service.ingest.telemetry import Telemetry, instant

Connection: TypeAlias = ContextConnection
Door: TypeAlias = Callable[[], AbstractAsyncContextManager[Connection]]
"""Opens a transaction that sees one tenant."""

LEVEL = 3
# Up to here it takes less than a millisecond, during which nobody else has a turn.
LARGE_BYTES = 256 * 1024
ROWS_A_STEP = 500
SWEEP_EVERY_S = 60.0

# The setting is locked: who has switched it off can rely on nothing being stored afterwards.
KEEP = """
WITH allowed AS MATERIALIZED (
    SELECT 1 FROM tenant_settings WHERE name = 'raw_hours' AND value > '0'::jsonb FOR SHARE
)
INSERT INTO raw_requests
    (signal, is_json, received_at, owner_id, key_id, body, body_bytes, row_ids)
SELECT $1::text, $2::boolean, $3::timestamptz, $4::uuid, $5::uuid, $6::bytea, $7::bigint,
       $8::text::uuid[]
FROM allowed RETURNING id
"""

# Those whom a replay has in its hands can wait.
SWEEP = """
DELETE FROM raw_requests WHERE id IN (
    SELECT id FROM raw_requests WHERE received_at < now() - make_interval(hours => $1)
    ORDER BY received_at, id LIMIT $2 FOR UPDATE SKIP LOCKED)
"""
FORGET = "DELETE FROM raw_requests WHERE received_at < now() - make_interval(hours => $1)"
FORGET_ALL = "DELETE FROM raw_requests"

COUNT = "SELECT count(*) FROM raw_requests WHERE received_at >= $1 AND received_at < $2"
NEXT = """
SELECT id, received_at FROM raw_requests
WHERE received_at >= $1 AND received_at < $2 AND (received_at, id) > ($3, $4)
ORDER BY received_at, id LIMIT $5
"""
TAKE = """
SELECT id, signal, is_json, received_at, owner_id, key_id, body, body_bytes, row_ids, stale_ids
FROM raw_requests WHERE id = $1 FOR UPDATE
"""
NOTE = (
    "UPDATE raw_requests SET row_ids = $2::text::uuid[], stale_ids = $3::text::uuid[] WHERE id = $1"
)
STALE = """
SELECT s.id FROM raw_requests r, unnest(r.stale_ids) AS s(id)
EXCEPT SELECT t.id FROM raw_requests r, unnest(r.row_ids) AS t(id)
"""
TOLD_ELSEWHERE = """
SELECT DISTINCT t.id FROM raw_requests r, unnest(r.row_ids) AS t(id)
WHERE NOT (r.received_at >= $2 AND r.received_at < $3) AND t.id = ANY ($1::text::uuid[])
"""
CLEAR_STALE = "UPDATE raw_requests SET stale_ids = '{}' WHERE stale_ids <> '{}'"
OLDEST = "SELECT min(received_at) FROM raw_requests"

_log = structlog.get_logger()


class RawRequest(msgspec.Struct, frozen=True):
    """A request as it was read, compressed."""

    signal: str
    is_json: bool
    received_ns: int
    owner_id: UUID | None
    key_id: UUID | None
    body: bytes
    body_bytes: int

    async def keep(self, connection: ContextConnection, told: Iterable[int]) -> None:
        """Store it, with the ids of what it told of, unless that was switched off by now."""
        await connection.execute(
            KEEP,
            self.signal,
            self.is_json,
            instant(self.received_ns),
            self.owner_id,
            self.key_id,
            self.body,
            self.body_bytes,
            as_uuids(told),
        )


async def compressed(body: bytes) -> bytes:
    """The body as it is stored; a large one is compressed in a thread."""
    if len(body) < LARGE_BYTES:
        return _compress(body)
    return await asyncio.to_thread(_compress, body)


def _compress(body: bytes) -> bytes:
    # One of its own each time: a compressor is no thread's but one's.
    return zstandard.ZstdCompressor(level=LEVEL).compress(body)


def uncompressed(body: bytes, size: int) -> bytes:
    return zstandard.ZstdDecompressor().decompress(body, max_output_size=size)


def told_by(out: Telemetry) -> set[int]:
    """The ids of the calls, events and sessions that a request tells of, as its mapper names them."""
    sessions = (session.id.int for session in out.sessions.values())
    return {*out.tools, *out.models, *out.events, *sessions}


class RawSweeper:
    """Deletes what is older than its tenant wants, a little with some of the tenant's requests."""

    def __init__(self) -> None:
        self._due: dict[UUID, float] = {}

    async def sweep(self, door: Door, tenant_id: UUID, hours: int) -> None:
        """Delete a step if it is time; what goes wrong is logged, as the request is stored already."""
        now = time.monotonic()
        if self._due.get(tenant_id, 0.0) > now:
            return
        self._due[tenant_id] = now + SWEEP_EVERY_S
        try:
            async with door() as connection:
                done = await connection.execute(SWEEP, hours, ROWS_A_STEP)
        except Exception as error:  # noqa: BLE001  # the request that brought us here is stored
            _log.warning("raw requests could not be deleted", exc_info=error)
            return
        if done == f"DELETE {ROWS_A_STEP}":
            # There is more: the next request goes on.
            del self._due[tenant_id]


async def forget_raw_requests(connection: ContextConnection, *, hours: int) -> None:
    """Delete what is older than so many hours; all of it where none is to be kept."""
    if hours:
        await connection.execute(FORGET, hours)
    else:
        await connection.execute(FORGET_ALL)
