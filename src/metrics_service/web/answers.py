"""Remembers what pages show, so that a thousand open ones ask the database once."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from itertools import chain
from typing import TypeAlias
from uuid import UUID

import msgspec

MAX_BYTES = 32 * 1024 * 1024
# However much arrives: nobody reads faster.
FRESH_S = 2.0
# However little: days end, and what was not heard of has changed as well.
STALE_S = 60.0

Key: TypeAlias = tuple[UUID, Hashable]


class _Remembered(msgspec.Struct, frozen=True):
    html: str
    made_at: float


class Answers:
    """Rendered parts of pages by tenant and question; bounded by their size, oldest out first."""

    def __init__(
        self, hears: Callable[[], bool], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._hears = hears
        self._clock = clock
        self._known: OrderedDict[Key, _Remembered] = OrderedDict()
        self._bytes = 0
        self._making: dict[Key, asyncio.Task[str]] = {}
        self._changed_at: dict[UUID, float] = {}
        self._all_changed_at = 0.0

    def forget(self, tenant_id: UUID | None) -> None:
        """Something of the tenant's changed; of everybody's, for all that is known, if it is None."""
        if tenant_id is None:
            self._changed_at.clear()
            self._all_changed_at = self._clock()
        elif any(key[0] == tenant_id for key in chain(self._known, self._making)):
            self._changed_at[tenant_id] = self._clock()

    async def get(
        self, tenant_id: UUID, question: Hashable, make: Callable[[], Awaitable[str]]
    ) -> str:
        """The answer, made at most once at a time; raises what `make` raises."""
        key = (tenant_id, question)
        known = self._known.get(key)
        if known is not None and self._holds(tenant_id, known):
            return known.html
        task = self._making.get(key)
        if task is None:
            # A task of its own: who asked first may leave, and others wait for the same.
            task = asyncio.create_task(self._make(key, make))
            self._making[key] = task
            task.add_done_callback(lambda _: self._making.pop(key))
        return await asyncio.shield(task)

    def _holds(self, tenant_id: UUID, known: _Remembered) -> bool:
        age = self._clock() - known.made_at
        changed_at = max(self._changed_at.get(tenant_id, 0.0), self._all_changed_at)
        return age < FRESH_S or (age < STALE_S and changed_at < known.made_at and self._hears())

    async def _make(self, key: Key, make: Callable[[], Awaitable[str]]) -> str:
        # Of when it was begun: what changes meanwhile may not be in it.
        begun = self._clock()
        html = await make()
        self._drop(key)
        self._known[key] = _Remembered(html, begun)
        self._bytes += len(html)
        while self._bytes > MAX_BYTES:
            self._drop(next(iter(self._known)))
        return html

    def _drop(self, key: Key) -> None:
        known = self._known.pop(key, None)
        if known is None:
            return
        self._bytes -= len(known.html)
        if not any(other[0] == key[0] for other in self._known):
            self._changed_at.pop(key[0], None)
