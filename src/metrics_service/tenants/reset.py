"""Takes everything of ours out of a database, so that `db init` finds it empty again."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.db.engine import owner_connection
from metrics_service.db.roles import OWNER
from metrics_service.tenants.migrate import LOCK_TIMEOUT_MS, Target
from metrics_service.tenants.upgrade import one_at_a_time

OUR_SCHEMAS = f"""
SELECT n.nspname FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
WHERE n.nspname ~ '^t_[a-z0-9]{{1,50}}$' AND r.rolname = '{OWNER}' ORDER BY 1
"""

# By owner, not by name: whatever a later release added goes too, and what is not ours stays.
OUR_REGISTRY = f"""
SELECT format('DROP %s IF EXISTS %s CASCADE',
              CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
                             WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::regclass)
FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relowner = '{OWNER}'::regrole
  AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('a', 'i', 'e'))
UNION ALL
SELECT format('DROP ROUTINE IF EXISTS %s CASCADE', p.oid::regprocedure)
FROM pg_proc p
WHERE p.pronamespace = 'public'::regnamespace AND p.proowner = '{OWNER}'::regrole
"""


async def reset(target: Target, *, on_dropped: Callable[[str, int, int], None]) -> int:
    """Drop every tenant with its role, then the registry; return how many tenants there were.

    A schema for each transaction, because many at once exhaust the lock table. A run that was
    killed is finished by the next.
    """
    async with owner_connection(target.owner_dsn) as connection, one_at_a_time(connection):
        async with connection.begin():
            schemas = list((await connection.execute(text(OUR_SCHEMAS))).scalars())
        for done, schema in enumerate(schemas, start=1):
            async with connection.begin():
                await _drop_tenant(connection, schema)
            on_dropped(schema, done, len(schemas))
        async with connection.begin():
            await _drop_registry(connection)
        return len(schemas)


async def _drop_tenant(connection: AsyncConnection, schema: str) -> None:
    await _as_owner(connection)
    await connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))
    if await connection.scalar(text("SELECT to_regclass('public.tenants') IS NOT NULL")):
        # The registry follows later: until then it must not promise a schema that is gone.
        await connection.execute(
            text("DELETE FROM public.tenants WHERE schema_name = :schema"), {"schema": schema}
        )
        await connection.execute(
            text("DELETE FROM public.tenant_schemas WHERE schema_name = :schema"),
            {"schema": schema},
        )
    await connection.execute(text("RESET ROLE"))
    await connection.execute(text(f"DROP ROLE IF EXISTS {schema}"))


async def _drop_registry(connection: AsyncConnection) -> None:
    await _as_owner(connection)
    await connection.execute(text("DROP SCHEMA IF EXISTS shared CASCADE"))
    for statement in list((await connection.execute(text(OUR_REGISTRY))).scalars()):
        # An earlier one may have taken a later one along.
        await connection.execute(text(statement))


async def _as_owner(connection: AsyncConnection) -> None:
    await connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
    await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
