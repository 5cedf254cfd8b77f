"""A small cache whose every key begins with a tenant."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar
from uuid import UUID

V = TypeVar("V")


class TenantCache(Generic[V]):
    """Bounded, least recently used out first; an entry lives `ttl_s()` seconds, asked when it is read.

    The lifetime is a function because it depends on whether invalidations arrive at the moment.
    """

    def __init__(self, max_entries: int, ttl_s: Callable[[], float]) -> None:
        self._max_entries = max_entries
        self._ttl_s = ttl_s
        self._entries: OrderedDict[tuple[UUID, Hashable], tuple[float, V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, tenant_id: UUID, key: Hashable) -> V | None:
        entry = self._entries.get((tenant_id, key))
        if entry is None:
            return None
        stored_at, value = entry
        if time.monotonic() - stored_at > self._ttl_s():
            del self._entries[tenant_id, key]
            return None
        self._entries.move_to_end((tenant_id, key))
        return value

    def put(self, tenant_id: UUID, key: Hashable, value: V) -> None:
        self._entries[tenant_id, key] = (time.monotonic(), value)
        self._entries.move_to_end((tenant_id, key))
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)
