"""Makes a tenant: role, schema, tables, wall, registry row, all in one transaction."""

from __future__ import annotations

from uuid import UUID, uuid4

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.db.failures import driver_error
from metrics_service.db.roles import BACKUP, OWNER, TENANTS
from metrics_service.errors import ConflictError
from metrics_service.tenants.migrate import Target, migrate
from metrics_service.tenants.new_tenant import NewTenant, Plan, schema_name_of
from metrics_service.tenants.registry import COLUMNS, Tenant, notify, record_action, tenant_of

# The most a statement of a tenant may take, whatever the process allows.
STATEMENT_TIMEOUT_MS: dict[Plan, int] = {"basic": 10_000, "pro": 20_000, "enterprise": 30_000}

UNIQUE_VIOLATIONS = {"23505", "42710", "42P06"}


async def create_tenant(connection: AsyncConnection, new: NewTenant, target: Target) -> Tenant:
    """Create the tenant; raises `ConflictError` when slug or domain are taken.

    One transaction: a kill at any moment leaves nothing behind.
    """
    async with connection.begin():
        return await create_tenant_within(connection, new, target)


async def create_tenant_within(
    connection: AsyncConnection, new: NewTenant, target: Target
) -> Tenant:
    """As `create_tenant`, in the caller's transaction, which is the owner's from then on."""
    try:
        return await _create(connection, new, target)
    except DBAPIError as error:
        cause = driver_error(error)
        if isinstance(cause, asyncpg.PostgresError) and cause.sqlstate in UNIQUE_VIOLATIONS:
            raise ConflictError(f"slug {new.slug} or domain {new.domain} is taken") from error
        raise


async def _create(connection: AsyncConnection, new: NewTenant, target: Target) -> Tenant:
    tenant_id = uuid4()
    schema = schema_name_of(tenant_id)
    # The same names asked for twice at once take turns, so that the second one is told the truth.
    for name in sorted({f"slug:{new.slug}", f"host:{new.domain}"}):
        await connection.execute(
            text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name}
        )
    await _refuse_taken(connection, new)
    runtime = await connection.scalar(
        text("SELECT format('%I', CAST(:name AS text))"), {"name": target.runtime_role}
    )
    version = await connection.scalar(text("SELECT current_setting('server_version_num')::int"))
    await connection.execute(text(f"CREATE ROLE {schema} NOLOGIN"))
    # Before 16 the login's NOINHERIT says the same.
    options = " WITH INHERIT FALSE, SET TRUE" if version >= 160000 else ""
    await connection.execute(text(f"GRANT {schema} TO {runtime}{options}"))
    await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
    await connection.execute(text(f"CREATE SCHEMA {schema}"))
    await migrate(connection, schema, target, tenant_ids=[tenant_id])
    await connection.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO {schema}"))
    await _let_backup_in(connection, schema)
    # From 16 on it locks the group until the end: others who make tenants wait for no more than that.
    await connection.execute(text("RESET ROLE"))
    await connection.execute(text(f"GRANT {TENANTS} TO {schema}"))
    await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
    return await _register(connection, tenant_id, schema, new)


async def _refuse_taken(connection: AsyncConnection, new: NewTenant) -> None:
    taken = (
        await connection.execute(
            text(
                """
                SELECT EXISTS (SELECT FROM public.tenants WHERE slug = :slug) AS slug,
                       EXISTS (SELECT FROM public.tenant_domains WHERE host = :domain) AS domain
                """
            ),
            {"slug": new.slug, "domain": new.domain},
        )
    ).one()
    if taken.slug:
        raise ConflictError(f"slug {new.slug} is taken")
    if taken.domain:
        raise ConflictError(f"domain {new.domain} is taken")


async def _let_backup_in(connection: AsyncConnection, schema: str) -> None:
    if await connection.scalar(
        text("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :name)"), {"name": BACKUP}
    ):
        await connection.execute(text(f"GRANT USAGE ON SCHEMA {schema} TO {BACKUP}"))


async def _register(
    connection: AsyncConnection, tenant_id: UUID, schema: str, new: NewTenant
) -> Tenant:
    row = await connection.execute(
        text(
            f"""
            INSERT INTO public.tenants
                (id, slug, name, domain, schema_name, subscription_plan, status, metadata)
            VALUES (:id, :slug, :name, :domain, :schema, :plan, 'active',
                    jsonb_build_object('statement_timeout_ms', CAST(:timeout AS integer)))
            RETURNING {COLUMNS}
            """
        ),
        {
            "id": tenant_id,
            "slug": new.slug,
            "name": new.name,
            "domain": new.domain,
            "schema": schema,
            "plan": new.plan,
            "timeout": STATEMENT_TIMEOUT_MS[new.plan],
        },
    )
    tenant = tenant_of(row.one())
    await connection.execute(
        text("INSERT INTO public.tenant_domains (host, tenant_id) VALUES (:host, :id)"),
        {"host": new.domain, "id": tenant_id},
    )
    await record_action(connection, "tenant create", tenant_id)
    await notify(connection, tenant_id)
    return tenant
