"""What operators' pages say: what is wrong, in which order, and how health was over time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from metrics_service.fleet.jobs import Job
from metrics_service.fleet.plan_tree import PlanNode
from metrics_service.fleet.views import (
    HealthEventView,
    ProcessView,
    SchemaCounts,
    TenantsQuery,
    TenantView,
)
from metrics_service.operations.pages.asked import Asked
from metrics_service.operations.pages.drawings import by_bucket, line_of, strips_of
from metrics_service.operations.pages.environment import ENVIRONMENT
from metrics_service.operations.pages.happenings import happenings
from metrics_service.operations.pages.reports import process_of
from metrics_service.operations.pages.slow_queries import steps_of
from metrics_service.operations.pages.troubles import (
    Trouble,
    troubles_of,
    troubles_of_one,
)
from metrics_service.operations.pages.words import span

NOW = datetime(2026, 3, 2, 3, 7, tzinfo=UTC)
WELL = SchemaCounts(schemas=4, behind=0, failed=0)


def ago(minutes: float) -> datetime:
    return NOW - timedelta(minutes=minutes)


def process(host: str = "web-1", **changes: Any) -> ProcessView:
    usual = ProcessView(
        id=uuid4(),
        kind="http",
        host=host,
        pid=7,
        version="1.0.0",
        started_at=ago(6000),
        seen_at=ago(0.1),
        status="healthy",
        report={},
        is_silent=False,
    )
    return msgspec.structs.replace(usual, **changes)


def checked(name: str, status: str, minutes: float, **changes: Any) -> ProcessView:
    check = {
        "name": name,
        "status": status,
        "since": ago(minutes).isoformat(),
        "detail": "so it is",
    }
    return process(report={"checks": [check]}, **changes)


def tenant(slug: str = "one", **changes: Any) -> TenantView:
    nothing = dict.fromkeys(TenantView.__struct_fields__)
    counts = {name: 0 for name in nothing if name.endswith(("_hour", "_day"))}
    known = {"id": uuid4(), "slug": slug, "status": "active", "created_at": ago(60 * 24 * 90)}
    return TenantView(**{**nothing, **counts, **known, **changes})


def job(status: str, **changes: Any) -> Job:
    usual = Job(
        id=uuid4(),
        kind="upgrade",
        arguments={"schema": None},
        status=status,
        queued_by="somebody",
        queued_at=ago(30),
        started_at=None,
        finished_at=ago(20) if status in {"failed", "done"} else None,
        done=0,
        total=None,
        result=None,
        error="it broke" if status == "failed" else None,
    )
    return msgspec.structs.replace(usual, **changes)


MAINTENANCE = process("ops-1", kind="maintenance")


def troubles(*processes: ProcessView, **others: Any) -> list[Trouble]:
    known = {"tenants": [], "schemas": WELL, "jobs": [], **others}
    return troubles_of(
        processes=[process_of(one) for one in (*processes, MAINTENANCE)], now=NOW, **known
    )


# -- what is wrong -------------------------------------------------------------------------------------


def test_nothing_is_wrong_where_nothing_is() -> None:
    jobs = [job("done"), job("running"), job("queued", queued_at=ago(1))]

    assert troubles(process(), tenants=[tenant(requests_hour=500)], jobs=jobs) == []


def test_a_check_is_one_trouble_whoever_found_it_since_the_first_did() -> None:
    (found,) = troubles(
        checked("latency", "degraded", 23, host="a"),
        checked("latency", "degraded", 20, host="b"),
        checked("latency", "healthy", 90, host="c"),
    )

    assert (found.severity, found.title) == ("warn", "The database answers slowly")
    assert found.since == ago(23)
    assert found.where == "in 2 of 3 processes: a (HTTP, 7), b (HTTP, 7)"
    assert (found.detail, found.href) == ("so it is", "/slow-queries")


def test_what_is_wrong_comes_before_what_wants_attention_and_the_database_before_all() -> None:
    found = troubles(
        checked("exporter", "unhealthy", 500),
        checked("latency", "degraded", 600),
        checked("pool", "unhealthy", 5),
        checked("database", "unhealthy", 1),
        jobs=[job("failed")],
    )

    assert [one.title for one in found] == [
        "The database does not answer",
        "All connections are in use, and requests wait",
        "Telemetry of the service is not delivered",
        "The database answers slowly",
        "1 job failed",
    ]


def test_checks_that_nobody_knew_of_are_told_too() -> None:
    found = troubles(checked("replica-2", "unhealthy", 1), checked("moon_phase", "degraded", 1))

    assert [one.title for one in found] == ["A replica does not answer", "Moon phase is degraded"]


def test_what_a_silent_process_said_is_not_taken_for_true() -> None:
    silent = checked("pool", "unhealthy", 30, host="gone", is_silent=True, seen_at=ago(9))

    (among_others,) = troubles(silent, process())
    (alone,) = troubles(silent)

    assert among_others.title == alone.title == "A process does not report any more"
    assert (among_others.severity, alone.severity) == ("warn", "bad")
    assert alone.since == ago(9)


def test_a_process_that_is_asked_alone_speaks_for_itself_alone() -> None:
    (found,) = troubles_of_one(process_of(checked("database", "unhealthy", 1, host="a")))

    assert (found.where, found.href) == ("in this process: a (HTTP, 7)", None)


def test_what_follows_from_a_database_that_is_away_is_not_told_beside_it() -> None:
    deaf = {"name": "cache", "status": "degraded", "since": ago(1).isoformat()}
    away = {"name": "database", "status": "unhealthy", "since": ago(2).isoformat()}

    (first,) = troubles(process(report={"checks": [away, deaf]}))
    (alone,) = troubles(process(report={"checks": [deaf]}))

    assert first.title == "The database does not answer"
    assert alone.title == "Changes are announced late between processes"


@pytest.mark.parametrize(
    ("check", "status", "title"),
    [
        ("tables", "degraded", "Tables are missing"),
        ("exporter", "degraded", "Telemetry of the service is not delivered"),
        ("maintenance", "unhealthy", "Maintenance is interrupted"),
    ],
)
def test_what_a_check_found_is_called_what_it_is(check: str, status: str, title: str) -> None:
    (found,) = troubles(checked(check, status, 1))

    assert found.title == title


def test_nobody_who_does_the_maintenance_is_a_trouble() -> None:
    (found,) = troubles_of(
        processes=[process_of(process())], tenants=[], schemas=WELL, jobs=[], now=NOW
    )

    assert found.title == "Nothing does the maintenance"


@pytest.mark.parametrize(("minutes", "since"), [(59, []), (61, [61])])
def test_maintenance_by_a_timer_is_known_by_what_it_did(minutes: int, since: list[int]) -> None:
    found = troubles_of(
        processes=[process_of(process())],
        tenants=[tenant(measured_at=ago(minutes))],
        schemas=WELL,
        jobs=[],
        now=NOW,
    )

    assert [one.since for one in found] == [ago(minute) for minute in since]


def test_maintenance_that_was_killed_is_missed_at_once() -> None:
    killed = process(kind="maintenance", is_silent=True, seen_at=ago(2))

    found = troubles_of(
        processes=[process_of(process()), process_of(killed)],
        tenants=[tenant(measured_at=ago(3))],
        schemas=WELL,
        jobs=[],
        now=NOW,
    )

    assert {one.title: one.since for one in found} == {
        "A process does not report any more": ago(2),
        "Nothing does the maintenance": ago(3),
    }


@pytest.mark.parametrize(("minutes", "troubled"), [(5, False), (40, True)])
def test_two_versions_are_a_trouble_when_they_last(minutes: int, troubled: bool) -> None:
    newer = process(version="1.1.0", started_at=ago(minutes))

    found = troubles(process(), newer, process("c", version="1.1.0"))

    assert [one.title for one in found] == ["Processes run different versions"] * troubled


def test_schemas_are_told_of_once() -> None:
    behind = SchemaCounts(schemas=9, behind=2, failed=1)

    by_ledger = troubles(process(), schemas=behind)
    by_process = troubles(checked("migrations", "degraded", 3), schemas=behind)

    assert [one.title for one in by_ledger] == ["1 migration failed", "2 schemas are behind"]
    assert [one.title for one in by_process] == ["Schemas are behind, or their migration failed"]


def test_a_tenant_whose_requests_fail_is_named_and_one_with_a_few_failures_is_not() -> None:
    tenants = [
        tenant("fails", requests_hour=1000, failures_hour=45),
        tenant("large", requests_hour=100_000, failures_hour=30),
        tenant("small", requests_hour=3, failures_hour=2),
    ]

    (found,) = troubles(process(), tenants=tenants)

    assert found.title == "Requests fail for fails"
    assert found.where == "within the last hour: fails 4.5\xa0%"
    assert found.href == f"/tenants/{tenants[0].id}"


def test_jobs_that_wait_or_failed_are_told_of_unless_they_were_done_later() -> None:
    again = job("done", queued_at=ago(10))

    waiting = troubles(process(), jobs=[job("queued")])
    failed = troubles(process(), jobs=[job("failed")])
    mended = troubles(process(), jobs=[job("failed"), again])
    old = troubles(process(), jobs=[job("failed", finished_at=ago(60 * 25))])

    assert [one.title for one in waiting] == ["1 job waits"]
    assert [(one.title, one.detail) for one in failed] == [("1 job failed", "it broke")]
    assert mended == old == []


# -- how it was ----------------------------------------------------------------------------------------


def event(minutes: float, status: str, before: str, process_id: UUID, **changes: Any) -> Any:
    usual = HealthEventView(
        id=int(100_000 - minutes * 10),
        at=ago(minutes),
        process_id=process_id,
        kind="health-change",
        check_name="pool",
        status_before=before,
        status=status,
        detail="",
    )
    return msgspec.structs.replace(usual, **changes)


def lasted(*events: HealthEventView, processes: tuple[ProcessView, ...]) -> dict[str, float]:
    (strip,) = strips_of(events, processes, ["pool"], start=ago(60), end=NOW)
    assert sum(piece.width for piece in strip.pieces) == pytest.approx(1000, abs=4)
    return {name: spent.total_seconds() / 60 for name, spent in strip.lasted.items()}


def test_a_strip_is_the_worst_that_any_process_found() -> None:
    one, other = process(), process()

    found = lasted(
        event(40, "degraded", "healthy", one.id),
        event(30, "unhealthy", "healthy", other.id),
        event(20, "healthy", "unhealthy", other.id),
        event(10, "healthy", "degraded", one.id),
        processes=(one, other),
    )

    assert found == {"healthy": 30, "degraded": 20, "unhealthy": 10}


def test_what_was_so_before_the_time_is_so_at_its_beginning_and_lasts_until_now() -> None:
    one, other = process(), process()

    assert lasted(event(50, "healthy", "degraded", one.id), processes=(one,)) == {
        "degraded": 10,
        "healthy": 50,
    }
    assert lasted(event(15, "unhealthy", "healthy", other.id), processes=(other,)) == {
        "healthy": 45,
        "unhealthy": 15,
    }


def test_a_process_that_is_gone_is_bad_until_another_takes_its_place() -> None:
    successor = process(started_at=ago(25))

    found = lasted(event(40, "unhealthy", "healthy", uuid4()), processes=(successor,))

    assert found == {"healthy": 45, "unhealthy": 15}


def test_what_several_processes_noted_together_is_told_once() -> None:
    first, second = process("a"), process("b")
    events = [
        event(5, "healthy", "degraded", first.id),
        event(9.7, "degraded", "healthy", second.id),
        event(10, "degraded", "healthy", first.id),
        event(30, "degraded", "healthy", first.id),
        event(30.1, "degraded", "healthy", uuid4()),
    ]

    found = happenings(events, [process_of(first), process_of(second)])

    assert [one.where for one in found] == [
        "a (HTTP, 7)",
        "b (HTTP, 7), a (HTTP, 7)",
        "a (HTTP, 7), a process that is gone",
    ]


# -- drawings, addresses, words --------------------------------------------------------------------------


def test_a_line_has_every_five_minutes_and_ends_with_the_last_whole_ones() -> None:
    latest = NOW.replace(minute=0)

    values = by_bucket({latest: 7, latest - timedelta(minutes=10): 3, NOW: 99}, NOW)

    assert len(values) == 288
    assert values[-3:] == [3, 0, 7]
    drawn = line_of(values)
    assert drawn is not None
    assert drawn.largest == 7
    assert line_of([0, 0, 0]) is None


def test_a_list_keeps_what_was_asked_when_it_is_sorted_and_begins_again() -> None:
    asked = Asked("/tenants", TenantsQuery(q="a b", sort="-bytes", page=3))

    assert asked.sorted_by("bytes") == "/tenants?q=a+b&sort=bytes"
    assert asked.sorted_by("slug") == "/tenants?q=a+b&sort=-slug"
    assert asked.address(q=None, sort=None) == "/tenants"
    assert asked.address(page=4) == "/tenants?page=4&q=a+b&sort=-bytes"
    assert [one.is_chosen for one in asked.choices("status", {None: "All", "active": "A"})] == [
        True,
        False,
    ]


def test_steps_of_a_plan_close_what_they_open() -> None:
    def node(cost: float, *children: PlanNode) -> PlanNode:
        return PlanNode("a", [], 1, cost, None, reads_whole_table=False, children=[*children])

    steps = steps_of(node(100, node(30, node(30)), node(60)))

    assert [(step.depth, step.closes, step.cost_share) for step in steps] == [
        (0, -1, 0.1),
        (1, -1, 0.0),
        (2, 1, 0.3),
        (1, 1, 0.6),
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59, "59 s"), (1199, "19 min"), (11520, "3 h 12 min"), (190800, "2 d 5 h")],
)
def test_lengths_of_time_are_said_as_people_say_them(seconds: int, said: str) -> None:
    assert span(seconds).replace("\xa0", " ") == said


def test_why_a_statement_failed_is_said_in_words() -> None:
    template = ENVIRONMENT.from_string("{{ code | failure_in_words }}")

    assert template.render(code="55P03") == "no lock in time"
    assert template.render(code="XX000") == "XX000"
