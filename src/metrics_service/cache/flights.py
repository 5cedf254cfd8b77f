"""Whoever asks for what is being fetched already waits for the same answer."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Flights(Generic[K, V]):
    """At most one task for each key at a time; after `joined_for_s` nobody joins it any more."""

    def __init__(self, *, joined_for_s: float = math.inf) -> None:
        self._joined_for_s = joined_for_s
        self._under_way: dict[K, tuple[float, asyncio.Task[V]]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._under_way

    async def join(self, key: K, fetch: Callable[[], Coroutine[Any, Any, V]]) -> V:
        """What `fetch` gives or raises, begun by this call or by one before."""
        # Shielded, for it is a task of its own: who asked first may leave, and others wait for the same.
        return await asyncio.shield(self.begin(key, fetch))

    def begin(self, key: K, fetch: Callable[[], Coroutine[Any, Any, V]]) -> asyncio.Task[V]:
        """The task that is under way, or else one that begins now."""
        begun_at, task = self._under_way.get(key, (-math.inf, None))
        now = time.monotonic()
        if task is None or now - begun_at > self._joined_for_s:
            task = asyncio.create_task(fetch())
            self._under_way[key] = (now, task)
            task.add_done_callback(lambda done: self._landed(key, done))
        return task

    def part(self, concerns: Callable[[K], bool]) -> None:
        """Let nobody join what is under way for these keys: it was begun before something changed."""
        for key in [key for key in self._under_way if concerns(key)]:
            del self._under_way[key]

    def _landed(self, key: K, task: asyncio.Task[V]) -> None:
        if self._under_way.get(key, (0.0, None))[1] is task:
            del self._under_way[key]
        if not task.cancelled():
            # All who waited may have left: then nobody else looks at what went wrong.
            task.exception()
