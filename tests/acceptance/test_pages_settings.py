"""`/settings` over HTTP: what one may see of the organisation, and one's own account."""

from __future__ import annotations

import re
from uuid import uuid4

import pytest

from acceptance.talk import check_problem
from metrics_service.tenants.sign_ins import SignInRow
from metrics_service.web.settings import browser_of

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
EDGE = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/140.0.0.0 Safari/537.36 Edg/140.0.0.0"
)
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15"
    " (KHTML, like Gecko) Version/18.0 Mobile/15E148 Safari/604.1"
)


async def read(client, headers):
    response = await client.get("/settings", headers=headers)
    assert response.status_code == 200, response.text
    return response.text


async def test_administrators_find_the_settings_as_they_are(client, new_tenant, sign_in):
    tenant, other = await new_tenant(), await new_tenant()
    owner, stranger = await sign_in(tenant), await sign_in(other)
    before = await read(client, owner)
    body = {"keep_content": True, "raw_hours": 24, "hide_people": True}

    changed = await client.patch("/api/v1/settings", json=body, headers=owner)
    after, elsewhere = await read(client, owner), await read(client, stranger)

    assert changed.json() == body
    assert len(re.findall(r"checkbox[^>]* checked", before)) == 0
    assert len(re.findall(r"checkbox[^>]* checked", after)) == 2
    assert 'name="raw_hours" min="0" max="168" step="1" inputmode="numeric" value="24"' in after
    assert len(re.findall(r"checkbox[^>]* checked", elsewhere)) == 0


@pytest.mark.parametrize("role", ["editor", "viewer"])
async def test_others_are_told_why_they_change_nothing(client, tenant_once, sign_in, role):
    headers = await sign_in(tenant_once, role)

    page = await read(client, headers)
    refused = await client.patch("/api/v1/settings", json={"hide_people": True}, headers=headers)

    assert "privacy-form" not in page
    assert f"Your role is {role}" in page
    check_problem(refused, 403)


async def test_ones_own_account_and_nobody_elses_is_shown(client, new_tenant, sign_in):
    tenant = await new_tenant()
    await sign_in(tenant, name="Grace Somebody", agents=[IPHONE])

    page = await read(
        client, await sign_in(tenant, name="<b>Ada</b>", agents=[EDGE, None, FIREFOX])
    )

    assert "&lt;b&gt;Ada&lt;/b&gt;" in page
    assert "<b>Ada" not in page
    assert "Grace Somebody" not in page
    assert len(re.findall(r"data-end=", page)) == 2
    assert "Edge on Windows" in page
    assert "unknown browser" in page
    assert "Safari on iOS" not in page


async def test_the_domain_is_the_one_that_leads_here(client, tenant_once, sign_in):
    headers = await sign_in(tenant_once)

    page = await read(client, headers)

    assert f"<bdi>{headers['Host']}</bdi>" in page


async def test_signing_out_elsewhere_ends_it_there_alone(client, tenant_once, sign_in):
    headers = await sign_in(tenant_once, agents=[EDGE, FIREFOX])
    page = await read(client, headers)
    (other,) = re.findall(r'data-end="([^"]*)"', page)

    ended = await client.delete(f"/api/v1/me/sign-ins/{other}", headers=headers)

    assert ended.status_code == 204
    assert "data-end" not in await read(client, headers)


async def test_who_may_read_nothing_still_has_an_account(client, tenant_once, sign_in):
    page = await read(client, await sign_in(tenant_once, "service"))

    assert "Change your password" in page


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (FIREFOX, "Firefox on Linux"),
        (EDGE, "Edge on Windows"),
        (IPHONE, "Safari on iOS"),
        ("curl/8.5", "curl/8.5"),
        (None, "unknown browser"),
    ],
)
def test_a_browser_is_named_as_people_know_it(said, shown):
    row = SignInRow(uuid4(), None, None, said, is_current=False)

    assert browser_of(row) == shown
