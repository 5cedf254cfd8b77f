"""Brings schemas to a revision: one schema, one transaction, one row of the ledger.

Alembic holds the revisions (two histories: `registry` for schema public, `tenant` for each tenant
schema); the ledger `public.tenant_schemas` says who is where, and nothing else does. Alembic's `op`
is global to a process, so several schemas at a time means several processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import asyncpg
import msgspec
from alembic.migration import MigrationContext
from alembic.operations import MigrateOperation, Operations
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.db import coverage
from metrics_service.db.engine import owner_connection
from metrics_service.db.roles import BACKUP, OWNER
from metrics_service.errors import MigrationError, NotFoundError
from metrics_service.tenants.processes import in_processes

REGISTRY = "public"
"""The registry's row in the ledger: it is a schema like the others."""

LOCK_TIMEOUT_MS = 3000
LOCK_ATTEMPTS = 3
LOCK_NOT_AVAILABLE = "55P03"

# A schema is serial work; below this many, starting processes costs more than it saves.
SCHEMAS_WORTH_A_PROCESS = 6

History = Literal["registry", "tenant"]


class SchemaState(msgspec.Struct, frozen=True):
    """One row of the ledger."""

    schema_name: str
    revision: str | None
    status: str
    last_error: str | None = None
    is_behind: bool = False


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


# -- revisions --------------------------------------------------------------------------------------


@cache
def scripts() -> ScriptDirectory:
    """The revisions, from the wheel or from the checkout."""
    here = Path(__file__).resolve()
    packaged = here.parents[1] / "alembic"
    root = packaged if packaged.is_dir() else here.parents[3] / "alembic"
    return ScriptDirectory(
        str(root), version_locations=[str(root / "registry"), str(root / "tenant")]
    )


@cache
def revisions(history: History) -> tuple[str, ...]:
    """Revision ids of one history, oldest first; the last one is its head."""
    walked = scripts().walk_revisions("base", f"{history}@head")
    return tuple(reversed([script.revision for script in walked]))


def head(history: History) -> str:
    return revisions(history)[-1]


def is_behind(history: History, revision: str | None) -> bool:
    """True for a revision this code has left behind; one it does not know is ahead, and accepted."""
    if revision is None:
        return True
    known = revisions(history)
    return revision in known and revision != known[-1]


def _history(schema: str) -> History:
    return "registry" if schema == REGISTRY else "tenant"


# -- the wall around a table --------------------------------------------------------------------------


@Operations.register_operation("protect_tenant_table")
class ProtectTenantTable(MigrateOperation):
    """`op.protect_tenant_table(name)`: all that keeps other tenants out, the grants last."""

    def __init__(self, table: str) -> None:
        self.table = table

    @classmethod
    def protect_tenant_table(cls, operations: Operations, table: str) -> None:
        operations.invoke(cls(table))


@Operations.implementation_for(ProtectTenantTable)
def _protect_tenant_table(operations: Operations, operation: ProtectTenantTable) -> None:
    opts = operations.get_context().opts
    for statement in _wall(operation.table, opts):
        operations.execute(statement)


def _wall(table: str, opts: dict[str, Any]) -> Iterator[str]:
    expression, role = opts["tenant_expression"], opts["role"]
    ids = ", ".join(f"'{tenant_id}'" for tenant_id in opts["tenant_ids"])
    yield f"ALTER TABLE {table} ADD CONSTRAINT {table}_tenant CHECK (tenant_id IN ({ids}))"
    yield f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"
    yield f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY"
    # Both carry the expression: some servers drop RESTRICTIVE without a word.
    yield f"CREATE POLICY guard ON {table} AS RESTRICTIVE USING ({expression}) WITH CHECK ({expression})"
    yield f"CREATE POLICY access ON {table} USING ({expression}) WITH CHECK ({expression})"
    yield f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role}"
    if opts["has_backup_role"]:
        yield f"GRANT SELECT ON {table} TO {BACKUP}"


async def _options(connection: AsyncConnection, schema: str, target: Target) -> dict[str, Any]:
    facts = (
        await connection.execute(
            text(
                """
                SELECT format('%I', CAST(:runtime AS text)) AS runtime_role,
                       EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') AS is_citus,
                       EXISTS (SELECT FROM pg_roles WHERE rolname = :backup) AS has_backup_role
                """
            ),
            {"runtime": target.runtime_role, "backup": BACKUP},
        )
    ).one()
    call = "shared.current_tenant()" if facts.is_citus else "(SELECT shared.current_tenant())"
    return {
        "runtime_role": facts.runtime_role,
        "has_backup_role": facts.has_backup_role,
        "tenant_expression": f"tenant_id = {call}",
        "role": schema,
    }


# -- one schema -----------------------------------------------------------------------------------------


async def migrate(
    connection: AsyncConnection, schema: str, target: Target, *, tenant_ids: list[str] | None = None
) -> str | None:
    """Bring one schema to the target inside the caller's transaction; return its revision.

    The transaction is left as the owner role with the schema on its path. Raises `MigrationError`
    when the coverage gate finds a hole, naming the table.
    """
    options = await _options(connection, schema, target)
    await connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))
    await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
    path = REGISTRY if schema == REGISTRY else f"{schema}, shared, pg_temp"
    await connection.execute(text(f"SET LOCAL search_path = {path}"))
    current = await _revision(connection, schema)
    if schema != REGISTRY:
        options["tenant_ids"] = tenant_ids or await _tenant_ids(connection, schema)
        # Under FORCE a data migration without a tenant would touch no row, silently.
        await connection.execute(
            text("SELECT set_config('app.tenant_id', :id, true)"), {"id": options["tenant_ids"][0]}
        )
    steps = _steps(_history(schema), current, target)
    reached = steps[-1][1] if steps else current
    await connection.run_sync(_run, [step for step, _ in steps], options, target.steps_back)
    if schema != REGISTRY and reached is not None:
        holes = await coverage.tenant_holes(connection, schema)
        if holes:
            raise MigrationError("coverage gate: " + "; ".join(holes))
    if await _has_ledger(connection):
        await _record(connection, schema, reached, "ready", None)
    return reached


def _run(connection: Connection, steps: list[Script], options: dict[str, Any], back: bool) -> None:
    context = MigrationContext.configure(connection, opts=options)
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


def _steps(
    history: History, current: str | None, target: Target
) -> list[tuple[Script, str | None]]:
    """The scripts to run, each with the revision it leads to."""
    known = list(revisions(history))
    if current is not None and current not in known:
        if target.steps_back:
            raise MigrationError(f"revision {current} is newer than this release")
        return []
    at = known.index(current) + 1 if current is not None else 0
    if target.to is not None and target.to not in known:
        raise NotFoundError("revision", target.to)
    scripts_of = [scripts().get_revision(revision) for revision in known]
    if target.steps_back:
        stop = known.index(target.to) + 1 if target.to is not None else max(at - 1, 0)
        return [
            (scripts_of[index], known[index - 1] if index else None)
            for index in range(at - 1, stop - 1, -1)
        ]
    stop = known.index(target.to) + 1 if target.to is not None else len(known)
    return [(scripts_of[index], known[index]) for index in range(at, stop)]


async def _has_ledger(connection: AsyncConnection) -> bool:
    found = await connection.execute(
        text("SELECT to_regclass('public.tenant_schemas') IS NOT NULL")
    )
    return bool(found.scalar_one())


async def _revision(connection: AsyncConnection, schema: str) -> str | None:
    if not await _has_ledger(connection):
        return None
    found = await connection.execute(
        text("SELECT revision FROM public.tenant_schemas WHERE schema_name = :schema FOR UPDATE"),
        {"schema": schema},
    )
    return found.scalar_one_or_none()


async def _tenant_ids(connection: AsyncConnection, schema: str) -> list[str]:
    found = await connection.execute(
        text("SELECT id::text FROM public.tenants WHERE schema_name = :schema ORDER BY id"),
        {"schema": schema},
    )
    ids = list(found.scalars())
    if not ids:
        raise MigrationError(f"schema {schema} belongs to no tenant")
    return ids


async def _record(
    connection: AsyncConnection, schema: str, revision: str | None, status: str, error: str | None
) -> None:
    await connection.execute(
        text(
            """
            INSERT INTO public.tenant_schemas (schema_name, revision, status, last_error)
            VALUES (:schema, :revision, :status, :error)
            ON CONFLICT (schema_name) DO UPDATE
            SET revision = excluded.revision, status = excluded.status,
                last_error = excluded.last_error, updated_at = now()
            """
        ),
        {"schema": schema, "revision": revision, "status": status, "error": error},
    )


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
                if attempt < LOCK_ATTEMPTS and _sqlstate(error) == LOCK_NOT_AVAILABLE:
                    continue
                return await _failed(connection, schema, error)
    raise AssertionError("unreachable")


async def _tell_servers(connection: AsyncConnection, schema: str) -> None:
    await connection.execute(
        text(
            """
            SELECT pg_notify('metrics_registry', id::text) FROM public.tenants
            WHERE schema_name = :schema
            """
        ),
        {"schema": schema},
    )


async def _failed(connection: AsyncConnection, schema: str, error: Exception) -> Outcome:
    reason = first_line(error)
    async with connection.begin():
        await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
        if not await _has_ledger(connection):
            return Outcome(schema, None, reason)
        revision = await _revision(connection, schema)
        await _record(connection, schema, revision, "failed", reason)
        await _tell_servers(connection, schema)
    return Outcome(schema, revision, reason)


def _sqlstate(error: Exception) -> str | None:
    cause = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig else error
    return cause.sqlstate if isinstance(cause, asyncpg.PostgresError) else None


def first_line(error: Exception) -> str:
    cause = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig else error
    return (str(cause).splitlines() or [type(cause).__name__])[0][:500]


# -- many schemas -------------------------------------------------------------------------------------------


async def ledger(connection: AsyncConnection) -> list[SchemaState]:
    """Every schema with its revision; empty before the registry exists."""
    if not await _has_ledger(connection):
        return []
    rows = await connection.execute(
        text(
            """
            SELECT schema_name, revision, status, last_error FROM public.tenant_schemas
            ORDER BY schema_name <> 'public', schema_name
            """
        )
    )
    return [
        SchemaState(
            row.schema_name,
            row.revision,
            row.status,
            row.last_error,
            is_behind(_history(row.schema_name), row.revision),
        )
        for row in rows
    ]


async def upgrade_all(
    target: Target, *, jobs: int, on_outcome: Callable[[Outcome, int], None] = lambda *_: None
) -> list[Outcome]:
    """Bring the registry, then every schema that is behind, to head; go on past a broken one.

    Two runs at once take turns. `on_outcome` gets each outcome and the number of schemas to do.
    Raises `MigrationError` when the registry itself cannot be upgraded.
    """
    async with owner_connection(target.owner_dsn) as lock, one_at_a_time(lock):
        registry = await migrate_alone(REGISTRY, target)
        if registry.error is not None:
            raise MigrationError(f"the registry: {registry.error}")
        async with lock.begin():
            states = await ledger(lock)
        todo = [
            state.schema_name
            for state in states
            if state.schema_name != REGISTRY and (state.is_behind or state.status != "ready")
        ]
        on_outcome(registry, len(todo) + 1)
        outcomes = [registry]
        async with aclosing(_each(todo, target, jobs)) as rest:
            async for outcome in rest:
                on_outcome(outcome, len(todo) + 1)
                outcomes.append(outcome)
        return outcomes


async def downgrade(target: Target, schemas: list[str]) -> list[Outcome]:
    """Take each schema one step back, or back to `target.to`."""
    async with owner_connection(target.owner_dsn) as lock, one_at_a_time(lock):
        return [await migrate_alone(schema, target) for schema in schemas]


async def _each(schemas: list[str], target: Target, jobs: int) -> AsyncGenerator[Outcome, None]:
    if jobs == 1 or len(schemas) < SCHEMAS_WORTH_A_PROCESS:
        for schema in schemas:
            yield await migrate_alone(schema, target)
        return
    async with aclosing(in_processes(partial(_in_process, target), schemas, jobs=jobs)) as outcomes:
        async for outcome in outcomes:
            yield outcome


def _in_process(target: Target, schema: str) -> Outcome:
    return asyncio.run(migrate_alone(schema, target))


class one_at_a_time:  # noqa: N801  # reads as the words of a sentence where it is used
    """Holds the session lock of migrations on a connection that does nothing else."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection

    async def __aenter__(self) -> None:
        await self.connection.execute(
            text("SELECT pg_advisory_lock(hashtextextended('migrate', 0))")
        )
        await self.connection.commit()

    async def __aexit__(self, *_: object) -> None:
        await self.connection.rollback()
        await self.connection.execute(
            text("SELECT pg_advisory_unlock(hashtextextended('migrate', 0))")
        )
        await self.connection.commit()
