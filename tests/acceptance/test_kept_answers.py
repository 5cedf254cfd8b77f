"""Dashboards are answered from what is kept, and never of anything but the data as it stands."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text

from acceptance.talk import (
    at,
    check_problem,
    stored_batch,
    stored_dashboard,
    stored_session,
    tool_metric,
    widget,
)
from metrics_service.dashboards import data_request, kept_answers
from metrics_service.db.engine import owner_connection
from metrics_service.db.roles import OWNER
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.observability import catalog
from metrics_service.rollups.version import read_version

PATH = "/api/v1/dashboards"
DAY = {"from": "2026-03-02T00:00:00Z", "to": "2026-03-03T00:00:00Z"}
TILES = [
    widget(id="sum", kind="number", query={"source": "tool_metrics", "measures": ["count"]}),
    widget(
        id="people",
        kind="table",
        query={"source": "tool_metrics", "measures": ["count"], "group_by": ["user_id"]},
    ),
]
LOG = {"timeUnixNano": "1772445600000000000", "body": {"stringValue": "ready"}}
REDIS_STARTS_S = 10.0
WRITERS, BATCHES, READERS = 2, 12, 3


def hits():
    return sum(
        point.value
        for point in catalog.CACHE_LOOKUPS.points()
        if point.values == ("answers", "hit")
    )


@pytest.fixture
async def tenant(client, new_tenant):
    made = await new_tenant()
    await stored_batch(client, made, [tool_metric(user_email="ada@example.com")])
    return made


@pytest.fixture
async def board(client, tenant):
    made = await stored_dashboard(client, tenant, layout={}, widgets=TILES, visibility="tenant")
    return made["id"]


async def shown(client, who, board, **body):
    answer = await client.post(f"{PATH}/{board}/data", json={**DAY, **body}, headers=who.headers)
    assert answer.status_code == 200, answer.text
    return answer.json()


def total(answered):
    return answered["data"][0]["totals"]["count"]


async def version_of(engine, tenant):
    async with tenant_connection(engine, TenantContext(tenant.id, read_only=True)) as connection:
        return await read_version(connection)


# -- kept -------------------------------------------------------------------------------------------


async def test_the_same_question_is_answered_once_and_says_when_it_was_right(client, tenant, board):
    before = hits()
    first = await shown(client, tenant, board)
    asked_at = datetime.now(UTC)

    second = await shown(client, tenant, board)

    assert hits() - before == 1
    assert datetime.fromisoformat(first["meta"].pop("answered_at")) < asked_at
    assert asked_at <= datetime.fromisoformat(second["meta"].pop("answered_at"))
    assert second == first
    assert total(second) == 1


async def test_a_question_is_another_with_another_time_zone_or_filter(client, tenant, board):
    await shown(client, tenant, board)
    before = hits()

    nothing = await shown(client, tenant, board, filters={"agent": "codex"})
    earlier = await shown(
        client, tenant, board, **{"from": "2026-03-01T00:00:00Z", "to": DAY["from"]}
    )
    berlin = await shown(client, tenant, board, tz="Europe/Berlin")

    assert hits() == before
    assert (total(nothing), total(earlier), total(berlin)) == (0, 0, 1)
    assert earlier["meta"]["to"] == DAY["from"]
    assert berlin["meta"]["tz"] == "Europe/Berlin"


async def test_the_latest_days_are_those_of_when_it_is_asked(client, tenant, board, monkeypatch):
    today = datetime(2026, 3, 2, 23, 59, tzinfo=UTC)
    monkeypatch.setattr(data_request, "now", lambda: today)
    asked = {"from": None, "to": None}
    first = await shown(client, tenant, board, **asked)
    before = hits()

    again = await shown(client, tenant, board, **asked)
    monkeypatch.setattr(data_request, "now", lambda: today + timedelta(minutes=2))
    tomorrow = await shown(client, tenant, board, **asked)

    assert hits() - before == 1
    assert again["meta"]["to"] == first["meta"]["to"] == "2026-03-03T00:00:00Z"
    assert tomorrow["meta"]["to"] == "2026-03-04T00:00:00Z"
    assert tomorrow["data"][0]["to"] == "2026-03-04T00:00:00Z"


async def test_an_answer_that_was_cut_off_is_not_given_again(
    client, open_app, tenant, board, addresses
):
    async with (
        open_app(database_query_timeout_ms=300) as hasty,
        owner_connection(addresses.require_owner()) as owner,
    ):
        async with owner.begin():
            await owner.execute(text(f"SET LOCAL ROLE {OWNER}"))
            table = f"{tenant.tenant.schema_name}.tool_metrics_daily"
            await owner.execute(text(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))
            cut_off = await shown(hasty, tenant, board)

        whole = await shown(hasty, tenant, board)

    assert "too long" in cut_off["data"][0]["error"]
    assert "error" not in whole["data"][0]
    assert total(whole) == 1


# -- never stale ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    """The address of a Redis of these tests' own."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    where = tmp_path_factory.mktemp("redis") / "socket"
    options = ["--port", "0", "--unixsocket", str(where), "--save", "", "--appendonly", "no"]
    server = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    until = time.monotonic() + REDIS_STARTS_S
    while not where.exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    yield f"unix://{where}"
    server.terminate()
    server.wait()


@pytest.fixture(params=["alone", "redis"])
async def processes(request, open_app):
    """Two applications, as two processes run them; with Redis they have in common what is kept."""
    url = request.getfixturevalue("redis") if request.param == "redis" else None
    async with open_app(redis_url=url) as first, open_app(redis_url=url) as second:
        yield first, second


async def test_what_one_process_was_answered_another_finds_in_redis(
    open_app, redis, tenant, board, monkeypatch
):
    async with open_app(redis_url=redis) as first, open_app(redis_url=redis) as second:
        # Redis is greeted in the background.
        await asyncio.sleep(1)
        one = await shown(first, tenant, board)
        # Nobody waits for it to be kept there.
        await asyncio.sleep(0.5)
        read = []
        monkeypatch.setattr(kept_answers, "answer", read.append)

        other = await shown(second, tenant, board)

    assert read == []
    assert other["data"] == one["data"]
    assert other["meta"]["answered_at"] > one["meta"]["answered_at"]


async def test_what_was_committed_before_an_answer_was_asked_for_is_in_it(processes, tenant, board):
    committed = 1
    is_over = asyncio.Event()
    seen = set()

    async def write(client, number):
        nonlocal committed
        for batch in range(BATCHES):
            one = tool_metric(started_at=at(60 + number * BATCHES + batch))
            await stored_batch(client, tenant, [one])
            committed += 1
            await asyncio.sleep(0.03)

    async def read(client):
        while not is_over.is_set():
            least = committed
            found = total(await shown(client, tenant, board))
            assert found >= least
            seen.add(found)

    readers = [asyncio.create_task(read(client)) for client in processes * READERS]
    await asyncio.gather(*(write(processes[number % 2], number) for number in range(WRITERS)))
    is_over.set()
    await asyncio.gather(*readers)

    assert {total(await shown(client, tenant, board)) for client in processes} == {committed}
    assert len(seen) > 3


async def test_whatever_changes_what_is_shown_changes_the_version(client, engine, tenant, board):
    versions = [await version_of(engine, tenant)]

    async def changed(method, path, body):
        answer = await client.request(method, path, json=body, headers=tenant.headers)
        assert answer.status_code < 300, answer.text
        versions.append(await version_of(engine, tenant))
        return answer

    made = await changed("POST", "/api/v1/sessions", {
        "agent": "codex", "external_id": "s", "started_at": at(), "user_email": "bob@example.com"
    })  # fmt: skip
    one = f"/api/v1/sessions/{made.json()['id']}"
    await changed("PATCH", one, {"team": "web"})
    await changed("POST", "/api/v1/tool-metrics/batch", [tool_metric(tool_name="Read")])
    await changed("POST", "/v1/logs", {"resourceLogs": [{"scopeLogs": [{"logRecords": [LOG]}]}]})
    await changed("POST", "/api/v1/identity-rules", {
        "kind": "account_id", "value": "a", "user_email": "bob@example.com"
    })  # fmt: skip
    await changed("PATCH", "/api/v1/settings", {"hide_people": False})
    await changed("PUT", f"{PATH}/{board}", {
        "name": "Other", "layout": {}, "widgets": TILES[:1], "visibility": "tenant", "version": 1
    })  # fmt: skip
    await changed("DELETE", one, None)

    assert versions == sorted(set(versions))


async def test_who_signs_in_and_what_the_diary_notes_change_nothing(
    client, engine, tenant, sign_in
):
    headers = await sign_in(tenant)
    before = await version_of(engine, tenant)

    refused = await client.post("/v1/logs", json={"resourceLogs": 1}, headers=tenant.headers)
    await client.get("/", headers=headers)
    answer = await client.get("/api/v1/ingest-log", headers=tenant.headers)

    assert refused.status_code == 400
    assert answer.json()["data"]
    assert await version_of(engine, tenant) == before


async def test_a_session_that_was_deleted_is_gone_at_once(client, tenant, board):
    made = await stored_session(client, tenant, external_id="s", agent="codex")
    calls = [tool_metric(agent="codex", external_session_id="s", started_at=at(9))]
    await stored_batch(client, tenant, calls)
    before = await shown(client, tenant, board)

    await client.delete(f"/api/v1/sessions/{made['id']}", headers=tenant.headers)

    assert total(before) == 2
    assert total(await shown(client, tenant, board)) == 1


# -- nobody else's ----------------------------------------------------------------------------------


async def test_another_tenant_with_the_same_ids_and_the_same_version_gets_its_own(
    client, engine, new_tenant
):
    one, other = await new_tenant(), await new_tenant()
    await stored_batch(client, one, [tool_metric(), tool_metric(tool_name="Read")])
    await stored_batch(client, other, [tool_metric()])
    made = await stored_dashboard(client, one, layout={}, widgets=TILES, visibility="tenant")
    async with tenant_connection(engine, TenantContext(one.id, read_only=True)) as connection:
        row = await connection.fetchval("SELECT to_jsonb(d)::text FROM dashboard_configs d")
        parts = await connection.fetch("SELECT part, version FROM data_versions")
    async with tenant_connection(engine, TenantContext(other.id, notes_change=False)) as connection:
        await connection.execute(
            """
            INSERT INTO dashboard_configs
            SELECT (jsonb_populate_record(
                NULL::dashboard_configs, $1::text::jsonb || jsonb_build_object('tenant_id', $2::uuid)
            )).*
            """,
            row,
            other.id,
        )
        await connection.execute("DELETE FROM data_versions")
        await connection.executemany(
            "INSERT INTO data_versions (part, version) VALUES ($1, $2)",
            [tuple(part) for part in parts],
        )

    mine, theirs = [await shown(client, who, made["id"]) for who in (one, other)]

    assert await version_of(engine, one) == await version_of(engine, other)
    assert (total(mine), total(theirs)) == (2, 1)
    stranger = await new_tenant()
    refused = await client.post(f"{PATH}/{made['id']}/data", json=DAY, headers=stranger.headers)
    check_problem(refused, 404)


async def test_who_may_not_see_people_is_given_nothing_that_was_answered_to_others(
    client, tenant, board, sign_in
):
    boss = await sign_in(tenant)
    to_key = await shown(client, tenant, board)
    answer = await client.patch(
        "/api/v1/settings", json={"hide_people": True}, headers=tenant.headers
    )
    assert answer.status_code == 200
    # What was looked up before is believed for two seconds.
    await asyncio.sleep(2.1)

    hidden = await client.post(f"{PATH}/{board}/data", json=DAY, headers=boss)

    assert "ada@example.com" in str(to_key)
    assert hidden.status_code == 200
    assert "ada@example.com" not in hidden.text
    assert hidden.json()["data"][1]["rows"] == []
    assert hidden.json()["data"][1]["error"]
    assert "ada@example.com" in str(await shown(client, tenant, board))


async def test_a_dashboard_that_is_gone_or_hidden_is_not_answered_from_what_is_kept(
    client, tenant, new_person
):
    ada = await new_person(tenant, f"{uuid4().hex}@example.com")
    eve = await new_person(tenant, f"{uuid4().hex}@example.com")
    made = await stored_dashboard(client, ada, layout={}, widgets=TILES, visibility="tenant")
    await shown(client, ada, made["id"])
    await shown(client, eve, made["id"])

    private = {
        "name": "D", "layout": {}, "widgets": TILES, "visibility": "private", "version": 1,
    }  # fmt: skip
    changed = await client.put(f"{PATH}/{made['id']}", json=private, headers=ada.headers)
    hidden = await client.post(f"{PATH}/{made['id']}/data", json=DAY, headers=eve.headers)
    await client.delete(f"{PATH}/{made['id']}", headers=ada.headers)
    gone = await client.post(f"{PATH}/{made['id']}/data", json=DAY, headers=ada.headers)

    assert changed.status_code == 200, changed.text
    check_problem(hidden, 404)
    check_problem(gone, 404)


async def test_each_link_has_its_own_labels_and_ends_when_it_is_taken_back(
    client, tenant, new_person
):
    ada = await new_person(tenant, f"{uuid4().hex}@example.com")
    made = await stored_dashboard(client, ada, layout={}, widgets=TILES)
    shares = [
        await client.post(f"{PATH}/{made['id']}/shares", json={"kind": "link"}, headers=ada.headers)
        for _ in range(2)
    ]
    host = {"Host": tenant.headers["Host"]}

    async def opened(share):
        path = f"/api/v1/shared/{share.json()['token']}/data"
        return await client.post(path, json=DAY, headers=host)

    first, again, second = [await opened(share) for share in (shares[0], *shares)]
    share = f"{PATH}/{made['id']}/shares/{shares[0].json()['id']}"
    taken = await client.delete(share, headers=ada.headers)

    labels = [
        {row["user_id"] for row in answer.json()["data"][1]["rows"]}
        for answer in (first, again, second)
    ]
    assert labels[0] == labels[1] != labels[2]
    assert not any("example.com" in answer.text for answer in (first, again, second))
    assert taken.status_code == 204
    check_problem(await opened(shares[0]), 404)
    assert (await opened(shares[1])).status_code == 200


async def test_a_picture_that_was_seen_is_known_until_the_data_changes(client, tenant, board):
    query = {"format": "svg", **DAY}
    path = f"{PATH}/{board}/image"
    first = await client.get(path, params=query, headers=tenant.headers)
    known = {**tenant.headers, "If-None-Match": first.headers["etag"]}

    same = await client.get(path, params=query, headers=known)
    await stored_batch(client, tenant, [tool_metric(started_at=at(77))])
    other = await client.get(path, params=query, headers=known)

    assert first.status_code == 200, first.text
    assert same.status_code == 304
    assert other.status_code == 200
