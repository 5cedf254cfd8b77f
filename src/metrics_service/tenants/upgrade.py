"""Brings all schemas to head, several at a time, going on past a broken one.

Alembic's `op` is global to a process, so several schemas at a time means several processes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.db.connect import is_pooled
from metrics_service.db.engine import owner_connection
from metrics_service.errors import DatabaseUnreachableError, MigrationError, NotFoundError
from metrics_service.tenants.ledger import SchemaState, ledger
from metrics_service.tenants.migrate import Outcome, Target, migrate_alone
from metrics_service.tenants.processes import in_processes
from metrics_service.tenants.revisions import REGISTRY

# A schema is serial work; below this many, starting processes costs more than it saves.
SCHEMAS_WORTH_A_PROCESS = 6


async def upgrade_all(
    target: Target, *, jobs: int, on_outcome: Callable[[Outcome, int], None] = lambda *_: None
) -> list[Outcome]:
    """Bring the registry, then every schema that is behind, to head; go on past a broken one.

    Two runs at once take turns. `on_outcome` gets each outcome and the number of schemas to do.
    Raises `MigrationError` when the registry itself cannot be upgraded.
    """
    outcomes = []
    async with aclosing(upgrades(target, jobs=jobs)) as each:
        async for outcome, total in each:
            on_outcome(outcome, total)
            outcomes.append(outcome)
    return outcomes


async def upgrades(
    target: Target, *, jobs: int, only: str | None = None
) -> AsyncGenerator[tuple[Outcome, int], None]:
    """As `upgrade_all`, an outcome at a time with the number of schemas to do; or `only` one schema.

    Raises `NotFoundError` for one that is not in the ledger.
    """
    async with owner_connection(target.owner_dsn) as lock, one_at_a_time(lock):
        registry = await _upgrade_registry(target)
        async with lock.begin():
            states = await ledger(lock)
        todo = _left_behind(states) if only is None else _named(states, only)
        yield registry, len(todo) + 1
        async with aclosing(_each(todo, target, jobs)) as rest:
            async for outcome in rest:
                yield outcome, len(todo) + 1


def _left_behind(states: list[SchemaState]) -> list[str]:
    return [
        state.schema_name
        for state in states
        if state.schema_name != REGISTRY and (state.is_behind or state.status != "ready")
    ]


def _named(states: list[SchemaState], only: str) -> list[str]:
    # A name that is not in the ledger never becomes part of a statement.
    if only not in {state.schema_name for state in states}:
        raise NotFoundError("schema", only)
    return [] if only == REGISTRY else [only]


async def upgrade_registry(target: Target) -> None:
    """Bring the registry alone to head. Raises `MigrationError`."""
    async with owner_connection(target.owner_dsn) as lock, one_at_a_time(lock):
        await _upgrade_registry(target)


async def _upgrade_registry(target: Target) -> Outcome:
    registry = await migrate_alone(REGISTRY, target)
    if registry.error is not None:
        raise MigrationError(f"the registry: {registry.error}")
    return registry


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


@asynccontextmanager
async def one_at_a_time(connection: AsyncConnection) -> AsyncIterator[None]:
    """Hold the session lock of migrations on a connection that does nothing else meanwhile.

    Raises `DatabaseUnreachableError` behind a pooler, where two could hold it.
    """
    driver = (await connection.get_raw_connection()).driver_connection
    if await is_pooled(driver):
        raise DatabaseUnreachableError(
            "a pooler stands before the database; DATABASE_OWNER_URL must pass by it"
        )
    await connection.execute(text("SELECT pg_advisory_lock(hashtextextended('migrate', 0))"))
    await connection.commit()
    try:
        yield
    finally:
        await connection.rollback()
        await connection.execute(text("SELECT pg_advisory_unlock(hashtextextended('migrate', 0))"))
        await connection.commit()
