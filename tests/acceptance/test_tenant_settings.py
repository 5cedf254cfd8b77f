"""A tenant's own settings over HTTP: seen and changed by its administrators, and by nobody else."""

from __future__ import annotations

import asyncio

import pytest

from acceptance.talk import check_problem
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.tenants.content import TTL_S, SettingsDirectory

PATH = "/api/v1/settings"


async def settings_of(client, tenant):
    response = await client.get(PATH, headers=tenant.headers)
    assert response.status_code == 200, response.text
    return response.json()


async def change(client, tenant, **changes):
    response = await client.patch(PATH, json=changes, headers=tenant.headers)
    assert response.status_code == 200, response.text
    return response.json()


async def test_content_is_not_kept_unless_the_tenant_says_so(client, new_tenant):
    tenant = await new_tenant()

    before = await settings_of(client, tenant)
    changed = await change(client, tenant, keep_content=True)
    after = await settings_of(client, tenant)
    again = await change(client, tenant, keep_content=False)

    assert before == again == {"keep_content": False}
    assert changed == after == {"keep_content": True}


async def test_what_is_not_sent_stays(client, new_tenant):
    tenant = await new_tenant()
    await change(client, tenant, keep_content=True)

    assert await change(client, tenant) == {"keep_content": True}


async def test_the_settings_of_another_tenant_are_another_matter(client, new_tenant, engine):
    tenant, other = await new_tenant(), await new_tenant()
    directory = SettingsDirectory(engine)

    await change(client, tenant, keep_content=True)

    assert await settings_of(client, other) == {"keep_content": False}
    assert await directory.keeps_content(tenant.id) is True
    assert await directory.keeps_content(other.id) is False
    async with tenant_connection(engine, TenantContext(other.id)) as connection:
        assert await connection.fetchval("SELECT count(*) FROM tenant_settings") == 0


async def test_a_key_of_another_tenant_opens_nothing(client, new_tenant):
    tenant, other = await new_tenant(), await new_tenant()
    astray = {**tenant.headers, "Authorization": other.headers["Authorization"]}

    check_problem(await client.get(PATH, headers=astray), 401)
    check_problem(await client.patch(PATH, json={"keep_content": True}, headers=astray), 401)

    assert await settings_of(client, tenant) == {"keep_content": False}


@pytest.mark.parametrize("scope", ["ingest", "read", "write"])
async def test_only_an_administrator_sees_and_changes_them(client, new_tenant, new_key, scope):
    tenant = await new_tenant()
    issued = await new_key(tenant, scopes=(scope,))
    limited = {**tenant.headers, "Authorization": f"Bearer {issued.key}"}

    check_problem(await client.get(PATH, headers=limited), 403)
    check_problem(await client.patch(PATH, json={"keep_content": True}, headers=limited), 403)

    assert await settings_of(client, tenant) == {"keep_content": False}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"keep_contents": True}, "keep_contents"),
        ({"keep_content": True, "tenant_id": "x"}, "tenant_id"),
        ({"keep_content": None}, "keep_content"),
        ({"keep_content": "true"}, "keep_content"),
        ({"keep_content": 1}, "keep_content"),
        ([], None),
    ],
)
async def test_what_is_no_setting_is_refused_and_changes_nothing(client, new_tenant, body, field):
    tenant = await new_tenant()

    response = await client.patch(PATH, json=body, headers=tenant.headers)

    (error,) = check_problem(response, 422)["errors"]
    assert error.get("field") == field
    assert await settings_of(client, tenant) == {"keep_content": False}


async def test_a_setting_that_this_release_does_not_know_does_no_harm(client, new_tenant, engine):
    tenant = await new_tenant()
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        await connection.execute(
            "INSERT INTO tenant_settings (name, value) VALUES ('theme', '\"dark\"')"
        )

    assert await settings_of(client, tenant) == {"keep_content": False}


async def test_changes_at_the_same_time_leave_one_of_them(client, new_tenant):
    tenant = await new_tenant()

    answers = await asyncio.gather(
        *(change(client, tenant, keep_content=bool(number % 2)) for number in range(8))
    )

    assert await settings_of(client, tenant) in answers


async def test_a_change_holds_everywhere_within_two_seconds(client, new_tenant, engine):
    tenant = await new_tenant()
    directory = SettingsDirectory(engine)
    remembered = await directory.keeps_content(tenant.id)

    await change(client, tenant, keep_content=True)
    await asyncio.sleep(TTL_S + 0.05)

    assert remembered is False
    assert await directory.keeps_content(tenant.id) is True
