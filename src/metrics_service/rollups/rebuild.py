"""Recomputes the rollups of one tenant from its facts, a day at a time, while others go on writing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.tenancy import ContextConnection, TenantContext, tenant_connection
from metrics_service.rollups.ranges import DAY
from metrics_service.rollups.sources import SOURCES
from metrics_service.rollups.statements import STATEMENTS

# Before any clock that a client could have.
BEGINNING = datetime(1, 1, 2, tzinfo=UTC)

TABLES = tuple(rollup.table for source in SOURCES.values() for rollup in source.rollups)

# In the order in which writers take them: who writes has finished then, and nobody else begins.
LOCK = f"LOCK TABLE {', '.join(TABLES)} IN EXCLUSIVE MODE"

# The next day that has anything: far fewer look-ups in an index than there are facts.
NEXT_DAYS = tuple(
    f"SELECT date_trunc('day', min(started_at), 'UTC') FROM {source.table} WHERE started_at >= $1"
    for source in SOURCES.values()
) + tuple(
    f"SELECT min(bucket) FROM {rollup.table} WHERE bucket >= $1"
    for source in SOURCES.values()
    for rollup in source.rollups
    if rollup.grain == "daily"
)
# The days at which facts stand whose clock was wrong.
ASTRAY = tuple(
    f"""
    SELECT DISTINCT date_trunc('day', {source.moment}, 'UTC') AS day FROM {source.table} f
    WHERE {source.moment} <> f.started_at
    """
    for source in SOURCES.values()
)
CLEAR = tuple(f"DELETE FROM {table} WHERE bucket >= $1 AND bucket < $2" for table in TABLES)
# Of the rows that count something: one number that differs when any of them does.
DIGESTS = tuple(
    f"""
    SELECT coalesce(sum(hash_record_extended(
        ROW(cube, bucket, {", ".join((*source.dimensions, *source.columns))}), 0)), 0)
    FROM {rollup.table} WHERE bucket >= $1 AND bucket < $2 AND count > 0
    """
    for source in SOURCES.values()
    for rollup in source.rollups
)

OnDay = Callable[[int, int], None]
"""Gets how many days are done, and how many there are."""


class Rebuilt(msgspec.Struct, frozen=True):
    """What became of a tenant's rollups."""

    days: int
    mended_days: int
    """Those whose rollups were not what the facts say."""


async def rebuild_rollups(
    engine: AsyncEngine, context: TenantContext, *, on_day: OnDay = lambda _done, _total: None
) -> Rebuilt:
    """Make every rollup of the tenant anew.

    Each day is a transaction, for the length of which batches of the tenant wait: a kill leaves days
    that are done and days that are as they were.
    """
    async with tenant_connection(engine, context) as connection:
        days = await _days(connection)
        astray = await _astray(connection)
    mended = set()
    for done, day in enumerate(sorted(days | astray), start=1):
        async with tenant_connection(engine, context) as connection:
            if await _rebuild_day(connection, day, has_astray=day in astray):
                mended.add(day)
        on_day(done, len(days | astray))
    async with tenant_connection(engine, context) as connection:
        late = await _astray(connection) - astray
    for day in late:
        # Came while its day was being made without it; from now on its writer sees to it.
        async with tenant_connection(engine, context) as connection:
            await _rebuild_day(connection, day, has_astray=True)
    return Rebuilt(len(days | astray | late), len(mended))


async def _days(connection: ContextConnection) -> set[datetime]:
    """The days on which anything happened, or is said to have happened."""
    days: set[datetime] = set()
    after = BEGINNING
    while True:
        found = [await connection.fetchval(query, after) for query in NEXT_DAYS]
        known = [day for day in found if day is not None]
        if not known:
            return days
        days.add(min(known))
        after = min(known) + DAY


async def _astray(connection: ContextConnection) -> set[datetime]:
    return {row["day"] for query in ASTRAY for row in await connection.fetch(query)}


async def _rebuild_day(connection: ContextConnection, day: datetime, *, has_astray: bool) -> bool:
    """Make one day anew; return whether that changed anything. What was right stays untouched."""
    during = (day, day + DAY)
    await connection.execute(LOCK)
    before = [await connection.fetchval(query, *during) for query in DIGESTS]
    anew = connection.transaction()
    await anew.start()
    for statement in CLEAR:
        await connection.execute(statement, *during)
    for name in SOURCES:
        kept = STATEMENTS[name].rebuild_astray if has_astray else STATEMENTS[name].rebuild
        for statement in kept:
            await connection.execute(statement, *during)
    is_changed = before != [await connection.fetchval(query, *during) for query in DIGESTS]
    await (anew.commit() if is_changed else anew.rollback())
    return is_changed
