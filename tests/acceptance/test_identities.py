"""Identities and their rules over HTTP: seen, assigned, ruled, and taken back by administrators."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from acceptance.export import log, logs
from acceptance.talk import check_problem
from metrics_service.identities import followers
from metrics_service.ingest import write_telemetry
from metrics_service.ingest.known_people import look_up_people

PATH, RULES = "/api/v1/identities", "/api/v1/identity-rules"
ADA, EVE = "ada@old.example.com", "eve@example.com"


@pytest.fixture
def tell(client):
    async def send(tenant, *sessions, **claims):
        prompts = [log("user_prompt", session__id=one, **claims) for one in sessions]
        response = await client.post("/v1/logs", json=logs(*prompts), headers=tenant.headers)
        assert (response.status_code, response.json()) == (200, {})

    return send


@pytest.fixture
def ask(client):
    async def request(tenant, method, path, body=None, *, status=200):
        more = {} if body is None else {"json": body}
        response = await client.request(method, path, headers=tenant.headers, **more)
        if status >= 400:
            return check_problem(response, status)
        assert response.status_code == status, response.text
        return response.json() if response.content else None

    return request


async def the_identity(ask, tenant, **filters):
    query = "&".join(f"{name}={value}" for name, value in filters.items())
    (found,) = (await ask(tenant, "GET", f"{PATH}?{query}"))["data"]
    return found


async def user_of(ask, tenant, session):
    (found,) = (await ask(tenant, "GET", f"/api/v1/sessions?external_id={session}"))["data"]
    return found["user_email"], found["user_source"]


async def test_what_was_claimed_is_listed_with_its_volume(new_tenant, tell, ask):
    tenant = await new_tenant()
    await tell(tenant, "a", "b", user__email=ADA)
    await tell(tenant, "c", installation__id="i-1")
    await tell(tenant, "d", "e")

    identity = await the_identity(ask, tenant, kind="email")
    listed = (await ask(tenant, "GET", f"{PATH}?sort=created_at"))["data"]
    (nobody,) = (await ask(tenant, "GET", f"{PATH}/unclaimed"))["data"]

    assert [(one["kind"], one["sessions"]) for one in listed] == [
        ("email", 2),
        ("installation.id", 1),
    ]
    assert (identity["value"], identity["user"]["email"]) == (ADA, ADA)
    assert (identity["user_source"], identity["rule_id"], identity["assigned_at"]) == (
        "claim",
        None,
        None,
    )
    assert identity["first_session_at"] == identity["last_session_at"] == "2026-03-02T10:00:00Z"
    assert (nobody["sessions"], nobody["user_source"]) == (2, None)
    keys = (await ask(tenant, "GET", "/api/v1/keys"))["data"]
    assert nobody["key_id"] in {key["id"] for key in keys}


async def test_an_identity_is_assigned_and_taken_back_and_its_past_follows(new_tenant, tell, ask):
    tenant = await new_tenant()
    await tell(tenant, "a", "b", user__email=ADA)
    identity = await the_identity(ask, tenant)

    assigned = await ask(tenant, "PATCH", f"{PATH}/{identity['id']}", {"user_email": EVE.upper()})
    during = await user_of(ask, tenant, "a")
    back = await ask(tenant, "PATCH", f"{PATH}/{identity['id']}", {"user_id": None})

    assert assigned["past"] == back["past"] == {"moved_sessions": 2, "is_complete": True}
    assert assigned["identity"]["user"]["email"] == EVE
    assert assigned["identity"]["user_source"] == "assigned"
    assert assigned["identity"]["assigned_at"] is not None
    assert during == (EVE, "assigned")
    assert back["identity"] == identity
    assert await user_of(ask, tenant, "a") == (ADA, "claim")


async def test_a_rule_is_made_once_and_taken_back(new_tenant, tell, ask):
    tenant = await new_tenant()
    await tell(tenant, "a", user__email=ADA)
    rule = {"kind": "email_domain", "value": "@OLD.example.com", "to_domain": "Example.com"}

    made = await ask(tenant, "POST", RULES, rule, status=201)
    again = await ask(tenant, "POST", RULES, rule, status=200)
    during = await user_of(ask, tenant, "a")
    identity = await the_identity(ask, tenant, value=ADA)
    listed = await ask(tenant, "GET", RULES)
    await ask(tenant, "DELETE", f"{RULES}/{made['rule']['id']}", status=204)

    assert (made["rule"]["value"], made["rule"]["to_domain"]) == ("old.example.com", "example.com")
    assert made["past"] == {"moved_sessions": 1, "is_complete": True}
    assert again == {"rule": made["rule"], "past": {"moved_sessions": 0, "is_complete": True}}
    assert listed["data"] == [made["rule"]]
    assert during == ("ada@example.com", "rule")
    assert (identity["user_source"], identity["rule_id"]) == ("rule", made["rule"]["id"])
    assert identity["user"]["email"] == "ada@example.com"
    assert await user_of(ask, tenant, "a") == (ADA, "claim")


async def test_a_key_of_nobody_becomes_somebodys(new_tenant, tell, ask):
    tenant = await new_tenant()
    await tell(tenant, "a")
    (nobody,) = (await ask(tenant, "GET", f"{PATH}/unclaimed"))["data"]
    rule = {"kind": "key", "value": nobody["key_id"], "user_email": EVE}

    made = await ask(tenant, "POST", RULES, rule, status=201)
    await tell(tenant, "b")

    assert made["rule"]["user"]["email"] == EVE
    assert [await user_of(ask, tenant, name) for name in "ab"] == [(EVE, "rule")] * 2
    (known,) = (await ask(tenant, "GET", f"{PATH}/unclaimed"))["data"]
    assert (known["sessions"], known["user_source"]) == (2, "rule")


async def test_another_rule_for_the_same_is_a_conflict(new_tenant, ask):
    tenant = await new_tenant()
    rule = {"kind": "account_id", "value": "a-1"}
    await ask(tenant, "POST", RULES, rule | {"user_email": ADA}, status=201)

    problem = await ask(tenant, "POST", RULES, rule | {"user_email": EVE}, status=409)

    assert problem["detail"] == "there is another rule for this; delete it first"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kind": "email_domain", "value": "no domain", "user_email": EVE}, "value"),
        ({"kind": "email_domain", "value": "x.com\n", "user_email": EVE}, "value"),
        ({"kind": "email_domain", "value": "a.com", "to_domain": "no"}, "to_domain"),
        ({"kind": "email_domain", "value": "a.com", "to_domain": "A.com"}, "to_domain"),
        ({"kind": "email_domain", "value": "a.com", "to_domain": "b.com", "user_email": EVE},
         "to_domain"),
        ({"kind": "account_id", "value": "a", "to_domain": "b.com"}, "to_domain"),
        ({"kind": "account_id", "value": "a"}, "user_id"),
        ({"kind": "account_id", "value": "a", "user_id": None}, "user_id"),
        ({"kind": "account_id", "value": "a", "user_id": str(uuid4())}, "user_id"),
        ({"kind": "account_id", "value": "a\0", "user_email": EVE}, None),
        ({"kind": "account_id", "value": "", "user_email": EVE}, "value"),
        ({"kind": "key", "value": "none", "user_email": EVE}, "value"),
        ({"kind": "key", "value": str(uuid4()), "user_email": EVE}, "value"),
        ({"kind": "phone", "value": "1", "user_email": EVE}, "kind"),
        ({"kind": "account_id", "value": "a", "user_email": "nobody"}, "user_email"),
    ],
)  # fmt: skip
async def test_a_rule_that_cannot_be_is_refused_by_its_field(shared_tenant, ask, body, field):
    problem = await ask(shared_tenant, "POST", RULES, body, status=422)

    assert [error.get("field") for error in problem["errors"]] == [field] or field is None
    assert (await ask(shared_tenant, "GET", RULES))["data"] == []


@pytest.mark.parametrize(
    "body",
    [{}, {"user_id": str(uuid4())}, {"user_id": None, "user_email": EVE}, {"user_email": "x"}],
)
async def test_an_assignment_to_nobody_that_there_is_is_refused(new_tenant, tell, ask, body):
    tenant = await new_tenant()
    await tell(tenant, "a", user__email=ADA)
    identity = await the_identity(ask, tenant)

    await ask(tenant, "PATCH", f"{PATH}/{identity['id']}", body, status=422)

    assert await the_identity(ask, tenant) == identity


async def test_another_tenants_identity_rule_and_user_do_not_exist(new_tenant, tell, ask):
    tenant, other = await new_tenant(), await new_tenant()
    for one in (tenant, other):
        await tell(one, "a", user__email=ADA)
    theirs = await the_identity(ask, other)
    rule = {"kind": "account_id", "value": "a-1", "user_email": EVE}
    their_rule = (await ask(other, "POST", RULES, rule, status=201))["rule"]
    mine = await the_identity(ask, tenant)

    for method, path in (("GET", PATH), ("PATCH", PATH)):
        body = {"user_email": EVE} if method == "PATCH" else None
        await ask(tenant, method, f"{path}/{theirs['id']}", body, status=404)
    await ask(tenant, "DELETE", f"{RULES}/{their_rule['id']}", status=404)
    stolen = {"user_id": theirs["user"]["id"]}
    await ask(tenant, "PATCH", f"{PATH}/{mine['id']}", stolen, status=422)

    assert await the_identity(ask, other) == theirs
    assert (await ask(other, "GET", RULES))["data"] == [their_rule]
    their_keys = (await ask(other, "GET", "/api/v1/keys"))["data"]
    named = {"kind": "key", "value": their_keys[0]["id"], "user_email": EVE}
    await ask(tenant, "POST", RULES, named, status=422)


async def test_what_was_looked_up_before_a_change_is_waited_for(
    new_tenant, tell, ask, client, monkeypatch
):
    tenant = await new_tenant()
    await tell(tenant, "a", user__email=ADA)
    identity = await the_identity(ask, tenant)
    has_looked, may_go_on = asyncio.Event(), asyncio.Event()

    async def look_up(*given):
        found = await look_up_people(*given)
        has_looked.set()
        await may_go_on.wait()
        return found

    monkeypatch.setattr(write_telemetry, "look_up_people", look_up)
    late = asyncio.create_task(tell(tenant, "late", user__email=ADA))
    await has_looked.wait()
    assigned = await ask(tenant, "PATCH", f"{PATH}/{identity['id']}", {"user_email": EVE})
    may_go_on.set()
    await late
    monkeypatch.undo()

    assert assigned["past"] == {"moved_sessions": 0, "is_complete": False}
    again = await ask(tenant, "PATCH", f"{PATH}/{identity['id']}", {"user_email": EVE})
    assert again["past"]["is_complete"] is True
    assert [await user_of(ask, tenant, name) for name in ("a", "late")] == [(EVE, "assigned")] * 2


async def test_an_answer_does_not_wait_for_a_long_past(new_tenant, tell, ask, monkeypatch):
    tenant = await new_tenant()
    await tell(tenant, "a", "b", "c", user__email=ADA)
    identity = await the_identity(ask, tenant)
    monkeypatch.setattr(followers, "PATIENCE_S", 0.0)

    assigned = await ask(tenant, "PATCH", f"{PATH}/{identity['id']}", {"user_email": EVE})

    assert assigned["past"]["is_complete"] is False
    monkeypatch.undo()
    # It goes on by itself; asked again it says so, and where it is done it is done.
    again = await ask(tenant, "PATCH", f"{PATH}/{identity['id']}", {"user_email": EVE})
    assert again["past"]["is_complete"] is True
    assert await user_of(ask, tenant, "c") == (EVE, "assigned")


async def test_a_past_that_cannot_be_reached_is_not_complete(new_tenant, tell, ask, monkeypatch):
    tenant = await new_tenant()
    await tell(tenant, "a", user__email=ADA)
    identity = await the_identity(ask, tenant)

    async def fail(*_):
        raise OSError("the database is away")

    monkeypatch.setattr(followers, "follow", fail)
    assigned = await ask(tenant, "PATCH", f"{PATH}/{identity['id']}", {"user_email": EVE})
    monkeypatch.undo()

    assert assigned["past"] == {"moved_sessions": 0, "is_complete": False}
    assert assigned["identity"]["user"]["email"] == EVE
    again = await ask(tenant, "PATCH", f"{PATH}/{identity['id']}", {"user_email": EVE})
    assert again["past"] == {"moved_sessions": 1, "is_complete": True}


async def test_a_rule_whose_removal_was_cut_off_is_removed_again(
    new_tenant, tell, ask, monkeypatch
):
    tenant = await new_tenant()
    await tell(tenant, "a", user__email=ADA)
    rule = {"kind": "email_domain", "value": "old.example.com", "user_email": EVE}
    made = await ask(tenant, "POST", RULES, rule, status=201)
    path = f"{RULES}/{made['rule']['id']}"

    async def fail(*_):
        raise OSError("the database is away")

    monkeypatch.setattr(followers, "follow", fail)
    await ask(tenant, "DELETE", path, status=204)
    monkeypatch.undo()
    left = await user_of(ask, tenant, "a")
    other = await new_tenant()
    await ask(other, "DELETE", path, status=404)
    await ask(tenant, "DELETE", path, status=204)

    assert left == (EVE, "rule")
    assert await user_of(ask, tenant, "a") == (ADA, "claim")
    await ask(tenant, "DELETE", path, status=404)
