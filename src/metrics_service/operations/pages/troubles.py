"""What is wrong with the service, in words: where, since when, and what to do next.

Made of what the registry tells an operator, and of nothing that is not shown elsewhere on the pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Literal

import msgspec

from metrics_service.fleet.jobs import Job
from metrics_service.fleet.views import SchemaCounts, TenantView
from metrics_service.operations.pages.reports import CheckSaid, Process
from metrics_service.operations.pages.words import GAP, check_name, kind_name

Severity = Literal["bad", "warn"]

# A process that takes jobs takes them at once; one job may run for a while.
PATIENCE = timedelta(minutes=5)
TIMER = timedelta(hours=1)
"""So long may pass between two turns of a maintenance that a timer starts."""
ROLLING = timedelta(minutes=15)
"""So long processes of two versions may run side by side."""
FAILED_SHARE = 0.02
FAILED_LEAST = 10
NAMED = 3
"""So many of something are named; of more, how many there are."""


class Trouble(msgspec.Struct, frozen=True):
    """One thing that is wrong."""

    severity: Severity
    title: str
    where: str
    advice: str
    since: datetime | None = None
    detail: str = ""
    """What the service itself said about it."""
    href: str | None = None
    action: str = ""
    """Where that leads."""


class Advice(msgspec.Struct, frozen=True):
    """What a check is about, as somebody is told who did not build it."""

    unhealthy: str
    degraded: str
    next: str
    href: str | None = None
    action: str = ""


_CHECKS = {
    "database": Advice(
        "The database does not answer",
        "The database refuses some connections",
        "Nothing is read or stored until it does. See whether PostgreSQL runs, accepts connections"
        " and is reached from these machines; the service reconnects by itself.",
        "/health-history",
        "Health history",
    ),
    "latency": Advice(
        "The database answers very slowly",
        "The database answers slowly",
        "Look for statements that take long, then at the load of the database server.",
        "/slow-queries",
        "Slow queries",
    ),
    "cache": Advice(
        "Changes are not announced between processes",
        "Changes are announced late between processes",
        "Revoked keys and changed settings may hold on until they expire. Announcements need a direct"
        " connection: see whether DATABASE_DIRECT_URL passes by the pooler.",
        "/health-history?check_name=cache",
        "Its history",
    ),
    "migrations": Advice(
        "Migrations failed",
        "Schemas are behind, or their migration failed",
        "Tenants whose migration failed, or that this version cannot serve yet, are answered 503."
        " The ledger says which, and why; from there they are upgraded.",
        "/migrations",
        "Migrations",
    ),
    "tables": Advice(
        "Tables are missing",
        "Tables are missing",
        "What needs them fails for that tenant. Where its schema is behind, upgrade it; else they were"
        " dropped, and a backup has them. `metrics-service db check` names them.",
        "/migrations",
        "Migrations",
    ),
    "coverage": Advice(
        "A table is not guarded between tenants",
        "A table is not guarded between tenants",
        "Take this before anything else. `metrics-service db check` names every hole; what is missing there"
        " is to be made again as it is in any other tenant's schema.",
    ),
    "pool": Advice(
        "All connections are in use, and requests wait",
        "Connections are nearly all in use",
        "Statements that take long hold them: look there first. Else raise DATABASE_POOL_MAX, as far"
        " as the server's max_connections allows.",
        "/slow-queries",
        "Slow queries",
    ),
    "disk": Advice(
        "The disk of the database is nearly full",
        "The disk of the database fills up",
        "Free some space: PostgreSQL stops when there is none. The largest tenants come first in"
        " their list.",
        "/tenants?sort=-bytes",
        "Tenants by size",
    ),
    "exporter": Advice(
        "Telemetry of the service is not delivered",
        "Telemetry of the service is not delivered",
        "Requests are served as always. See whether the collector of OTEL_EXPORTER_OTLP_ENDPOINT"
        " runs, and takes what it is sent.",
    ),
    "maintenance": Advice(
        "Maintenance is interrupted",
        "Maintenance is interrupted",
        "Jobs wait until it goes on, which it tries by itself. Where nothing else is wrong, see its log,"
        " and whether its DATABASE_OWNER_URL still opens the database.",
        "/jobs",
        "Jobs",
    ),
    "server-version": Advice(
        "This version of PostgreSQL has known holes",
        "This version of PostgreSQL has known holes",
        "Update the server to the latest minor release.",
    ),
}
_REPLICA = Advice(
    "A replica does not answer",
    "A replica lags behind",
    "Until it has caught up it serves old figures. See whether it runs, and whether it can keep up.",
    "/health-history",
    "Health history",
)
_OTHER = Advice("", "", "See what the check says.", "/health-history", "Health history")


def troubles_of(
    *,
    processes: Sequence[Process],
    tenants: Sequence[TenantView],
    schemas: SchemaCounts,
    jobs: Sequence[Job],
    now: datetime,
) -> list[Trouble]:
    """What is wrong first, then what wants attention; of equals what more hangs on."""
    living = [one for one in processes if not one.view.is_silent]
    found = [
        *_of_checks(living),
        *_of_silent(processes),
        *_of_missing(processes, tenants, now),
        *_of_versions(living, now),
        *_of_schemas(schemas, living),
        *_of_tenants(tenants, now),
        *_of_jobs(jobs, now),
    ]
    return _sorted(found)


def troubles_of_one(process: Process) -> list[Trouble]:
    """What a process knows by itself, while the registry tells nothing."""
    # No other page can be made meanwhile.
    alone = {"where": f"in this process: {_name(process)}", "href": None, "action": ""}
    return [msgspec.structs.replace(one, **alone) for one in _sorted(_of_checks([process]))]


def _sorted(found: Iterable[Trouble]) -> list[Trouble]:
    return sorted(found, key=lambda one: one.severity != "bad")


# -- processes ----------------------------------------------------------------------------------------


def _of_checks(living: Sequence[Process]) -> Iterable[Trouble]:
    by_name: dict[str, list[tuple[Process, CheckSaid]]] = {}
    for process in living:
        for check in process.report.checks:
            if check.status != "healthy" and not _follows(check, process):
                by_name.setdefault(check.name, []).append((process, check))
    order = [*_CHECKS, *sorted(by_name.keys() - _CHECKS.keys())]
    for name in sorted(by_name, key=order.index):
        yield _of_check(name, by_name[name], living)


def _follows(check: CheckSaid, process: Process) -> bool:
    """Whether it is so because the database does not answer, which is told already."""
    return check.name == "cache" and any(
        one.name == "database" and one.status == "unhealthy" for one in process.report.checks
    )


def _of_check(
    name: str, said: Sequence[tuple[Process, CheckSaid]], living: Sequence[Process]
) -> Trouble:
    worst = max(said, key=lambda one: one[1].status == "unhealthy")[1]
    is_bad = worst.status == "unhealthy"
    advice = _CHECKS.get(name, _REPLICA if name.startswith("replica") else _OTHER)
    title = advice.unhealthy if is_bad else advice.degraded
    looked = [one for one in living if any(check.name == name for check in one.report.checks)]
    return Trouble(
        severity="bad" if is_bad else "warn",
        title=title or f"{check_name(name)} is {worst.status}",
        where=_places([one for one, _ in said], len(looked)),
        since=min((check.since for _, check in said if check.since is not None), default=None),
        detail=worst.detail or "",
        advice=advice.next,
        href=advice.href,
        action=advice.action,
    )


def _of_silent(processes: Sequence[Process]) -> Iterable[Trouble]:
    silent = [one for one in processes if one.view.is_silent]
    if not silent:
        return
    is_lost = all(one.view.is_silent for one in processes if one.view.kind == silent[0].view.kind)
    subject = "A process does" if len(silent) == 1 else f"{len(silent)} processes do"
    yield Trouble(
        severity="bad" if is_lost else "warn",
        title=f"{subject} not report any more",
        where=_places(silent, len(processes)),
        since=min(one.view.seen_at for one in silent),
        advice=(
            "It was killed, hangs or cannot reach the database: see its last log lines. One that"
            " ended in order leaves this list at once, any other after an hour."
        ),
        href="#processes",
        action="Processes",
    )


def _of_missing(
    processes: Sequence[Process], tenants: Sequence[TenantView], now: datetime
) -> Iterable[Trouble]:
    known = [one for one in processes if one.view.kind == "maintenance"]
    measured = max(
        (one.measured_at for one in tenants if one.measured_at is not None), default=None
    )
    # A timer's leaves no process to be seen, only what it did.
    is_by_timer = not known and measured is not None and now - measured < TIMER
    if is_by_timer or not all(one.view.is_silent for one in known):
        return
    yield Trouble(
        severity="warn",
        title="Nothing does the maintenance",
        where="no process of that kind reports",
        since=measured,
        advice=(
            "Jobs wait, sizes are not measured and nothing old is removed. Start"
            " `metrics-service maintain` where the owner's DATABASE_OWNER_URL is known."
        ),
        href="/jobs",
        action="Jobs",
    )


def _of_versions(living: Sequence[Process], now: datetime) -> Iterable[Trouble]:
    versions = sorted({one.view.version for one in living})
    if len(versions) < 2:
        return
    newest = max(one.view.started_at for one in living)
    if now - newest < ROLLING:
        return
    yield Trouble(
        severity="warn",
        title="Processes run different versions",
        where=" and ".join(versions),
        since=newest,
        advice="A release was not rolled out to the end, or is being taken back.",
        href="#processes",
        action="Processes",
    )


def _places(processes: Sequence[Process], among: int) -> str:
    listed = _listed([_name(one) for one in processes])
    if len(processes) == among:
        everywhere = "in every process" if among > 1 else "in the only process"
        return f"{everywhere}: {listed}"
    return f"in {len(processes)} of {among} processes: {listed}"


def _name(process: Process) -> str:
    view = process.view
    return f"{view.host} ({kind_name(view.kind)}, {view.pid})"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


# -- schemas, tenants, jobs -----------------------------------------------------------------------------


def _of_schemas(schemas: SchemaCounts, living: Sequence[Process]) -> Iterable[Trouble]:
    if any(
        check.name == "migrations" and check.status != "healthy"
        for one in living
        for check in one.report.checks
    ):
        # The processes have seen it themselves.
        return
    if schemas.failed:
        yield Trouble(
            severity="bad",
            title=f"{_count(schemas.failed, 'migration')} failed",
            where=f"of {_count(schemas.schemas, 'schema')}",
            advice="The ledger says why. Mend that, then upgrade the schema again.",
            href="/migrations?state=failed",
            action="Failed migrations",
        )
    if schemas.behind:
        is_one = schemas.behind == 1
        yield Trouble(
            severity="warn",
            title=f"{_count(schemas.behind, 'schema')} {'is' if is_one else 'are'} behind",
            where=f"of {_count(schemas.schemas, 'schema')}",
            advice="Upgrade them: it takes seconds each, and the service goes on meanwhile.",
            href="/migrations?state=behind",
            action="Migrations",
        )


def _of_tenants(tenants: Sequence[TenantView], now: datetime) -> Iterable[Trouble]:
    failing = sorted(
        (
            one
            for one in tenants
            if one.failures_hour >= FAILED_LEAST and _share(one) >= FAILED_SHARE
        ),
        key=lambda one: -one.failures_hour,
    )
    if failing:
        is_one = len(failing) == 1
        shares = [f"{one.slug} {_share(one) * 100:.1f}{GAP}%" for one in failing]
        yield Trouble(
            severity="bad",
            title=f"Requests fail for {failing[0].slug if is_one else f'{len(failing)} tenants'}",
            where=f"within the last hour: {_listed(shares)}",
            advice=(
                "These are failures of ours, not refusals. Look for slow statements of the tenant and"
                " for the request ids of the log's lines with status 500 and above."
            ),
            href=f"/tenants/{failing[0].id}",
            action=failing[0].slug,
        )
    stuck = [
        one for one in tenants if one.status == "provisioning" and now - one.created_at > PATIENCE
    ]
    if stuck:
        yield Trouble(
            severity="warn",
            title=f"{_count(len(stuck), 'tenant')} not made to the end",
            where=_listed([one.slug for one in stuck]),
            since=min(one.created_at for one in stuck),
            advice="The job that makes it waits or has failed.",
            href="/jobs?kind=provision",
            action="Jobs that provision",
        )


def _share(tenant: TenantView) -> float:
    return tenant.failures_hour / tenant.requests_hour if tenant.requests_hour else 0.0


def _of_jobs(jobs: Sequence[Job], now: datetime) -> Iterable[Trouble]:
    waiting = [one for one in jobs if one.status == "queued" and now - one.queued_at > PATIENCE]
    if waiting:
        yield Trouble(
            severity="warn",
            title=f"{_count(len(waiting), 'job')} {'waits' if len(waiting) == 1 else 'wait'}",
            where=_listed([one.kind for one in waiting]),
            since=min(one.queued_at for one in waiting),
            advice="A process of maintenance takes them one by one: see whether one runs.",
            href="/jobs?status=queued",
            action="Jobs that wait",
        )
    failed = [
        one
        for one in jobs
        if one.status == "failed"
        and one.finished_at is not None
        and now - one.finished_at < timedelta(days=1)
        and not _was_done_later(one, jobs)
    ]
    if failed:
        yield Trouble(
            severity="warn",
            title=f"{_count(len(failed), 'job')} failed",
            where=_listed([one.kind for one in failed]),
            since=min(one.finished_at for one in failed if one.finished_at is not None),
            detail=failed[0].error or "",
            advice="Mend what the job says, then ask for it again.",
            href="/jobs?status=failed",
            action="Failed jobs",
        )


def _was_done_later(job: Job, jobs: Sequence[Job]) -> bool:
    return any(
        one.status == "done"
        and (one.kind, one.arguments) == (job.kind, job.arguments)
        and one.queued_at > job.queued_at
        for one in jobs
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
