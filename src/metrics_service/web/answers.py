"""Remembers what pages show, so that a thousand open ones ask the database once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from uuid import UUID

from metrics_service.cache.flights import Flights
from metrics_service.cache.memory import TenantCache
from metrics_service.cache.two_levels import TwoLevels
from metrics_service.rollups.version import key_of

KIND = "page"
# However much arrives: nobody reads faster.
FRESH_S = 2.0
MAX_TENANTS = 10_000

VERSION = "version"


class Answers:
    """Rendered parts of pages by tenant, question and the version of the tenant's data.

    Of each tenant the version is looked at once in two seconds, so a page may be as old as that.
    """

    def __init__(self, kept: TwoLevels) -> None:
        self._kept = kept
        self._versions: TenantCache[int] = TenantCache(MAX_TENANTS, lambda: FRESH_S)
        self._looks: Flights[UUID, int] = Flights()

    async def get(
        self,
        tenant_id: UUID,
        question: tuple[object, ...],
        make: Callable[[], Awaitable[str]],
        *,
        look: Callable[[], Coroutine[Any, Any, int]],
    ) -> str:
        """The answer, made at most once at a time; raises what `make` or `look` raises."""
        version = self._versions.get(tenant_id, VERSION)
        if version is None:
            version = await self._looks.join(tenant_id, lambda: self._look(tenant_id, look))

        async def encoded() -> bytes:
            return (await make()).encode()

        key = key_of(version, *question)
        return (await self._kept.get(tenant_id, KIND, key, encoded)).decode()

    async def _look(self, tenant_id: UUID, look: Callable[[], Awaitable[int]]) -> int:
        version = await look()
        self._versions.put(tenant_id, VERSION, version)
        return version
