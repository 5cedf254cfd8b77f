"""A process that has lost its mind, or its clock, hides nothing and breaks nothing of what operators see."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from acceptance.operators import API, Site, opened_site
from metrics_service.db.tenancy import registry_writing

PATHS = (
    *("/", "/tenants", "/slow-queries", "/health-history", "/migrations", "/jobs"),
    *(f"{API}/{name}" for name in ("tenants", "statistics", "activity", "processes", "jobs")),
    *(f"{API}/{name}" for name in ("health-events", "slow-queries", "slow-queries/summary")),
)
NOTES = {
    "slow": "SELECT public.note_slow_queries($1::json)",
    "event": "SELECT public.note_health_events($1::json)",
    "activity": "SELECT public.note_activity($1::json)",
}
PROCESS = "SELECT public.report_process($1, 'http', $2, 1, $3, $4, 'healthy', $5)"
LAST = "9999-12-31T23:59:59Z"
NO_TIMES = ("infinity", "-infinity", "294276-12-31T00:00:00Z", "4713-01-01T00:00:00Z BC", LAST)
TOO_MUCH = 2**63 - 1
# To asyncpg these are -infinity and infinity.
BEGINNING_AND_END = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


@pytest.fixture(scope="module")
async def site(open_app, addresses):
    async with opened_site(open_app, addresses) as opened:
        yield opened


def slow(tenant_id: UUID | None, **changes: Any) -> dict[str, Any]:
    return {
        "id": uuid4(),
        "at": datetime.now(UTC),
        "tenant_id": tenant_id,
        "fingerprint": "0123456789abcdef",
        "statement": "SELECT 1",
        "operation": "SELECT",
        "route": "/api/v1/sessions",
        "duration_ms": 5.0,
        **changes,
    }


def event(**changes: Any) -> dict[str, Any]:
    return {
        "at": datetime.now(UTC),
        "process_id": uuid4(),
        "kind": "health-change",
        "check_name": "pool",
        "status_before": "healthy",
        "status": "unhealthy",
        **changes,
    }


def activity(tenant_id: UUID, **changes: Any) -> dict[str, Any]:
    names = ("requests", "failures", "refusals", "records", "duplicates", "bytes")
    counts = dict.fromkeys(names, 1)
    return {"tenant_id": tenant_id, "bucket": datetime.now(UTC), **counts, **changes}


async def note(engine, kind: str, *rows: dict[str, Any]) -> None:
    async with registry_writing(engine) as connection:
        await connection.execute(NOTES[kind], msgspec.json.encode(rows).decode())


async def check_all(site: Site) -> None:
    for path in PATHS:
        answer = await site.get(path)
        assert answer.status_code == 200, (path, answer.text)


async def kept(site: Site, tenant_id: UUID) -> list[dict[str, Any]]:
    query = {"tenant_id": str(tenant_id), "limit": 500}
    answer = await site.get(f"{API}/slow-queries", params=query)
    rows: list[dict[str, Any]] = answer.json()["data"]
    return rows


@pytest.mark.parametrize("at", NO_TIMES)
async def test_a_time_that_cannot_be_is_the_time_when_it_was_written(site, engine, new_tenant, at):
    tenant = await new_tenant()
    await note(engine, "slow", slow(tenant.id, at=at))
    await note(engine, "event", event(at=at))
    await note(engine, "activity", activity(tenant.id, bucket=at))

    await check_all(site)

    (row,) = await kept(site, tenant.id)
    age = datetime.now(UTC) - datetime.fromisoformat(row["at"])
    assert timedelta(0) <= age < timedelta(minutes=1)
    assert (await site.get(f"{API}/tenants/{tenant.id}")).json()["requests_hour"] == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"duration_ms": "NaN", "wait_ms": "NaN"},
        {"duration_ms": "Infinity", "wait_ms": "-Infinity"},
        {"duration_ms": 1e308, "row_count": TOO_MUCH},
        {"duration_ms": -1.0, "row_count": -1},
        {"route": "/" * 100_000, "table_name": "t" * 100_000, "operation": "o" * 100_000},
        {"trace_id": "t" * 100_000, "request_id": "r" * 100_000, "error": "e" * 100_000},
        {"statement": "s" * 100_000},
    ],
)
async def test_a_slow_query_that_cannot_be_is_shown_as_far_as_it_can(
    site, engine, new_tenant, changes
):
    tenant = await new_tenant()
    # Twice: what is still a number alone may be none as a sum.
    await note(engine, "slow", slow(tenant.id, **changes), slow(tenant.id, **changes))

    await check_all(site)

    rows = await kept(site, tenant.id)
    assert len(rows) == 2
    assert len(msgspec.json.encode(rows)) < 32 * 1024
    assert all(0 <= row["duration_ms"] <= 1e9 for row in rows)


async def test_counts_that_cannot_be_break_no_sum(site, engine, new_tenant):
    tenant = await new_tenant()
    now = datetime.now(UTC)
    names = ("requests", "failures", "refusals", "records", "duplicates", "bytes")
    for count in (TOO_MUCH, TOO_MUCH, -TOO_MUCH):
        rows = [
            activity(tenant.id, bucket=now - timedelta(minutes=age), **dict.fromkeys(names, count))
            for age in (1, 6, 11)
        ]
        await note(engine, "activity", *rows)

    await check_all(site)

    assert (await site.get(f"{API}/tenants/{tenant.id}")).json()["requests_hour"] > 0


async def test_the_clock_of_one_process_hides_nothing_that_others_see(site, engine, new_tenant):
    tenant = await new_tenant()
    ahead = datetime.now(UTC) + timedelta(days=365)
    for _ in range(3):
        await note(engine, "slow", *(slow(tenant.id, at=ahead) for _ in range(1000)))

    mine = slow(tenant.id, fingerprint="f" * 16)
    mine["at"] = datetime.now(UTC)
    await note(engine, "slow", mine)

    newest = (await kept(site, tenant.id))[0]
    assert newest["id"] == str(mine["id"])


async def test_nobody_notes_more_at_once_than_a_process_has_to_say(engine, new_tenant):
    tenant = await new_tenant()
    for kind, row in (
        ("slow", slow(tenant.id)),
        ("event", event()),
        ("activity", activity(tenant.id)),
    ):
        with pytest.raises(asyncpg.ProgramLimitExceededError):
            await note(engine, kind, *[row] * 1001)


async def test_of_a_tenant_that_is_none_nothing_is_kept(site, engine):
    nobody = uuid4()
    await note(engine, "slow", slow(nobody))
    await note(engine, "activity", activity(nobody))

    assert await kept(site, nobody) == []


@pytest.mark.parametrize("report", ["[]", "null", "1", '"report"'])
async def test_a_report_that_is_none_is_refused(engine, report):
    async with registry_writing(engine) as connection:
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(PROCESS, uuid4(), "host", "1.0", datetime.now(UTC), report)


async def test_processes_that_cannot_be_are_shown_and_not_more_than_a_thousand(site, engine):
    ids = [uuid4() for _ in range(1100)]
    async with registry_writing(engine) as connection:
        for place, process_id in enumerate(ids):
            began = BEGINNING_AND_END[place % 2]
            await connection.execute(PROCESS, process_id, "h" * 10_000, "v" * 9, began, "{}")
    try:
        await check_all(site)

        answer = await site.get(f"{API}/processes", params={"limit": 500})
        assert answer.json()["meta"]["total"] == 1000
        assert {len(row["host"]) for row in answer.json()["data"]} - {255} <= set(range(64))
    finally:
        async with registry_writing(engine) as connection:
            for process_id in ids:
                await connection.execute("SELECT public.leave_process($1)", process_id)


@pytest.mark.parametrize("plan", ["no JSON", "[]", "[{}]", '[{"Plan": 7}]', "{}", "7"])
async def test_what_is_no_plan_is_kept_nowhere(site, engine, new_tenant, plan):
    tenant = await new_tenant()
    row = slow(tenant.id, fingerprint=uuid4().hex[:16])
    await note(engine, "slow", row)
    async with registry_writing(engine) as connection:
        with suppress(asyncpg.DataError):
            await connection.execute("SELECT public.note_plan($1, $2)", row["id"], plan)

    await check_all(site)

    assert (await site.get(f"/slow-queries/{row['fingerprint']}")).status_code == 200
    assert [one["plan"] for one in await kept(site, tenant.id)] == [None]
