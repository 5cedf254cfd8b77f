"""`/health-history`: every check of every process, how it was lately, and what happened."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

import msgspec
from litestar import Response, get

from metrics_service.fields import now as moment_now
from metrics_service.fleet.reading import list_health_events, list_processes
from metrics_service.fleet.views import EventKind, FleetQuery, HealthEventsQuery
from metrics_service.health.schemas import SEVERITY
from metrics_service.operations.dependencies import OperatorRequest, reading
from metrics_service.operations.pages.asked import Asked
from metrics_service.operations.pages.drawings import Strip, strips_of
from metrics_service.operations.pages.happenings import happenings
from metrics_service.operations.pages.page import REFRESH_S, page
from metrics_service.operations.pages.reports import CheckSaid, Process, process_of
from metrics_service.web.query import page_query

PATH = "/health-history"
# More than the registry keeps.
ALL_EVENTS = 20_000

Since = Literal["6h", "24h", "7d", "30d"]
_HOURS = {"6h": 6, "24h": 24, "7d": 7 * 24, "30d": 30 * 24}
_LABELS: dict[str | None, str] = {
    "6h": "6 hours",
    None: "24 hours",
    "7d": "7 days",
    "30d": "30 days",
}


class HistoryQuery(FleetQuery, frozen=True, kw_only=True):
    """Of which time, and which events of it."""

    since: Since = "24h"
    kind: EventKind | None = None
    check_name: str | None = None


class Finding(msgspec.Struct, frozen=True):
    """What one process says of a check."""

    process: Process
    check: CheckSaid


class CheckHistory(msgspec.Struct, frozen=True):
    """One check: what every process says of it now, the worst first, and how it was."""

    name: str
    findings: list[Finding]
    strip: Strip

    @property
    def worst(self) -> CheckSaid | None:
        return self.findings[0].check if self.findings else None

    @property
    def latency_ms(self) -> float | None:
        """The slowest look of all processes."""
        times = [one.check.latency_ms for one in self.findings if one.check.latency_ms is not None]
        return max(times, default=None)


@get(PATH)
async def get_health_history(request: OperatorRequest) -> Response[bytes]:
    query = page_query(request, HistoryQuery)
    key, now = request.user.key_hash, moment_now()
    start = now - timedelta(hours=_HOURS[query.since])
    wanted = HealthEventsQuery(
        from_=start,
        kind=query.kind,
        check_name=query.check_name,
        limit=query.limit,
        page=query.page,
    )
    async with reading(request) as connection:
        processes = [process_of(one) for one in await list_processes(connection, key)]
        changes = await list_health_events(
            connection,
            key,
            HealthEventsQuery(from_=start, kind="health-change", limit=ALL_EVENTS),
        )
        found = await list_health_events(connection, key, wanted)
    strips = strips_of(
        changes.rows,
        [one.view for one in processes],
        (check.name for one in processes for check in one.report.checks),
        start=start,
        end=now,
    )
    asked = Asked(PATH, query)
    return page(
        request,
        "health.html",
        values={
            "asked": asked,
            "found": found,
            "checks": _histories(strips, processes),
            "events": happenings(found.rows, processes),
            "times": asked.choices("since", _LABELS),
            "start": start,
            "changes": changes.total,
        },
        operator=request.user,
        title="Health",
        # Whoever turned to another page is reading.
        refresh_s=REFRESH_S if query.page == 1 else None,
    )


def _histories(strips: Sequence[Strip], processes: Sequence[Process]) -> list[CheckHistory]:
    """Those that are worst now come first, then those that were bad for longest."""
    histories = []
    for strip in strips:
        findings = [
            Finding(process, check)
            for process in processes
            if not process.view.is_silent
            for check in process.report.checks
            if check.name == strip.check
        ]
        findings.sort(key=lambda one: -SEVERITY[one.check.status])
        histories.append(CheckHistory(strip.check, findings, strip))
    return sorted(histories, key=_rank)


def _rank(history: CheckHistory) -> tuple[int, timedelta]:
    worst = history.worst
    severity = SEVERITY[worst.status] if worst is not None else 0
    healthy = history.strip.lasted.get("healthy", timedelta())
    return -severity, healthy
