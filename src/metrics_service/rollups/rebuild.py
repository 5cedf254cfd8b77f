"""Recomputes the rollups of one tenant from its facts, a day at a time, while others go on writing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.tenancy import ContextConnection, TenantContext, tenant_connection
from metrics_service.rollups.sources import SOURCES, UNIT
from metrics_service.rollups.statements import STATEMENTS

DAY = timedelta(days=1)
# Before any clock that a client could have.
BEGINNING = datetime(1, 1, 2, tzinfo=UTC)

TABLES = tuple(source.table_of(grain) for source in SOURCES.values() for grain in UNIT)

# In the order in which writers take them: who writes has finished then, and nobody else begins.
LOCK = f"LOCK TABLE {', '.join(TABLES)} IN EXCLUSIVE MODE"

# The next day that has anything: far fewer look-ups in the index than there are facts.
NEXT_DAYS = tuple(
    f"SELECT date_trunc('day', min(started_at), 'UTC') FROM {source.table} WHERE started_at >= $1"
    for source in SOURCES.values()
) + tuple(
    f"SELECT min(bucket) FROM {source.table_of('daily')} WHERE bucket >= $1"
    for source in SOURCES.values()
)
ASTRAY = tuple(
    f"""
    SELECT DISTINCT date_trunc('day', {source.moment}, 'UTC') AS day FROM {source.table} f
    WHERE {source.moment} <> f.started_at
    """
    for source in SOURCES.values()
)
CLEAR = tuple(f"DELETE FROM {table} WHERE bucket >= $1 AND bucket < $2" for table in TABLES)

OnDay = Callable[[datetime], None]


async def rebuild_rollups(
    engine: AsyncEngine, context: TenantContext, *, on_day: OnDay = lambda _: None
) -> int:
    """Make every rollup anew; returns the number of days that have one.

    Each day is a transaction, for the length of which batches of the tenant wait: a kill leaves days
    that are done and days that are as they were.
    """
    done = 0
    async with tenant_connection(engine, context) as connection:
        after = await _next_day(connection, BEGINNING)
    while after is not None:
        async with tenant_connection(engine, context) as connection:
            await _rebuild_day(connection, after, is_astray=False)
            on_day(after)
            after = await _next_day(connection, after + DAY)
        done += 1
    async with tenant_connection(engine, context) as connection:
        astray = {row["day"] for query in ASTRAY for row in await connection.fetch(query)}
    for day in sorted(astray):
        # Last: what comes astray from now on is rolled up by who writes it.
        async with tenant_connection(engine, context) as connection:
            await _rebuild_day(connection, day, is_astray=True)
        on_day(day)
    return done


async def _next_day(connection: ContextConnection, after: datetime) -> datetime | None:
    found = [
        day for query in NEXT_DAYS if (day := await connection.fetchval(query, after)) is not None
    ]
    return min(found, default=None)


async def _rebuild_day(connection: ContextConnection, day: datetime, *, is_astray: bool) -> None:
    await connection.execute(LOCK)
    for statement in CLEAR:
        await connection.execute(statement, day, day + DAY)
    for name in SOURCES:
        kept = STATEMENTS[name].rebuild_astray if is_astray else STATEMENTS[name].rebuild
        for grain in UNIT:
            await connection.execute(kept[grain], day, day + DAY)
