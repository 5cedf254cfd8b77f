"""What an operator does to a tenant that exists: suspend, resume, delete, move its hosts."""

from __future__ import annotations

from uuid import UUID

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.db.failures import driver_error
from metrics_service.db.roles import OWNER
from metrics_service.errors import ConflictError, NotFoundError, UnavailableError
from metrics_service.tenants.registry import (
    COLUMNS,
    Tenant,
    get_tenant,
    notify,
    record_action,
    tenant_of,
)

DROP_ATTEMPTS = 5
# What the registry knows of a tenant beside its name.
OF_A_TENANT = ("tenant_domains", "api_keys", "slow_queries", "tenant_activity", "tenant_sizes")


async def suspend(connection: AsyncConnection, name: str) -> Tenant:
    """Stop serving a tenant; its data stays. Raises `ConflictError` unless it is active."""
    return await _change_status(connection, name, "suspended", allowed_from=("active", "suspended"))


async def resume(connection: AsyncConnection, name: str) -> Tenant:
    """Serve a suspended tenant again."""
    return await _change_status(connection, name, "active", allowed_from=("suspended", "active"))


async def _change_status(
    connection: AsyncConnection, name: str, status: str, *, allowed_from: tuple[str, ...]
) -> Tenant:
    async with connection.begin():
        await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
        tenant = await get_tenant(connection, name)
        return await _set_status(connection, tenant, status, allowed_from=allowed_from)


async def set_served(connection: AsyncConnection, tenant_id: UUID, *, is_served: bool) -> Tenant:
    """As `resume` or `suspend`, in the caller's transaction, which is the owner's.

    Raises `NotFoundError`.
    """
    row = await connection.execute(
        text(f"SELECT {COLUMNS} FROM public.tenants WHERE id = :id AND status <> 'deleted'"),
        {"id": tenant_id},
    )
    found = row.one_or_none()
    if found is None:
        raise NotFoundError("tenant", tenant_id)
    status = "active" if is_served else "suspended"
    return await _set_status(
        connection, tenant_of(found), status, allowed_from=("active", "suspended")
    )


async def _set_status(
    connection: AsyncConnection, tenant: Tenant, status: str, *, allowed_from: tuple[str, ...]
) -> Tenant:
    if tenant.status not in allowed_from:
        raise ConflictError(f"tenant {tenant.slug} is {tenant.status}")
    row = await connection.execute(
        text(
            f"""
            UPDATE public.tenants SET status = :status, updated_at = now()
            WHERE id = :id RETURNING {COLUMNS}
            """
        ),
        {"id": tenant.id, "status": status},
    )
    await record_action(connection, f"tenant {status}", tenant.id)
    await notify(connection, tenant.id)
    return tenant_of(row.one())


async def rename(
    connection: AsyncConnection, name: str, *, new_name: str | None, slug: str | None
) -> Tenant:
    """Change what people see, the slug or both; raises `ConflictError` when the slug is taken.

    Schema, role and domains stay: nothing that clients use is made from the slug.
    """
    try:
        async with connection.begin():
            await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
            tenant = await get_tenant(connection, name)
            row = await connection.execute(
                text(
                    f"""
                    UPDATE public.tenants SET name = :name, slug = :slug, updated_at = now()
                    WHERE id = :id RETURNING {COLUMNS}
                    """
                ),
                {"id": tenant.id, "name": new_name or tenant.name, "slug": slug or tenant.slug},
            )
            await record_action(connection, "tenant rename", tenant.id)
            await notify(connection, tenant.id)
            return tenant_of(row.one())
    except IntegrityError as error:
        raise ConflictError(f"slug {slug} is taken") from error


async def delete(connection: AsyncConnection, name: str) -> Tenant:
    """Delete a tenant with everything it has; slug and hosts are free afterwards.

    First it stops being served, then schema, role and keys go in one transaction; a run that was
    killed in between is finished by the next. The row stays without its names, so that the id, and
    with it every old key, never lives again.
    """
    tenant = await _change_status(
        connection,
        name,
        "deleting",
        allowed_from=("active", "suspended", "deleting", "provisioning"),
    )
    for attempt in range(1, DROP_ATTEMPTS + 1):
        try:
            async with connection.begin():
                await _drop(connection, tenant)
        except DBAPIError as error:
            cause = driver_error(error)
            if not isinstance(
                cause, (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
            ):
                raise
            if attempt == DROP_ATTEMPTS:
                raise UnavailableError(
                    f"tenant {tenant.slug} is no longer served, but a transaction still holds its"
                    " tables; run the same command again"
                ) from error
        else:
            return tenant
    raise AssertionError("unreachable")


async def _drop(connection: AsyncConnection, tenant: Tenant) -> None:
    schema = tenant.schema_name
    await connection.execute(text("SET LOCAL lock_timeout = '3s'"))
    await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
    await connection.execute(text(f"DROP SCHEMA IF EXISTS {schema} CASCADE"))
    for table in OF_A_TENANT:
        await connection.execute(
            text(f"DELETE FROM public.{table} WHERE tenant_id = :id"), {"id": tenant.id}
        )
    await connection.execute(
        text(
            """
            UPDATE public.tenants
            SET status = 'deleted', name = '', metadata = '{}', updated_at = now(),
                slug = 'deleted-' || :key, domain = 'deleted-' || :key
            WHERE id = :id
            """
        ),
        {"id": tenant.id, "key": schema.removeprefix("t_")},
    )
    await connection.execute(
        text("DELETE FROM public.tenant_schemas WHERE schema_name = :schema"), {"schema": schema}
    )
    await record_action(connection, "tenant delete", tenant.id)
    await notify(connection, tenant.id)
    await connection.execute(text("RESET ROLE"))
    await connection.execute(text(f"DROP ROLE IF EXISTS {schema}"))


# -- hosts ------------------------------------------------------------------------------------------


async def list_domains(connection: AsyncConnection, tenant_id: UUID) -> list[str]:
    rows = await connection.execute(
        text("SELECT host FROM public.tenant_domains WHERE tenant_id = :id ORDER BY host"),
        {"id": tenant_id},
    )
    return list(rows.scalars())


async def add_domain(connection: AsyncConnection, tenant_id: UUID, host: str) -> None:
    """Serve the tenant at one more host, normalised before; raises `ConflictError`."""
    async with connection.begin():
        await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
        added = await connection.execute(
            text(
                """
                INSERT INTO public.tenant_domains (host, tenant_id) VALUES (:host, :id)
                ON CONFLICT (host) DO NOTHING RETURNING host
                """
            ),
            {"host": host, "id": tenant_id},
        )
        if added.one_or_none() is None and host not in await list_domains(connection, tenant_id):
            raise ConflictError(f"domain {host} is taken")
        await record_action(connection, "tenant domain add", tenant_id, host=host)
        await notify(connection, tenant_id)


async def remove_domain(connection: AsyncConnection, tenant: Tenant, host: str) -> None:
    """Stop serving the tenant at a host; its first domain stays. Raises `NotFoundError`."""
    if host == tenant.domain:
        raise ConflictError(f"{host} is the tenant's first domain and stays")
    async with connection.begin():
        await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
        removed = await connection.execute(
            text(
                """
                DELETE FROM public.tenant_domains WHERE host = :host AND tenant_id = :id
                RETURNING host
                """
            ),
            {"host": host, "id": tenant.id},
        )
        if removed.one_or_none() is None:
            raise NotFoundError("domain", host)
        await record_action(connection, "tenant domain remove", tenant.id, host=host)
        await notify(connection, tenant.id)
