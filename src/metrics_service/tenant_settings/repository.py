"""All SQL of the tenant's settings. No `tenant_id` in sight: row security filters and fills it in."""

from __future__ import annotations

import msgspec

from metrics_service.db.tenancy import ContextConnection
from metrics_service.ingest.raw_requests import forget_raw_requests
from metrics_service.tenant_settings.schemas import TenantSettings, TenantSettingsPatch

READ = "SELECT coalesce(jsonb_object_agg(name, value), '{}')::text FROM tenant_settings"

CHANGE = """
INSERT INTO tenant_settings (name, value)
SELECT key, value FROM jsonb_each($1::jsonb) ORDER BY key
ON CONFLICT (tenant_id, name) DO UPDATE SET value = excluded.value, updated_at = now()
"""


async def read_settings(connection: ContextConnection) -> TenantSettings:
    """What holds for the tenant of the transaction."""
    return msgspec.json.decode(await connection.fetchval(READ), type=TenantSettings)


async def change_settings(connection: ContextConnection, patch: TenantSettingsPatch) -> None:
    """Set what is given; what may no longer be kept is deleted with it."""
    if given := patch.given():
        await connection.execute(CHANGE, msgspec.json.encode(given).decode())
    if isinstance(patch.raw_hours, int):
        await forget_raw_requests(connection, hours=patch.raw_hours)
