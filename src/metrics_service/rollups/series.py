"""Reads the rollups: measures by dimensions and time, exactly from one moment to another.

One statement a query. A rollup row is read where it lies wholly within the time; what is left of an
hour at either end is read from the facts, with the same expressions that the rollups are made of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from asyncpg import Record

from metrics_service.db.statements import Where
from metrics_service.db.tenancy import ContextConnection
from metrics_service.errors import InvalidQueryError
from metrics_service.rollups.percentiles import nearest_ranks
from metrics_service.rollups.plan import Plan
from metrics_service.rollups.queries import SeriesQuery, check_query
from metrics_service.rollups.ranges import DAY, HOUR, floor, local
from metrics_service.rollups.reading import statement_of
from metrics_service.rollups.sources import Grain, Source

MAX_FACTS = 500_000
# More than so many are read beside other requests, not before them.
HISTOGRAMS_AT_ONCE = 100


class Series(msgspec.Struct, frozen=True):
    rows: list[dict[str, Any]]
    """One a group: the columns of `group_by`, then the measures."""
    is_truncated: bool
    updated_at: datetime | None
    """When the rollup rows that were read changed last."""
    notes: list[str]


async def read_series(connection: ContextConnection, query: SeriesQuery) -> Series:
    """Raises `InvalidQueryError` for what is on no allow-list, and for more than can be read."""
    check_query(query)
    plan = Plan.of(query)
    await _refuse_many_facts(connection, plan)
    statement, values = statement_of(plan)
    records = await connection.fetch(statement, *values)
    # The greatest of what is sorted here is known only of all of them.
    if len(records) > plan.most and (query.limit is None or plan.order is not None):
        raise InvalidQueryError(
            f"group_by: more than {plan.most:,} groups; ask for a shorter time, or group by less"
        )
    rows = (
        await asyncio.to_thread(_rows, plan, records)
        if plan.has_percentiles and len(records) > HISTOGRAMS_AT_ONCE
        else _rows(plan, records)
    )
    if plan.order is not None:
        rows = _sorted(rows, plan.order)
    limit = len(rows) if query.limit is None else query.limit
    updated_at = records[0]["updated_at"] if records else None
    return Series(rows[:limit], len(rows) > limit, updated_at, plan.notes)


async def _refuse_many_facts(connection: ContextConnection, plan: Plan) -> None:
    raw = [piece for piece in plan.pieces if piece.grain == "raw"]
    if not any(piece.end - piece.start > HOUR for piece in raw):
        return
    spans = [(piece.start, piece.end) for piece in raw]
    if await count_facts(connection, plan.source, spans) > MAX_FACTS:
        raise InvalidQueryError(
            f"group_by and filters: together by the hour, or in a zone whose days are not those of"
            f" UTC, they are not rolled up, and there are more than {MAX_FACTS:,} single rows to"
            " read; group by day in UTC, ask for a shorter time, or for fewer dimensions"
        )


async def count_facts(
    connection: ContextConnection, source: Source, spans: Sequence[tuple[datetime, datetime]]
) -> float:
    """About how many facts there are in some times, and never fewer."""
    where = Where()
    counted = []
    for start, end in spans:
        grain: Grain = "hourly" if end - start < 2 * DAY else "daily"
        first, last = where.bind(floor(start, grain)), where.bind(end)
        counted.append(
            f"""coalesce((SELECT sum(count) FROM {source.table_of(grain, "agent")}
                WHERE cube = 'agent' AND bucket >= {first} AND bucket < {last}), 0)"""
        )
    return float(
        await connection.fetchval(f"SELECT ({' + '.join(counted)})::float8", *where.values)
    )


def _rows(plan: Plan, records: Sequence[Record]) -> list[dict[str, Any]]:
    zone = plan.query.zone
    names = {
        unit: [local(moment, zone) for moment in moments] for unit, moments in plan.starts.items()
    }
    shares = {
        name: measure.share for name, measure in plan.measures.items() if measure.share is not None
    }
    ascending = sorted(set(shares.values()))
    rows = []
    for record in records:
        row: dict[str, Any] = {}
        found: dict[float | None, float | None] = {}
        if shares and (sent := record["durations"]) is not None:
            found = dict(zip(ascending, nearest_ranks(sent, ascending), strict=True))
        for name in plan.query.group_by:
            value = record[name]
            if name in names:
                value = names[name][value - 1]
            elif name == "hour":
                value = local(value, zone)
            row[name] = value
        for name in plan.query.measures:
            row[name] = found.get(shares[name]) if name in shares else record[name]
        rows.append(row)
    return rows


def _sorted(rows: list[dict[str, Any]], order: str) -> list[dict[str, Any]]:
    """By a measure, those that have none last; what is equal stays in the order of its groups."""
    name = order.removeprefix("-")
    known = [row for row in rows if row[name] is not None]
    known.sort(key=lambda row: row[name], reverse=order.startswith("-"))
    return [*known, *(row for row in rows if row[name] is None)]
