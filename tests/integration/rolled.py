"""The rollups of a tenant, and whether they are what its facts say."""

from __future__ import annotations

from datetime import UTC, datetime

from metrics_service.db.tenancy import ContextConnection
from metrics_service.rollups.sources import SOURCES
from metrics_service.rollups.statements import STATEMENTS

Rows = dict[str, dict[tuple[object, ...], tuple[object, ...]]]

ROLLUPS = tuple(rollup.table for source in SOURCES.values() for rollup in source.rollups)
EVER = (datetime(2015, 1, 1, tzinfo=UTC), datetime(2600, 1, 1, tzinfo=UTC))


async def rollups_of(connection: ContextConnection) -> Rows:
    """All rollup rows that count something, by table and key."""
    found: Rows = {}
    for source in SOURCES.values():
        key = ("cube", "bucket", *source.dimensions)
        for table in (rollup.table for rollup in source.rollups):
            rows = await connection.fetch(
                f"SELECT {', '.join((*key, *source.columns))} FROM {table}"
            )
            found[table] = {
                tuple(row)[: len(key)]: tuple(row)[len(key) :]
                for row in rows
                if any(tuple(row)[len(key) :])
            }
    return found


async def check_rollups(connection: ContextConnection) -> Rows:
    """Assert that the rollups are what recomputing all of them gives; return them."""
    kept = await rollups_of(connection)
    savepoint = connection.transaction()
    await savepoint.start()
    for name, source in SOURCES.items():
        for rollup, statement in zip(source.rollups, STATEMENTS[name].rebuild_astray, strict=True):
            await connection.execute(f"DELETE FROM {rollup.table}")
            await connection.execute(statement, *EVER)
    computed = await rollups_of(connection)
    await savepoint.rollback()
    for table, rows in computed.items():
        differences = {
            key: (kept[table].get(key), rows.get(key))
            for key in kept[table].keys() | rows.keys()
            if kept[table].get(key) != rows.get(key)
        }
        assert differences == {}, f"{table}: {differences}"
    return kept
