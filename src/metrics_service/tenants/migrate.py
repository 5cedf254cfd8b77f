"""Brings one schema to a revision: one transaction, one row of the ledger."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from io import StringIO
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import Script
from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.db import coverage
from metrics_service.db.engine import owner_connection
from metrics_service.db.failures import driver_error
from metrics_service.db.roles import OWNER
from metrics_service.db.tenancy import NOTE_CHANGE
from metrics_service.errors import MigrationError
from metrics_service.tenants.ledger import has_ledger, record, revision_of
from metrics_service.tenants.registry import notify
from metrics_service.tenants.revisions import REGISTRY, history_of
from metrics_service.tenants.steps import steps_to
from metrics_service.tenants.wall import wall_options

LOCK_TIMEOUT_MS = 3000
LOCK_ATTEMPTS = 3
# Somebody held a lock for too long, or wanted ours while we wanted his.
IN_EACH_OTHERS_WAY = frozenset({"55P03", "40P01"})

# They stand for a tenant's where what makes any tenant is written down.
ANY_ROLE, ANY_ID = "t_any_tenants_role", UUID("00000000-0000-4000-8000-616e79207465")


class Outcome(msgspec.Struct, frozen=True):
    """What became of one schema in one run; `error` is None when it is where it should be."""

    schema_name: str
    revision: str | None
    error: str | None = None


class Target(msgspec.Struct, frozen=True):
    """What a run needs to know besides the schema's name; travels to worker processes."""

    owner_dsn: str
    runtime_role: str
    steps_back: bool = False
    to: str | None = None


async def migrate(
    connection: AsyncConnection,
    schema: str,
    target: Target,
    *,
    tenant_ids: list[UUID] | None = None,
) -> str | None:
    """Bring one schema to the target inside the caller's transaction; return its revision.

    The transaction is left as the owner role with the schema on its path. Raises `MigrationError`
    when the coverage gate finds a hole, naming the table.
    """
    options = await wall_options(connection, schema, runtime_role=target.runtime_role)
    await connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
    await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
    path = REGISTRY if schema == REGISTRY else f"{schema}, shared, pg_temp"
    await connection.execute(text(f"SET LOCAL search_path = {path}"))
    current = await revision_of(connection, schema)
    if schema != REGISTRY:
        options["tenant_ids"] = tenant_ids or await _ids_in(connection, schema)
        if not options["tenant_ids"]:
            raise MigrationError(f"schema {schema} belongs to no tenant")
        # Under FORCE a data migration without a tenant would touch no row, silently.
        await connection.execute(text(f"SET LOCAL app.tenant_id = '{options['tenant_ids'][0]}'"))
    steps = steps_to(history_of(schema), current, back=target.steps_back, to=target.to)
    reached = steps[-1][1] if steps else current
    scripts = [step for step, _ in steps]
    if schema != REGISTRY and current is None and not target.steps_back:
        await connection.exec_driver_sql(_as_one_statement(scripts, options))
    else:
        await connection.run_sync(_run, scripts, options, target.steps_back)
    if schema != REGISTRY and reached is not None:
        holes = await coverage.tenant_holes(connection, schema)
        if holes:
            raise MigrationError("coverage gate: " + "; ".join(holes))
    if steps and current is not None and schema != REGISTRY:
        await _note_changes(connection, options["tenant_ids"])
    if await has_ledger(connection):
        await record(connection, schema, reached, "ready", None)
    return reached


async def _note_changes(connection: AsyncConnection, tenant_ids: list[UUID]) -> None:
    """What a revision did to rows changes what is answered of them."""
    if not await connection.scalar(text("SELECT to_regclass('data_versions') IS NOT NULL")):
        # On the way back to before it.
        return
    for tenant_id in tenant_ids:
        await connection.execute(text(f"SET LOCAL app.tenant_id = '{tenant_id}'"))
        await connection.exec_driver_sql(NOTE_CHANGE)


def _run(connection: Connection, steps: list[Script], options: dict[str, Any], back: bool) -> None:
    _walk(MigrationContext.configure(connection, opts=options), steps, back)


def _as_one_statement(steps: list[Script], options: dict[str, Any]) -> str:
    """All that makes a new schema, where a statement each would be a hundred round trips.

    It is written down before any of it runs: a tenant's revision asks the database in SQL alone.
    """
    usual = {name: options[name] for name in options.keys() - {"role", "tenant_ids"}}
    ids = "', '".join(str(tenant_id) for tenant_id in options["tenant_ids"])
    return (
        _written(tuple(steps), frozenset(usual.items()))
        .replace(ANY_ROLE, options["role"])
        .replace(str(ANY_ID), ids)
    )


@lru_cache(maxsize=4)
def _written(steps: tuple[Script, ...], usual: frozenset[tuple[str, Any]]) -> str:
    """The same for all tenants of a server but for who they are; to write it takes 10 ms."""
    sql = StringIO()
    opts = {"as_sql": True, "output_buffer": sql, "role": ANY_ROLE, "tenant_ids": [ANY_ID]}
    dialect = PGDialect_asyncpg()  # type: ignore[no-untyped-call]
    context = MigrationContext.configure(dialect=dialect, opts=dict(usual) | opts)
    _walk(context, steps, back=False)
    return f"DO $revisions$ BEGIN {sql.getvalue()} END $revisions$"


def _walk(context: MigrationContext, steps: Iterable[Script], back: bool) -> None:
    with Operations.context(context):
        for script in steps:
            try:
                (script.module.downgrade if back else script.module.upgrade)()
            except (DBAPIError, MigrationError):
                raise
            except Exception as error:
                # One tenant's data may trip a revision in any way; the others' must not wait for it.
                raise MigrationError(
                    f"{script.revision}: {type(error).__name__}: {error}"
                ) from error


async def _ids_in(connection: AsyncConnection, schema: str) -> list[UUID]:
    found = await connection.execute(
        text("SELECT id FROM public.tenants WHERE schema_name = :schema ORDER BY id"),
        {"schema": schema},
    )
    return list(found.scalars())


async def migrate_alone(schema: str, target: Target) -> Outcome:
    """Bring one schema to the target in a transaction of its own; never raises for that schema."""
    async with owner_connection(target.owner_dsn) as connection:
        for attempt in range(1, LOCK_ATTEMPTS + 1):
            try:
                async with connection.begin():
                    reached = await migrate(connection, schema, target)
                    # The registry's own first revision takes the table of tenants with it.
                    if schema != REGISTRY:
                        await _tell_servers(connection, schema)
                return Outcome(schema, reached)
            except (MigrationError, DBAPIError) as error:
                if attempt < LOCK_ATTEMPTS and _sqlstate(error) in IN_EACH_OTHERS_WAY:
                    continue
                return await _failed(connection, schema, error)
    raise AssertionError("unreachable")


async def _tell_servers(connection: AsyncConnection, schema: str) -> None:
    for tenant_id in await _ids_in(connection, schema):
        await notify(connection, tenant_id)


async def _failed(connection: AsyncConnection, schema: str, error: Exception) -> Outcome:
    reason = first_line(error)
    async with connection.begin():
        await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
        if not await has_ledger(connection):
            return Outcome(schema, None, reason)
        revision = await revision_of(connection, schema)
        await record(connection, schema, revision, "failed", reason)
        await _tell_servers(connection, schema)
    return Outcome(schema, revision, reason)


def _sqlstate(error: Exception) -> str | None:
    cause = driver_error(error)
    return cause.sqlstate if isinstance(cause, asyncpg.PostgresError) else None


def first_line(error: Exception) -> str:
    cause = driver_error(error)
    return (str(cause).splitlines() or [type(cause).__name__])[0][:500]
