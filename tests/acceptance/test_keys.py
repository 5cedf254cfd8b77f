"""Keys over HTTP: shown once, good at once, dead everywhere soon after they are revoked."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from acceptance.talk import check_problem, rows_of, walk
from metrics_service.db.tenancy import TenantContext, tenant_connection

PATH = "/api/v1/keys"
ME = "/api/v1/me"
HOLDS_EVERYWHERE_AFTER_S = 2.0


def headers_of(tenant, key):
    return {"Host": tenant.headers["Host"], "Authorization": f"Bearer {key}"}


async def issue(client, tenant, **changes):
    body = {"name": "collector", "scopes": ["read"], **changes}
    response = await client.post(PATH, json=body, headers=tenant.headers)
    assert response.status_code == 201, response.text
    return response.json()


async def seconds_until(status, client, headers):
    """How long it takes until the service answers with this status."""
    begun = time.monotonic()
    while (await client.get(ME, headers=headers)).status_code != status:
        assert time.monotonic() - begun < 5
        await asyncio.sleep(0.02)
    return time.monotonic() - begun


async def test_a_key_is_shown_once_and_works_at_once(client, new_tenant):
    tenant = await new_tenant()

    issued = await issue(client, tenant, scopes=["read", "write", "read"])

    assert issued.keys() == {"id", "key", "prefix", "scopes", "expires_at"}
    assert issued["scopes"] == ["read", "write"]
    assert issued["prefix"] in issued["key"]
    assert issued["expires_at"] is None
    me = (await client.get(ME, headers=headers_of(tenant, issued["key"]))).json()
    assert me["principal"] == {"kind": "api_key", "id": issued["id"], "name": "collector"}
    assert me["scopes"] == ["read", "write"]


async def test_the_list_shows_keys_without_the_keys(client, new_tenant):
    tenant = await new_tenant()
    issued = [await issue(client, tenant, name=f"k{number}") for number in range(5)]

    walked = [row async for row in walk(client, PATH, tenant, limit=2)]
    page = await client.get(PATH, params={"page": 2, "limit": 4}, headers=tenant.headers)

    assert [row["name"] for row in walked] == ["test", *(f"k{number}" for number in range(5))]
    for row in walked:
        assert row.keys() == {
            "id", "prefix", "name", "scopes", "user_id", "created_at", "expires_at", "revoked_at",
        }  # fmt: skip
    assert page.json()["meta"] == {"limit": 4, "page": 2, "total": 6, "pages": 2}
    everything = (await client.get(PATH, params={"limit": 500}, headers=tenant.headers)).text
    assert all(one["key"] not in everything for one in issued)
    assert all(one["key"].split("_", 2)[2] not in everything for one in issued)


async def test_a_revoked_key_stops_in_every_process_within_two_seconds(
    client, open_app, wire, new_tenant
):
    tenant = await new_tenant()
    issued = await issue(client, tenant)
    headers = headers_of(tenant, issued["key"])
    async with open_app() as second, wire.client() as far:
        everywhere = (client, second, far)
        for one in everywhere:
            assert (await one.get(ME, headers=headers)).status_code == 200

        response = await client.delete(f"{PATH}/{issued['id']}", headers=tenant.headers)
        waits = await asyncio.gather(*(seconds_until(401, one, headers) for one in everywhere))

    assert (response.status_code, response.content) == (204, b"")
    assert max(waits) < HOLDS_EVERYWHERE_AFTER_S
    (row,) = [row for row in await rows_of(client, PATH, tenant) if row["id"] == issued["id"]]
    assert row["revoked_at"] is not None


async def test_a_key_that_the_operator_revokes_stops_too(client, new_tenant, as_owner):
    tenant = await new_tenant()
    issued = await issue(client, tenant)
    headers = headers_of(tenant, issued["key"])
    await client.get(ME, headers=headers)

    await as_owner(
        """
        WITH dead AS (UPDATE public.api_keys SET revoked_at = now() WHERE id = :id RETURNING tenant_id)
        SELECT pg_notify('metrics_registry', tenant_id::text) FROM dead
        """,
        id=UUID(issued["id"]),
    )

    assert await seconds_until(401, client, headers) < HOLDS_EVERYWHERE_AFTER_S


async def test_a_key_dies_when_its_time_has_come_although_it_is_remembered(
    client, new_tenant, new_key
):
    tenant = await new_tenant()
    issued = await new_key(tenant, expires_in=timedelta(seconds=1))
    headers = headers_of(tenant, issued.key)

    before = await client.get(ME, headers=headers)
    await asyncio.sleep(1.05)
    after = await client.get(ME, headers=headers)

    assert before.status_code == 200
    check_problem(after, 401)


async def test_a_lifetime_is_given_in_days(client, new_tenant):
    tenant = await new_tenant()

    issued = await issue(client, tenant, expires_in_days=90)

    left = datetime.fromisoformat(issued["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=89, hours=23) < left <= timedelta(days=90)


async def test_a_key_can_belong_to_a_user(client, new_tenant, new_person):
    tenant = await new_tenant()
    ada = await new_person(tenant, "ada@example.com")

    issued = await issue(client, tenant, user_id=str(ada.id))

    (row,) = [row for row in await rows_of(client, PATH, tenant) if row["id"] == issued["id"]]
    assert row["user_id"] == str(ada.id)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("name", {"name": ""}),
        ("name", {"name": "x" * 256}),
        ("name", {"name": "a\0"}),
        ("scopes", {"scopes": []}),
        ("scopes", {"scopes": ["owner"]}),
        ("scopes", {"scopes": ["read"] * 5}),
        ("scopes", {"scopes": "read"}),
        ("expires_in_days", {"expires_in_days": 0}),
        ("expires_in_days", {"expires_in_days": 10**30}),
        ("expires_in_days", {"expires_in_days": 1.5}),
        ("user_id", {"user_id": str(uuid4())}),
        ("user_id", {"user_id": "me"}),
        ("tenant_id", {"tenant_id": str(uuid4())}),
    ],
)
async def test_a_bad_field_is_named_and_no_key_is_made(client, tenant_once, field, change):
    body = {"name": "x", "scopes": ["read"], **change}
    before = await rows_of(client, PATH, tenant_once)

    response = await client.post(PATH, json=body, headers=tenant_once.headers)

    (error,) = check_problem(response, 422)["errors"]
    assert error["field"].split("[")[0] == field
    assert await rows_of(client, PATH, tenant_once) == before


async def test_a_user_of_another_tenant_gets_no_key(client, new_tenant, new_person):
    tenant, other = await new_tenant(), await new_tenant()
    theirs = await new_person(other, "ada@example.com")

    response = await client.post(
        PATH,
        json={"name": "x", "scopes": ["read"], "user_id": str(theirs.id)},
        headers=tenant.headers,
    )

    check_problem(response, 422)


async def test_revoking_what_is_not_there_is_not_found(client, new_tenant):
    tenant = await new_tenant()

    check_problem(await client.delete(f"{PATH}/{uuid4()}", headers=tenant.headers), 404)
    check_problem(await client.delete(f"{PATH}/x", headers=tenant.headers), 404)


async def test_a_repeated_request_shows_the_same_key_again_and_makes_no_second(client, new_tenant):
    tenant = await new_tenant()
    body = {"name": "x", "scopes": ["read"]}
    headers = {**tenant.headers, "Idempotency-Key": "k"}

    first = await client.post(PATH, json=body, headers=headers)
    again = await client.post(PATH, json=body, headers=headers)

    assert first.json() == again.json()
    assert len(await rows_of(client, PATH, tenant)) == 2
    assert (
        await client.get(ME, headers=headers_of(tenant, first.json()["key"]))
    ).status_code == 200


async def test_a_kept_answer_is_sealed_where_it_lies(client, new_tenant, engine):
    tenant = await new_tenant()
    headers = {**tenant.headers, "Idempotency-Key": "k"}
    response = await client.post(PATH, json={"name": "x", "scopes": ["read"]}, headers=headers)

    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        kept = await connection.fetchval("SELECT sealed_answer FROM idempotency_keys")

    assert response.json()["key"].encode() not in kept


@pytest.mark.parametrize(
    "spoil",
    [
        lambda key: key[:-1],
        lambda key: key + "x",
        lambda key: key.upper(),
        lambda key: key.replace("msk_", ""),
        lambda key: key[:14] + "_" + "A" * 43,
        lambda key: "",
        lambda key: "x" * 600,
        lambda key: key[:-2] + "é",
    ],
)
async def test_what_is_nearly_a_key_is_none(client, tenant_once, spoil):
    spoilt = spoil(tenant_once.key).encode()
    headers = [("Host", tenant_once.headers["Host"]), ("Authorization", b"Bearer " + spoilt)]

    check_problem(await client.get(ME, headers=headers), 401)
