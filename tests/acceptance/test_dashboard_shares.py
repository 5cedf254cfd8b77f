"""Shares over HTTP: with users, who read or edit; and by links, which open without a key."""

from __future__ import annotations

import asyncio
import base64
import string
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from acceptance.talk import (
    check_problem,
    dashboard,
    rows_of,
    same_but_for_ids,
    stored_dashboard,
    walk,
    widget,
)
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.http.access_log import route_of
from metrics_service.http.links import MAC_BYTES, LinkSigner

PATH = "/api/v1/dashboards"
LINK = "/api/v1/shared"
ALPHABET = string.ascii_letters + string.digits + "-_"


def ahead(**span):
    return (datetime.now(UTC) + timedelta(**span)).isoformat()


async def share(client, who, one, **body):
    return await client.post(f"{PATH}/{one['id']}/shares", json=body, headers=who.headers)


async def shared(client, who, one, **body):
    response = await share(client, who, one, **body)
    assert response.status_code == 201, response.text
    return response.json()


async def put(client, who, one, **changes):
    body = dashboard(version=one["version"], visibility=one["visibility"])
    return await client.put(f"{PATH}/{one['id']}", json={**body, **changes}, headers=who.headers)


async def opened(client, tenant, token, **options):
    """What a browser without any credential gets."""
    return await client.get(f"{LINK}/{token}", headers={"Host": tenant.headers["Host"]}, **options)


@pytest.fixture
async def story(client, new_tenant, new_person):
    """A tenant with an owner of a private dashboard, and others who do not see it."""
    tenant = await new_tenant()
    ada = await new_person(tenant, "ada@example.com", team="web")
    bob = await new_person(tenant, "bob@example.com", team="ops")
    one = await stored_dashboard(client, ada, name="Hers", visibility="private")
    return tenant, ada, bob, one


# -- with users -------------------------------------------------------------------------------------


async def test_a_viewer_reads_and_may_change_nothing(client, story):
    tenant, ada, bob, one = story
    where = f"{PATH}/{one['id']}"
    check_problem(await client.get(where, headers=bob.headers), 404)

    made = await shared(client, ada, one, kind="user", user_id=str(bob.id))

    her = {"id": str(ada.id), "email": "ada@example.com", "name": None}
    his = {"id": str(bob.id), "email": "bob@example.com", "name": None}
    assert (made["kind"], made["user"], made["created_by"]) == ("user", his, her)
    assert (made["role"], made["expires_at"]) == ("viewer", None)
    assert (made["token"], made["url"]) == (None, None)
    for path in ("", "/versions", "/versions/1", "/versions/1/diff", "/export"):
        assert (await client.get(where + path, headers=bob.headers)).status_code == 200
    assert [row["id"] for row in await rows_of(client, PATH, bob)] == [one["id"]]
    assert [row["id"] for row in await rows_of(client, PATH, bob, shared="true")] == [one["id"]]
    assert await rows_of(client, PATH, bob, shared="false") == []
    assert await rows_of(client, PATH, ada, shared="true") == []
    refused = [
        await put(client, bob, one),
        await client.delete(where, headers=bob.headers),
        await client.post(f"{where}/versions/1/restore", headers=bob.headers),
        await client.get(f"{where}/shares", headers=bob.headers),
        await share(client, bob, one, kind="link"),
        await client.delete(f"{where}/shares/{made['id']}", headers=bob.headers),
    ]
    for response in refused:
        check_problem(response, 403)
    assert (await client.get(where, headers=ada.headers)).json() == one
    copied = await client.post(f"{where}/copy", headers=bob.headers)
    assert copied.json()["owner"] == his
    assert len(await rows_of(client, PATH, tenant)) == 2


async def test_an_editor_changes_what_is_in_it_and_not_who_sees_it(client, story):
    _, ada, bob, one = story
    where = f"{PATH}/{one['id']}"
    one = (await put(client, ada, one, visibility="tenant")).json()
    one = (await put(client, ada, one, visibility="private")).json()
    await shared(client, ada, one, kind="user", user_id=str(bob.id), role="editor")

    two = await put(client, bob, one, name="Better")

    assert (two.status_code, two.json()["name"]) == (200, "Better")
    assert two.json()["owner"]["id"] == str(ada.id)
    refused = [
        await put(client, bob, two.json(), visibility="tenant"),
        await client.post(f"{where}/versions/2/restore", headers=bob.headers),
        await client.delete(where, headers=bob.headers),
        await share(client, bob, one, kind="link"),
    ]
    for response in refused:
        check_problem(response, 403)
    restored = await client.post(f"{where}/versions/1/restore", headers=bob.headers)
    assert (restored.status_code, restored.json()["name"]) == (200, "Hers")
    assert restored.json()["visibility"] == "private"


async def test_sharing_again_takes_the_place_of_what_was(client, story):
    _, ada, bob, one = story
    editor = await shared(client, ada, one, kind="user", user_id=str(bob.id), role="editor")
    viewer = await shared(client, ada, one, kind="user", user_id=str(bob.id), role="viewer")

    listed = await rows_of(client, f"{PATH}/{one['id']}/shares", ada)

    assert [row["id"] for row in listed] == [viewer["id"]]
    assert editor["id"] != viewer["id"]
    check_problem(await put(client, bob, one), 403)


async def test_two_who_share_with_one_at_the_same_time_leave_one_share(client, story):
    tenant, ada, bob, one = story

    answers = await asyncio.gather(
        *(
            share(client, who, one, kind="user", user_id=str(bob.id), role=role)
            for who in (ada, tenant)
            for role in ("viewer", "editor", "viewer")
        )
    )

    assert {answer.status_code for answer in answers} == {201}
    (left,) = await rows_of(client, f"{PATH}/{one['id']}/shares", ada)
    assert left["id"] in {answer.json()["id"] for answer in answers}


async def test_a_share_that_is_taken_back_ends_at_once(client, story):
    _, ada, bob, one = story
    where = f"{PATH}/{one['id']}"
    made = await shared(client, ada, one, kind="user", user_id=str(bob.id), role="editor")

    revoked = await client.delete(f"{where}/shares/{made['id']}", headers=ada.headers)

    assert (revoked.status_code, revoked.content) == (204, b"")
    check_problem(await client.get(where, headers=bob.headers), 404)
    check_problem(await put(client, bob, one), 404)
    assert await rows_of(client, PATH, bob) == []
    assert await rows_of(client, f"{where}/shares", ada) == []
    check_problem(await client.delete(f"{where}/shares/{made['id']}", headers=ada.headers), 404)


async def test_an_edit_that_meets_its_revocation_is_made_or_refused_and_never_half(client, story):
    _, ada, bob, one = story
    where = f"{PATH}/{one['id']}"
    for number in range(6):
        made = await shared(client, ada, one, kind="user", user_id=str(bob.id), role="editor")

        edited, revoked = await asyncio.gather(
            put(client, bob, one, name=f"by bob {number}"),
            client.delete(f"{where}/shares/{made['id']}", headers=ada.headers),
        )

        assert revoked.status_code == 204
        assert edited.status_code in (200, 403, 404)
        now = (await client.get(where, headers=ada.headers)).json()
        assert now == (edited.json() if edited.status_code == 200 else one)
        one = now


async def test_a_share_ends_when_it_says(client, story):
    _, ada, bob, one = story
    where = f"{PATH}/{one['id']}"
    await shared(client, ada, one, kind="user", user_id=str(bob.id), expires_at=ahead(seconds=2))
    assert (await client.get(where, headers=bob.headers)).status_code == 200

    await asyncio.sleep(2.1)

    check_problem(await client.get(where, headers=bob.headers), 404)
    assert await rows_of(client, f"{where}/shares", ada) == []


async def test_only_the_owner_and_admins_share(client, new_tenant, new_person):
    tenant = await new_tenant()
    ada = await new_person(tenant, "ada@example.com")
    bob = await new_person(tenant, "bob@example.com")
    hers = await stored_dashboard(client, ada, visibility="tenant")
    nobodys = await stored_dashboard(client, tenant)

    for who, one, status in [
        (ada, hers, 201),
        (tenant, hers, 201),
        (tenant, nobodys, 201),
        (bob, hers, 403),
        (bob, nobodys, 403),
        (ada, nobodys, 403),
    ]:
        response = await share(client, who, one, kind="link")
        assert response.status_code == status
        listed = await client.get(f"{PATH}/{one['id']}/shares", headers=who.headers)
        assert listed.status_code == (200 if status == 201 else 403)


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("kind", {}),
        ("kind", {"kind": "team"}),
        ("user_id", {"kind": "user"}),
        ("user_id", {"kind": "user", "user_id": None}),
        ("user_id", {"kind": "user", "user_id": "x"}),
        ("user_id", {"kind": "user", "user_id": str(uuid4())}),
        ("user_id", {"kind": "link", "user_id": str(uuid4())}),
        ("role", {"kind": "link", "role": "editor"}),
        ("role", {"kind": "link", "role": "owner"}),
        ("expires_at", {"kind": "link", "expires_at": "2020-01-01T00:00:00Z"}),
        ("expires_at", {"kind": "link", "expires_at": ahead(days=368)}),
        ("expires_at", {"kind": "link", "expires_at": "9999-12-31T23:59:59-14:00"}),
        ("expires_at", {"kind": "link", "expires_at": "0001-01-01T00:00:00+14:00"}),
        ("expires_at", {"kind": "link", "expires_at": "2027-01-01"}),
        ("expires_at", {"kind": "link", "expires_at": 1_900_000_000}),
        ("token", {"kind": "link", "token": "x"}),
        ("id", {"kind": "link", "id": str(uuid4())}),
    ],
)
async def test_a_share_that_cannot_be_is_refused_by_name(client, shared_tenant, field, body):
    one = await stored_dashboard(client, shared_tenant)

    response = await share(client, shared_tenant, one, **body)

    (error,) = check_problem(response, 422)["errors"]
    assert error["field"] == field
    assert await rows_of(client, f"{PATH}/{one['id']}/shares", shared_tenant) == []


async def test_it_is_shared_with_users_of_this_tenant_and_not_with_its_owner(
    client, story, new_tenant, new_person
):
    tenant, ada, _, one = story
    stranger = await new_tenant()
    theirs = await new_person(stranger, "eve@example.com")

    for user_id in (theirs.id, ada.id):
        response = await share(client, tenant, one, kind="user", user_id=str(user_id))
        (error,) = check_problem(response, 422)["errors"]
        assert error["field"] == "user_id"


async def test_pages_show_every_share_once_and_never_a_token(client, story):
    _, ada, _, one = story
    where = f"{PATH}/{one['id']}/shares"
    made = [await shared(client, ada, one, kind="link") for _ in range(5)]

    walked = [row async for row in walk(client, where, ada, limit=2)]
    page = await client.get(where, params={"page": 2, "limit": 3}, headers=ada.headers)

    assert [row["id"] for row in walked] == [row["id"] for row in reversed(made)]
    assert page.json()["meta"] == {"limit": 3, "page": 2, "total": 5, "pages": 2}
    for row in made:
        assert row["token"] not in page.text
        assert not {"token", "url"} & walked[0].keys()


# -- by link ----------------------------------------------------------------------------------------


async def test_a_link_opens_without_a_key_and_shows_nobody(client, new_tenant, new_person):
    tenant = await new_tenant()
    ada = await new_person(tenant, "ada@example.com", team="web")
    query = {"source": "sessions", "measures": ["count"], "filters": {"user_id": str(ada.id)}}
    one = await stored_dashboard(
        client,
        ada,
        description="d",
        tags=["t"],
        visibility="private",
        widgets=[widget(), widget(id="hers", kind="number", query=query)],
    )

    made = await shared(client, ada, one, kind="link")

    expires_at = datetime.fromisoformat(made["expires_at"])
    assert timedelta(days=29) < expires_at - datetime.now(UTC) < timedelta(days=30, seconds=5)
    assert made["url"] == f"http://{tenant.headers['Host']}{LINK}/{made['token']}"
    response = await opened(client, tenant, made["token"])
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    view = response.json()
    same = ("name", "description", "layout", "tags", "updated_at")
    assert {name: view[name] for name in same} == {name: one[name] for name in same}
    assert view.keys() == {*same, "widgets", "expires_at"}
    assert view["expires_at"] == made["expires_at"]
    assert view["widgets"][0] == one["widgets"][0]
    (label,) = view["widgets"][1]["query"]["filters"]["user_id"]
    assert label.startswith("user ")
    for secret in (str(ada.id), "ada@example.com", one["id"], made["id"], str(tenant.id)):
        assert secret not in response.text
    again = await shared(client, ada, one, kind="link")
    other = (await opened(client, tenant, again["token"])).json()
    assert other["widgets"][1]["query"]["filters"]["user_id"] != [label]


async def test_what_a_link_shows_follows_the_dashboard(client, story):
    tenant, ada, _, one = story
    token = (await shared(client, ada, one, kind="link"))["token"]

    await put(client, ada, one, name="Newer", widgets=[], layout={})

    view = (await opened(client, tenant, token)).json()
    assert (view["name"], view["widgets"], view["layout"]) == ("Newer", [], {})


async def test_a_widget_of_before_they_were_checked_is_not_shown_to_strangers(
    client, story, engine
):
    tenant, ada, _, one = story
    token = (await shared(client, ada, one, kind="link"))["token"]
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        await connection.execute(
            "UPDATE dashboard_configs SET widgets = $1 WHERE id = $2",
            '[1, {"id": "a", "query": {"filters": {"user_id": 1}}}, {"user": "ada@example.com"}]',
            UUID(one["id"]),
        )

    view = (await opened(client, tenant, token)).json()

    assert (view["widgets"], view["layout"]) == ([], {})


def tampered(token):
    """The token with each of its bits changed, and in every other spelling."""
    signed = base64.urlsafe_b64decode(token)
    for bit in range(len(signed) * 8):
        changed = bytearray(signed)
        changed[bit // 8] ^= 1 << bit % 8
        yield base64.urlsafe_b64encode(changed).decode()
    yield from (token[:-1], token + "A", token + "=", token[:-4], "A" * 60, "x", token.swapcase())
    yield token[:MAC_BYTES] + "." + token[MAC_BYTES + 1 :]
    for place in (0, 30, 59):
        yield from (
            token[:place] + one + token[place + 1 :] for one in ALPHABET if one != token[place]
        )


async def test_any_bit_changed_opens_nothing_and_all_answers_are_one(client, story, new_tenant):
    tenant, ada, _, one = story
    stranger = await new_tenant()
    live = await shared(client, ada, one, kind="link")
    gone = await shared(client, ada, one, kind="link")
    ended = await shared(client, ada, one, kind="link", expires_at=ahead(seconds=2))
    where = f"{PATH}/{one['id']}/shares"
    await client.delete(f"{where}/{gone['id']}", headers=ada.headers)
    await asyncio.sleep(2.1)
    token = live["token"]

    tokens = {bad for bad in tampered(token) if bad != token} | {gone["token"], ended["token"]}
    answers = [(bad, await opened(client, tenant, bad)) for bad in tokens]
    answers += [(token, await opened(client, stranger, token))]

    seen = set()
    for bad, answer in answers:
        check_problem(answer, 404)
        seen.add(str(same_but_for_ids(answer, bad)))
    assert len(seen) == 1
    assert len(tokens) > 500
    assert (await opened(client, tenant, token)).status_code == 200


async def test_a_token_of_another_secret_opens_nothing(client, story, settings):
    tenant, ada, _, one = story
    made = await shared(client, ada, one, kind="link")
    expires_at = datetime.fromisoformat(made["expires_at"])

    def sign(secret, tenant_id=tenant.id, ends=expires_at):
        return LinkSigner(secret).sign(tenant_id, UUID(made["id"]), ends)

    secret = settings.secret_key()
    assert sign(secret) == made["token"]
    for forged in (sign(b"guessed"), sign(secret, uuid4())):
        check_problem(await opened(client, tenant, forged), 404)


def test_a_token_has_one_spelling():
    signer, tenant_id = LinkSigner(b"secret"), uuid4()
    expires_at = datetime.now(UTC) + timedelta(days=1)
    tokens = (signer.sign(tenant_id, uuid4(), expires_at) for _ in range(10_000))
    token = next(token for token in tokens if {"-", "_"} <= set(token))

    principal = signer.verify(tenant_id, token)

    assert principal.scopes == frozenset()
    assert not any(map(principal.allows, ("ingest", "read", "write", "admin")))
    for other in (token.replace("-", "+"), token.replace("_", "/"), f"{token[:-1]}é", ""):
        assert signer.verify(tenant_id, other) is None
    ended = signer.sign(tenant_id, uuid4(), datetime.now(UTC) - timedelta(seconds=1))
    assert signer.verify(tenant_id, ended) is None


async def test_a_link_ends_with_its_dashboard(client, story):
    tenant, ada, _, one = story
    token = (await shared(client, ada, one, kind="link"))["token"]

    await client.delete(f"{PATH}/{one['id']}", headers=ada.headers)

    check_problem(await opened(client, tenant, token), 404)


async def test_a_link_is_for_reading_one_dashboard_and_nothing_else(client, story):
    tenant, ada, _, one = story
    token = (await shared(client, ada, one, kind="link"))["token"]
    host = {"Host": tenant.headers["Host"]}

    for method in ("POST", "PUT", "PATCH", "DELETE"):
        response = await client.request(method, f"{LINK}/{token}", json={}, headers=host)
        check_problem(response, 405)
    for path in (
        f"{LINK}/{token}/versions",
        f"{LINK}/{token}/../../dashboards",
        f"{LINK}/{token}%2F..%2F..%2Fme",
        LINK,
        f"{LINK}/",
    ):
        response = await client.get(path, headers=host)
        assert response.status_code in (401, 404), path
        check_problem(response)
    check_problem(await client.get(f"{LINK}/{token}?x=1", headers=host), 400)
    for credential in (
        {"Authorization": f"Bearer {token}"},
        {"X-API-Key": token},
        {"Cookie": f"token={token}"},
    ):
        for path in (PATH, f"{PATH}/{one['id']}", "/api/v1/me"):
            check_problem(await client.get(path, headers={**host, **credential}), 401)


async def test_a_key_does_not_make_up_for_a_wrong_token(client, story):
    tenant, ada, _, one = story
    token = (await shared(client, ada, one, kind="link"))["token"]

    check_problem(await client.get(f"{LINK}/{'A' * 60}", headers=tenant.headers), 404)
    check_problem(await client.get(f"{LINK}/{one['id']}", headers=tenant.headers), 404)
    other = {**tenant.headers, "Authorization": "Bearer nobody's"}
    assert (await client.get(f"{LINK}/{token}", headers=other)).status_code == 200


async def test_guessing_is_throttled_and_a_good_link_is_always_served(client, story, open_app):
    tenant, ada, _, one = story
    token = (await shared(client, ada, one, kind="link"))["token"]

    async with open_app(metrics_auth_failures_per_minute=5) as throttled:
        guesses = [await opened(throttled, tenant, f"{number:060}") for number in range(8)]
        good = await opened(throttled, tenant, token)
        without_key = await throttled.get(PATH, headers={"Host": tenant.headers["Host"]})

    assert [guess.status_code for guess in guesses] == [404] * 5 + [429] * 3
    assert good.status_code == 200
    check_problem(without_key, 429)


async def test_a_link_sent_again_is_the_same_link(client, story):
    tenant, ada, _, one = story
    headers = {**ada.headers, "Idempotency-Key": "k"}
    where = f"{PATH}/{one['id']}/shares"

    first = await client.post(where, json={"kind": "link"}, headers=headers)
    again = await client.post(where, json={"kind": "link"}, headers=headers)

    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    assert len(await rows_of(client, where, ada)) == 1
    assert (await opened(client, tenant, again.json()["token"])).status_code == 200


async def test_another_tenants_shares_are_as_if_they_were_not(client, story, new_tenant):
    tenant, _, bob, one = story
    stranger = await new_tenant()
    theirs = await stored_dashboard(client, stranger)
    link = await shared(client, stranger, theirs, kind="link")
    mine = await stored_dashboard(client, tenant)

    for dashboard_id, share_id in [
        (theirs["id"], link["id"]),
        (mine["id"], link["id"]),
        (one["id"], link["id"]),
    ]:
        where = f"{PATH}/{dashboard_id}/shares/{share_id}"
        check_problem(await client.delete(where, headers=tenant.headers), 404)
    check_problem(await share(client, tenant, theirs, kind="user", user_id=str(bob.id)), 404)
    check_problem(await opened(client, tenant, link["token"]), 404)
    assert (await opened(client, stranger, link["token"])).status_code == 200


def test_a_token_is_in_no_line_of_the_log():
    for path in (f"{LINK}/{'a' * 60}", f"{LINK}/short", f"{LINK}/{'A' * 60}/data"):
        assert route_of(path) == path.replace(path.split("/")[4], ":token")


async def test_the_row_security_keeps_shares_apart(client, story, new_tenant, engine):
    tenant, ada, bob, one = story
    await shared(client, ada, one, kind="user", user_id=str(bob.id))
    stranger = await new_tenant()

    async def count(who):
        async with tenant_connection(engine, TenantContext(who.id)) as connection:
            return await connection.fetchval("SELECT count(*) FROM dashboard_shares")

    assert (await count(tenant), await count(stranger)) == (1, 0)
