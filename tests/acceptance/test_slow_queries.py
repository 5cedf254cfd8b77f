"""Slow statements over HTTP: provoked for real, and read by whom they concern and by nobody else."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec
import pytest
import structlog
from sqlalchemy import text
from structlog.testing import capture_logs

from acceptance.operators import API, opened_site
from acceptance.talk import check_problem
from metrics_service.db.engine import owner_connection
from metrics_service.db.tenancy import registry_writing
from metrics_service.fleet.plan_tree import tree_of
from metrics_service.fleet.slow_query_writer import NOTE_ROWS
from metrics_service.http.cookies import NAME
from metrics_service.observability.slow import SLOW

PATH = "/api/v1/slow-queries"
SUMMARY = f"{PATH}/summary"
CANARY = "canary-of-a-client"
COOKIE = "canary-of-a-cookie"
HELD_S = 0.4


@pytest.fixture(scope="module")
async def site(open_app, addresses):
    """An application to which a fifth of a second is slow, and an operator of it."""
    before = SLOW.threshold_s
    try:
        async with opened_site(open_app, addresses, slow_query_threshold_ms=200) as opened:
            yield opened
    finally:
        SLOW.threshold_s = before


async def provoke(site, addresses, tenant):
    """Let the tenant's list of tool metrics wait for a lock, as it would for a busy disk."""
    async with owner_connection(addresses.require_owner()) as connection:
        async with connection.begin():
            table = f"{tenant.tenant.schema_name}.tool_metrics"
            await connection.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
            asked = asyncio.create_task(
                site.client.get(
                    "/api/v1/tool-metrics",
                    params={"tool_name": CANARY, "page": 1},
                    headers={**tenant.headers, "Cookie": f"{NAME}={COOKIE}"},
                )
            )
            await asyncio.sleep(HELD_S)
        response = await asked
    assert response.status_code == 200, response.text


async def read(site, tenant, path=PATH, **params):
    response = await site.client.get(path, params=params, headers=tenant.headers)
    assert response.status_code == 200, response.text
    return response.json()


async def planned(site, tenant):
    """Wait for the slow statement, which is written within seconds, and for its plan."""
    async with asyncio.timeout(15):
        while True:
            found = (await read(site, tenant, route="/api/v1/tool-metrics"))["data"]
            if found and found[-1]["plan"] is not None:
                return found
            await asyncio.sleep(0.1)


async def note(engine, tenant, count=1, **changes):
    """Write rows as a process does."""
    rows = [
        {
            "id": str(uuid4()),
            "at": (datetime.now(UTC) - timedelta(minutes=count - n)).isoformat(),
            "tenant_id": str(tenant.id),
            "fingerprint": f"{n % 3:016x}",
            "statement": f"SELECT {n % 3}",
            "operation": "SELECT",
            "route": f"GET /r{n % 2}",
            "duration_ms": 100.25 + n // 2,
            **changes,
        }
        for n in range(count)
    ]
    async with registry_writing(engine) as connection:
        await connection.execute(NOTE_ROWS, msgspec.json.encode(rows).decode())


# -- what was provoked ------------------------------------------------------------------------------


async def test_a_slow_statement_is_shown_with_its_plan_to_its_administrator_and_the_operator_alone(
    site, addresses, new_tenant
):
    tenant, stranger = await new_tenant(), await new_tenant()
    await provoke(site, addresses, tenant)

    own = (await planned(site, tenant))[0]

    assert own["table_name"] == "tool_metrics"
    assert own["operation"] == "SELECT"
    assert own["duration_ms"] >= 200
    [summary] = [
        one
        for one in (await read(site, tenant, SUMMARY))["data"]
        if one["fingerprint"] == own["fingerprint"]
    ]
    assert (summary["calls"], summary["worst_ms"]) == (1, own["duration_ms"])
    assert summary["plan"] == own["plan"]
    assert tree_of(json.dumps(own["plan"])).total_cost > 0

    of_all = await site.get(f"{API}/slow-queries", params={"tenant_id": str(tenant.id)})
    assert {"tenant_id": str(tenant.id), **own} in of_all.json()["data"]
    summarised = await site.get(
        f"{API}/slow-queries/summary", params={"fingerprint": own["fingerprint"]}
    )
    assert summarised.json()["data"][0]["plan"] is not None

    assert (await read(site, stranger))["data"] == []
    assert (await read(site, stranger, SUMMARY))["data"] == []
    assert (await read(site, stranger, page=1))["meta"]["total"] == 0


async def test_what_clients_sent_and_who_they_are_is_nowhere_in_it(
    site, addresses, engine, new_tenant
):
    tenant = await new_tenant()
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(0))
    try:
        with capture_logs() as lines:
            await provoke(site, addresses, tenant)
            await planned(site, tenant)
    finally:
        structlog.configure(**before)

    told = [
        await read(site, tenant),
        await read(site, tenant, SUMMARY),
        (await site.get(f"{API}/slow-queries", params={"tenant_id": str(tenant.id)})).json(),
        (
            await site.get(f"{API}/slow-queries/summary", params={"tenant_id": str(tenant.id)})
        ).json(),
        lines,
    ]
    async with owner_connection(addresses.require_owner()) as connection, connection.begin():
        rows = await connection.execute(
            text("SELECT q::text FROM public.slow_queries q WHERE tenant_id = :id"),
            {"id": tenant.id},
        )
        told.append(rows.scalars().all())
    assert "slow query" in [line["event"] for line in lines]
    assert len(told[-1]) > 0
    password = urlsplit(addresses.runtime).password
    for word in (CANARY, COOKIE, tenant.key, password, site.key.key, tenant.tenant.schema_name):
        assert word not in str(told)


# -- lists ------------------------------------------------------------------------------------------


async def test_the_list_is_paged_by_time_and_by_duration(site, engine, new_tenant):
    tenant = await new_tenant()
    await note(engine, tenant, 7)
    every = (await read(site, tenant))["data"]
    assert [one["at"] for one in every] == sorted((one["at"] for one in every), reverse=True)

    for sort, key in (
        ("at", lambda one: (one["at"], one["id"])),
        ("-at", lambda one: (one["at"], one["id"])),
        ("duration_ms", lambda one: (one["duration_ms"], one["id"])),
        ("-duration_ms", lambda one: (one["duration_ms"], one["id"])),
    ):
        paged, cursor = [], {}
        for _ in range(4):
            page = await read(site, tenant, sort=sort, limit=2, **cursor)
            paged += page["data"]
            cursor = {"cursor": page["meta"]["next_cursor"]}
        assert cursor == {"cursor": None}
        assert paged == sorted(every, key=key, reverse=sort.startswith("-"))

    numbered = await read(site, tenant, page=2, limit=5)
    assert numbered["data"] == every[5:]
    assert numbered["meta"] == {"limit": 5, "page": 2, "total": 7, "pages": 2}


async def test_the_list_is_narrowed_by_every_filter(site, engine, new_tenant):
    tenant = await new_tenant()
    await note(engine, tenant, 7)
    every = (await read(site, tenant))["data"]
    middle = every[3]["at"]

    assert (await read(site, tenant, **{"from": middle}))["data"] == every[:4]
    assert (await read(site, tenant, to=middle))["data"] == every[4:]
    for name, value in (("fingerprint", f"{1:016x}"), ("route", "GET /r1")):
        expected = [one for one in every if one[name] == value]
        assert (await read(site, tenant, **{name: value}))["data"] == expected
    slowest = [one for one in every if one["duration_ms"] >= 102.25]
    assert (await read(site, tenant, min_duration_ms=102.25))["data"] == slowest
    summary = await read(site, tenant, SUMMARY, route="GET /r0", limit=1, sort="-calls")
    assert summary["data"][0]["calls"] == 2
    assert (summary["meta"]["limit"], summary["meta"]["total"]) == (1, 3)


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "sort=statement",
        "sort=plan",
        "fingerprint=x",
        "fingerprint=0123456789ABCDEF",
        "min_duration_ms=-1",
        "min_duration_ms=nan",
        "min_duration_ms=1e400",
        "min_duration_ms=x",
        "from=yesterday",
        "from=2026-01-01",
        "to=9999-12-31T23:59:59-23:59",
        "route=",
        "route=" + "x" * 256,
        "nothing=1",
        "limit=1&limit=2",
    ],
)
@pytest.mark.parametrize("path", [PATH, SUMMARY])
async def test_bad_parameters_are_named(site, tenant_once, path, query):
    response = await site.client.get(f"{path}?{query}", headers=tenant_once.headers)

    problem = check_problem(response, 400)
    assert query.split("=")[0] in problem["detail"]


@pytest.mark.parametrize("query", ["cursor=x", "cursor=" + "A" * 60, "page=1&cursor=x", "page=0"])
async def test_bad_pages_are_refused(site, tenant_once, query):
    check_problem(await site.client.get(f"{PATH}?{query}", headers=tenant_once.headers), 400)


@pytest.mark.parametrize("route", ["x\0", "\u2603", "'; DROP TABLE slow_queries; --"])
async def test_a_route_that_is_none_finds_nothing(site, tenant_once, route):
    response = await site.client.get(PATH, params={"route": route}, headers=tenant_once.headers)

    assert response.status_code in {200, 400}
    if response.status_code == 200:
        assert response.json()["data"] == []


async def test_a_cursor_is_worth_nothing_to_another_tenant_or_for_another_question(
    site, engine, new_tenant
):
    tenant, stranger = await new_tenant(), await new_tenant()
    await note(engine, tenant, 3)
    cursor = (await read(site, tenant, limit=1))["meta"]["next_cursor"]

    for whose, params in (
        (stranger, {}),
        (tenant, {"sort": "at"}),
        (tenant, {"route": "GET /r0"}),
        (tenant, {"min_duration_ms": "1"}),
    ):
        response = await site.client.get(
            PATH, params={"limit": 1, "cursor": cursor, **params}, headers=whose.headers
        )
        check_problem(response, 400)


@pytest.mark.parametrize("scope", ["ingest", "read", "write"])
@pytest.mark.parametrize("path", [PATH, SUMMARY])
async def test_only_administrators_look(site, tenant_once, new_key, scope, path):
    issued = await new_key(tenant_once, scopes=(scope,))
    headers = {**tenant_once.headers, "Authorization": f"Bearer {issued.key}"}

    check_problem(await site.client.get(path, headers=headers), 403)
