"""An overview of twelve widgets from rollups, from raw rows and by DuckDB, in interleaved rounds.

    pip install duckdb
    python scripts/bench/rollup_data.py [--data DIR] [--rows 20000 1000000 10000000]
    python scripts/bench/rollup_compare.py [--data DIR] [--rows ...] [--rounds 3] [--tz UTC] [--json]

All four answer the same twelve questions about the same 30 days: rollups and raw rows as the runtime
login in one read-only transaction of the tenant, DuckDB with two threads from its own tables and from
Parquet. Before anything is timed the answers are compared: counts and sums must be equal, percentiles
from rollups within 2 % of the nearest rank. That also warms every cache.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import duckdb
import msgspec
from common import admin_dsn, database, median, table
from rollup_data import DAYS, PATIENCE_MS, ROLLUP_DATA, SIZES, START, TABLES, Scale, find_tenant
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.engine import runtime_engine
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.rollups.queries import SeriesQuery
from metrics_service.rollups.series import read_series

ROLLUPS, RAW, DUCKDB, PARQUET = "rollups", "raw rows", "DuckDB table", "DuckDB Parquet"
PAGE, SUMMARY = "page of 50 rollup rows", "one summary by tool"
SINGLE = (PAGE, SUMMARY)
"""What the overview is held against as one read of rollups, in a transaction of its own."""
REPEATS = {ROLLUPS: 15, PAGE: 15, SUMMARY: 15, DUCKDB: 3}
"""How often a round asks what takes milliseconds; a round's figure is the median of them."""

RAW_TARGET = 300
DUCKDB_TARGET = 5
LARGE = 10_000_000
"""Where these two hold; below, rollups need only be no slower than raw rows."""
PAGE_TARGET = 10
GROWTH_TARGET = 1.3
GROWTH = (1_000_000, 30_000_000)

PERCENTILES = ("p50_ms", "p95_ms")
PERCENTILE_ERROR = 0.02
QUOTIENTS = ("error_rate", "avg_ms")
QUOTIENT_ERROR = 1e-6
"""Rollups add microseconds up, and nobody's floats add up in the same order."""

Answer = list[dict[str, Any]]


class Widget(msgspec.Struct, frozen=True, kw_only=True):
    """A question, as rollups are asked it and as SQL that PostgreSQL and DuckDB both understand.

    In the SQL `{day}` is the viewer's day of `f.started_at`; order and limit come from the query.
    """

    name: str
    source: str
    measures: tuple[str, ...]
    group_by: tuple[str, ...] = ()
    order_by: str | None = None
    limit: int | None = None
    sql: str

    def series(self, zone: ZoneInfo) -> SeriesQuery:
        since, until = period(zone)
        return SeriesQuery(
            source=self.source,
            measures=self.measures,
            group_by=self.group_by,
            from_=since,
            to=until,
            zone=zone,
            order_by=self.order_by,
            limit=self.limit,
        )

    def text(self, day: str, *, is_whole: bool = False) -> str:
        """The SQL; with all of its groups when the whole is asked for."""
        group = f" GROUP BY {', '.join(self.group_by)}" if self.group_by else ""
        order = ""
        if self.order_by is not None and not is_whole:
            order = f" ORDER BY {self.order_by.removeprefix('-')} DESC LIMIT {self.limit}"
        return self.sql.format(day=day) + group + order


FACTS = "f.started_at >= $1 AND f.started_at < $2 AND f.is_counted"
TOOLS = f"FROM tool_metrics f WHERE {FACTS}"
MODELS = f"FROM model_calls f WHERE {FACTS}"
ERRORS = "count(*) FILTER (WHERE f.status IN ('error', 'timeout'))"
ERROR_RATE = f"{ERRORS}::float8 / count(*)"
P50 = "percentile_disc(0.5) WITHIN GROUP (ORDER BY f.duration_ms)"
P95 = "percentile_disc(0.95) WITHIN GROUP (ORDER BY f.duration_ms)"
COST = "coalesce(sum(f.cost_usd_micros), 0)::bigint"

WIDGETS = (
    Widget(
        name="total calls",
        source="tool_metrics",
        measures=("count",),
        sql=f"SELECT count(*) AS count {TOOLS}",
    ),
    Widget(
        name="error rate",
        source="tool_metrics",
        measures=("error_rate",),
        sql=f"SELECT {ERROR_RATE} AS error_rate {TOOLS}",
    ),
    Widget(
        name="p95",
        source="tool_metrics",
        measures=("p95_ms",),
        sql=f"SELECT {P95} AS p95_ms {TOOLS}",
    ),
    Widget(
        name="cost",
        source="model_calls",
        measures=("cost_usd_micros",),
        sql=f"SELECT {COST} AS cost_usd_micros {MODELS}",
    ),
    Widget(
        name="sessions",
        source="sessions",
        measures=("count",),
        sql="""
            SELECT count(*) AS count FROM metrics_sessions f
            WHERE f.started_at >= $1 AND f.started_at < $2
        """,
    ),
    Widget(
        name="calls per day by agent",
        source="tool_metrics",
        measures=("count",),
        group_by=("day", "agent"),
        sql=f"SELECT {{day}} AS day, f.agent, count(*) AS count {TOOLS}",
    ),
    Widget(
        name="slowest tools",
        source="tool_metrics",
        measures=("p95_ms", "p50_ms", "avg_ms", "count", "error_rate"),
        group_by=("tool_name",),
        order_by="-p95_ms",
        limit=15,
        sql=f"""
            SELECT f.tool_name, {P95} AS p95_ms, {P50} AS p50_ms, avg(f.duration_ms) AS avg_ms,
                   count(*) AS count, {ERROR_RATE} AS error_rate {TOOLS}
        """,
    ),
    Widget(
        name="top tools",
        source="tool_metrics",
        measures=("count",),
        group_by=("tool_name",),
        order_by="-count",
        limit=10,
        sql=f"SELECT f.tool_name, count(*) AS count {TOOLS}",
    ),
    Widget(
        name="errors per category per day",
        source="tool_metrics",
        measures=("error_count",),
        group_by=("day", "tool_category"),
        sql=f"SELECT {{day}} AS day, f.tool_category, {ERRORS} AS error_count {TOOLS}",
    ),
    Widget(
        name="cost per model per day",
        source="model_calls",
        measures=("cost_usd_micros",),
        group_by=("day", "request_model"),
        sql=f"SELECT {{day}} AS day, f.request_model, {COST} AS cost_usd_micros {MODELS}",
    ),
    Widget(
        name="top users",
        source="tool_metrics",
        measures=("count",),
        group_by=("user_id",),
        order_by="-count",
        limit=10,
        sql=f"SELECT f.user_id, count(*) AS count {TOOLS}",
    ),
    Widget(
        name="top repositories",
        source="tool_metrics",
        measures=("count",),
        group_by=("repository",),
        order_by="-count",
        limit=10,
        sql=f"""
            SELECT s.repository, count(*) AS count FROM tool_metrics f
            LEFT JOIN metrics_sessions s ON s.tenant_id = f.tenant_id AND s.id = f.session_id
            WHERE {FACTS}
        """,
    ),
)


class Taken(msgspec.Struct):
    """One overview: milliseconds of the whole and of each widget, and what was answered."""

    ms: float
    widgets: list[float]
    answers: list[Answer]


Contender = Callable[[], Awaitable[Taken]]


class Result(msgspec.Struct):
    """A contender's figures for one size, a round each."""

    rows: int
    contender: str
    ms: list[float]
    widgets: list[list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROLLUP_DATA)
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--tz", type=ZoneInfo, default=ZoneInfo("UTC"), help="whose days; of whole hours"
    )
    parser.add_argument("--json", action="store_true", help="every round, for a script")
    chosen = parser.parse_args()
    scales = [Scale(rows) for rows in chosen.rows]
    with database(chosen.data) as addresses:
        tenants = [asyncio.run(find_tenant(admin_dsn(addresses), scale)) for scale in scales]
        for scale, tenant in zip(scales, tenants, strict=True):
            if tenant is None:
                raise SystemExit(f"rollup_data.py --rows {scale.rows} has not been run")
        ids = [tenant[0] for tenant in tenants if tenant]
        results = asyncio.run(_compare(addresses.runtime, chosen, scales, ids))
    if chosen.json:
        print(msgspec.json.encode(results).decode())
    else:
        print(_overviews(results), _widgets(results), sep="\n\n")


def period(zone: ZoneInfo) -> tuple[datetime, datetime]:
    """Thirty of the viewer's days."""
    since = START.replace(tzinfo=zone)
    return since, since + timedelta(days=DAYS)


async def _compare(
    dsn: str, chosen: argparse.Namespace, scales: list[Scale], tenants: list[UUID]
) -> list[Result]:
    async with AsyncExitStack() as stack:
        engine = runtime_engine(dsn, pool_max=1)
        stack.push_async_callback(engine.dispose)
        contenders = {}
        for scale, tenant_id in zip(scales, tenants, strict=True):
            asked = _contenders(engine, tenant_id, scale, chosen.data, chosen.tz)
            await _agree(scale, asked, _truth(scale, chosen.data, chosen.tz))
            contenders[scale.rows] = asked
        results = {
            (rows, name): Result(rows, name, [], [])
            for rows, asked in contenders.items()
            for name in asked
        }
        for _ in range(chosen.rounds):
            for rows, asked in contenders.items():
                for name, ask in asked.items():
                    taken = [await ask() for _ in range(REPEATS.get(name, 1))]
                    result = results[rows, name]
                    result.ms.append(median([one.ms for one in taken]))
                    each = zip(*(one.widgets for one in taken), strict=True)
                    result.widgets.append([median(list(times)) for times in each])
    return list(results.values())


def _contenders(
    engine: AsyncEngine, tenant_id: UUID, scale: Scale, data: Path, zone: ZoneInfo
) -> dict[str, Contender]:
    context = TenantContext(tenant_id, timeout_ms=PATIENCE_MS, read_only=True)
    tables, parquet = _duckdb_tables(scale, data, zone), _duckdb_parquet(scale, data, zone)
    return {
        ROLLUPS: lambda: _ask_rollups(engine, context, zone),
        PAGE: lambda: _ask_page(engine, context),
        SUMMARY: lambda: _ask_summary(engine, context, zone),
        RAW: lambda: _ask_raw(engine, context, zone),
        DUCKDB: lambda: _ask_duckdb(tables, zone),
        PARQUET: lambda: _ask_duckdb(parquet, zone),
    }


async def _ask_rollups(engine: AsyncEngine, context: TenantContext, zone: ZoneInfo) -> Taken:
    watch = _Watch()
    async with tenant_connection(engine, context) as connection:
        for widget in WIDGETS:
            watch.begin()
            series = await read_series(connection, widget.series(zone))
            watch.end(series.rows)
    return watch.taken()


async def _ask_page(engine: AsyncEngine, context: TenantContext) -> Taken:
    watch = _Watch()
    async with tenant_connection(engine, context) as connection:
        await connection.fetch(
            "SELECT * FROM tool_metrics_hourly WHERE cube = 'what' ORDER BY bucket DESC LIMIT 50"
        )
    return watch.taken()


async def _ask_summary(engine: AsyncEngine, context: TenantContext, zone: ZoneInfo) -> Taken:
    watch = _Watch()
    since, until = period(zone)
    query = SeriesQuery(
        source="tool_metrics",
        measures=("count", "error_count", "error_rate", "avg_ms", "p50_ms", "p95_ms", "p99_ms"),
        group_by=("tool_name",),
        from_=since,
        to=until,
        zone=zone,
    )
    async with tenant_connection(engine, context) as connection:
        await read_series(connection, query)
    return watch.taken()


async def _ask_raw(engine: AsyncEngine, context: TenantContext, zone: ZoneInfo) -> Taken:
    watch = _Watch()
    day = f"date_trunc('day', f.started_at, '{zone.key}')"
    async with tenant_connection(engine, context) as connection:
        for widget in WIDGETS:
            watch.begin()
            rows = await connection.fetch(widget.text(day), *period(zone))
            watch.end([_in(zone, dict(row)) for row in rows])
    return watch.taken()


async def _ask_duckdb(
    duck: duckdb.DuckDBPyConnection, zone: ZoneInfo, *, is_whole: bool = False
) -> Taken:
    watch = _Watch()
    # The quickest way there is: calendars of zones, UTC's too, are ten times slower than arithmetic.
    is_utc = zone.key == "UTC"
    day = "make_timestamp(epoch_us(f.started_at))::date" if is_utc else "f.started_at::date"
    for widget in WIDGETS:
        watch.begin()
        found = duck.execute(widget.text(day, is_whole=is_whole), period(zone))
        names = [name for (name, *_) in found.description or ()]
        watch.end([dict(zip(names, row, strict=True)) for row in found.fetchall()])
    return watch.taken()


def _in(zone: ZoneInfo, row: dict[str, Any]) -> dict[str, Any]:
    """Days in the viewer's zone, as rollups answer them."""
    return {
        name: value.astimezone(zone) if isinstance(value, datetime) else value
        for name, value in row.items()
    }


def _duckdb_tables(scale: Scale, data: Path, zone: ZoneInfo) -> duckdb.DuckDBPyConnection:
    duck = duckdb.connect(scale.tables(data), read_only=True, config={"threads": 2})
    duck.execute(f"SET TimeZone = '{zone.key}'")
    return duck


def _duckdb_parquet(scale: Scale, data: Path, zone: ZoneInfo) -> duckdb.DuckDBPyConnection:
    duck = duckdb.connect(config={"threads": 2})
    duck.execute(f"SET TimeZone = '{zone.key}'")
    for name in TABLES:
        duck.execute(f"CREATE VIEW {name} AS FROM read_parquet('{scale.parquet(data, name)}')")
    return duck


class _Watch:
    """Times an overview and its widgets."""

    def __init__(self) -> None:
        self._began = self._widget_began = time.perf_counter()
        self._widgets: list[float] = []
        self._answers: list[Answer] = []

    def begin(self) -> None:
        self._widget_began = time.perf_counter()

    def end(self, answer: Answer) -> None:
        self._widgets.append((time.perf_counter() - self._widget_began) * 1000)
        self._answers.append(answer)

    def taken(self) -> Taken:
        ms = (time.perf_counter() - self._began) * 1000
        return Taken(ms, self._widgets, self._answers)


async def _truth(scale: Scale, data: Path, zone: ZoneInfo) -> list[Answer]:
    """Every group of every widget, exactly."""
    return (await _ask_duckdb(_duckdb_tables(scale, data, zone), zone, is_whole=True)).answers


async def _agree(
    scale: Scale, contenders: dict[str, Contender], truth: Awaitable[list[Answer]]
) -> None:
    """End the run when an answer is wrong: the speed of wrong answers is worth nothing."""
    wanted = await truth
    for name, ask in contenders.items():
        if name in SINGLE:
            continue
        tolerance = PERCENTILE_ERROR if name == ROLLUPS else 0
        answers = (await ask()).answers
        for widget, answer, whole in zip(WIDGETS, answers, wanted, strict=True):
            fault = _fault(widget, answer, whole, tolerance)
            if fault is not None:
                raise SystemExit(f"{name}, {scale.rows:,} rows, {widget.name}: {fault}")


def _fault(widget: Widget, answer: Answer, whole: Answer, tolerance: float) -> str | None:
    """What is wrong with an answer; any of the groups that tie for the last place is right."""
    groups = {_key(widget, row): row for row in whole}
    keys = [_key(widget, row) for row in answer]
    expected = len(groups) if widget.limit is None else min(widget.limit, len(groups))
    if len(set(keys)) != len(keys) or len(keys) != expected:
        return f"{len(keys)} rows, {len(set(keys))} of them different, where {expected} are right"
    for key, row in zip(keys, answer, strict=True):
        if key not in groups:
            return f"{key} is no group"
        for measure in widget.measures:
            if not _is_near(measure, row[measure], groups[key][measure], tolerance):
                return f"{measure} of {key} is {row[measure]} and should be {groups[key][measure]}"
    if widget.order_by is not None:
        measure = widget.order_by.removeprefix("-")
        last = sorted((row[measure] for row in whole), reverse=True)[expected - 1]
        # Both may be off, the one that came in and the one that it put out.
        slack = 2 * tolerance if measure in PERCENTILES else 0
        for key in keys:
            if groups[key][measure] < last * (1 - slack):
                return f"{key} does not belong to the first {expected}"
    return None


def _key(widget: Widget, row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(_plain(row[name]) for name in widget.group_by)


def _plain(value: Any) -> str:
    """A group's value as all of them say it; a day is the date on the viewer's calendar."""
    return str(value.date() if isinstance(value, datetime) else value)


def _is_near(measure: str, value: Any, right: Any, tolerance: float) -> bool:
    if value is None or right is None:
        return value is right
    allowed = tolerance if measure in PERCENTILES else 0
    if measure in QUOTIENTS:
        allowed = QUOTIENT_ERROR
    return abs(float(value) - float(right)) <= allowed * float(right)


def _overviews(results: list[Result]) -> str:
    by_key = {(result.rows, result.contender): result for result in results}
    rows = []
    for result in results:
        base = by_key[result.rows, ROLLUPS]
        # A single read the other way round: the overview may take so many times as long.
        times = _ratio(base, result) if result.contender in SINGLE else _ratio(result, base)
        rows.append([
            f"{result.rows:,}", result.contender, f"{median(result.ms):,.1f}",
            f"{min(result.ms):,.1f} - {max(result.ms):,.1f}",
            "" if result is base else f"{times:,.1f}", _target(result),
        ])  # fmt: skip
    few, many = (by_key.get((size, ROLLUPS)) for size in GROWTH)
    if few and many:
        rows.append([
            "1 to 30 million", "rollups, growth", "", "",
            f"{_ratio(many, few):.2f}", f"≤ {GROWTH_TARGET}",
        ])  # fmt: skip
    head = ["tool metrics", "overview from", "median ms", "range", "times rollups", "target"]
    return table(head, rows)


def _target(result: Result) -> str:
    is_large = result.rows >= LARGE
    if result.contender in SINGLE:
        return f"≤ {PAGE_TARGET}"
    if result.contender == RAW:
        return f"≥ {RAW_TARGET if is_large else 1}"
    if result.contender == DUCKDB and is_large:
        return f"≥ {DUCKDB_TARGET}"
    return ""


def _widgets(results: list[Result]) -> str:
    timed = [result for result in results if result.contender not in SINGLE]
    rows = [
        [
            widget.name,
            *(f"{median([one[place] for one in result.widgets]):,.1f}" for result in timed),
        ]
        for place, widget in enumerate(WIDGETS)
    ]
    head = ["median ms", *(f"{result.contender}, {result.rows:,}" for result in timed)]
    return table(head, rows)


def _ratio(slow: Result, fast: Result) -> float:
    """Within a round, because only neighbours in time had the same machine."""
    return median([a / b for a, b in zip(slow.ms, fast.ms, strict=True)])


if __name__ == "__main__":
    main()
