"""`/set-up` over HTTP: what to paste, for whom, what arrived, and no key in the page."""

from __future__ import annotations

import html
import re

import pytest

from acceptance.export import export, logs, tool_result
from acceptance.talk import check_problem, stored_session
from metrics_service.setup.agents import AGENTS


async def read(client, headers, /, **params):
    response = await client.get("/set-up", params=params, headers=headers)
    assert response.status_code == 200, response.text
    return response.text


def snippets(page):
    return [
        html.unescape(one) for one in re.findall(r"<code id=[^>]*>(.*?)</code>", page, re.DOTALL)
    ]


@pytest.mark.parametrize("client_code", AGENTS)
async def test_every_client_has_its_snippets_as_the_api_has_them(
    client, tenant_once, sign_in, client_code
):
    headers = await sign_in(tenant_once, "viewer")
    asked = {"team": "web's & <co>", "repository": "acme/shop"}
    answer = await client.get(f"/api/v1/setup/{client_code}", params=asked, headers=headers)

    page = await read(client, headers, client=client_code, **asked)

    assert snippets(page)[: len(answer.json()["parts"])] == [
        part["content"] for part in answer.json()["parts"]
    ]
    assert "<co>" not in page
    assert "metrics-service otlp send-test" in page


async def test_a_protocol_of_another_client_is_not_the_end(client, tenant_once, sign_in):
    headers = await sign_in(tenant_once)

    page = await read(client, headers, client="claude-code", protocol="grpc")

    assert "gRPC" in page
    assert "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf" in page


@pytest.mark.parametrize(
    ("params", "named"),
    [
        ({"client": "clippy"}, "client"),
        ({"protocol": "smtp"}, "protocol"),
        ({"team": "x" * 256}, "team"),
        ({"key": "msk_1"}, "key"),
    ],
)
async def test_a_wrong_parameter_is_named(client, tenant_once, sign_in, params, named):
    response = await client.get("/set-up", params=params, headers=await sign_in(tenant_once))

    assert named in check_problem(response, 400)["detail"]


async def test_what_arrives_and_what_is_refused_is_told_to_administrators_alone(
    client, new_tenant, sign_in
):
    tenant, other = await new_tenant(), await new_tenant()
    owner, viewer, stranger = [
        await sign_in(one, role)
        for one, role in ((tenant, "owner"), (tenant, "viewer"), (other, "owner"))
    ]
    before = await read(client, owner)
    await export(client, tenant.headers, "logs", logs(tool_result("a")), "application/json")
    broken = {**tenant.headers, "Content-Type": "application/json"}
    await client.post("/v1/logs", content=b"<b>no json</b>", headers=broken)

    after, seen, elsewhere = [await read(client, who) for who in (owner, viewer, stranger)]

    assert "Waiting for the first data" in before
    assert "Arrived: <strong>" in after
    assert "1 × 400" in re.sub(r"<[^>]*>", "", after)
    assert "OTEL_EXPORTER_OTLP_PROTOCOL" in after
    assert "Arrived: <strong>" in seen
    for hidden in ("What arrived, and what was refused", 'id="keys"', "make-key"):
        assert hidden in after
        assert hidden not in seen
    assert "Waiting for the first data" in elsewhere


async def test_a_key_is_in_no_page_and_goes_when_it_is_revoked(client, new_tenant, sign_in):
    tenant = await new_tenant()
    owner = await sign_in(tenant)
    body = {"key": {"name": '<i>"laptops"</i>', "expires_in_days": 30}}

    made = await client.post("/api/v1/setup/codex", json=body, headers=owner)
    listed = await read(client, owner)
    key = made.json()["key"]
    await client.delete(f"/api/v1/keys/{key['id']}", headers=owner)
    revoked = await read(client, owner)

    assert made.status_code == 201, made.text
    assert key["key"] not in listed + revoked
    assert f"msk_{key['prefix']}_…" in listed
    assert "<i>" not in listed
    assert f'data-revoke="{key["id"]}"' in listed
    assert f'data-revoke="{key["id"]}"' not in revoked


async def test_who_may_only_read_makes_no_key(client, tenant_once, sign_in):
    headers = await sign_in(tenant_once, "viewer")

    refused = await client.post("/api/v1/setup/codex", json={"key": {"name": "x"}}, headers=headers)
    page = await read(client, headers)

    check_problem(refused, 403)
    assert "Keys are made by administrators" in page


async def test_viewers_see_that_something_arrived(client, new_tenant, sign_in):
    tenant = await new_tenant()
    viewer = await sign_in(tenant, "viewer")
    before = await read(client, viewer)
    await stored_session(client, tenant, agent="codex")

    after = await read(client, viewer)

    assert "Waiting for the first data" in before
    assert "Codex" in re.search(r"Arrived: <strong>(.*?)</strong>", after)[1]
