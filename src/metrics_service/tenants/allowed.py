"""What a tenant lets be stored of telemetry besides its rows, and who may be seen in them."""

from __future__ import annotations

from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.cache.flights import Flights
from metrics_service.cache.memory import TenantCache
from metrics_service.db.tenancy import ContextConnection, TenantContext, tenant_connection
from metrics_service.observability import catalog

MAX_TENANTS_REMEMBERED = 10_000
CACHE = "settings"
# What a tenant no longer allows must not be stored for long.
TTL_S = 2.0

ALLOWED = """
SELECT coalesce(bool_or(name = 'keep_content' AND value = 'true'::jsonb), false) AS keeps_content,
       coalesce(max(value::text) FILTER (WHERE name = 'raw_hours'), '0')::integer AS raw_hours,
       coalesce(bool_or(name = 'hide_people' AND value = 'true'::jsonb), false) AS hides_people
FROM tenant_settings WHERE name IN ('keep_content', 'raw_hours', 'hide_people')
"""


class Allowed(msgspec.Struct, frozen=True):
    """Nobody allows anything unless he said so."""

    keeps_content: bool
    """Whether prompts, arguments and outputs may be stored with the rows."""
    raw_hours: int
    """For how long requests are kept as they came; 0: not at all."""
    hides_people: bool = False
    """Whether those who have signed in see teams, repositories and agents only."""


class SettingsDirectory:
    """Answers from memory for two seconds, so that not every request asks."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._known: TenantCache[Allowed] = TenantCache(MAX_TENANTS_REMEMBERED, lambda: TTL_S)
        # Who comes when it is half over waits for one of its own: what he allows may be new.
        self._flights: Flights[UUID, Allowed] = Flights(joined_for_s=TTL_S / 2)
        catalog.CACHE_ENTRIES.read_of(self._known, len, CACHE)

    async def allowed(self, tenant_id: UUID) -> Allowed:
        """What the tenant allows."""
        known = self._known.get(tenant_id, ALLOWED)
        catalog.note_lookup(CACHE, is_hit=known is not None)
        if known is not None:
            return known
        return await self._flights.join(tenant_id, lambda: self._look_up(tenant_id))

    async def _look_up(self, tenant_id: UUID) -> Allowed:
        context = TenantContext(tenant_id, read_only=True)
        async with tenant_connection(self._engine, context) as connection:
            found = await read_allowed(connection)
        self._known.put(tenant_id, ALLOWED, found)
        return found


async def read_allowed(connection: ContextConnection) -> Allowed:
    """What the tenant of the transaction allows at this moment."""
    return Allowed(*await connection.fetchrow(ALLOWED))
