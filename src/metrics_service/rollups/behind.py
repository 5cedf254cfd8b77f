"""What is behind a figure: rollup rows, sessions, the facts themselves, and which signals told of them.

Facts are looked through from the newest, no more than `MAX_SCANNED` of them; the rollups say where the
newest and the oldest are.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TypeVar
from uuid import UUID

import msgspec
from asyncpg import Record
from msgspec import UNSET, UnsetType

from metrics_service.db.statements import Where
from metrics_service.db.tenancy import ContextConnection
from metrics_service.rollups.measures import MOST
from metrics_service.rollups.plan import Plan
from metrics_service.rollups.queries import SeriesQuery
from metrics_service.rollups.reading import condition_of, sessions_of
from metrics_service.rollups.series import count_facts, read_series
from metrics_service.rollups.sources import UNIT, Grain, Source

SHOWN = 50
MAX_FOUND = 10_000
MAX_SCANNED = 500_000

T = TypeVar("T")

FACT_COLUMNS: Mapping[str, tuple[str, ...]] = {
    "tool_metrics": ("tool_name", "status", "duration_ms", "error_type", "decision"),
    "model_calls": (
        "request_model",
        "status",
        "duration_ms",
        "input_tokens",
        "output_tokens",
        "cost_usd_micros",
    ),
}


class RollupRow(msgspec.Struct, frozen=True):
    grain: Grain
    bucket: datetime
    dimensions: dict[str, str | None]
    sums: dict[str, int]
    """What the measure is made of; a histogram is not shown."""
    updated_at: datetime


class SessionBehind(msgspec.Struct, frozen=True):
    id: UUID
    agent: str
    external_id: str
    started_at: datetime
    user_id: UUID | None
    count: int
    """How many of the facts that were found are its own."""


class FactBehind(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool metric or a model call."""

    id: UUID
    session_id: UUID | None
    agent: str | None
    user_id: UUID | None
    started_at: datetime
    status: str
    duration_ms: float | None
    signal: str
    tool_name: str | UnsetType = UNSET
    error_type: str | None | UnsetType = UNSET
    decision: str | None | UnsetType = UNSET
    request_model: str | None | UnsetType = UNSET
    input_tokens: int | None | UnsetType = UNSET
    output_tokens: int | None | UnsetType = UNSET
    cost_usd_micros: int | None | UnsetType = UNSET


class Rollups(msgspec.Struct, frozen=True):
    count: int
    rows: list[RollupRow]


class Sessions(msgspec.Struct, frozen=True):
    count: int
    is_at_least: bool
    rows: list[SessionBehind]


class Facts(msgspec.Struct, frozen=True):
    count: int
    is_at_least: bool
    rows: list[FactBehind]


class Behind(msgspec.Struct, frozen=True, kw_only=True):
    value: float | None
    rollups: Rollups
    sessions: Sessions
    rows: Facts | None
    """The single calls; none where the figure is one of sessions."""
    signals: dict[str, int]
    """How many of the calls, or sessions, that were found each signal told of."""
    notes: list[str]


async def find_behind(connection: ContextConnection, query: SeriesQuery) -> Behind:
    """What one figure is made of: a query with one measure and no groups."""
    series = await read_series(connection, query)
    plan = Plan.of(query)
    rollups, span = await _rollups(connection, plan)
    found = await _facts(connection, plan, span)
    is_cut = found["count"] >= MAX_FOUND
    if not is_cut:
        is_cut = await count_facts(connection, plan.source, [span]) > MAX_SCANNED
    shown = [] if plan.source.is_of_sessions else _decoded(found["rows"], list[FactBehind])
    return Behind(
        value=series.rows[0][query.measures[0]],
        rollups=rollups,
        sessions=Sessions(
            found["session_count"], is_cut, _decoded(found["sessions"], list[SessionBehind])
        ),
        rows=None if plan.source.is_of_sessions else Facts(found["count"], is_cut, shown),
        signals=_decoded(found["signals"], dict[str, int]),
        notes=plan.notes,
    )


def _decoded(sent: str | None, kind: type[T]) -> T:
    """JSON that PostgreSQL has made; it says null for nothing."""
    return msgspec.json.decode(sent, type=kind) if sent is not None else kind()


async def _rollups(
    connection: ContextConnection, plan: Plan
) -> tuple[Rollups, tuple[datetime, datetime]]:
    """The rollup rows that were read, and the time outside of which nothing counts."""
    read = [(piece, piece.grain) for piece in plan.pieces if piece.grain != "raw"]
    ends = (plan.query.from_, plan.query.to)
    if not read:
        return Rollups(0, []), ends
    # A table has all of them, and null in those that a cube is not kept by.
    dimensions = plan.source.dimensions
    sums = [name for name in plan.columns if name != "durations"]
    where = Where()
    filters = {
        name: condition_of(where, name, values) for name, values in plan.query.filters.items()
    }
    counts = " OR ".join(f"f.{name} <> 0" for name in plan.measure_columns)
    kept = ", ".join(f"f.{name}" for name in (*dimensions, *sums))
    parts = []
    for piece, grain in read:
        conditions = [
            f"f.cube = '{plan.cubes[grain]}'",
            f"f.bucket >= {where.bind(piece.start)}",
            f"f.bucket < {where.bind(piece.end)}",
            f"({counts})",
            *(condition.replace("?", f"f.{name}") for name, condition in filters.items()),
        ]
        parts.append(
            f"""
            SELECT '{grain}' AS grain, f.bucket, f.bucket + interval '1 {UNIT[grain]}'
                AS ends, {kept}, f.updated_at
            FROM {plan.source.table_of(grain, plan.cubes[grain])} f WHERE {" AND ".join(conditions)}
            """
        )
    columns = ", ".join(
        [*dimensions, *(f"least({name}, {MOST})::bigint AS {name}" for name in sums)]
    )
    rows = await connection.fetch(
        f"""
        SELECT grain, bucket, {columns}, updated_at, count(*) OVER () AS rows,
            min(bucket) OVER () AS oldest, max(ends) OVER () AS newest
        FROM ({" UNION ALL ".join(parts)}) part
        ORDER BY bucket DESC, {", ".join(dimensions)} LIMIT {SHOWN}
        """,
        *where.values,
    )
    if rows:
        # What is left of an hour, or a day, at either end is in no rollup row.
        ends = (
            ends[0] if plan.pieces[0].grain == "raw" else rows[0]["oldest"],
            ends[1] if plan.pieces[-1].grain == "raw" else rows[0]["newest"],
        )
    shown = [
        RollupRow(
            row["grain"],
            row["bucket"],
            {
                name: None if row[name] is None else str(row[name])
                for name in plan.dimensions_of(row["grain"])
            },
            {name: row[name] for name in sums},
            row["updated_at"],
        )
        for row in rows
    ]
    return Rollups(rows[0]["rows"] if rows else 0, shown), ends


async def _facts(
    connection: ContextConnection, plan: Plan, span: tuple[datetime, datetime]
) -> Record:
    source = plan.source
    where = Where()
    conditions = [
        # Not in the scan: few rows would be expected of it, and all of them sorted.
        f"{source.moment} = f.started_at",
        *(
            condition_of(where, name, values).replace("?", source.placed(name))
            for name, values in plan.query.filters.items()
        ),
        "(" + " OR ".join(_counts(source, name) for name in plan.measure_columns) + ")",
    ]
    if source.is_of_sessions:
        session, signals, counted = "f.id", "f.signals", ""
    else:
        session, signals, counted = "f.session_id", "ARRAY[f.signal]", "AND f.is_counted"
    signal = "signals" if source.is_of_sessions else "signal"
    shown = FACT_COLUMNS.get(source.name, ())
    columns = ", ".join(f"f.{name}" for name in sorted({*source.needs, *shown, signal, "id"}))
    figures = "".join(f", f.{name}" for name in shown)
    start, end = where.bind(span[0]), where.bind(span[1])
    (found,) = await connection.fetch(
        f"""
        WITH found AS MATERIALIZED (
            SELECT f.id, {session} AS session_id, f.agent, f.user_id, f.started_at,
                {signals} AS signals {figures}
            FROM (
                SELECT f.tenant_id, {columns} FROM {source.table} f
                WHERE f.started_at >= {start} AND f.started_at < {end} {counted}
                ORDER BY f.started_at DESC, f.id DESC LIMIT {MAX_SCANNED}
            ) f {sessions_of(plan)}
            WHERE {" AND ".join(conditions)}
            ORDER BY f.started_at DESC, f.id DESC LIMIT {MAX_FOUND}
        )
        SELECT
            (SELECT count(*) FROM found) AS count,
            (SELECT count(DISTINCT session_id) FROM found) AS session_count,
            (SELECT json_agg(f)::text FROM (
                SELECT id, session_id, agent, user_id, started_at, signals[1] AS signal {figures}
                FROM found f ORDER BY started_at DESC, id DESC LIMIT {SHOWN}
            ) f) AS rows,
            (SELECT json_agg(s)::text FROM (
                SELECT s.id, s.agent, s.external_id, s.started_at, s.user_id, n.count
                FROM (
                    SELECT session_id, count(*) AS count FROM found
                    WHERE session_id IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {SHOWN}
                ) n JOIN metrics_sessions s ON s.id = n.session_id ORDER BY n.count DESC, s.id
            ) s) AS sessions,
            (SELECT json_object_agg(signal, n.count)::text FROM (
                SELECT signal, count(*) AS count FROM found, unnest(signals) AS signal GROUP BY 1
            ) n) AS signals
        """,
        *where.values,
    )
    return found


def _counts(source: Source, name: str) -> str:
    """The condition that a fact adds something to a sum."""
    return "f.duration_ms >= 0" if name == "durations" else f"({source.added(name)}) <> 0"
