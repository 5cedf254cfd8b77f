"""The receiver's diary: whatever is refused can be seen with its reason, by its own tenant alone."""

from __future__ import annotations

import asyncio
import gzip
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from acceptance.export import JSON, PROTOBUF, export, good, log, logs, span, tool_result, traces
from acceptance.talk import check_problem, check_refusal, check_status, session, tool_metric
from metrics_service.db.engine import owner_connection
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.http.in_flight import IN_FLIGHT_A_TENANT
from metrics_service.ingest.diary_page import MAX_REASONS, MAX_STRANGERS_LINES
from metrics_service.ingest.write_telemetry import TelemetryWriter
from metrics_service.tenants.keys import revoke_key

LOG = "/api/v1/ingest-log"
AGENT = "OTel-OTLP-Exporter-JavaScript/0.219.0"
UNKNOWN_KEY = "msk_0123456789_" + "A" * 43
FIELDS = {
    "id", "key", "signal", "encoding", "client", "client_version", "agent", "agent_version",
    "accepted_requests", "accepted_items", "refused_requests", "refused_items", "first_at", "last_at",
    "last_accepted_at", "last_accepted_items", "last_refused_at", "reasons",
}  # fmt: skip


async def log_of(client, tenant, **params):
    response = await client.get(LOG, params=params, headers=tenant.headers)
    assert response.status_code == 200, response.text
    return response.json()


async def lines_of(client, tenant, **params):
    return (await log_of(client, tenant, **params))["data"]


async def only_line(client, tenant):
    (line,) = await lines_of(client, tenant)
    return line


async def only_reason(client, tenant):
    line = await only_line(client, tenant)
    (reason,) = line["reasons"]
    return line, reason


def with_key(tenant, key):
    return {"Host": tenant.headers["Host"], "Authorization": f"Bearer {key}"}


def counts(line):
    return tuple(
        line[name]
        for name in ("accepted_requests", "accepted_items", "refused_requests", "refused_items")
    )


# -- taken in ---------------------------------------------------------------------------------------


async def test_what_is_taken_in_is_counted_with_who_sent_it(client, new_tenant):
    tenant = await new_tenant()
    headers = tenant.headers | {"User-Agent": AGENT}
    request = logs(tool_result("a", service__version="2.1.330"), tool_result("b"))

    for _ in range(3):
        await export(client, headers, "logs", request)
    await export(client, headers, "logs", request, JSON)

    found = await log_of(client, tenant, sort="last_at")
    as_protobuf, as_json = found["data"]
    assert as_protobuf.keys() == FIELDS
    assert counts(as_protobuf) == (3, 6, 0, 0)
    assert counts(as_json) == (1, 2, 0, 0)
    assert (as_protobuf["encoding"], as_json["encoding"]) == ("protobuf", "json")
    for line in (as_protobuf, as_json):
        assert line["key"]["name"] == "test"
        assert line["key"]["is_active"]
        assert line["signal"] == "logs"
        assert (line["client"], line["client_version"]) == (
            "OTel-OTLP-Exporter-JavaScript",
            "0.219.0",
        )
        assert (line["agent"], line["agent_version"]) == ("claude-code", "2.1.330")
        assert line["last_accepted_items"] == 2
        assert line["first_at"] <= line["last_accepted_at"] == line["last_at"]
        assert line["last_refused_at"] is None
        assert line["reasons"] == []
    assert found["meta"] == {"limit": 50, "next_cursor": None, "written_every_s": 5.0}


async def test_items_refused_within_an_accepted_request_are_counted_with_their_reason(
    client, new_tenant
):
    tenant = await new_tenant()
    request = traces(span(1), span(2, span_id="00" * 8), span(3, span_id="00" * 8))

    await export(client, tenant.headers, "traces", request)

    line, reason = await only_reason(client, tenant)
    assert counts(line) == (1, 1, 0, 2)
    assert line["last_refused_at"] == line["last_accepted_at"]
    assert (reason["status"], reason["reason"], reason["count"]) == (
        200,
        "span ids must not be zero",
        2,
    )


async def test_the_json_api_has_lines_of_its_own(client, new_tenant):
    tenant = await new_tenant()
    bad = tool_metric(duration_ms=-1)
    posts = [
        ("/api/v1/sessions", session()),
        ("/api/v1/sessions/batch", [session(), session()]),
        ("/api/v1/tool-metrics/batch?on_error=skip", [tool_metric(), bad, bad]),
    ]

    for path, body in posts:
        response = await client.post(path, json=body, headers=tenant.headers)
        assert response.status_code in (200, 201), response.text

    tools, sessions = await lines_of(client, tenant)
    assert (tools["signal"], counts(tools)) == ("tool_metrics", (1, 1, 0, 2))
    assert (sessions["signal"], counts(sessions)) == ("sessions", (2, 3, 0, 0))
    assert sessions["agent"] == "claude-code"
    (reason,) = tools["reasons"]
    assert reason["reason"].startswith("duration_ms: ")
    assert reason["count"] == 2


# -- refused ----------------------------------------------------------------------------------------


async def test_no_credential_is_told_from_a_wrong_one(client, new_tenant):
    tenant, other = await new_tenant(), await new_tenant()
    host = {"Host": tenant.headers["Host"]}

    told = [
        check_status(await export(client, headers, "logs", logs()), 401)
        for headers in (host, with_key(tenant, UNKNOWN_KEY), with_key(tenant, other.key))
    ]

    line = await only_line(client, tenant)
    assert len(set(told)) == 1
    assert line["key"] is None
    assert counts(line) == (0, 0, 3, 0)
    reasons = {one["reason"]: one["count"] for one in line["reasons"]}
    assert reasons == {
        "there is no credential that can be read": 1,
        "this key is not one of this tenant's": 2,
    }
    assert all(one["status"] == 401 for one in line["reasons"])
    assert "OTEL_EXPORTER_OTLP_HEADERS" in " ".join(one["advice"] for one in line["reasons"])
    assert await lines_of(client, other) == []


@pytest.fixture
def end_key(addresses):
    async def end(key_id):
        async with owner_connection(addresses.require_owner()) as connection, connection.begin():
            await revoke_key(connection, key_id, grace=timedelta(0))

    return end


async def test_a_key_that_expired_says_so_to_its_holder_alone(client, new_tenant, new_key):
    tenant = await new_tenant()
    issued = await new_key(tenant.tenant, scopes=("ingest",), expires_in=timedelta(seconds=-5))
    guessed = issued.key[:-4] + ("AAAA" if issued.key[-4:] != "AAAA" else "BBBB")

    told = check_status(
        await export(client, with_key(tenant, issued.key), "logs", logs(), JSON), 401
    )
    problem = check_problem(
        await client.post(
            "/api/v1/tool-metrics/batch",
            json=[tool_metric()],
            headers=with_key(tenant, issued.key),
        ),
        401,
    )
    elsewhere = check_problem(
        await client.get("/api/v1/me", headers=with_key(tenant, issued.key)), 401
    )
    of_guess = check_status(await export(client, with_key(tenant, guessed), "logs", logs()), 401)

    ended = f"this key expired at {issued.expires_at:%Y-%m-%dT%H:%M:%S}Z"
    expected = f"{ended}; make another with `metrics-service key create`"
    assert told == problem["detail"] == expected
    assert elsewhere["detail"] == of_guess == "a valid API key of this tenant is required"
    by_signal = {(one["signal"], one["key"] is None): one for one in await lines_of(client, tenant)}
    assert by_signal.keys() == {("logs", False), ("tool_metrics", False), ("logs", True)}
    line = by_signal["logs", False]
    assert line["key"]["id"] == str(issued.id)
    assert not line["key"]["is_active"]
    assert line["reasons"][0]["reason"] == expected
    assert "key create" in line["reasons"][0]["advice"]


async def test_a_key_that_was_revoked_says_so_to_its_holder(client, new_tenant, new_key, end_key):
    tenant = await new_tenant()
    issued = await new_key(tenant.tenant, scopes=("ingest",))
    await end_key(issued.id)
    await asyncio.sleep(0)

    told = check_status(await export(client, with_key(tenant, issued.key), "logs", logs()), 401)

    assert told.startswith("this key was revoked at ")
    line, reason = await only_reason(client, tenant)
    assert line["key"]["id"] == str(issued.id)
    assert reason["reason"] == told


async def test_an_ended_key_of_another_tenant_is_nobodys(client, new_tenant, new_key):
    tenant, other = await new_tenant(), await new_tenant()
    issued = await new_key(other.tenant, scopes=("ingest",), expires_in=timedelta(seconds=-5))

    told = check_status(await export(client, with_key(tenant, issued.key), "logs", logs()), 401)

    assert told == "a valid API key of this tenant is required"
    line = await only_line(client, tenant)
    assert line["key"] is None


REFUSALS = [
    # The client's mistake, status, signal, encoding, what the reason says, the advice
    ("wrong path", 404, "logs", "protobuf", "OTLP is taken at /v1/logs", "/v1/logs at its end"),
    ("no path", 404, "unknown", "json", "/v1/logs, /v1/metrics or /v1/traces", "OTLP_ENDPOINT"),
    ("text", 415, "logs", "other", "Content-Type must be", "OTEL_EXPORTER_OTLP_PROTOCOL="),
    ("coding", 415, "logs", "protobuf", "Content-Encoding must be", "OTLP_COMPRESSION=gzip"),
    ("garbage", 400, "metrics", "protobuf", "not an OTLP request", "Content-Type"),
    ("mixed up", 400, "traces", "json", "request for /v1/logs", "address of its own"),
    ("broken gzip", 400, "logs", "protobuf", "gzip", "Content-Type"),
    ("announced", 413, "logs", "protobuf", "67108864 bytes", "MAX_EXPORT_BATCH_SIZE"),
    ("many", 413, "sessions", "json", "10000 items", "smaller batches"),
    ("invalid", 422, "tool_metrics", "json", "duration_ms", "field that is named"),
    ("not json", 400, "sessions", "json", "JSON", "as the reason says"),
    ("plain", 415, "sessions", "other", "Content-Type must be", "application/json"),
]


async def mistake(client, headers, kind):
    batch = "/api/v1/sessions/batch"
    typed = headers | {"Content-Type": PROTOBUF}
    calls = {
        "wrong path": lambda: export(client, headers, "logs", good("logs"), path="/v1/log"),
        "no path": lambda: export(client, headers, "logs", good("logs"), JSON, path="/"),
        "text": lambda: export(client, headers, "logs", b"hello", "text/plain"),
        "coding": lambda: export(client, headers, "logs", b"x", Content_Encoding="br"),
        "garbage": lambda: export(client, headers, "metrics", b"\xff" * 20),
        "mixed up": lambda: export(client, headers, "traces", good("logs"), JSON),
        "broken gzip": lambda: export(client, headers, "logs", b"x", Content_Encoding="gzip"),
        "announced": lambda: client.post(
            "/v1/logs", content=b"x", headers=typed | {"Content-Length": str(64 * 2**20 + 1)}
        ),
        "many": lambda: client.post(batch, json=[session()] * 10_001, headers=headers),
        "invalid": lambda: client.post(
            "/api/v1/tool-metrics/batch",
            json=[tool_metric(duration_ms="secret words")],
            headers=headers,
        ),
        "not json": lambda: client.post(
            "/api/v1/sessions",
            content=b'{"agent": secret words',
            headers=headers | {"Content-Type": JSON},
        ),
        "plain": lambda: client.post(
            "/api/v1/sessions", content=b"x", headers=headers | {"Content-Type": "text/plain"}
        ),
    }
    return await calls[kind]()


@pytest.mark.parametrize(("kind", "status", "signal", "encoding", "says", "advice"), REFUSALS)
async def test_whatever_is_refused_shows_with_its_reason_and_its_key(
    client, new_tenant, shared_tenant, kind, status, signal, encoding, says, advice
):
    tenant, other = await new_tenant(), shared_tenant

    response = await mistake(client, tenant.headers | {"User-Agent": AGENT}, kind)

    assert response.status_code == status, response.text
    line, reason = await only_reason(client, tenant)
    assert (line["signal"], line["encoding"]) == (signal, encoding)
    assert line["client"] == "OTel-OTLP-Exporter-JavaScript"
    assert line["key"] is not None
    assert counts(line) == (0, 0, 1, 0)
    assert (reason["status"], reason["count"]) == (status, 1)
    assert says in reason["reason"]
    assert advice in reason["advice"]
    assert "secret" not in str(line)
    assert await lines_of(client, other) == []


async def test_a_key_without_the_scope_shows(client, new_tenant, new_key):
    tenant = await new_tenant()
    reader = await new_key(tenant.tenant, scopes=("read",))

    check_status(await export(client, with_key(tenant, reader.key), "logs", good("logs")), 403)

    line, reason = await only_reason(client, tenant)
    assert line["key"]["id"] == str(reader.id)
    assert (reason["status"], reason["reason"]) == (403, "this key lacks the scope ingest")


async def test_a_key_in_the_path_that_may_more_shows_without_itself(client, new_tenant):
    tenant = await new_tenant()
    host = {"Host": tenant.headers["Host"]}

    answers = [
        await export(client, host, "logs", good("logs"), path=f"/i/{tenant.key}/{rest}")
        for rest in ("v1/logs", "v2/logs")
    ]

    assert [answer.status_code for answer in answers] == [403, 404]
    line = await only_line(client, tenant)
    assert line["key"]["prefix"] in tenant.key
    assert {one["status"] for one in line["reasons"]} == {403, 404}
    assert tenant.key not in str(line)


async def test_a_key_that_is_taken_for_a_parameter_is_not_written_down(client, new_tenant):
    tenant = await new_tenant()

    response = await client.post(
        f"/api/v1/tool-metrics/batch?{tenant.key}=1", json=[tool_metric()], headers=tenant.headers
    )

    check_problem(response, 400)
    line, reason = await only_reason(client, tenant)
    assert reason["reason"] == "there is no parameter msk_…"
    assert line["signal"] == "tool_metrics"


async def test_a_failure_of_ours_shows_without_its_text(client, new_tenant, monkeypatch):
    tenant = await new_tenant()
    headers = tenant.headers | {"User-Agent": AGENT}

    async def crash(*_, **__):
        raise RuntimeError("secret words of a bug")

    with monkeypatch.context() as patch:
        patch.setattr(TelemetryWriter, "write", crash)
        check_status(await export(client, headers, "logs", logs(log("x"))), 503)

    line, reason = await only_reason(client, tenant)
    assert (reason["status"], reason["reason"]) == (503, "the service failed")
    assert "secret" not in str(line)


async def test_too_much_at_a_time_shows(client, new_tenant):
    tenant = await new_tenant()
    begun, may_end = [], asyncio.Event()

    async def slow():
        begun.append(1)
        yield b""
        await may_end.wait()

    headers = {**tenant.headers, "Content-Type": PROTOBUF}
    held = [
        asyncio.create_task(client.post("/v1/logs", content=slow(), headers=headers))
        for _ in range(IN_FLIGHT_A_TENANT)
    ]
    async with asyncio.timeout(10):
        while len(begun) < IN_FLIGHT_A_TENANT:
            await asyncio.sleep(0.01)
    check_status(await export(client, tenant.headers, "logs", good("logs")), 429)
    may_end.set()
    await asyncio.gather(*held)

    line, reason = await only_reason(client, tenant)
    assert (reason["status"], reason["reason"]) == (429, "too many requests at the same time")
    assert counts(line) == (IN_FLIGHT_A_TENANT, 0, 1, 0)


async def test_who_guesses_keys_shows_without_a_key(open_app, new_tenant):
    tenant = await new_tenant()
    async with open_app(metrics_auth_failures_per_minute=1) as client:
        for status in (401, 429):
            check_status(
                await export(client, with_key(tenant, UNKNOWN_KEY), "logs", good("logs")), status
            )
        line = await only_line(client, tenant)

    assert line["key"] is None
    assert {one["status"]: one["reason"] for one in line["reasons"]} == {
        401: "this key is not one of this tenant's",
        429: "too many failed authentications",
    }


async def test_a_body_that_breaks_off_shows_on_the_wire(wire, new_tenant):
    tenant = await new_tenant()
    head = (
        f"POST /v1/logs HTTP/1.1\r\nHost: {tenant.headers['Host']}\r\nUser-Agent: {AGENT}\r\n"
        f"Authorization: Bearer {tenant.key}\r\nContent-Type: {PROTOBUF}\r\n"
        "Content-Length: 1000\r\n\r\n"
    )

    await wire.say(head.encode() + b"x" * 10, patience_s=0.5)

    async with wire.client() as client:
        async with asyncio.timeout(10):
            while not (lines := await lines_of(client, tenant)):
                await asyncio.sleep(0.1)
    (reason,) = lines[0]["reasons"]
    assert (reason["status"], reason["reason"]) == (503, "the body broke off")


async def test_what_no_tenant_is_asked_leaves_nothing(client, new_tenant):
    tenant = await new_tenant()

    check_refusal(
        await export(client, {"Host": f"{uuid4().hex}.localhost"}, "logs", good("logs")), 404
    )
    await client.post("/sign-in", data={"key": "x"}, headers=tenant.headers)
    await client.get("/v1/logs", headers=tenant.headers)
    await client.post("/api/v1/keys", json={}, headers=tenant.headers)

    assert await lines_of(client, tenant) == []


# -- bounds -----------------------------------------------------------------------------------------


async def test_strangers_cannot_fill_the_diary(client, new_tenant):
    tenant = await new_tenant()
    host = {"Host": tenant.headers["Host"]}
    count = MAX_STRANGERS_LINES + 10

    for number in range(count):
        await export(client, host | {"User-Agent": f"client{number}/1"}, "logs", good("logs"))
        if number == count // 2:
            await lines_of(client, tenant)
    await export(client, tenant.headers | {"User-Agent": AGENT}, "logs", good("logs"))

    lines = await lines_of(client, tenant, limit=500)
    strangers = [line for line in lines if line["key"] is None]
    named = [line for line in strangers if line["client"] != "other"]
    assert len(named) == MAX_STRANGERS_LINES
    assert sum(line["refused_requests"] for line in strangers) == count
    assert len(strangers) == MAX_STRANGERS_LINES + 1
    assert [line["client"] for line in lines if line["key"]] == ["OTel-OTLP-Exporter-JavaScript"]


async def test_the_newest_reasons_are_kept_and_all_are_counted(client, new_tenant):
    tenant = await new_tenant()

    for number in range(MAX_REASONS + 12):
        body = b" " * number + b"x"
        response = await client.post(
            "/api/v1/sessions",
            content=b"[" + body,
            headers=tenant.headers | {"Content-Type": "application/json"},
        )
        assert response.status_code == 400
        path = f"/v1/{'x' * number}log{number}"
        assert (await export(client, tenant.headers, "logs", b"", path=path)).status_code == 404
        if number % 7 == 0:
            await lines_of(client, tenant)

    for line in await lines_of(client, tenant):
        assert len([one for one in line["reasons"] if one["reason"] != "other"]) <= MAX_REASONS
        assert sum(one["count"] for one in line["reasons"]) == line["refused_requests"]


# -- reading ----------------------------------------------------------------------------------------


async def test_lines_are_filtered_and_paged(client, new_tenant, new_key):
    tenant = await new_tenant()
    issued = await new_key(tenant.tenant, scopes=("ingest",))
    for signal in ("logs", "metrics", "traces"):
        await export(client, tenant.headers, signal, good(signal))
        await export(client, with_key(tenant, issued.key), signal, b"\xff" * 9)

    everything = await lines_of(client, tenant)
    pages, cursor = [], None
    while cursor is not None or not pages:
        page = await log_of(client, tenant, limit=2, **({"cursor": cursor} if cursor else {}))
        pages += page["data"]
        cursor = page["meta"]["next_cursor"]
    numbered = await log_of(client, tenant, page=2, limit=4)

    assert len(everything) == 6
    assert pages == everything
    assert everything == sorted(everything, key=lambda line: line["last_at"], reverse=True)
    assert numbered["data"] == everything[4:]
    assert numbered["meta"]["total"] == 6
    assert len(await lines_of(client, tenant, signal="logs")) == 2
    assert len(await lines_of(client, tenant, key_id=str(issued.id))) == 3
    assert {one["key"]["id"] for one in await lines_of(client, tenant, status="refused")} == {
        str(issued.id)
    }
    assert len(await lines_of(client, tenant, status="accepted")) == 3


@pytest.mark.parametrize(
    "params",
    [{"signal": "x"}, {"key_id": "x"}, {"status": "x"}, {"sort": "id"}, {"client": "x"}],
)
async def test_a_bad_parameter_is_named(client, tenant_once, params):
    response = await client.get(LOG, params=params, headers=tenant_once.headers)

    assert next(iter(params)) in check_problem(response, 400)["detail"]


async def test_only_an_admin_reads_it(client, new_tenant, new_key):
    tenant = await new_tenant()
    for scope in ("ingest", "read", "write"):
        issued = await new_key(tenant.tenant, scopes=(scope,))
        check_problem(await client.get(LOG, headers=with_key(tenant, issued.key)), 403)


async def test_a_cursor_of_another_tenant_is_no_cursor(client, new_tenant):
    one, other = await new_tenant(), await new_tenant()
    for signal in ("logs", "metrics"):
        await export(client, other.headers, signal, good(signal))
    theirs = (await log_of(client, other, limit=1))["meta"]["next_cursor"]

    stolen = await client.get(LOG, params={"cursor": theirs}, headers=one.headers)

    check_problem(stolen, 400)


async def test_two_processes_count_together(open_app, new_tenant):
    tenant = await new_tenant()
    headers = tenant.headers | {"User-Agent": AGENT}

    async with open_app() as one, open_app() as other:
        for _ in range(5):
            await export(one, headers, "logs", good("logs"))
            await export(other, headers, "logs", good("logs"))
        seen_by_one = await only_line(one, tenant)
        seen_by_other = await only_line(other, tenant)

    assert counts(seen_by_one)[0] == 5
    assert counts(seen_by_other)[0] == 10
    assert seen_by_one["id"] == seen_by_other["id"]


async def test_the_rows_are_behind_the_wall(client, new_tenant, engine):
    one, other = await new_tenant(), await new_tenant()
    await export(client, one.headers, "logs", b"\xff" * 9)
    line = await only_line(client, one)

    async with tenant_connection(engine, TenantContext(other.id)) as connection:
        for table in ("ingest_log", "ingest_refusals"):
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0
    async with tenant_connection(engine, TenantContext(one.id)) as connection:
        row = await connection.fetchrow("SELECT id, tenant_id FROM ingest_log")
    assert (str(row["id"]), UUID(str(row["tenant_id"]))) == (line["id"], one.id)


async def test_gzip_is_no_reason_for_anything(client, new_tenant):
    tenant = await new_tenant()

    body = gzip.compress(b"")
    response = await export(client, tenant.headers, "logs", body, Content_Encoding="gzip")

    assert response.status_code == 200
    line = await only_line(client, tenant)
    assert counts(line) == (1, 0, 0, 0)
