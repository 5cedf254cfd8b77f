"""What a credential is good for, as `me` tells it."""

from __future__ import annotations

import pytest

from acceptance.talk import check_problem


async def test_me_tells_tenant_principal_role_scopes_and_limits(client, new_tenant):
    tenant = await new_tenant(plan="pro")

    response = await client.get("/api/v1/me", headers=tenant.headers)

    assert response.status_code == 200
    me = response.json()
    assert me.keys() == {"tenant", "principal", "role", "scopes", "limits"}
    assert me["tenant"] == {
        "id": str(tenant.id),
        "slug": tenant.slug,
        "name": tenant.tenant.name,
        "domain": tenant.tenant.domain,
        "plan": "pro",
    }
    assert me["principal"].keys() == {"kind", "id", "name"}
    assert me["principal"]["kind"] == "api_key"
    assert me["principal"]["name"] == "test"
    assert me["scopes"] == ["admin", "ingest", "read", "write"]
    assert me["limits"]["batch_items"] == 10_000
    assert me["limits"]["batch_bytes"] == 20 * 1024 * 1024
    assert me["limits"]["requests_in_flight"] == 64
    assert me["limits"]["tool_names"] == 5_000
    assert me["limits"]["page_rows"] == 500


@pytest.mark.parametrize(
    ("scopes", "role"),
    [
        (("admin",), "admin"),
        (("read", "write"), "editor"),
        (("read",), "viewer"),
        (("ingest",), "service"),
        (("ingest", "read"), "viewer"),
    ],
)
async def test_a_key_has_the_role_that_its_scopes_come_nearest_to(client, new_tenant, scopes, role):
    tenant = await new_tenant(scopes=scopes)

    response = await client.get("/api/v1/me", headers=tenant.headers)

    assert response.json()["role"] == role
    assert response.json()["scopes"] == sorted(scopes)


async def test_me_is_about_the_tenant_of_the_host_and_of_no_other(client, new_tenant):
    one, other = await new_tenant(), await new_tenant()

    ours = (await client.get("/api/v1/me", headers=one.headers)).json()
    theirs = (await client.get("/api/v1/me", headers=other.headers)).json()

    assert ours["tenant"]["id"] == str(one.id)
    assert theirs["tenant"]["id"] == str(other.id)


async def test_nobody_is_told_anything_without_a_credential(client, new_tenant):
    tenant = await new_tenant()

    response = await client.get("/api/v1/me", headers={"Host": tenant.headers["Host"]})

    check_problem(response, 401)
    assert response.headers["www-authenticate"].startswith("Bearer")


async def test_answers_are_not_cached(client, new_tenant):
    tenant = await new_tenant()

    response = await client.get("/api/v1/me", headers=tenant.headers)

    assert response.headers["cache-control"] == "no-store"


async def test_a_request_id_that_is_harmless_is_kept_and_another_is_replaced(client, new_tenant):
    tenant = await new_tenant()

    kept = await client.get("/api/v1/me", headers={**tenant.headers, "X-Request-Id": "abc-1.2_3"})
    replaced = await client.get("/api/v1/me", headers={**tenant.headers, "X-Request-Id": "a b<"})

    assert kept.headers["x-request-id"] == "abc-1.2_3"
    assert replaced.headers["x-request-id"] != "a b<"
