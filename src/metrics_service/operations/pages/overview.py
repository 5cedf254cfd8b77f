"""`/`: what is wrong now, and since when; then how the service does, and who keeps it busy."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
from litestar import Response, get

from metrics_service.errors import StatementTimeoutError, UnavailableError
from metrics_service.fields import now as moment_now
from metrics_service.fleet.reading import (
    count_schemas,
    list_activity,
    list_health_events,
    list_jobs,
    list_processes,
    list_tenants,
    read_totals,
)
from metrics_service.fleet.slow_queries import (
    FleetSlowQuerySummary,
    SlowQueryFilter,
    of_operator,
    summarise_slow_queries,
)
from metrics_service.fleet.views import (
    HealthEventsQuery,
    HealthEventView,
    JobsQuery,
    ProcessView,
    TenantsQuery,
    TenantView,
    Totals,
)
from metrics_service.health.monitor import HealthMonitor
from metrics_service.operations.dependencies import OperatorRequest, reading
from metrics_service.operations.pages.activity import Hour, Rate, hours_of, rates_of
from metrics_service.operations.pages.happenings import Happening, happenings
from metrics_service.operations.pages.page import REFRESH_S, page
from metrics_service.operations.pages.reports import Process, process_of
from metrics_service.operations.pages.troubles import Trouble, troubles_of, troubles_of_one

PATH = "/"
LISTED = 5
PATIENCE_S = 5.0
"""How long the registry may take, before the page is made without it."""
EVENTS = 8
# Of which those that several processes noted at once are shown as one.
EVENTS_READ = 200
# More jobs than may wait, and more tenants than anybody has.
ALL_JOBS, ALL_TENANTS = 2_000, 20_000
DAY = timedelta(days=1)


class Fleet(msgspec.Struct, frozen=True):
    """What the registry tells beside what is wrong."""

    totals: Totals
    rates: list[Rate]
    hours: list[Hour]
    slowest: list[FleetSlowQuerySummary]
    events: list[Happening]
    largest: list[TenantView]
    busiest: list[TenantView]


class Overview(msgspec.Struct, frozen=True):
    """Everything that the page shows; while the registry is silent, what this process knows itself."""

    troubles: list[Trouble]
    processes: list[Process]
    calm_since: datetime | None
    """The last time that anything was not as it should be, if that is known."""
    fleet: Fleet | None


@get(PATH)
async def get_overview(request: OperatorRequest) -> Response[bytes]:
    try:
        async with asyncio.timeout(PATIENCE_S):
            found = await _read(request)
    except (UnavailableError, StatementTimeoutError, TimeoutError):
        # Just then somebody wants to know what is wrong.
        found = _alone(request)
    return page(
        request,
        "overview.html",
        values={"found": found},
        operator=request.user,
        title="Overview",
        refresh_s=REFRESH_S,
    )


def _alone(request: OperatorRequest) -> Overview:
    monitor: HealthMonitor = request.app.state.health
    report = msgspec.to_builtins(monitor.report())
    view = msgspec.convert(
        {**report, "seen_at": moment_now(), "report": report, "is_silent": False}, ProcessView
    )
    here = process_of(view)
    return Overview(troubles_of_one(here), [here], None, None)


async def _read(request: OperatorRequest) -> Overview:
    key, now = request.user.key_hash, moment_now()
    async with reading(request) as connection:
        processes = [process_of(one) for one in await list_processes(connection, key)]
        tenants = await list_tenants(
            connection, key, TenantsQuery(limit=ALL_TENANTS, sort="-requests_hour")
        )
        schemas = await count_schemas(connection, key)
        jobs = await list_jobs(connection, key, JobsQuery(limit=ALL_JOBS))
        events = await list_health_events(connection, key, HealthEventsQuery(limit=EVENTS_READ))
        totals = await read_totals(connection, key)
        activity = await list_activity(connection, key)
        slow = await summarise_slow_queries(
            connection,
            of_operator(key),
            SlowQueryFilter(since=now - DAY),
            kind=FleetSlowQuerySummary,
            limit=LISTED,
        )
    troubles = troubles_of(
        processes=processes, tenants=tenants.rows, schemas=schemas, jobs=jobs.rows, now=now
    )
    measured = [one for one in tenants.rows if one.bytes is not None]
    return Overview(
        troubles=troubles,
        processes=processes,
        calm_since=None if troubles else _calm_since(events.rows),
        fleet=Fleet(
            totals=totals,
            rates=rates_of(activity, now),
            hours=hours_of(activity),
            slowest=slow.rows,
            events=happenings(events.rows, processes)[:EVENTS],
            largest=sorted(measured, key=lambda one: -(one.bytes or 0))[:LISTED],
            busiest=[one for one in tenants.rows if one.requests_hour][:LISTED],
        ),
    )


def _calm_since(events: Sequence[HealthEventView]) -> datetime | None:
    return events[0].at if events else None
