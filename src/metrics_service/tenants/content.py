"""Whether a tenant lets prompts, arguments and outputs be stored."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.cache import TenantCache
from metrics_service.db.tenancy import TenantContext, tenant_connection

MAX_TENANTS_REMEMBERED = 10_000
# What a tenant no longer allows must not be stored for long.
TTL_S = 2.0

KEEPS = "SELECT value = 'true'::jsonb FROM tenant_settings WHERE name = 'keep_content'"


class SettingsDirectory:
    """Answers from memory for two seconds, so that not every request of telemetry asks."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._known: TenantCache[bool] = TenantCache(MAX_TENANTS_REMEMBERED, lambda: TTL_S)

    async def keeps_content(self, tenant_id: UUID) -> bool:
        """Whether the tenant allowed it; nobody has unless he said so."""
        known = self._known.get(tenant_id, KEEPS)
        if known is None:
            context = TenantContext(tenant_id, read_only=True)
            async with tenant_connection(self._engine, context) as connection:
                known = bool(await connection.fetchval(KEEPS))
            self._known.put(tenant_id, KEEPS, known)
        return known
