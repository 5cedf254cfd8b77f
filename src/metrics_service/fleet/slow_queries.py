"""Slow statements that were noted: who may read which, in lists and added up by fingerprint.

A tenant reads its own and an operator all of them by the same SQL: they differ in the function of the
registry that gives the rows, and that function decides. An operator's carries the hash of his key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal, Self, TypeVar
from uuid import UUID

import msgspec
from asyncpg import Connection, Record
from msgspec import Meta

from metrics_service.db.listing import as_raw, keyset, position_of
from metrics_service.db.pages import Position
from metrics_service.db.statements import Where
from metrics_service.fleet.statement_statistics import StatementStatistics
from metrics_service.fleet.views import Found

THE_BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)
MAX_ROUTES = 20

Fingerprint = Annotated[str, Meta(pattern="^[0-9a-f]{16}$", description="A statement's shape.")]
SlowQuerySort = Literal["at", "-at", "duration_ms", "-duration_ms"]
SummarySort = Literal["-total_ms", "-calls", "-mean_ms", "-p95_ms", "-worst_ms", "-last_at"]

Source = Callable[[Where, datetime], str]
"""Binds since when; returns what to read from."""


def of_tenant(where: Where, since: datetime) -> str:
    """The rows of the tenant whose transaction it is."""
    return f"shared.list_slow_queries({where.bind(since)})"


def of_operator(key_hash: bytes) -> Source:
    """The rows of all tenants and of none, in a transaction without a tenant."""

    def source(where: Where, since: datetime) -> str:
        return f"public.operator_slow_queries({where.bind(key_hash)}, {where.bind(since)})"

    return source


def of_owner(where: Where, since: datetime) -> str:
    """The table itself, for the command line."""
    where.add("q.at >= ?", since)
    return "public.slow_queries"


class SlowQueryFilter(
    msgspec.Struct, frozen=True, kw_only=True, rename={"since": "from_", "until": "to"}
):
    """Which of them."""

    since: datetime | None = None
    until: datetime | None = None
    fingerprint: str | None = None
    route: str | None = None
    min_duration_ms: float | None = None
    tenant_id: UUID | None = None
    """Not of a tenant's own, where there is no other."""

    @classmethod
    def of(cls, query: object, *, since: datetime | None = None) -> Self:
        """What a query asks for, in the words of the API; of no earlier than `since` if that is given."""
        wanted = msgspec.convert(query, cls, from_attributes=True)
        return wanted if since is None else msgspec.structs.replace(wanted, since=since)


_FAILURES = {
    "55P03": "no lock in time",
    "57014": "stopped, took too long",
    "40P01": "deadlock",
    "57P01": "server ended",
    "CancelledError": "client left",
}


def failure_in_words(error: str) -> str:
    """What a person calls it; what is rare has no other name than the server's."""
    return _FAILURES.get(error, error)


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """One execution that took too long, as it is written down."""

    id: UUID
    at: datetime
    """When it ended."""
    fingerprint: str
    statement: str
    """Its shape: no literal, no bound value."""
    operation: str
    table_name: str | None
    route: str
    """Of the request, or the name of the task."""
    duration_ms: float
    wait_ms: float | None
    """How long its transaction had waited for a connection before, which is no part of the duration."""
    row_count: int | None
    trace_id: str | None
    request_id: str | None
    error: str | None
    """SQLSTATE, or a class of errors, where it failed."""


class SlowQuery(Execution, frozen=True, kw_only=True):
    """As it is read, with the plan that was taken later."""

    plan: msgspec.Raw | None
    """As EXPLAIN gives it, for any values; one of many executions has one."""


class FleetSlowQuery(SlowQuery, frozen=True, kw_only=True):
    """As operators see it."""

    tenant_id: UUID | None


class SlowQuerySummary(msgspec.Struct, frozen=True, kw_only=True):
    """All executions of one statement that took too long."""

    fingerprint: str
    statement: str
    operation: str
    table_name: str | None
    calls: int
    error_count: int
    total_ms: float
    mean_ms: float
    p95_ms: float
    """The nearest rank."""
    worst_ms: float
    row_count: int | None
    first_at: datetime
    last_at: datetime
    routes: list[str]
    """At most twenty."""
    plan: msgspec.Raw | None
    """Of the newest execution that has one."""


class FleetSlowQuerySummary(SlowQuerySummary, frozen=True, kw_only=True):
    """As operators see it."""

    tenant_count: int
    statistics: StatementStatistics | None = None


RowT = TypeVar("RowT", bound=SlowQuery)
SummaryT = TypeVar("SummaryT", bound=SlowQuerySummary)


# -- lists ------------------------------------------------------------------------------------------


async def fetch_slow_queries(
    connection: Connection,
    source: Source,
    wanted: SlowQueryFilter,
    *,
    kind: type[SlowQuery],
    sort: SlowQuerySort = "-at",
    after: Position | None = None,
    limit: int,
    offset: int = 0,
) -> Sequence[Record]:
    """A page of rows for `row_view`; `id` breaks ties."""
    where = Where()
    item = _filtered(source, where, wanted)
    columns = kind.__struct_fields__
    order = keyset(where, "q", _sorted_by(sort), after)
    rows: Sequence[Record] = await connection.fetch(
        f"""
        SELECT {_listed("q", columns)}, q.duration_us
        FROM (
            SELECT {_listed("i", columns)}, round(i.duration_ms * 1000)::bigint AS duration_us
            FROM {item} i
        ) q
        {where} {order} LIMIT {where.bind(limit)} OFFSET {where.bind(offset)}
        """,
        *where.values,
    )
    return rows


async def list_slow_queries(
    connection: Connection,
    source: Source,
    wanted: SlowQueryFilter,
    *,
    kind: type[RowT],
    sort: SlowQuerySort = "-at",
    limit: int,
    offset: int = 0,
) -> list[RowT]:
    """As `fetch_slow_queries`, by number of page alone."""
    rows = await fetch_slow_queries(
        connection, source, wanted, kind=kind, sort=sort, limit=limit, offset=offset
    )
    return [row_view(row, kind) for row in rows]


async def count_slow_queries(
    connection: Connection, source: Source, wanted: SlowQueryFilter
) -> int:
    where = Where()
    item = _filtered(source, where, wanted)
    return int(await connection.fetchval(f"SELECT count(*) FROM {item} q {where}", *where.values))


async def find_slow_queries(
    connection: Connection,
    operator: bytes,
    wanted: SlowQueryFilter,
    *,
    sort: SlowQuerySort,
    limit: int,
    offset: int,
) -> Found[FleetSlowQuery]:
    """A page of them as an operator sees them: of all tenants, and of none."""
    source = of_operator(operator)
    rows = await list_slow_queries(
        connection, source, wanted, kind=FleetSlowQuery, sort=sort, limit=limit, offset=offset
    )
    return Found(rows, await count_slow_queries(connection, source, wanted))


def row_view(row: Record, kind: type[RowT]) -> RowT:
    columns = {name: row[name] for name in kind.__struct_fields__}
    return kind(**{**columns, "plan": as_raw(row["plan"])})


def row_position(sort: SlowQuerySort) -> Callable[[Record], Position]:
    """Where a row stands in a list that is sorted so."""
    return position_of(_sorted_by(sort))


def _sorted_by(sort: SlowQuerySort) -> str:
    # A cursor holds a whole number, and two times that differ by less are the same.
    return sort.replace("duration_ms", "duration_us")


def _listed(alias: str, columns: Sequence[str]) -> str:
    return ", ".join(f"{alias}.{name}" for name in columns)


def _filtered(source: Source, where: Where, wanted: SlowQueryFilter) -> str:
    item = source(where, wanted.since or THE_BEGINNING)
    conditions = {
        "q.at < ?": wanted.until,
        "q.fingerprint = ?": wanted.fingerprint,
        "q.route = ?": wanted.route,
        "q.duration_ms >= ?": wanted.min_duration_ms,
        "q.tenant_id = ?": wanted.tenant_id,
    }
    for condition, value in conditions.items():
        if value is not None:
            where.add(condition, value)
    return item


# -- by fingerprint ---------------------------------------------------------------------------------

# The texts are looked up in the end: to sort them along would take as much memory as all rows have.
_SUMMARY = """
    SELECT q.fingerprint, count(*) AS calls, count(q.error) AS error_count,
           sum(q.duration_ms) AS total_ms, avg(q.duration_ms) AS mean_ms,
           percentile_disc(0.95) WITHIN GROUP (ORDER BY q.duration_ms) AS p95_ms,
           max(q.duration_ms) AS worst_ms, sum(q.row_count)::bigint AS row_count,
           min(q.at) AS first_at, max(q.at) AS last_at,
           array_agg(DISTINCT q.route) AS routes,
           (array_agg(q.id ORDER BY q.at DESC, q.id DESC))[1] AS newest,
           (array_agg(q.id ORDER BY q.at DESC, q.id DESC) FILTER (WHERE q.plan IS NOT NULL))[1]
               AS planned,
           count(*) OVER () AS total
"""


async def summarise_slow_queries(
    connection: Connection,
    source: Source,
    wanted: SlowQueryFilter,
    *,
    kind: type[SummaryT],
    sort: SummarySort = "-total_ms",
    limit: int,
) -> Found[SummaryT]:
    """Add up the executions of each statement; the first `limit` statements in the order."""
    where = Where()
    item = _filtered(source, where, wanted)
    columns = ["id", "at", "fingerprint", "statement", "operation", "table_name", "route"]
    columns += ["duration_ms", "row_count", "error", "plan"]
    of_fleet = issubclass(kind, FleetSlowQuerySummary)
    if of_fleet:
        columns.append("tenant_id")
    tenants = ", count(DISTINCT q.tenant_id) AS tenant_count" if of_fleet else ""
    rows = await connection.fetch(
        f"""
        WITH q AS MATERIALIZED (
            SELECT {_listed("q", columns)} FROM {item} q {where}
        ), summary AS (
            {_SUMMARY} {tenants} FROM q GROUP BY q.fingerprint
            ORDER BY {sort.lstrip("-")} DESC, q.fingerprint LIMIT {where.bind(limit)}
        )
        SELECT {_columns_of(kind)}, s.total
        FROM summary s JOIN q n ON n.id = s.newest LEFT JOIN q p ON p.id = s.planned
        ORDER BY s.{sort.lstrip("-")} DESC, s.fingerprint
        """,
        *where.values,
    )
    return Found([_summary(row, kind) for row in rows], int(rows[0]["total"]) if rows else 0)


_OF_OTHERS = {
    "statement": "n.statement",
    "operation": "n.operation",
    "table_name": "n.table_name",
    "plan": "p.plan",
}


def _columns_of(kind: type[SlowQuerySummary]) -> str:
    names = (name for name in kind.__struct_fields__ if name != "statistics")
    return ", ".join(_OF_OTHERS.get(name, f"s.{name}") for name in names)


def _summary(row: Record, kind: type[SummaryT]) -> SummaryT:
    columns = {name: row[name] for name in kind.__struct_fields__ if name != "statistics"}
    for name in ("total_ms", "mean_ms"):
        columns[name] = round(columns[name], 3)
    routes = row["routes"][:MAX_ROUTES]
    return kind(**{**columns, "routes": routes, "plan": as_raw(row["plan"])})


def with_statistics(
    summaries: Sequence[FleetSlowQuerySummary], statistics: dict[str, StatementStatistics]
) -> list[FleetSlowQuerySummary]:
    return [
        msgspec.structs.replace(one, statistics=statistics.get(one.fingerprint))
        for one in summaries
    ]
