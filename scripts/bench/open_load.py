"""Sends requests when they are due, whether or not the ones before were answered: an open loop.

A closed loop waits for the server, and so never asks it for more than it can do.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from typing import cast

import msgspec

MAX_CONNECTIONS = 900
GOOD_S = 1.0
"""An answer that takes longer is of no use to whoever waits for it."""
PATIENCE_S = 10.0


class Outcome(msgspec.Struct):
    """What became of the requests of one run."""

    offered: int = 0
    refused: int = 0
    """Answered 429 or 503."""
    failed: int = 0
    """Answered otherwise than 2xx, or not at all."""
    unsent: int = 0
    """There was no connection left to send them on."""
    latencies: list[float] = msgspec.field(default_factory=list)
    """Of those that were served, in seconds."""
    refusals: list[float] = msgspec.field(default_factory=list)
    """How long those took that were refused."""
    took_s: float = 0.0
    cpu_s: float = 0.0
    """What sending took of a processor, which the server did not have where they are few."""

    @property
    def good(self) -> int:
        return sum(1 for latency in self.latencies if latency <= GOOD_S)

    def percentile_ms(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[int((len(ordered) - 1) * share)] * 1000 if ordered else float("nan")


async def offer(
    port: int, requests: Iterator[bytes], *, per_second: float, seconds: float, seed: int
) -> Outcome:
    """Send at random moments, so many a second; wait for the last answers."""
    load = _Load(port)
    chance = random.Random(seed)
    began, cpu_began = time.perf_counter(), time.process_time()
    due = began
    while (due := due + chance.expovariate(per_second)) < began + seconds:
        pause = due - time.perf_counter()
        if pause > 0:
            await asyncio.sleep(pause)
        elif load.outcome.offered % 20 == 0:
            await asyncio.sleep(0)
        load.send(next(requests))
    load.outcome.took_s = time.perf_counter() - began
    load.outcome.cpu_s = time.process_time() - cpu_began
    await load.end()
    return load.outcome


class _Load:
    def __init__(self, port: int) -> None:
        self._port = port
        self.outcome = Outcome()
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()

    def send(self, request: bytes) -> None:
        self.outcome.offered += 1
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                connection.send(request, time.perf_counter())
                return
        if len(self._all) + len(self._opening) >= MAX_CONNECTIONS:
            self.outcome.unsent += 1
            return
        task = asyncio.create_task(self._open(request, time.perf_counter()))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, request: bytes, asked: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(self), "127.0.0.1", self._port
            )
        except OSError:
            self.outcome.failed += 1
            return
        self._all.add(connection)
        connection.send(request, asked)

    def ended(self, connection: _Connection, status: int, latency: float) -> None:
        outcome = self.outcome
        if 200 <= status < 300:
            outcome.latencies.append(latency)
        elif status in (429, 503):
            outcome.refused += 1
            outcome.refusals.append(latency)
        else:
            outcome.failed += 1
        self._idle.append(connection)

    def lost(self, connection: _Connection, *, is_busy: bool) -> None:
        self._all.discard(connection)
        self.outcome.failed += is_busy

    async def end(self) -> None:
        give_up_at = time.perf_counter() + PATIENCE_S
        while time.perf_counter() < give_up_at:
            if not self._opening and not any(one.is_busy for one in self._all):
                break
            await asyncio.sleep(0.02)
        for connection in list(self._all):
            connection.close()
        await asyncio.sleep(0)


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._sent_at = 0.0
        self._heard = b""
        self._left = -1
        self.is_busy = False
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.is_open = True

    def send(self, request: bytes, asked: float) -> None:
        self._sent_at = asked
        self.is_busy = True
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._left < 0:
            self._heard += data
            head, found, data = self._heard.partition(b"\r\n\r\n")
            if not found:
                return
            self._status = int(head[9:12])
            lower = head.lower() + b"\r"
            at = lower.index(b"content-length:") + 15
            self._left = int(lower[at : lower.index(b"\r", at)])
            self._heard = b""
        self._left -= len(data)
        if self._left == 0:
            self._left = -1
            self.is_busy = False
            self._load.ended(self, self._status, time.perf_counter() - self._sent_at)

    def connection_lost(self, _: Exception | None) -> None:
        self.is_open = False
        self._load.lost(self, is_busy=self.is_busy)

    def close(self) -> None:
        self._transport.close()
