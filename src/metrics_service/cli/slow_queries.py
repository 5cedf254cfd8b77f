"""`metrics-service db slow-queries`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import msgspec
import rich_click as click

from metrics_service.cli.connect import opened_database
from metrics_service.cli.options import Duration
from metrics_service.cli.output import json_option, print_columns, print_json, print_many
from metrics_service.cli.owner_reading import read_as_owner
from metrics_service.errors import NotFoundError
from metrics_service.fleet.plan_tree import PlanNode, tree_of
from metrics_service.fleet.slow_queries import (
    FleetSlowQuery,
    FleetSlowQuerySummary,
    SlowQueryFilter,
    failure_in_words,
    list_slow_queries,
    of_owner,
    summarise_slow_queries,
    with_statistics,
)
from metrics_service.fleet.statement_statistics import fetch_statistics

MAX_STATEMENTS = 50
MAX_EXECUTIONS = 20
MAX_SHOWN = 60
A_DAY = timedelta(days=1)


class Line(msgspec.Struct, frozen=True):
    """One statement, as columns show it."""

    fingerprint: str
    calls: int
    total_ms: float
    mean_ms: float
    p95_ms: float
    worst_ms: float
    all_calls: int | None
    """Fast ones too, where pg_stat_statements counts them."""
    all_mean_ms: float | None
    last_at: str
    statement: str


class Execution(msgspec.Struct, frozen=True):
    """One execution, as columns show it."""

    at: str
    tenant: str | None
    route: str
    duration_ms: float
    wait_ms: float | None
    rows: int | None
    trace_id: str | None
    error: str | None


class Statement(msgspec.Struct, frozen=True):
    """All there is about one statement."""

    summary: FleetSlowQuerySummary
    executions: list[FleetSlowQuery]


class Found(msgspec.Struct, frozen=True):
    """What was read, and the slugs of the tenants in it."""

    summaries: list[FleetSlowQuerySummary]
    executions: list[FleetSlowQuery]
    slugs: dict[UUID, str]


def _fingerprint(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is not None and re.fullmatch("[0-9a-f]{16}", value) is None:
        raise click.BadParameter(f"{value!r} is not a fingerprint: 16 hexadecimal digits")
    return value


@click.command("slow-queries")
@click.option("--tenant", metavar="SLUG", help="One tenant's; all by default.")
@click.option("--since", type=Duration(), default=A_DAY, help="How far back; 24h by default.")
@click.option("--fingerprint", metavar="F", callback=_fingerprint, help="All about one statement.")
@json_option
def slow_queries_command(
    tenant: str | None, since: timedelta, fingerprint: str | None, as_json: bool
) -> None:
    """Show the statements that took too long, those that took the most time first."""
    with opened_database() as opened:
        tenant_id = opened.served_tenant(tenant).id if tenant is not None else None
        wanted = SlowQueryFilter(
            since=datetime.now(UTC) - since, fingerprint=fingerprint, tenant_id=tenant_id
        )
        found = read_as_owner(opened, lambda connection: _read(connection, wanted))
    if fingerprint is None:
        _print_all(found, as_json=as_json)
    elif not found.summaries:
        raise NotFoundError("slow statement", fingerprint)
    else:
        _print_one(found, as_json=as_json)


async def _read(connection: asyncpg.Connection[Any], wanted: SlowQueryFilter) -> Found:
    summaries = await summarise_slow_queries(
        connection, of_owner, wanted, kind=FleetSlowQuerySummary, limit=MAX_STATEMENTS
    )
    statistics = await fetch_statistics(connection, None)
    executions: list[FleetSlowQuery] = []
    if wanted.fingerprint is not None:
        executions = await list_slow_queries(
            connection, of_owner, wanted, kind=FleetSlowQuery, limit=MAX_EXECUTIONS
        )
    slugs = await connection.fetch("SELECT id, slug FROM public.tenants")
    return Found(
        with_statistics(summaries.rows, statistics),
        executions,
        {row["id"]: row["slug"] for row in slugs},
    )


def _print_all(found: Found, *, as_json: bool) -> None:
    if as_json:
        print_json(found.summaries)
        return
    lines = [
        Line(
            fingerprint=one.fingerprint,
            calls=one.calls,
            total_ms=one.total_ms,
            mean_ms=one.mean_ms,
            p95_ms=one.p95_ms,
            worst_ms=one.worst_ms,
            all_calls=one.statistics.calls if one.statistics else None,
            all_mean_ms=one.statistics.mean_ms if one.statistics else None,
            last_at=_moment(one.last_at),
            statement=_short(one.statement),
        )
        for one in found.summaries
    ]
    print_many(lines, as_json=False, none="no statement took too long")


def _print_one(found: Found, *, as_json: bool) -> None:
    [summary] = found.summaries
    if as_json:
        print_json(Statement(summary, found.executions))
        return
    _print_summary(summary)
    if summary.plan is not None:
        click.echo("\nplan, for any values:")
        _print_plan(tree_of(summary.plan), depth=0)
    click.echo("\nthe last executions:")
    rows = [
        Execution(
            at=_moment(one.at),
            tenant=None if one.tenant_id is None else found.slugs.get(one.tenant_id),
            route=one.route,
            duration_ms=one.duration_ms,
            wait_ms=one.wait_ms,
            rows=one.row_count,
            trace_id=one.trace_id,
            error=None if one.error is None else failure_in_words(one.error),
        )
        for one in found.executions
    ]
    print_many(rows, as_json=False, none="")


def _print_summary(summary: FleetSlowQuerySummary) -> None:
    shown = msgspec.structs.asdict(summary)
    shown |= {
        "routes": ", ".join(summary.routes),
        "first_at": _moment(summary.first_at),
        "last_at": _moment(summary.last_at),
    }
    # The plan comes below.
    del shown["plan"]
    if (counted := shown.pop("statistics")) is not None:
        shown |= {"all_calls": counted.calls, "all_mean_ms": counted.mean_ms}
    print_columns([[name, str(value)] for name, value in shown.items() if value is not None])


def _print_plan(node: PlanNode, *, depth: int) -> None:
    mark = "  !" if node.reads_whole_table else "   "
    click.echo(
        f"{mark}{'  ' * depth}{node.title}  (cost {node.total_cost:,.0f}, rows {node.rows:,})"
    )
    for detail in node.details:
        click.echo(f"   {'  ' * (depth + 2)}{detail}")
    for child in node.children:
        _print_plan(child, depth=depth + 1)


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")


def _short(statement: str) -> str:
    return statement if len(statement) <= MAX_SHOWN else f"{statement[: MAX_SHOWN - 1]}…"
