"""`/api/v1/me`: what a credential is good for."""

from __future__ import annotations

from uuid import UUID

import msgspec
from litestar import get
from litestar.di import NamedDependency

from metrics_service.http.batches import MAX_ITEMS
from metrics_service.http.dependencies import Caller, requires
from metrics_service.http.in_flight import IN_FLIGHT_A_TENANT
from metrics_service.http.limits import max_body_bytes
from metrics_service.ingest.tool_names import MAX_TOOL_NAMES


class MeTenant(msgspec.Struct, frozen=True):
    id: UUID
    slug: str
    name: str
    domain: str
    plan: str


class MePrincipal(msgspec.Struct, frozen=True):
    kind: str
    id: UUID
    name: str


class Limits(msgspec.Struct, frozen=True):
    """What one request may ask for, and how many at a time."""

    batch_items: int
    batch_bytes: int
    requests_in_flight: int
    requests_per_second: int | None
    """None is no limit."""
    tool_names: int
    page_rows: int


class Me(msgspec.Struct, frozen=True):
    tenant: MeTenant
    principal: MePrincipal
    role: str
    scopes: list[str]
    limits: Limits


@get("/api/v1/me", opt=requires(None), tags=["me"])
async def get_me(caller: NamedDependency[Caller]) -> Me:
    """Say which tenant this is, and what the credential is good for."""
    tenant, principal = caller.tenant, caller.principal
    return Me(
        tenant=MeTenant(tenant.id, tenant.slug, tenant.name, tenant.domain, tenant.plan),
        principal=MePrincipal(principal.kind, principal.id, principal.name),
        role=principal.role,
        scopes=sorted(principal.scopes),
        limits=Limits(
            batch_items=MAX_ITEMS,
            batch_bytes=max_body_bytes("/api/v1/tool-metrics/batch"),
            requests_in_flight=IN_FLIGHT_A_TENANT,
            requests_per_second=caller.database.rate.per_second or None,
            tool_names=MAX_TOOL_NAMES,
            page_rows=500,
        ),
    )
