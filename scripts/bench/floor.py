"""The floor: the same SQL in the same tenant context, with nothing around it but what must be.

Bare ASGI, msgspec, asyncpg and its own pool. Tenants and keys are dictionaries filled at the start;
there is no guard, no log, no router, and no error that anybody could understand.

    BENCH_DATA=DIR DATABASE_URL=... python scripts/bench/floor.py --port 8001
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import multiprocessing
import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from common import load_tenants
from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels

from metrics_service.cli.server import BACKLOG, CONNECTIONS_A_WORKER
from metrics_service.db.pages import Page, PageMeta
from metrics_service.ingest import people, write
from metrics_service.ingest.records import Receipt, ToolMetricRecord, session_id_of
from metrics_service.ingest.sessions import Extent, extend_sessions
from metrics_service.rollups.ledger import Ledger
from metrics_service.rollups.sources import TOOL_METRICS
from metrics_service.sessions.repository import fetch_sessions, session_view
from metrics_service.sessions.schemas import SessionQuery

LIMIT = 50
_numbers = itertools.count()


class Item(ToolMetricRecord):
    """The product's record, and the columns that follow from it."""

    user_id: UUID | None = None


class _Listener:
    """Hears which statement a repository would send."""

    text = ""

    async def fetch(self, text: str, *_: Any) -> list[Any]:
        self.text = text
        return []


def _page_statement() -> str:
    heard = _Listener()
    query = SessionQuery(limit=LIMIT)
    asyncio.run(fetch_sessions(heard, query, after=None, limit=LIMIT + 1, offset=0))  # type: ignore[arg-type]
    return heard.text


PAGE = _page_statement()
_decoder = msgspec.json.Decoder(list[Item])
_encoder = msgspec.json.Encoder()


class Floor:
    """The application of one process."""

    def __init__(self) -> None:
        tenants = load_tenants(Path(os.environ["BENCH_DATA"]))
        self._tenant_of = {tenant.host.encode(): tenant.id for tenant in tenants}
        self._tenant_of_key = {
            hashlib.sha256(tenant.key.encode()).digest(): tenant.id for tenant in tenants
        }

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        headers = dict(scope["headers"])
        tenant_id = self._tenant_of[headers[b"host"]]
        key = headers[b"authorization"].removeprefix(b"Bearer ")
        if self._tenant_of_key[hashlib.sha256(key).digest()] != tenant_id:
            raise PermissionError
        if scope["method"] == "GET":
            body = await self._page(tenant_id)
        else:
            body = await self._batch(tenant_id, await _whole(receive))
        head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": body})

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        size = int(os.environ["DATABASE_POOL_MAX"])
        self._pool = await asyncpg.create_pool(
            os.environ["DATABASE_URL"], min_size=2, max_size=size, reset=_leave_alone
        )
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._pool.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _page(self, tenant_id: UUID) -> bytes:
        async with self._pool.acquire() as connection:
            await connection.execute(
                f"BEGIN READ ONLY; SELECT shared.enter_tenant('{tenant_id}', NULL, 10000)"
            )
            rows = await connection.fetch(PAGE, LIMIT + 1, 0)
            await connection.execute("COMMIT")
        meta = PageMeta(limit=LIMIT, next_cursor=rows[-1]["id"].hex if len(rows) > LIMIT else None)
        return _encoder.encode(Page([session_view(row) for row in rows[:LIMIT]], meta))

    async def _batch(self, tenant_id: UUID, body: bytes) -> bytes:
        items = _decoder.decode(body)
        emails = sorted({item.user_email for item in items if item.user_email is not None})
        async with self._pool.acquire() as connection:
            await connection.execute(
                f"BEGIN; SELECT shared.enter_tenant('{tenant_id}', NULL, 10000)"
            )
            rows = await connection.fetch(people.FIND, _encoder.encode(emails).decode())
            users = {row["email"]: row["id"] for row in rows}
            named = _complete(items, tenant_id, users)
            found = await connection.fetch(
                write.INSERT_TOOL_METRICS, _encoder.encode(items).decode()
            )
            ledger = Ledger()
            extents = []
            for row in found:
                figures = dict(row)
                session_id = figures.pop("session_id")
                ledger.enter(TOOL_METRICS, session_id, figures.pop("rows"))
                extents.append(Extent(id=session_id, **named[session_id], **figures))
            await extend_sessions(connection, extents, ledger)
            await ledger.write(connection)
            await connection.execute("COMMIT")
        inserted = sum(row["tool_call_count"] for row in found)
        return _encoder.encode(Receipt(inserted, len(items) - inserted))


def _complete(
    items: list[Item], tenant_id: UUID, users: dict[str, UUID]
) -> dict[UUID, dict[str, Any]]:
    """Give each item its ids, and say what each session is called."""
    ids: dict[tuple[str, str], UUID] = {}
    named: dict[UUID, dict[str, Any]] = {}
    for item in items:
        name = (item.agent, item.external_session_id)
        session_id = ids.get(name)
        if session_id is None:
            session_id = ids[name] = session_id_of(tenant_id, *name)
            named[session_id] = {
                "agent": name[0], "external_id": name[1], "user_id": users[item.user_email]
            }  # fmt: skip
        item.session_id = session_id
        item.user_id = users[item.user_email]
        item.user_email = item.external_session_id = None
        if item.id is None:
            item.id = _new_id(item.started_at)
    return named


def _new_id(started_at: datetime) -> UUID:
    """In order of time, and never the same: all that a floor needs of an id."""
    rest = (time.time_ns() << 16 | next(_numbers) & 0xFFFF) & ((1 << 80) - 1)
    return UUID(int=int(started_at.timestamp() * 1000) << 80 | rest)


async def _whole(receive: Any) -> bytes:
    message = await receive()
    pieces = [message["body"]]
    while message.get("more_body"):
        message = await receive()
        pieces.append(message["body"])
    return b"".join(pieces) if len(pieces) > 1 else pieces[0]


async def _leave_alone(_: Any) -> None:
    """Nothing outlives a transaction here, so there is nothing to be reset."""


def make() -> Floor:
    return Floor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    # As the product runs it, so that only the application differs.
    Granian(
        "floor:make",
        address="127.0.0.1",
        port=parser.parse_args().port,
        interface=Interfaces.ASGI,
        workers=1,
        factory=True,
        http=HTTPModes.http1,
        websockets=False,
        backlog=BACKLOG,
        backpressure=CONNECTIONS_A_WORKER,
        log_level=LogLevels.warning,
        log_access=False,
    ).serve()


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn", force=True)
    main()
