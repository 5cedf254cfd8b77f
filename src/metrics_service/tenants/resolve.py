"""From a host to the tenant that lives there."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.tenancy import registry_connection
from metrics_service.tenants.names import strip_base
from metrics_service.tenants.revisions import is_behind

MAX_HOSTS = 10_000
# Small, because anybody can ask for hosts that do not exist.
MAX_UNKNOWN_HOSTS = 1_000


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
        self, engine: AsyncEngine, *, base_domain: str, ttl_s: Callable[[], float]
    ) -> None:
        self._engine = engine
        self._base_domain = base_domain
        self._ttl_s = ttl_s
        self._known: OrderedDict[str, tuple[float, ServedTenant]] = OrderedDict()
        self._unknown: OrderedDict[str, float] = OrderedDict()
        # An answer asked for before a change and arriving after it must not be remembered.
        self._changes = 0

    async def find(self, host: str) -> ServedTenant | None:
        """Find the tenant of a normalised host."""
        entry = self._known.get(host)
        if entry is not None and time.monotonic() - entry[0] <= self._ttl_s():
            return entry[1]
        missed_at = self._unknown.get(host)
        if missed_at is not None and time.monotonic() - missed_at <= self._ttl_s():
            return None
        changes = self._changes
        tenant = await self._look_up(host)
        if changes == self._changes:
            self._remember(host, tenant)
        return tenant

    def forget(self, tenant_id: UUID | None) -> None:
        """Forget one tenant, or everything; unknown hosts always, for one may be the tenant's now."""
        self._changes += 1
        self._unknown.clear()
        if tenant_id is None:
            self._known.clear()
            return
        for host in [host for host, (_, known) in self._known.items() if known.id == tenant_id]:
            del self._known[host]

    async def _look_up(self, host: str) -> ServedTenant | None:
        async with registry_connection(self._engine) as connection:
            row = await connection.fetchrow(
                """
                SELECT id, slug, name, domain, plan, status, schema_revision, schema_status
                FROM public.resolve_host($1)
                """,
                strip_base(host, self._base_domain),
            )
        return ServedTenant(*row) if row is not None else None

    def _remember(self, host: str, tenant: ServedTenant | None) -> None:
        if tenant is None:
            self._known.pop(host, None)
            self._unknown[host] = time.monotonic()
            if len(self._unknown) > MAX_UNKNOWN_HOSTS:
                self._unknown.popitem(last=False)
            return
        self._known[host] = (time.monotonic(), tenant)
        if len(self._known) > MAX_HOSTS:
            self._known.popitem(last=False)
