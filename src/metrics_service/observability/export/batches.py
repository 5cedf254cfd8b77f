"""Collects what is to be sent in a bounded queue, and encodes and sends it in a thread of its own.

Threads of one process take turns, so this one works in short pieces: while it encodes, no request is
answered.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from threading import Event, RLock, Thread
from typing import Generic, TypeVar

import structlog

from metrics_service.observability.export.delivery import Delivery
from metrics_service.observability.export.requests import Envelope, Items
from metrics_service.observability.export.settings import Batching

log = structlog.get_logger(__name__)

SLICE = 100
"""So many are encoded in a third of a millisecond."""
BREATH_S = 0.0005
MAX_REQUEST_BYTES = 2 * 1024 * 1024
"""Half of what a collector takes over gRPC unless it is told otherwise."""
MAX_REQUEST_ITEMS = 2048
"""To put more together, and to let go of it, would take the others' time for too long."""

ItemT = TypeVar("ItemT")


class Batches(Generic[ItemT]):
    """Everything that is put here is sent, in its order, unless there is too much of it."""

    def __init__(
        self,
        name: str,
        delivery: Delivery,
        envelope: Envelope,
        *,
        encode: Callable[[ItemT], Iterator[Items]],
        batching: Batching,
        is_over: Event,
    ) -> None:
        self._delivery = delivery
        self._envelope = envelope
        self._encode = encode
        self._delay_s = batching.delay_s
        self._max_queue = batching.max_queue
        self._max_batch = min(batching.max_batch, MAX_REQUEST_ITEMS)
        self._is_over = is_over
        self._queue: deque[tuple[int, ItemT]] = deque()
        self._queued = 0
        self._has_failed = False
        # A collection of garbage may log, in the thread that is putting something here already.
        self._lock = RLock()
        self._is_wanted = Event()
        self.thread = Thread(target=self._run, name=f"export-{name}", daemon=True)

    def put(self, item: ItemT, count: int) -> None:
        """Queue something that becomes so many spans or lines; never waits, drops what has no room."""
        with self._lock:
            before = self._queued
            queued = before + count
            # One alone may be larger than all the room there is.
            has_room = queued <= self._max_queue or before == 0
            if has_room:
                self._queued += count
                self._queue.append((count, item))
        if not has_room:
            self._delivery.drop(count)
        elif before < self._max_batch <= queued:
            self._is_wanted.set()

    def wake(self) -> None:
        """Send what is there, now."""
        self._is_wanted.set()

    def give_up(self) -> None:
        """Count as dropped what is still there."""
        with self._lock:
            count, self._queued = self._queued, 0
            self._queue.clear()
        if count:
            self._delivery.drop(count)

    def _run(self) -> None:
        due = time.monotonic() + self._delay_s
        while not self._is_over.is_set():
            self._is_wanted.wait(max(0.0, due - time.monotonic()))
            self._is_wanted.clear()
            is_due = time.monotonic() >= due
            self._send_batches(least=1 if is_due else self._max_batch)
            if is_due:
                due = time.monotonic() + self._delay_s
        self._send_batches(least=1)

    def _send_batches(self, *, least: int) -> None:
        # What comes in meanwhile waits for its own turn, unless it is a whole batch.
        left = self._queued
        while left >= least or self._queued >= self._max_batch:
            batch = self._taken()
            left -= batch[0]
            self._send(batch[1])

    def _taken(self) -> tuple[int, list[ItemT]]:
        count, items = 0, []
        with self._lock:
            while self._queue and count < self._max_batch:
                size, item = self._queue.popleft()
                count += size
                items.append(item)
            self._queued -= count
        return count, items

    def _send(self, items: list[ItemT]) -> None:
        encoded = (some for item in items for some in self._encoded(item))
        for request, count in requests_of(self._envelope, encoded):
            self._delivery.deliver(request, count)

    def _encoded(self, item: ItemT) -> Iterator[Items]:
        try:
            yield from self._encode(item)
        except Exception:
            # A bug of ours; no reason for this thread to end, and everything after it to be lost.
            if not self._has_failed:
                log.exception("telemetry cannot be encoded")
            self._has_failed = True
            self._delivery.drop(1)


def requests_of(envelope: Envelope, encoded: Iterable[Items]) -> Iterator[tuple[bytes, int]]:
    """Put items together to requests that are not too large, with a breath after each few."""
    told: list[Items] = []
    size = since = 0
    for some in encoded:
        if told and size + some.size > MAX_REQUEST_BYTES:
            yield _request(envelope, told)
            told, size = [], 0
        told.append(some)
        size += some.size
        since += some.count
        if since >= SLICE:
            since = 0
            time.sleep(BREATH_S)
    if told:
        yield _request(envelope, told)


def _request(envelope: Envelope, told: list[Items]) -> tuple[bytes, int]:
    return envelope.around(told), sum(some.count for some in told)
