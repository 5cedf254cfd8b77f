"""A tenant's own settings over HTTP: seen and changed by its administrators, and by nobody else."""

from __future__ import annotations

import asyncio

import pytest

from acceptance.export import MEDIA_TYPES, export, logs, tool_result
from acceptance.talk import check_problem, rows_of
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.tenants.allowed import TTL_S, Allowed, SettingsDirectory

PATH = "/api/v1/settings"
DEFAULTS = {"keep_content": False, "raw_hours": 0, "hide_people": False}


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

    assert before == again == DEFAULTS
    assert changed == after == {**DEFAULTS, "keep_content": True}


async def test_what_is_not_sent_stays(client, new_tenant):
    tenant = await new_tenant()
    await change(client, tenant, keep_content=True)
    await change(client, tenant, raw_hours=168)

    assert await change(client, tenant) == {**DEFAULTS, "keep_content": True, "raw_hours": 168}


async def test_the_settings_of_another_tenant_are_another_matter(client, new_tenant, engine):
    tenant, other = await new_tenant(), await new_tenant()
    directory = SettingsDirectory(engine)

    await change(client, tenant, keep_content=True, raw_hours=3)

    assert await settings_of(client, other) == DEFAULTS
    assert await directory.allowed(tenant.id) == Allowed(keeps_content=True, raw_hours=3)
    assert await directory.allowed(other.id) == Allowed(keeps_content=False, raw_hours=0)
    async with tenant_connection(engine, TenantContext(other.id)) as connection:
        assert await connection.fetchval("SELECT count(*) FROM tenant_settings") == 0


async def test_a_key_of_another_tenant_opens_nothing(client, new_tenant):
    tenant, other = await new_tenant(), await new_tenant()
    astray = {**tenant.headers, "Authorization": other.headers["Authorization"]}

    check_problem(await client.get(PATH, headers=astray), 401)
    check_problem(await client.patch(PATH, json={"keep_content": True}, headers=astray), 401)

    assert await settings_of(client, tenant) == DEFAULTS


@pytest.mark.parametrize("scope", ["ingest", "read", "write"])
async def test_only_an_administrator_sees_and_changes_them(client, new_tenant, new_key, scope):
    tenant = await new_tenant()
    issued = await new_key(tenant, scopes=(scope,))
    limited = {**tenant.headers, "Authorization": f"Bearer {issued.key}"}

    check_problem(await client.get(PATH, headers=limited), 403)
    check_problem(await client.patch(PATH, json={"keep_content": True}, headers=limited), 403)

    assert await settings_of(client, tenant) == DEFAULTS


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"keep_contents": True}, "keep_contents"),
        ({"keep_content": True, "tenant_id": "x"}, "tenant_id"),
        ({"keep_content": None}, "keep_content"),
        ({"keep_content": "true"}, "keep_content"),
        ({"keep_content": 1}, "keep_content"),
        ({"raw_hours": -1}, "raw_hours"),
        ({"raw_hours": 169}, "raw_hours"),
        ({"raw_hours": 10**30}, "raw_hours"),
        ({"raw_hours": 1.5}, "raw_hours"),
        ({"raw_hours": "24"}, "raw_hours"),
        ({"raw_hours": True}, "raw_hours"),
        ({"raw_hours": None}, "raw_hours"),
        ([], None),
    ],
)
async def test_what_is_no_setting_is_refused_and_changes_nothing(
    client, shared_tenant, body, field
):
    response = await client.patch(PATH, json=body, headers=shared_tenant.headers)

    (error,) = check_problem(response, 422)["errors"]
    assert error.get("field") == field
    assert await settings_of(client, shared_tenant) == DEFAULTS


async def test_a_setting_that_this_release_does_not_know_does_no_harm(client, new_tenant, engine):
    tenant = await new_tenant()
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        await connection.execute(
            "INSERT INTO tenant_settings (name, value) VALUES ('theme', '\"dark\"')"
        )

    assert await settings_of(client, tenant) == DEFAULTS


async def test_changes_at_the_same_time_leave_one_of_them(client, new_tenant):
    tenant = await new_tenant()

    answers = await asyncio.gather(
        *(change(client, tenant, keep_content=bool(number % 2)) for number in range(8))
    )

    assert await settings_of(client, tenant) in answers


async def test_a_change_holds_everywhere_within_two_seconds(client, new_tenant, engine):
    tenant = await new_tenant()
    directory = SettingsDirectory(engine)
    remembered = await directory.allowed(tenant.id)

    await change(client, tenant, keep_content=True, raw_hours=1)
    await asyncio.sleep(TTL_S + 0.05)

    assert remembered == Allowed(keeps_content=False, raw_hours=0)
    assert await directory.allowed(tenant.id) == Allowed(keeps_content=True, raw_hours=1)


async def kept_by(engine, tenant):
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        return await connection.fetchval("SELECT count(*) FROM raw_requests")


@pytest.mark.parametrize("media_type", MEDIA_TYPES)
async def test_requests_are_kept_once_it_is_switched_on_and_not_once_it_is_off(
    client, new_tenant, engine, media_type
):
    tenant, other = await new_tenant(), await new_tenant()
    await change(client, other, raw_hours=1)

    async def send(to, call):
        await export(client, to.headers, "logs", logs(tool_result(call)), media_type)

    await send(tenant, "before")
    never = await kept_by(engine, tenant)
    await change(client, tenant, raw_hours=24)
    await asyncio.sleep(TTL_S + 0.05)
    for one in (tenant, other):
        await send(one, "kept")
    kept = await kept_by(engine, tenant)
    await change(client, tenant, raw_hours=0)
    # This process still believes that they are to be kept.
    await send(tenant, "after")

    assert (never, kept) == (0, 1)
    assert await kept_by(engine, tenant) == 0
    assert await kept_by(engine, other) == 1
    assert len(await rows_of(client, "/api/v1/tool-metrics", tenant)) == 3


async def test_fewer_hours_delete_at_once_what_is_older(client, new_tenant, engine):
    tenant, other = await new_tenant(), await new_tenant()
    for one in (tenant, other):
        await change(client, one, raw_hours=24)
        async with tenant_connection(engine, TenantContext(one.id)) as connection:
            for hours in (1, 5, 20):
                await connection.execute(
                    """
                    INSERT INTO raw_requests (signal, is_json, received_at, body, body_bytes)
                    VALUES ('logs', true, now() - make_interval(hours => $1), '', 0)
                    """,
                    hours,
                )

    left = []
    for hours in (24, 6, 6, 2, 0):
        await change(client, tenant, raw_hours=hours)
        left.append(await kept_by(engine, tenant))
    await change(client, other, keep_content=True)

    assert left == [3, 2, 2, 1, 0]
    assert await kept_by(engine, other) == 3
