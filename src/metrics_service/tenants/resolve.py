"""From a host to the tenant that lives there."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.cache.second_level import NOBODY
from metrics_service.db.pool import breaker_of
from metrics_service.db.tenancy import registry_connection
from metrics_service.observability import catalog
from metrics_service.tenants.database_time import MOMENT, Moment
from metrics_service.tenants.looked_up import FRESH_S, Found, LookUps, Shared
from metrics_service.tenants.names import strip_base
from metrics_service.tenants.revisions import is_behind

MAX_HOSTS = 20_000
# Small, because anybody can ask for hosts that do not exist.
MAX_UNKNOWN_HOSTS = 1_000
CACHE = "hosts"

RESOLVE = f"""
SELECT {MOMENT}, id, slug, name, domain, plan, status, schema_revision, schema_status
FROM public.resolve_host($1)
"""


class ServedTenant(msgspec.Struct, frozen=True):
    """What the edge needs to know of a tenant."""

    id: UUID
    slug: str
    name: str
    domain: str
    plan: str
    status: str
    schema_revision: str | None
    schema_status: str | None

    @property
    def is_active(self) -> bool:
        return self.status == "active"

    @property
    def schema_is_ready(self) -> bool:
        return self.schema_status == "ready" and not is_behind("tenant", self.schema_revision)


class TenantDirectory:
    """Looks hosts up, and remembers the answers for as long as `ttl_s` allows."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        base_domain: str,
        ttl_s: Callable[[], float],
        shared: Shared | None = None,
    ) -> None:
        self._engine = engine
        self._base_domain = base_domain
        self._ttl_s = ttl_s
        self._known: LookUps[ServedTenant] = LookUps(
            CACHE,
            ServedTenant,
            max_entries=MAX_HOSTS,
            ttl_s=ttl_s,
            refuse=breaker_of(engine).refuse,
            owner_of=lambda _, tenant: tenant.id,
            shared=shared,
        )
        self._unknown: OrderedDict[str, float] = OrderedDict()
        # An answer asked for before a change and arriving after it must not be remembered.
        self._changes = 0
        catalog.CACHE_ENTRIES.read_of(self._unknown, len, CACHE)

    async def find(self, host: str) -> ServedTenant | None:
        """Find the tenant of a normalised host."""
        missed_at = self._unknown.get(host)
        if missed_at is not None and time.monotonic() - missed_at <= min(self._ttl_s(), FRESH_S):
            catalog.note_lookup(CACHE, is_hit=True)
            return None
        changes = self._changes
        # Nobody's: whose it is is what is looked up.
        tenant = await self._known.find(NOBODY, host.encode(), lambda: self._look_up(host))
        if tenant is None and changes == self._changes:
            self._unknown[host] = time.monotonic()
            if len(self._unknown) > MAX_UNKNOWN_HOSTS:
                self._unknown.popitem(last=False)
        elif missed_at is not None:
            self._unknown.pop(host, None)
        return tenant

    def forget(self, tenant_id: UUID | None) -> None:
        """Forget one tenant, or everything; unknown hosts always, for one may be the tenant's now."""
        self._changes += 1
        self._unknown.clear()
        self._known.forget(tenant_id)

    async def _look_up(self, host: str) -> Found[ServedTenant] | None:
        async with registry_connection(self._engine) as connection:
            row = await connection.fetchrow(RESOLVE, strip_base(host, self._base_domain))
        if row is None:
            return None
        looked_up_at, server, tenant_id, *columns = row
        # asyncpg's own kind of UUID is not what others compare with.
        tenant = ServedTenant(UUID(int=tenant_id.int), *columns)
        return Found(tenant, Moment.of(looked_up_at, server))
