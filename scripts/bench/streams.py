"""What open streams of server-sent events cost one worker, and how soon they tell of a change.

    python scripts/bench/streams.py [--data DIR] [--streams 1000] [--tenants 4] [--seconds 15]

Streams of signed-in people, spread over some tenants, are held open against one worker of the real
server: its memory before and with them; transactions a second of the whole database while nothing
happens and while another client sends batches; the time from the answer to a write until each stream
of its tenant has heard; and what noting a change takes of a write. The target: a thousand streams cost
a worker under 100 MiB, and no query each.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import asyncpg
import psutil
from common import (
    DATA,
    BenchTenant,
    Running,
    admin_dsn,
    database,
    load_tenants,
    mib,
    serving,
    table,
)
from load import batch_requests, drive
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.engine import runtime_engine
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.http.changes import Changes
from metrics_service.http.cookies import NAME
from metrics_service.tenants.sign_ins import begin_sign_in
from metrics_service.web.live.streams import MAX_OF_A_PERSON

TARGET_MIB = 100
AT_ONCE = 50
SETTLED_S = 3.0
HEARD_WITHIN_S = 10.0
LATENCIES = 20
NOTES = 200_000
# Sockets of ours, and as many of the server's.
SPARE_FILES = 200


class Open:
    """A browser's end of a stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.bytes = 0
        self.heard_at: list[float] = []
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while chunk := await self._reader.read(65536):
            self.bytes += len(chunk)
            if b"event: changed" in chunk:
                self.heard_at.append(time.perf_counter())

    async def close(self) -> None:
        self._task.cancel()
        self._writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--tenants", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=15.0)
    chosen = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = chosen.streams + SPARE_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, max(wanted, 4096)), most))
    tenants = load_tenants(chosen.data)[: chosen.tenants]
    with (
        database(chosen.data) as addresses,
        serving("service", addresses.runtime, data=chosen.data) as server,
    ):
        rows = asyncio.run(
            _measure(server, addresses.runtime, admin_dsn(addresses), tenants, chosen)
        )
    print(table(["what", "measured"], [list(row) for row in rows]))


async def _measure(
    server: Running, dsn: str, admin: str, tenants: Sequence[BenchTenant], chosen: Any
) -> list[tuple[str, str]]:
    engine = runtime_engine(dsn, pool_max=2)
    people = chosen.streams // len(tenants) // MAX_OF_A_PERSON + 1
    cookies = {
        tenant.id: [await _sign_in(engine, tenant.id) for _ in range(people)] for tenant in tenants
    }
    await asyncio.to_thread(_send_batches, server, list(tenants), 2.0)
    worker = server.worker()
    connection = await asyncpg.connect(admin)
    rows: list[tuple[str, str]] = []

    async def rate(name: str, seconds: float) -> None:
        before, cpu = await _transactions(connection), server.cpu_s()
        await asyncio.sleep(seconds)
        per_second = (await _transactions(connection) - before - 1) / seconds
        cpu_ms = (server.cpu_s() - cpu) / seconds * 1000
        rows.append((name, f"{per_second:.1f} transactions/s, {cpu_ms:.0f} ms of CPU a second"))

    alone = mib(worker)
    await rate("nobody is there", chosen.seconds)
    began = time.perf_counter()
    streams = await _open_all(server.port, tenants, cookies, chosen.streams)
    rows.append((f"opening {chosen.streams} streams", f"{time.perf_counter() - began:.1f} s"))
    await asyncio.sleep(SETTLED_S)
    rows.append(_memory("memory with them", worker, alone))
    await rate("they wait", chosen.seconds)
    rows.append(await _latency(server, tenants[0], streams))
    sending = asyncio.create_task(
        asyncio.to_thread(_send_batches, server, list(tenants), chosen.seconds + 1)
    )
    bytes_before = sum(stream.bytes for stream in streams)
    await rate("they hear of batches all the time", chosen.seconds)
    sent = sum(stream.bytes for stream in streams) - bytes_before
    with_streams = await sending
    rows.append(("bytes a stream and second", f"{sent / len(streams) / chosen.seconds:.0f}"))
    rows.append(_memory("memory after that", worker, alone))
    for stream in streams:
        await stream.close()
    await asyncio.sleep(SETTLED_S)
    without = await asyncio.to_thread(_send_batches, server, list(tenants), chosen.seconds)
    rows.append(
        ("batches/s with streams, and without", f"{with_streams:.1f}, {without:.1f}"),
    )
    rows.append(_noting(engine))
    await connection.close()
    await engine.dispose()
    return rows


async def _sign_in(engine: AsyncEngine, tenant_id: UUID) -> str:
    async with tenant_connection(engine, TenantContext(tenant_id)) as connection:
        user_id = await connection.fetchval(
            "INSERT INTO users (email, role) VALUES ($1, 'viewer') RETURNING id",
            f"{uuid4().hex}@example.com",
        )
        made = await begin_sign_in(connection, user_id, user_agent="bench")
    return f"{NAME}={made.token}"


async def _transactions(connection: asyncpg.Connection[Any]) -> int:
    # What a backend did is counted a second later at most, or when it is idle.
    return cast(
        "int",
        await connection.fetchval(
            "SELECT xact_commit + xact_rollback FROM pg_stat_database"
            " WHERE datname = current_database()"
        ),
    )


async def _open_all(
    port: int, tenants: Sequence[BenchTenant], cookies: dict[UUID, list[str]], count: int
) -> list[Open]:
    streams: list[Open] = []
    for start in range(0, count, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, count))
        chosen = [divmod(number, len(tenants)) for number in numbers]
        streams += await asyncio.gather(
            *(
                _open(port, tenants[at].host, cookies[tenants[at].id][place // MAX_OF_A_PERSON])
                for place, at in chosen
            )
        )
    return streams


async def _open(port: int, host: str, cookie: str) -> Open:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /live HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    return Open(reader, writer)


async def _latency(server: Running, tenant: BenchTenant, streams: list[Open]) -> tuple[str, str]:
    """From the answer to a write until the tenant's streams have heard, one write at a time."""
    took: list[float] = []
    for _ in range(LATENCIES):
        for stream in streams:
            stream.heard_at.clear()
        await asyncio.to_thread(_send_batches, server, [tenant], 0.0)
        committed = time.perf_counter()
        await asyncio.sleep(2.5)
        took += [stream.heard_at[0] - committed for stream in streams if stream.heard_at]
    took.sort()
    assert took, "nobody heard"
    middle, last = took[len(took) // 2], took[int(len(took) * 0.99)]
    return (
        f"from commit to event ({len(took) // LATENCIES} streams of a tenant, {LATENCIES} times)",
        f"median {middle * 1000:.0f} ms, p99 {last * 1000:.0f} ms",
    )


def _send_batches(server: Running, tenants: list[BenchTenant], seconds: float) -> float:
    """Send batches for so long, or one; how many a second were answered."""
    sent, began = 0, time.perf_counter()
    while not sent or time.perf_counter() - began < seconds:
        count = 10 if seconds else 1
        requests = batch_requests(tenants, count, seed=time.time_ns(), size=100)
        _, _, failures = asyncio.run(drive(server.port, requests, concurrency=2, max_s=60))
        assert not failures
        sent += count
    return sent / (time.perf_counter() - began)


def _memory(name: str, worker: psutil.Process, alone: float) -> tuple[str, str]:
    now = mib(worker)
    verdict = "yes" if now - alone < TARGET_MIB else "**no**"
    return name, f"{now:.0f} MiB, {now - alone:.0f} more than before; under {TARGET_MIB}: {verdict}"


def _noting(engine: AsyncEngine) -> tuple[str, str]:
    """What a write pays to have its change told: noting one session, and twenty."""
    took = []
    for count in (1, 20):
        changes = Changes(engine)
        tenant_id, sessions = uuid4(), [uuid4() for _ in range(count)]
        with _timed() as seconds:
            for _ in range(NOTES // count):
                changes.note(tenant_id, sessions)
        took.append(seconds[0] / (NOTES // count) * 1e6)
    return "noting a change of one session, of twenty", f"{took[0]:.2f} µs, {took[1]:.2f} µs"


@contextmanager
def _timed() -> Iterator[list[float]]:
    seconds = [0.0]
    began = time.perf_counter()
    yield seconds
    seconds[0] = time.perf_counter() - began


if __name__ == "__main__":
    main()
