"""The registry of tenants: what it says of one, what was done to it, and who is to be told."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.errors import NotFoundError

CHANNEL = "metrics_registry"
"""Where every change is announced, by the tenant's id."""


class Tenant(msgspec.Struct, frozen=True):
    """A tenant as operators see it."""

    id: UUID
    slug: str
    name: str
    domain: str
    schema_name: str
    subscription_plan: str
    status: str


# In the order of the struct.
COLUMNS = "id, slug, name, domain, schema_name, subscription_plan, status"


def tenant_of(row: Row[Any]) -> Tenant:
    columns: list[Any] = list(row)
    return Tenant(*columns)


async def find_tenant(connection: AsyncConnection, name: str) -> Tenant | None:
    """Find by slug, domain or id; a deleted tenant is not found."""
    row = (
        await connection.execute(
            text(
                f"""
                SELECT {COLUMNS} FROM public.tenants t
                WHERE status <> 'deleted'
                  AND (slug = :name OR id::text = :name OR id =
                       (SELECT tenant_id FROM public.tenant_domains WHERE host = :name))
                ORDER BY slug = :name DESC LIMIT 1
                """
            ),
            {"name": name.lower().rstrip(".")},
        )
    ).one_or_none()
    return tenant_of(row) if row is not None else None


async def get_tenant(connection: AsyncConnection, name: str) -> Tenant:
    """As `find_tenant`; raises `NotFoundError`."""
    tenant = await find_tenant(connection, name)
    if tenant is None:
        raise NotFoundError("tenant", name)
    return tenant


async def list_tenants(connection: AsyncConnection) -> list[Tenant]:
    rows = await connection.execute(
        text(f"SELECT {COLUMNS} FROM public.tenants WHERE status <> 'deleted' ORDER BY slug")
    )
    return [tenant_of(row) for row in rows]


async def record_action(
    connection: AsyncConnection, action: str, tenant_id: UUID, **detail: str
) -> None:
    """Write what an operator did into the registry's audit."""
    await connection.execute(
        text(
            """
            INSERT INTO public.operator_audit (action, tenant_id, detail)
            VALUES (:action, :tenant_id, CAST(:detail AS jsonb))
            """
        ),
        {
            "action": action,
            "tenant_id": tenant_id,
            "detail": msgspec.json.encode(detail).decode(),
        },
    )


async def notify(connection: AsyncConnection, tenant_id: UUID) -> None:
    """Tell every serving process, on commit, to forget what it knows of this tenant."""
    await connection.execute(
        text("SELECT pg_notify(:channel, :id)"), {"channel": CHANNEL, "id": str(tenant_id)}
    )
