"""`/metrics` on the operator's domain: what was counted of what tenants did, and whose words are not in it."""

from __future__ import annotations

import base64
import gc
import re
from collections.abc import Mapping
from uuid import uuid4

import pytest

from acceptance.export import good
from acceptance.talk import at, check_problem, session, tool_metric
from metrics_service.db.engine import owner_connection
from metrics_service.fleet.operator_keys import create_operator_key

HOST = "ops.localhost"

_sample = re.compile(r'([a-z_]+)\{process="worker-1"((?:,[a-z_]+="[^"]*")*)\} (\S+)').fullmatch
_label = re.compile(r',([a-z_]+)="([^"]*)"').findall

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
async def operator_key(addresses) -> str:
    async with owner_connection(addresses.require_owner()) as connection, connection.begin():
        issued = await create_operator_key(connection, name="prometheus")
    return issued.key


@pytest.fixture(scope="module")
async def watched(open_app):
    async with open_app(metrics_operator_domain="ops") as client:
        yield client


@pytest.fixture(scope="module")
def headers(operator_key) -> dict[str, str]:
    return {"Host": HOST, "Authorization": f"Bearer {operator_key}"}


@pytest.fixture(scope="module")
def read(watched, headers):
    async def text() -> str:
        answer = await watched.get("/metrics", headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.text

    return text


def samples_of(text: str) -> Samples:
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            sample = _sample(line)
            assert sample, line
            found[sample[1], frozenset(_label(sample[2]))] = float(sample[3])
    return found


def more(before: str, after: str, name: str, **labels: str) -> float:
    """By how much the one series grew."""
    key = (name, frozenset(labels.items()))
    return samples_of(after).get(key, 0) - samples_of(before).get(key, 0)


def series_of(text: str) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    return set(samples_of(text))


# -- who may read it ---------------------------------------------------------------------------------


async def test_an_operators_key_reads_it_however_it_is_shown(watched, operator_key) -> None:
    basic = base64.b64encode(f"prometheus:{operator_key}".encode()).decode()
    for shown in (
        {"Authorization": f"Bearer {operator_key}"},
        {"Authorization": f"Basic {basic}"},
        {"X-API-Key": operator_key},
    ):
        answer = await watched.get("/metrics", headers={"Host": HOST, **shown})

        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        # This one is under way.
        assert samples_of(answer.text)["http_server_active_requests", frozenset()] >= 1


async def test_nobody_else_reads_it(watched, tenant_once) -> None:
    for shown in (
        {},
        {"Authorization": "Bearer mso_nobodys"},
        {"Authorization": tenant_once.headers["Authorization"]},
    ):
        check_problem(await watched.get("/metrics", headers={"Host": HOST, **shown}), 401)


async def test_on_a_tenants_domain_there_is_no_such_path(watched, tenant_once, headers) -> None:
    for shown in (
        tenant_once.headers,
        {**headers, "Host": tenant_once.headers["Host"]},
        {**tenant_once.headers, "X-Forwarded-Host": HOST},
    ):
        answer = await watched.get("/metrics", headers=shown)

        assert answer.status_code == 404
        assert "process=" not in answer.text


async def test_it_is_only_to_be_read(watched, headers) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert (await watched.request(method, "/metrics", headers=headers)).status_code == 405


# -- what it counts ----------------------------------------------------------------------------------


async def test_requests_are_counted_by_route_and_status(watched, read, new_tenant) -> None:
    tenant = await new_tenant()
    before = await read()

    for _ in range(3):
        await watched.get("/api/v1/sessions", headers=tenant.headers)
    await watched.get(f"/api/v1/sessions/{uuid4()}", headers=tenant.headers)
    await watched.get("/api/v1/sessions?limit=0", headers=tenant.headers)
    after = await read()

    count = "http_server_request_duration_seconds_count"
    route, one = "/api/v1/sessions", "/api/v1/sessions/{session_id}"
    get = {"http_request_method": "GET"}
    assert more(before, after, count, **get, http_route=route, http_response_status_code="200") == 3
    assert more(before, after, count, **get, http_route=route, http_response_status_code="400") == 1
    assert more(before, after, count, **get, http_route=one, http_response_status_code="404") == 1


async def test_records_duplicates_refused_and_bytes_are_counted(watched, read, new_tenant) -> None:
    tenant = await new_tenant()
    items = [tool_metric(tool_name="Read", started_at=at(number)) for number in range(5)]
    wrong = [*items, tool_metric(duration_ms=-1)]
    path = "/api/v1/tool-metrics/batch"
    before = await read()

    sent = [
        await watched.post(path, json=items, headers=tenant.headers),
        await watched.post(path, json=items[:3], headers=tenant.headers),
        await watched.post(f"{path}?on_error=skip", json=wrong, headers=tenant.headers),
    ]
    refused = await watched.post(path, json=wrong, headers=tenant.headers)
    after = await read()

    assert [answer.status_code for answer in (*sent, refused)] == [200, 200, 200, 422]
    requests, records = "requests_total", "records_total"
    counted = {
        outcome: more(
            before,
            after,
            f"metrics_service_ingest_{name}",
            source="tool_metrics",
            outcome=outcome,
        )
        for name, outcome in (
            (requests, "accepted"),
            (requests, "refused"),
            (records, "inserted"),
            (records, "duplicate"),
        )
    }
    items_refused = more(
        before,
        after,
        "metrics_service_ingest_records_total",
        source="tool_metrics",
        outcome="refused",
    )
    assert counted == {"accepted": 3, "refused": 1, "inserted": 5, "duplicate": 8}
    assert items_refused == 1
    size = more(before, after, "metrics_service_ingest_bytes_total", source="tool_metrics")
    assert size == sum(len(answer.request.content) for answer in sent)


async def test_telemetry_that_is_sent_twice_is_counted_as_unchanged(
    watched, read, new_tenant
) -> None:
    tenant = await new_tenant()
    before = await read()

    for _ in range(2):
        sent = await watched.post("/v1/logs", json=good("logs"), headers=tenant.headers)
        assert sent.status_code == 200
    after = await read()

    def rows(outcome: str) -> float:
        return sum(
            more(before, after, "metrics_service_ingest_rows_total", table=table, outcome=outcome)
            for table in ("session_events", "tool_metrics", "model_calls")
        )

    assert rows("inserted") > 0
    assert rows("unchanged") == rows("inserted")
    accepted = {"source": "logs", "outcome": "accepted"}
    assert more(before, after, "metrics_service_ingest_requests_total", **accepted) == 2


async def test_what_is_remembered_and_the_pool_are_told(watched, read, new_tenant) -> None:
    tenant = await new_tenant()
    # What other applications of this process remembered goes with them, and not meanwhile.
    gc.collect()
    before = await read()

    for _ in range(4):
        await watched.get("/api/v1/me", headers=tenant.headers)
    after = await read()

    lookups = "metrics_service_cache_lookups_total"
    assert more(before, after, lookups, cache="hosts", outcome="miss") == 1
    assert more(before, after, lookups, cache="hosts", outcome="hit") == 3
    assert more(before, after, lookups, cache="keys", outcome="miss") == 1
    assert more(before, after, lookups, cache="keys", outcome="hit") == 3
    assert more(before, after, "metrics_service_cache_entries", cache="keys") == 1
    pool = {"db_client_connection_pool_name": "runtime"}
    told = samples_of(after)
    assert told["db_client_connection_max", frozenset(pool.items())] >= 10
    assert more(before, after, "db_client_connection_wait_time_seconds_count", **pool) >= 2
    waiting = "db_client_connection_pending_requests", frozenset(pool.items())
    while told[waiting]:
        # What a service does by itself may be waiting just now, and in a moment not any more.
        told = samples_of(await read())
    begun = {"db_operation_name": "SELECT"}
    assert more(before, after, "db_client_operation_duration_seconds_count", **begun) >= 2


async def test_people_who_signed_in_are_found_in_memory_too(
    watched, read, new_tenant, sign_in
) -> None:
    person = await sign_in(await new_tenant())
    before = await read()

    for _ in range(6):
        assert (await watched.get("/", headers=person)).status_code == 200
    after = await read()

    lookups = "metrics_service_cache_lookups_total"
    for cache in ("sign_ins", "settings", "answers"):
        # How many of each depends on how long the machine takes.
        assert more(before, after, lookups, cache=cache, outcome="miss") >= 1
        assert more(before, after, lookups, cache=cache, outcome="hit") >= 1


async def test_who_is_refused_for_too_much_is_counted_by_the_rule(
    open_app, tenant_once, read
) -> None:
    before = await read()
    wrong = {**tenant_once.headers, "Authorization": "Bearer nobodys"}

    async with open_app(metrics_auth_failures_per_minute=2) as client:
        answers = [await client.get("/api/v1/me", headers=wrong) for _ in range(5)]
    after = await read()

    assert [answer.status_code for answer in answers] == [401, 401, 429, 429, 429]
    rule = {"rule": "failed_authentications"}
    assert more(before, after, "metrics_service_refusals_total", **rule) == 3


async def test_what_a_tenant_did_is_noted_for_it_alone(
    open_app, watched, new_tenant, headers
) -> None:
    busy, idle = await new_tenant(), await new_tenant()
    items = [tool_metric(started_at=at(number)) for number in range(4)]

    async with open_app(metrics_operator_domain="ops") as client:
        for _ in range(2):
            sent = await client.post("/api/v1/tool-metrics/batch", json=items, headers=busy.headers)
        await client.get("/api/v1/nothing", headers=busy.headers)
        # A process that ends has written what it knows.
    listed = {}
    for tenant in (busy, idle):
        answer = await watched.get(
            "/operator/api/v1/activity", params={"tenant_id": str(tenant.id)}, headers=headers
        )
        assert answer.status_code == 200, answer.text
        listed[tenant.slug] = answer.json()["data"]

    assert listed[idle.slug] == []
    figures = {
        name: sum(row[name] for row in listed[busy.slug])
        for name in ("requests", "failures", "refusals", "records", "duplicates", "bytes")
    }
    assert figures == {
        "requests": 3,
        "failures": 0,
        "refusals": 1,
        "records": 4,
        "duplicates": 4,
        "bytes": 2 * len(sent.request.content),
    }


# -- whose words are not in it -----------------------------------------------------------------------


async def test_what_clients_say_makes_no_series_and_is_not_in_it(watched, read, new_tenant) -> None:
    tenants = [await new_tenant() for _ in range(3)]

    async def everything(canary: str, count: int) -> None:
        """Whatever a client can choose, `count` times otherwise."""
        for tenant in tenants:
            names = [tool_metric(tool_name=f"{canary} {n}", agent=canary) for n in range(count)]
            batch = await watched.post(
                "/api/v1/tool-metrics/batch", json=names, headers=tenant.headers
            )
            assert batch.status_code == 200
            own = session(
                agent=canary, repository=canary, user_email=f"{canary}@example.com", tags=[canary]
            )
            assert (
                await watched.post("/api/v1/sessions", json=own, headers=tenant.headers)
            ).status_code == 201
        for number in range(count // 10):
            word = f"{canary}{number}"
            await watched.request(word.upper(), "/", headers=tenants[0].headers)
            await watched.get("/", headers={"Host": f"{word}.localhost"})
            await watched.get(f"/{word}/{word}?{word}={word}", headers=tenants[0].headers)
            await watched.get(
                f"/api/v1/sessions/{uuid4()}",
                headers={**tenants[0].headers, "User-Agent": word, "X-Request-ID": word},
            )
            await watched.post(f"/v1/{word}", content=word, headers=tenants[0].headers)
            await watched.get("/api/v1/me", headers={"Host": HOST, "X-API-Key": word})

    await everything(f"a{uuid4().hex}", 10)
    # What was found by the database while the first of all connections were made.
    before = await read()
    canary = f"canary{uuid4().hex}"

    # More than an instrument has room for.
    await everything(canary, 300)
    after = await read()

    assert series_of(after) == series_of(before)
    assert "canary" not in after.casefold()
    for tenant in tenants:
        for word in (str(tenant.id), tenant.id.hex, tenant.slug, tenant.tenant.schema_name):
            assert word not in after
        assert tenant.key not in after
