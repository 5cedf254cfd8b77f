"""Model calls over HTTP: lists and summaries of what the write path stored."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from acceptance.talk import (
    BASE,
    at,
    check_problem,
    rows_of,
    stored_batch,
    stored_session,
    tool_metric,
    walk,
)
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.ingest.records import ModelCallRecord
from metrics_service.ingest.tool_names import ToolNames
from metrics_service.ingest.write import admit_facts, write_facts

PATH = "/api/v1/model-calls"
SUMMARY = "/api/v1/model-calls/summary"

FIELDS = {
    "id", "session_id", "agent", "started_at", "duration_ms", "ttft_ms", "status", "error_type",
    "provider", "request_model", "response_model", "input_tokens", "input_uncached_tokens",
    "cache_read_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
    "cost_usd_micros", "cost_source", "attempts",
    "signal",
}  # fmt: skip
SUMS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost_usd_micros",
)


def call(seconds=0.0, **changes):
    return ModelCallRecord(
        **{"started_at": BASE + timedelta(seconds=seconds), "duration_ms": 900.0, **changes}
    )


@pytest.fixture
def store(engine):
    """Store model calls as the ways in to come will."""

    async def stored(tenant, records):
        async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
            assert await admit_facts(connection, tenant.id, records, ToolNames()) == {}
            return await write_facts(connection, tenant.id, records)

    return stored


def many():
    return [
        call(
            number // 10,
            agent="claude-code" if number < 20 else "codex",
            external_session_id="s" if number < 20 else None,
            user_email=f"u{number % 2}@example.com",
            request_model=("opus", "haiku", "gpt")[number % 3],
            response_model="x",
            provider=("anthropic", "openai")[number % 3 == 2],
            status="error" if number % 5 == 0 else "success",
            error_type="overloaded" if number % 5 == 0 else None,
            # A failed call has no tokens.
            **(
                {}
                if number % 5 == 0
                else {
                    "input_tokens": 1000 + number,
                    "input_uncached_tokens": 100,
                    "cache_read_tokens": 800,
                    "cache_write_tokens": 100 + number,
                    "output_tokens": 50,
                    "reasoning_tokens": 20,
                    "cost_usd_micros": 12_345,
                    "cost_source": "estimated",
                }
            ),
            ttft_ms=200.5,
            attempts=number + 1,
        )
        for number in range(30)
    ]


async def test_a_model_call_is_shown_with_all_of_its_fields(client, new_tenant, store):
    tenant = await new_tenant()
    await store(
        tenant,
        [
            call(
                agent="codex",
                external_session_id="s",
                ttft_ms=100.0,
                provider="openai",
                request_model="gpt",
                response_model="gpt-1",
                input_tokens=10,
                input_uncached_tokens=4,
                cache_read_tokens=5,
                cache_write_tokens=1,
                output_tokens=7,
                reasoning_tokens=3,
                cost_usd_micros=99,
                cost_source="reported",
                attempts=2,
            )
        ],
    )

    (row,) = await rows_of(client, PATH, tenant)

    assert row.keys() - {"user_id"} == FIELDS
    (session,) = await rows_of(client, "/api/v1/sessions", tenant)
    assert row["session_id"] == session["id"]
    assert row["agent"] == "codex"
    assert row["started_at"] == at()
    assert (row["input_tokens"], row["output_tokens"], row["reasoning_tokens"]) == (10, 7, 3)
    assert (row["cost_usd_micros"], row["cost_source"], row["attempts"]) == (99, "reported", 2)
    assert session["model_call_count"] == 1
    assert (session["input_tokens"], session["output_tokens"]) == (10, 7)
    assert session["cost_usd_micros"] == 99


async def test_a_failed_call_has_no_tokens(client, new_tenant, store):
    tenant = await new_tenant()
    await store(tenant, [call(status="error", error_type="overloaded")])

    (row,) = await rows_of(client, PATH, tenant)

    assert (row["status"], row["error_type"], row["cost_source"]) == ("error", "overloaded", "none")
    assert [row[name] for name in SUMS] == [None] * 6


async def test_running_totals_count_once_whoever_sends_it_how_often(client, new_tenant, store):
    tenant = await new_tenant()
    await asyncio.gather(*(store(tenant, many()[turn % 3 :]) for turn in range(8)))
    receipt = await store(tenant, many())

    assert (receipt.inserted, receipt.duplicates) == (0, 30)
    rows = await rows_of(client, PATH, tenant)
    (session,) = await rows_of(client, "/api/v1/sessions", tenant)
    own = [row for row in rows if row["session_id"] == session["id"]]
    assert session["model_call_count"] == len(own) == 20
    for name in ("input_tokens", "output_tokens", "cost_usd_micros"):
        assert session[name] == sum(row[name] or 0 for row in own)


@pytest.mark.parametrize("sort", [None, "started_at", "-started_at"])
async def test_pages_show_every_row_once(client, new_tenant, store, sort):
    tenant = await new_tenant()
    await store(tenant, many())
    query = {"limit": 4, **({} if sort is None else {"sort": sort})}

    walked = [row async for row in walk(client, PATH, tenant, **query)]
    paged = []
    for number in range(1, 9):
        page = (
            await client.get(PATH, params={**query, "page": number}, headers=tenant.headers)
        ).json()
        assert page["meta"] == {"limit": 4, "page": number, "total": 30, "pages": 8}
        paged += page["data"]

    keys = [(row["started_at"], row["id"]) for row in walked]
    assert keys == sorted(set(keys), reverse=sort != "started_at")
    assert len(keys) == 30
    assert paged == walked


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"request_model": "opus"}, lambda n: n % 3 == 0),
        ({"status": "error"}, lambda n: n % 5 == 0),
        ({"agent": "codex"}, lambda n: n >= 20),
        ({"tag": "red"}, lambda n: n < 20),
        ({"session_type": "review"}, lambda n: n < 20),
        ({"session_type": "other"}, lambda _: False),
        ({"started_after": at(1), "started_before": at(2)}, lambda n: 10 <= n < 20),
    ],
)
async def test_filters_choose_rows_and_totals_alike(client, new_tenant, store, query, wanted):
    tenant = await new_tenant()
    await stored_session(client, tenant, external_id="s", session_type="review", tags=["red"])
    await store(tenant, many())
    expected = [number + 1 for number in range(30) if wanted(number)]

    rows = await rows_of(client, PATH, tenant, **query, limit=3)
    page = (
        await client.get(PATH, params={**query, "page": 1, "limit": 1}, headers=tenant.headers)
    ).json()

    assert sorted(row["attempts"] for row in rows) == expected
    assert page["meta"]["total"] == len(expected)


async def test_the_calls_of_one_session_are_listed_in_order(client, new_tenant, store):
    tenant = await new_tenant()
    await store(tenant, many())
    (session,) = await rows_of(client, "/api/v1/sessions", tenant)
    path = f"/api/v1/sessions/{session['id']}/model-calls"

    rows = await rows_of(client, path, tenant, limit=3)

    keys = [(row["started_at"], row["id"]) for row in rows]
    assert keys == sorted(keys)
    assert sorted(row["attempts"] for row in rows) == list(range(1, 21))
    nowhere = f"/api/v1/sessions/{uuid4()}/model-calls"
    check_problem(await client.get(nowhere, headers=tenant.headers), 404)


@pytest.mark.parametrize("group_by", ["", "request_model", "provider,day", "agent", "hour,agent"])
async def test_a_summary_is_what_one_would_compute_by_hand(client, new_tenant, store, group_by):
    tenant = await new_tenant()
    await store(tenant, many())
    names = [name for name in group_by.split(",") if name]
    cut = {"hour": "2026-03-02T10:00:00Z", "day": "2026-03-02T00:00:00Z"}
    groups = defaultdict(list)
    for row in await rows_of(client, PATH, tenant):
        if row["started_at"] < at(2):
            groups[tuple(cut.get(name) or row[name] for name in names)].append(row)

    response = await client.get(
        SUMMARY, params={"from": at(0), "to": at(2), "group_by": group_by}, headers=tenant.headers
    )

    answer = response.json()
    assert answer["meta"].pop("updated_at") is None
    assert answer["meta"] == {
        "from": at(0), "to": at(2), "group_by": names, "tz": "UTC", "notes": [],
    }  # fmt: skip
    assert len(answer["data"]) == len(groups)
    for row in answer["data"]:
        assert row.keys() == {"count", "error_count", *SUMS, *names}
        rows = groups[tuple(row[name] for name in names)]
        assert row["count"] == len(rows)
        assert row["error_count"] == sum(one["status"] == "error" for one in rows)
        for name in SUMS:
            assert row[name] == sum(one[name] or 0 for one in rows)


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"from": at(1), "to": at(0)},
        {"from": at(0), "to": at(1), "group_by": "tool_name"},
        {"from": at(0), "to": at(1), "group_by": "started_at"},
        {"from": "9999-12-31T23:59:59-14:00", "to": at(0)},
    ],
)
async def test_a_summary_refuses_what_it_cannot_answer(client, tenant_once, query):
    check_problem(await client.get(SUMMARY, params=query, headers=tenant_once.headers), 400)


async def test_deleting_a_session_deletes_its_calls(client, new_tenant, store, count_rows):
    tenant = await new_tenant()
    await store(tenant, many())
    await stored_batch(client, tenant, [tool_metric()])
    (session,) = await rows_of(client, "/api/v1/sessions", tenant)

    response = await client.delete(f"/api/v1/sessions/{session['id']}", headers=tenant.headers)

    assert response.status_code == 204
    assert (await count_rows(tenant))["model_calls"] == 10


async def test_a_call_of_another_tenants_session_is_refused(new_tenant, engine, store, client):
    one, other = await new_tenant(), await new_tenant()
    theirs = UUID((await stored_session(client, other))["id"])

    async with tenant_connection(engine, TenantContext(one.id)) as connection:
        refused = await admit_facts(connection, one.id, [call(session_id=theirs)], ToolNames())

    assert [error.field for error in refused.values()] == ["session_id"]
