"""Asks a server for pages, or sends it batches, over a few connections, and measures.

    python scripts/bench/load.py --port 8000 [--data DIR] [--scenario page|batch] [--requests 2000]
        [--concurrency 8] [--max-seconds 60]

Everything that is sent is made before the clock starts. `requests` and `max-seconds` bound it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast
from uuid import UUID

import msgspec
import psutil
from common import DATA, BenchTenant, Running, load_tenants, median, table

BATCH = 1000
SESSIONS_A_BATCH = 10
USERS_A_BATCH = 5
TOOLS = ("Bash", "Read", "Edit", "Grep", "WebFetch", "Task", "Write", "Glob")

_batches = itertools.count(int(time.time()) % 1_000_000 * 1000)


class Measured(msgspec.Struct, frozen=True):
    """What one run came to; times in milliseconds."""

    per_second: float
    p50: float
    p99: float
    cpu_ms: float
    """CPU time of the server's processes a request."""
    failures: int


def page_requests(tenants: list[BenchTenant], count: int, *, seed: int) -> list[bytes]:
    chance = random.Random(seed)
    made = {
        tenant.id: (
            f"GET /api/v1/sessions HTTP/1.1\r\nHost: {tenant.host}\r\n"
            f"Authorization: Bearer {tenant.key}\r\n\r\n"
        ).encode()
        for tenant in tenants
    }
    return [made[chance.choice(tenants).id] for _ in range(count)]


def batch_requests(
    tenants: list[BenchTenant],
    count: int,
    *,
    seed: int,
    size: int = BATCH,
    with_ids: bool = True,
    metadata: dict[str, str] | None = None,
) -> list[bytes]:
    chance = random.Random(seed)
    made = []
    for _ in range(count):
        body = msgspec.json.encode(tool_metrics(size, with_ids=with_ids, metadata=metadata))
        made.append(batch_request(chance.choice(tenants), body))
    return made


def batch_request(tenant: BenchTenant, body: bytes) -> bytes:
    return (
        f"POST /api/v1/tool-metrics/batch HTTP/1.1\r\nHost: {tenant.host}\r\n"
        f"Authorization: Bearer {tenant.key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def tool_metrics(
    size: int, *, with_ids: bool, metadata: dict[str, str] | None = None
) -> list[dict[str, object]]:
    """Items that nobody has sent before: each batch has minutes of its own."""
    batch = next(_batches)
    begin = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(
        milliseconds=(batch * 7919) % (15 * 86_400_000)
    )
    chance = random.Random(batch)
    items = []
    for place in range(size):
        started_at = begin + timedelta(milliseconds=place * 3)
        item: dict[str, object] = {
            "tool_name": chance.choice(TOOLS),
            "tool_category": "shell",
            "started_at": started_at,
            "duration_ms": round(chance.random() * 5000, 3),
            "wait_ms": round(chance.random() * 100, 3),
            "status": "error" if place % 19 == 0 else "success",
            "cpu_ms": round(chance.random() * 500, 3),
            "memory_bytes": chance.randrange(10**9),
            "input_bytes": chance.randrange(10**5),
            "output_bytes": chance.randrange(10**6),
            "agent": "claude-code",
            "external_session_id": f"{batch % 400}-{place % SESSIONS_A_BATCH}",
            "user_email": f"user{place % USERS_A_BATCH}@bench.example",
        }
        if with_ids:
            rest = chance.getrandbits(76)
            item["id"] = UUID(int=int(started_at.timestamp() * 1000) << 80 | 7 << 76 | rest)
        if metadata is not None:
            item["metadata"] = metadata
        items.append(item)
    return items


async def drive(
    port: int, requests: list[bytes], *, concurrency: int, max_s: float = 60
) -> tuple[float, list[float], int]:
    """Send the requests; return the seconds it took, each answer's seconds, and the failures."""
    waiting = iter(requests)
    loop = asyncio.get_running_loop()
    give_up_at = time.perf_counter() + max_s
    clients = [
        (await loop.create_connection(lambda: _Client(waiting, give_up_at), "127.0.0.1", port))[1]
        for _ in range(concurrency)
    ]
    began = time.perf_counter()
    for client in clients:
        client.send_next()
    await asyncio.gather(*(client.done for client in clients))
    took = time.perf_counter() - began
    for client in clients:
        client.close()
    latencies = [latency for client in clients for latency in client.latencies]
    return took, latencies, sum(client.failures for client in clients)


class _Client(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, waiting: Iterator[bytes], give_up_at: float) -> None:
        self._waiting = waiting
        self._give_up_at = give_up_at
        self._left = 0
        self._head = b""
        self._sent_at = 0.0
        self.latencies: list[float] = []
        self.failures = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def send_next(self) -> None:
        request = next(self._waiting, None)
        self._sent_at = time.perf_counter()
        if request is None or self._sent_at > self._give_up_at:
            self.done.set_result(None)
            return
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._left == 0:
            data = self._head + data
            head, found, rest = data.partition(b"\r\n\r\n")
            if not found:
                self._head = data
                return
            self._head = b""
            if not head.startswith(b"HTTP/1.1 2"):
                self.failures += 1
            lower = head.lower()
            at = lower.index(b"content-length:") + 15
            self._left = int(lower[at : lower.find(b"\r", at) if b"\r" in lower[at:] else None])
            data = rest
        self._left -= len(data)
        if self._left == 0:
            self.latencies.append(time.perf_counter() - self._sent_at)
            self.send_next()

    def connection_lost(self, _: Exception | None) -> None:
        if not self.done.done():
            self.failures += 1
            self.done.set_result(None)

    def close(self) -> None:
        self._transport.close()


def measure(
    server: Running, requests: list[bytes], *, concurrency: int, max_s: float = 60
) -> Measured:
    """Drive a server and say what it came to."""
    before = server.cpu_s()
    took, latencies, failures = asyncio.run(
        drive(server.port, requests, concurrency=concurrency, max_s=max_s)
    )
    cpu_s = server.cpu_s() - before
    ordered = sorted(latencies)
    return Measured(
        per_second=len(ordered) / took,
        p50=median(ordered) * 1000,
        p99=ordered[int(len(ordered) * 0.99)] * 1000,
        cpu_ms=cpu_s / len(ordered) * 1000,
        failures=failures,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument(
        "--pid", type=int, required=True, help="the server's process, for its CPU time"
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--scenario", choices=["page", "batch"], default="page")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--max-seconds", type=float, default=60)
    chosen = parser.parse_args()
    tenants = load_tenants(chosen.data)
    make = page_requests if chosen.scenario == "page" else batch_requests
    requests = make(tenants, chosen.requests, seed=1)
    server = Running("server", chosen.port, psutil.Process(chosen.pid))
    found = measure(server, requests, concurrency=chosen.concurrency, max_s=chosen.max_seconds)
    rows = found.per_second * (BATCH if chosen.scenario == "batch" else 50)
    print(
        table(
            ["requests/s", "rows/s", "p50 ms", "p99 ms", "CPU ms a request", "failures"],
            [[f"{found.per_second:.0f}", f"{rows:.0f}", f"{found.p50:.1f}", f"{found.p99:.1f}",
              f"{found.cpu_ms:.2f}", str(found.failures)]],
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
