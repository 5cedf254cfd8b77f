"""The dashboards that the product brings along, over HTTP."""

from __future__ import annotations

from uuid import uuid4

import pytest

from acceptance.talk import check_problem
from metrics_service.dashboards.templates import TEMPLATES

PATH = "/api/v1/dashboard-templates"


async def test_the_templates_are_listed_with_what_they_are_about(client, tenant_once):
    response = await client.get(PATH, headers=tenant_once.headers)

    assert response.status_code == 200
    listed = {one["name"]: one for one in response.json()["data"]}
    assert list(listed) == list(TEMPLATES)
    assert listed["overview"].keys() == {"name", "title", "description", "tags", "widget_count"}
    assert listed["overview"]["widget_count"] == 12


@pytest.mark.parametrize("name", TEMPLATES)
async def test_a_template_can_be_posted_as_it_is(client, shared_tenant, name):
    headers = shared_tenant.headers
    given = (await client.get(f"{PATH}/{name}", headers=headers)).json()

    posted = await client.post("/api/v1/dashboards", json=given, headers=headers)

    assert posted.status_code == 201, posted.text
    created = posted.json()
    assert {field: created[field] for field in given} == given


async def test_a_copy_is_a_dashboard_of_ones_own(client, new_tenant, new_person):
    tenant, stranger = await new_tenant(), await new_tenant()
    person = await new_person(tenant, "ada@example.com")

    copied = await client.post(f"{PATH}/tools/copy", headers=person.headers)

    assert copied.status_code == 201
    one = copied.json()
    assert one["version"] == 1
    assert one["owner"]["email"] == "ada@example.com"
    assert one["visibility"] == "private"
    assert one["name"] == TEMPLATES["tools"].title
    path = f"/api/v1/dashboards/{one['id']}"
    assert (await client.get(path, headers=person.headers)).status_code == 200
    check_problem(await client.get(path, headers=stranger.headers), 404)


async def test_a_copy_that_is_asked_for_twice_under_one_key_is_one(client, new_tenant, count_rows):
    tenant = await new_tenant()
    headers = {**tenant.headers, "Idempotency-Key": uuid4().hex}

    first = await client.post(f"{PATH}/cost/copy", headers=headers)
    second = await client.post(f"{PATH}/cost/copy", headers=headers)

    assert first.json() == second.json()
    assert (await count_rows(tenant))["dashboard_configs"] == 1


@pytest.mark.parametrize("name", ["nothing", "Overview", "x" * 3000, "%F0%9F%92%A5"])
async def test_a_template_that_is_not_there_is_not_found(client, tenant_once, name):
    check_problem(await client.get(f"{PATH}/{name}", headers=tenant_once.headers), 404)
    check_problem(await client.post(f"{PATH}/{name}/copy", headers=tenant_once.headers), 404)


async def test_templates_are_for_those_with_a_key_that_may(client, new_tenant, new_key):
    tenant = await new_tenant(scopes=("read",))

    check_problem(await client.get(PATH, headers={"Host": tenant.headers["Host"]}), 401)
    check_problem(await client.post(f"{PATH}/cost/copy", headers=tenant.headers), 403)
    assert (await client.get(PATH, headers=tenant.headers)).status_code == 200
