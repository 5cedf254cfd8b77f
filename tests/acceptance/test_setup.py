"""Set-up over HTTP: the tenant's own address, a placeholder for who may read, a fresh key for admins."""

from __future__ import annotations

import json
import tomllib
from uuid import uuid4

import pytest

from acceptance.talk import check_problem, rows_of
from metrics_service.otlp.openapi import LOGS
from metrics_service.setup.agents import AGENTS

PATH = "/api/v1/setup"
ME = "/api/v1/me"
PROXY = ("192.0.2.80", 40000)


async def show(client, tenant, agent="codex", headers=None, **query):
    response = await client.get(
        f"{PATH}/{agent}", params=query, headers=tenant.headers | (headers or {})
    )
    assert response.status_code == 200, response.text
    return response.json()


async def issue(client, tenant, agent="codex", headers=None, **body):
    body = {"key": {"name": "laptops"}} | body
    return await client.post(f"{PATH}/{agent}", json=body, headers=tenant.headers | (headers or {}))


def text_of(setup):
    return "".join(part["content"] for part in setup["parts"])


async def test_the_list_names_agents_and_what_they_speak(client, tenant_once):
    response = await client.get(PATH, headers=tenant_once.headers)

    assert response.status_code == 200
    listed = response.json()["data"]
    assert [one["agent"] for one in listed] == [*AGENTS]
    assert listed[1] == {
        "agent": "codex",
        "name": "Codex",
        "protocols": ["http/protobuf", "http/json", "grpc"],
        "signals": ["logs", "metrics", "traces"],
    }


@pytest.mark.parametrize("agent", sorted(AGENTS))
async def test_every_agent_is_shown_with_this_tenants_address_and_no_other(
    client, shared_tenant, tenant_once, agent
):
    other, host = shared_tenant, tenant_once.headers["Host"]

    setup = await show(client, tenant_once, agent, headers={"Host": f"{host}:8123"})

    assert setup.keys() == {
        "agent", "name", "protocol", "endpoint", "endpoints", "parts", "notes", "check",
    }  # fmt: skip
    whole = json.dumps(setup)
    assert f"{host}:8123" in whole
    assert "msk_..." in text_of(setup)
    assert other.headers["Host"] not in whole
    assert other.slug not in whole
    assert tenant_once.key not in whole


async def test_the_address_is_the_one_that_was_asked(client, new_tenant, as_owner):
    tenant = await new_tenant()
    domain = f"metrics.{uuid4().hex[:8]}.example"
    await as_owner(
        "INSERT INTO public.tenant_domains (tenant_id, host) VALUES (:id, :domain)",
        id=tenant.id,
        domain=domain,
    )

    by_slug = await show(client, tenant)
    by_domain = await show(client, tenant, headers={"Host": f"{domain}:8000"})
    by_port_80 = await show(client, tenant, headers={"Host": f"{domain.upper()}.:80"})

    assert by_slug["endpoint"] == "http://127.0.0.1"
    assert tenant.headers["Host"] in text_of(by_slug)
    assert by_domain["endpoint"] == f"http://{domain}:8000"
    assert by_domain["endpoints"] == [
        f"http://{domain}:8000/v1/{signal}" for signal in ("logs", "metrics", "traces")
    ]
    assert by_port_80["endpoint"] == f"http://{domain}"


async def test_a_trusted_proxy_says_that_it_is_https(open_app, new_tenant, as_owner):
    tenant = await new_tenant()
    domain = f"metrics.{uuid4().hex[:8]}.example"
    await as_owner(
        "INSERT INTO public.tenant_domains (tenant_id, host) VALUES (:id, :domain)",
        id=tenant.id,
        domain=domain,
    )
    told = {"Host": domain, "X-Forwarded-Proto": "https"}

    async with open_app(peer=PROXY, metrics_trusted_proxies="192.0.2.0/24") as trusting:
        by_proxy = await show(trusting, tenant, headers=told)
        odd = [
            await show(trusting, tenant, headers=told | {"X-Forwarded-Proto": value})
            for value in ("http", "javascript", 'https"\r\nx: y'[:6], "https, http", "", "wss")
        ]
        in_capitals = await show(trusting, tenant, headers=told | {"X-Forwarded-Proto": "HTTPS"})
    async with open_app(peer=PROXY) as wary:
        by_stranger = await show(wary, tenant, headers=told)

    assert by_proxy["endpoint"] == in_capitals["endpoint"] == f"https://{domain}"
    assert {one["endpoint"] for one in odd} == {f"http://{domain}"}
    assert by_stranger["endpoint"] == f"http://{domain}"


async def test_grpc_is_named_by_the_port_that_takes_it(open_app, client, new_tenant):
    tenant = await new_tenant()

    without = await client.get(f"{PATH}/codex", params={"protocol": "grpc"}, headers=tenant.headers)
    async with open_app(metrics_otlp_grpc_port=4317) as serving:
        setup = await show(serving, tenant, protocol="grpc")

    assert "--otlp-grpc-port" in check_problem(without, 400)["detail"]
    assert setup["endpoint"] == f"http://{tenant.headers['Host']}:4317"
    assert setup["endpoints"] == [setup["endpoint"]]


async def test_a_fresh_key_is_in_the_snippet_works_and_is_shown_once(client, new_tenant):
    tenant = await new_tenant()

    response = await issue(
        client, tenant, key={"name": "laptops", "expires_in_days": 90}, team="web"
    )

    assert response.status_code == 201, response.text
    setup = response.json()
    key = setup["key"]["key"]
    assert setup["key"]["scopes"] == ["ingest"]
    assert setup["key"]["expires_at"] is not None
    table = tomllib.loads(setup["parts"][0]["content"])["otel"]
    assert table["exporter"]["otlp-http"]["headers"]["x-api-key"] == key
    assert "team=web" in text_of(setup)
    assert "msk_..." not in text_of(setup)
    fresh = {"Host": tenant.headers["Host"], "X-API-Key": key}
    assert (await client.post("/v1/logs", json=LOGS, headers=fresh)).status_code == 200
    assert (await client.get("/api/v1/sessions", headers=fresh)).status_code == 403
    keyed = await client.post(f"/i/{key}/v1/logs", json=LOGS, headers={"Host": fresh["Host"]})
    assert keyed.status_code == 200
    (row,) = [row for row in await rows_of(client, "/api/v1/keys", tenant) if row["name"] != "test"]
    assert (row["id"], row["name"], row["scopes"]) == (setup["key"]["id"], "laptops", ["ingest"])
    again = await show(client, tenant)
    assert key not in json.dumps(again)


async def test_sent_again_under_one_idempotency_key_there_is_one_key(client, new_tenant):
    tenant = await new_tenant()
    once = {"Idempotency-Key": "set-up-1"}

    first = await issue(client, tenant, headers=once)
    second = await issue(client, tenant, headers=once)
    other_agent = await issue(client, tenant, "claude-code", headers=once)

    assert first.json() == second.json()
    assert second.headers["Idempotency-Replayed"] == "true"
    check_problem(other_agent, 422)
    names = [row["name"] for row in await rows_of(client, "/api/v1/keys", tenant)]
    assert sorted(names) == ["laptops", "test"]


async def test_a_key_for_a_user_is_theirs_and_another_tenants_user_is_nobody(
    client, new_tenant, new_person
):
    tenant, stranger = await new_tenant(), await new_tenant()
    ada = await new_person(tenant, "ada@example.com")
    eve = await new_person(stranger, "eve@example.com")

    good = await issue(client, tenant, key={"name": "ada's", "user_id": str(ada.id)})
    bad = [
        await issue(client, tenant, key={"name": "x", "user_id": str(user)})
        for user in (eve.id, uuid4())
    ]

    assert good.status_code == 201
    rows = await rows_of(client, "/api/v1/keys", tenant)
    assert str(ada.id) in {row["user_id"] for row in rows}
    for response in bad:
        problem = check_problem(response, 422)
        assert problem["errors"] == [{"reason": "there is no such user", "field": "key.user_id"}]
    assert len(rows) == len(await rows_of(client, "/api/v1/keys", tenant))


@pytest.mark.parametrize("scope", ["ingest", "read", "write"])
async def test_only_admins_get_keys(client, new_tenant, scope):
    tenant = await new_tenant(scopes=(scope,))

    seen = await client.get(f"{PATH}/codex", headers=tenant.headers)
    issued = await issue(client, tenant)

    assert seen.status_code == (200 if scope == "read" else 403)
    check_problem(issued, 403)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_unknown_agent_is_told_the_known_ones(client, tenant_once, method):
    body = {"key": {"name": "x"}} if method == "POST" else None
    for agent in ("claude", "%F0%9F%A4%96", "a" * 300, "Codex"):
        response = await client.request(
            method, f"{PATH}/{agent}", json=body, headers=tenant_once.headers
        )

        detail = check_problem(response, 404)["detail"]
        assert "claude-code, codex, gemini-cli" in detail
        assert len(detail) < 400


@pytest.mark.parametrize(
    ("agent", "query", "words"),
    [
        ("cursor", {"protocol": "http/json"}, "cursor does not speak http/json; it speaks http/protobuf"),
        ("opencode", {"protocol": "grpc"}, "opencode does not speak grpc; it speaks http/json"),
        ("codex", {"protocol": "http"}, "protocol: must be one of grpc, http/json, http/protobuf"),
        ("codex", {"protocol": ""}, "parameter protocol"),
        ("codex", {"team": ""}, "parameter team"),
        ("codex", {"team": "x" * 256}, "parameter team"),
        ("codex", {"repository": "x" * 256}, "parameter repository"),
        ("codex", {"endpoint": "http://evil.example"}, "there is no parameter endpoint"),
    ],
)  # fmt: skip
async def test_a_wrong_parameter_is_named(client, tenant_once, agent, query, words):
    response = await client.get(f"{PATH}/{agent}", params=query, headers=tenant_once.headers)

    assert words in check_problem(response, 400)["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"key": {"name": "x"}, "protocol": "http/json"}, "protocol"),
        ({"key": {"name": "x"}, "protocol": "smoke"}, "protocol"),
        ({"key": {"name": ""}}, "key.name"),
        ({"key": {}}, "key: is required"),
        ({}, "key"),
        ({"key": {"name": "x", "scopes": ["admin"]}}, "key: is not a field"),
        ({"key": {"name": "x", "expires_in_days": 0}}, "key.expires_in_days"),
        ({"key": {"name": "x"}, "team": "x" * 256}, "team"),
        ({"key": {"name": "x"}, "team": "a\0b"}, "team"),
    ],
)
async def test_a_wrong_field_is_named_and_no_key_is_made(client, shared_tenant, body, field):
    response = await client.post(f"{PATH}/cursor", json=body, headers=shared_tenant.headers)

    (error,) = check_problem(response, 422)["errors"]
    assert field in f"{error['field']}: {error['reason']}"
    assert len(await rows_of(client, "/api/v1/keys", shared_tenant)) == 1


async def test_hostile_names_arrive_as_text(client, tenant_once):
    name = "$(id); '\"\n[x]\U0001f4da"

    setup = await show(client, tenant_once, "codex", team=name, repository=name)

    assert tomllib.loads(setup["parts"][0]["content"]).keys() == {"otel"}
