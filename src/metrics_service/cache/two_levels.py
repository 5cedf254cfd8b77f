"""Answers that were dear to make, in memory and behind it in Redis.

For what is true for ever under its key: whoever asks puts the version of all that the answer depends on
into the key, for nothing here is ever told that something changed.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeAlias
from uuid import UUID

import msgspec

from metrics_service.cache.flights import Flights
from metrics_service.cache.second_level import SecondLevel
from metrics_service.observability import catalog

# What an entry takes beside its bytes: keys, the struct, the dictionary's place.
ENTRY_BYTES = 600

Place: TypeAlias = tuple[UUID, str, bytes]


class _Kept(msgspec.Struct, frozen=True):
    value: bytes
    until: float


class TwoLevels:
    """Bounded by its bytes, least recently used out first; an entry lives `ttl_s` in each level."""

    def __init__(
        self,
        name: str,
        *,
        max_bytes: int,
        ttl_s: float,
        second: SecondLevel | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._second = second
        self._clock = clock
        self._kept: OrderedDict[Place, _Kept] = OrderedDict()
        self._bytes = 0
        self._flights: Flights[Place, bytes] = Flights()
        catalog.CACHE_ENTRIES.read_of(self._kept, len, name)

    async def get(
        self, tenant_id: UUID, kind: str, key: bytes, make: Callable[[], Awaitable[bytes]]
    ) -> bytes:
        """What is kept under this, or what `make` makes now, once for all who wait; raises what it raises."""
        place = (tenant_id, kind, key)
        kept = self._kept.get(place)
        if kept is not None and self._clock() < kept.until:
            self._kept.move_to_end(place)
            catalog.note_lookup(self._name, is_hit=True)
            return kept.value
        # Who waits for what is made already asks the database nothing either.
        catalog.note_lookup(self._name, is_hit=place in self._flights)
        return await self._flights.join(place, lambda: self._fetch(place, make))

    async def _fetch(self, place: Place, make: Callable[[], Awaitable[bytes]]) -> bytes:
        second = self._second
        value = None if second is None else await second.get(*place)
        if value is None:
            value = await make()
            if second is not None:
                # Whoever waits for the answer does not wait for Redis too.
                second.soon(second.put(*place, value, ttl_s=self._ttl_s))
        self._keep(place, value)
        return value

    def _keep(self, place: Place, value: bytes) -> None:
        self._drop(place)
        if _size(place, value) > self._max_bytes:
            return
        self._kept[place] = _Kept(value, self._clock() + self._ttl_s)
        self._bytes += _size(place, value)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, place: Place) -> None:
        kept = self._kept.pop(place, None)
        if kept is not None:
            self._bytes -= _size(place, kept.value)


def _size(place: Place, value: bytes) -> int:
    return len(value) + len(place[2]) + ENTRY_BYTES
