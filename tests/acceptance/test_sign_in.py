"""Signing in on the page: forms without scripts, a cookie that counts where it should, and nowhere else."""

from __future__ import annotations

import asyncio
import html
import re
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from http.cookies import SimpleCookie
from ipaddress import ip_network
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
import structlog
from argon2 import PasswordHasher

from acceptance.talk import check_problem, stored_dashboard
from metrics_service.db.engine import owner_connection
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.http.admission import Admission
from metrics_service.http.auth import LIVE_PATH, CredentialGate
from metrics_service.http.in_flight import IN_FLIGHT_A_TENANT
from metrics_service.http.limits import MAX_FORM_BYTES
from metrics_service.http.rate import RateLimit
from metrics_service.http.throttle import FailureThrottle
from metrics_service.otlp.openapi import LOGS
from metrics_service.tenants import lifecycle
from metrics_service.tenants import passwords as passwords_module
from metrics_service.tenants.authenticate import Principal
from metrics_service.tenants.passwords import Passwords
from metrics_service.tenants.sign_ins import LIFETIME
from metrics_service.users.schemas import NewUser
from metrics_service.users.write import People, change_role, create_user
from metrics_service.web.sign_in_form import local_path

HOLDS_EVERYWHERE_AFTER_S = 2.0
COOKIE = "__Host-metrics"
PASSWORD = "a long sentence"
HERE = {"Sec-Fetch-Site": "same-origin"}
PAGE = {"Accept": "text/html,*/*;q=0.8"}
ME = "/api/v1/me"
OWN_PASSWORD = "/api/v1/me/password"
OWN_SIGN_INS = "/api/v1/me/sign-ins"


@pytest.fixture(scope="module")
async def web(open_app) -> AsyncIterator[httpx.AsyncClient]:
    async with open_app() as client:
        yield client


class Someone(msgspec.Struct, frozen=True):
    """A person of a tenant who can sign in."""

    id: UUID
    email: str
    people: People
    tenant: Any

    @property
    def host(self) -> dict[str, str]:
        return {"Host": self.tenant.headers["Host"]}


@pytest.fixture(scope="module")
async def passwords() -> AsyncIterator[Passwords]:
    made = Passwords()
    yield made
    made.close()


@pytest.fixture(scope="module")
def someone(engine, passwords):
    """Make somebody who can sign in to a tenant."""

    async def make(tenant, role="admin", **options) -> Someone:
        people = People(engine, tenant.id, passwords)
        email = f"u{uuid4().hex}@example.com"
        row = await create_user(people, NewUser(email=email, role=role, **options), PASSWORD)
        return Someone(UUID(str(row.id)), email, people, tenant)

    return make


@pytest.fixture(scope="module")
async def ada(someone, tenant_once) -> Someone:
    """Somebody for tests that change nothing about them."""
    return await someone(tenant_once, name="Ada L")


async def post_form(client, who, *, headers=HERE, **fields) -> httpx.Response:
    form = {"email": who.email, "password": PASSWORD, **fields}
    return await client.post("/sign-in", data=form, headers={**PAGE, **who.host, **headers})


def cookie_of(response) -> str:
    return SimpleCookie(response.headers["set-cookie"])[COOKIE].value


def cookie(token: str) -> dict[str, str]:
    return {"Cookie": f"{COOKIE}={token}"}


async def signed_in(client, who) -> dict[str, str]:
    """The headers of somebody's browser, once they have signed in."""
    response = await post_form(client, who)
    assert response.status_code == 303, response.text
    return {**who.host, **HERE, **cookie(cookie_of(response))}


def shown(response) -> str:
    """The text of a page."""
    return html.unescape(re.sub(r"<[^>]+>", " ", response.text))


async def seconds_until(check) -> float:
    begun = time.monotonic()
    while not await check():
        assert time.monotonic() - begun < 5
        await asyncio.sleep(0.02)
    return time.monotonic() - begun


# -- the form ---------------------------------------------------------------------------------------


async def test_the_form_is_open_to_everybody_and_kept_by_nobody(web, tenant_once):
    response = await web.get("/sign-in", headers={**PAGE, "Host": tenant_once.headers["Host"]})

    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html; charset=utf-8")
    (form,) = re.findall(r"<form.*?</form>", response.text, re.DOTALL)
    assert 'method="post"' in form and 'action="/sign-in"' in form
    for name in ("email", "password", "next"):
        assert f'name="{name}"' in form
    assert "set-cookie" not in response.headers
    styles = re.findall(r'rel="stylesheet" href="([^"]+)"', response.text)
    assert styles
    for style in styles:
        assert (await web.get(style)).headers["content-type"] == "text/css; charset=utf-8"


async def test_signing_in_leads_back_to_where_one_wanted_to_go(web, ada):
    wanted = "/?last=30d"

    entered = await post_form(web, ada, next=wanted)
    headers = {**PAGE, **ada.host, **cookie(cookie_of(entered))}
    arrived = await web.get(entered.headers["location"], headers=headers)
    page = await web.get(arrived.headers["location"], headers=headers)
    again = await web.get("/sign-in?next=/settings", headers=headers)

    assert [one.status_code for one in (entered, arrived, page, again)] == [303, 303, 200, 303]
    assert entered.headers["location"].startswith("/sign-in?arrived=1")
    assert arrived.headers["location"] == wanted
    assert again.headers["location"] == "/settings"
    assert "Ada L" in page.text


async def test_the_cookie_is_of_one_host_and_out_of_reach_of_scripts(web, ada):
    entered = await post_form(web, ada)

    (value,) = entered.headers.get_list("set-cookie")
    name, *attributes = (part.strip() for part in value.split(";"))
    assert re.fullmatch(rf"{COOKIE}=[A-Za-z0-9_-]{{43}}", name)
    assert sorted(attributes) == sorted(
        ["Path=/", "Secure", "HttpOnly", "SameSite=Lax", f"Max-Age={14 * 86400}"]
    )
    assert timedelta(days=14) == LIFETIME
    assert "Domain" not in value


async def test_a_browser_that_kept_no_cookie_is_told_why(web, ada):
    entered = await post_form(web, ada)

    arrived = await web.get(entered.headers["location"], headers={**PAGE, **ada.host})

    assert arrived.status_code == 200
    assert "kept no cookie" in shown(arrived)
    assert "HTTPS" in shown(arrived) and "localhost" in shown(arrived)


async def test_a_wrong_password_an_unknown_email_and_none_at_all_look_the_same(web, ada, engine):
    robot = f"r{uuid4().hex}@example.com"
    async with tenant_connection(engine, TenantContext(ada.tenant.id)) as connection:
        await connection.execute("INSERT INTO users (email) VALUES ($1)", robot)
    answers = []

    for email in (ada.email, robot, f"n{uuid4().hex}@example.com"):
        response = await post_form(web, ada, email=email, password="another sentence")
        assert email in response.text
        text = response.text.replace(email, "*")
        text = text.replace(response.headers["x-request-id"], "*")
        answers.append((response.status_code, text, "set-cookie" in response.headers))

    assert len(set(answers)) == 1
    assert answers[0][0] == 422
    assert answers[0][2] is False
    assert "Email or password is wrong." in answers[0][1]


@pytest.mark.parametrize(
    "email", ['"><script>alert(1)</script>', "<b>@x", "\u202egro.elpmaxe@ada", "x" * 10_000]
)
async def test_what_was_typed_comes_back_as_text(web, ada, email):
    response = await post_form(web, ada, email=email)

    assert response.status_code == 422
    (value,) = re.findall(r'name="email" value="([^"]*)"', response.text)
    assert html.unescape(value) == email[:254]
    assert "<script>alert" not in response.text


async def test_emails_are_known_however_they_are_written(web, ada):
    assert (await post_form(web, ada, email=f" {ada.email.upper()} ")).status_code == 303


@pytest.mark.parametrize(
    ("wanted", "path"),
    [
        (None, "/"),
        ("", "/"),
        ("/sessions?tag=a%20b#top", "/sessions?tag=a%20b#top"),
        ("/sessions?tag=é", "/sessions?tag=é"),
        ("https://evil.example/", "/"),
        ("//evil.example/", "/"),
        ("///evil.example/", "/"),
        ("/\\evil.example/", "/"),
        ("/x\\..\\evil", "/"),
        ("\\\\evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("/\n/evil.example", "/"),
        ("/ok\r\nSet-Cookie: a=b", "/"),
        ("\t//evil.example", "/"),
        (" /ok", "/"),
        ("javascript:alert(1)", "/"),
        ("sessions", "/"),
        ("/\x00", "/"),
        ("/\x85/evil.example", "/"),
        ("/" + "x" * 5000, "/"),
    ],
)
def test_one_is_sent_on_to_a_path_of_this_host_and_nowhere_else(wanted, path):
    assert local_path(wanted) == path


async def test_no_address_in_a_form_leads_to_another_host(web, ada):
    for wanted in (
        "//evil.example/",
        "/\\evil.example",
        "https://evil.example",
        "/\t/evil.example",
    ):
        entered = await post_form(web, ada, next=wanted)
        headers = {**PAGE, **ada.host, **cookie(cookie_of(entered))}
        arrived = await web.get(entered.headers["location"], headers=headers)
        straight = await web.get("/sign-in", params={"next": wanted}, headers=headers)
        wrong = await post_form(web, ada, next=wanted, password="wrong wrong wrong")

        assert entered.headers["location"] == "/sign-in?arrived=1&next=%2F"
        assert arrived.headers["location"] == straight.headers["location"] == "/"
        assert "evil" not in wrong.text
    entered = await post_form(web, ada, next="/sessions?tag=é")
    headers = {**PAGE, **ada.host, **cookie(cookie_of(entered))}
    arrived = await web.get(entered.headers["location"], headers=headers)
    assert arrived.headers["location"] == "/sessions?tag=%C3%A9"


async def test_scripts_sign_in_without_a_page(web, ada):
    headers = {"Accept": "application/json"}

    entered = await post_form(web, ada, headers={**HERE, **headers})
    refused = await post_form(web, ada, headers={**HERE, **headers}, password="wrong wrong")

    assert (entered.status_code, entered.content) == (204, b"")
    assert len(cookie_of(entered)) == 43
    problem = check_problem(refused, 422)
    assert problem["detail"] == "email or password is wrong"
    assert "set-cookie" not in refused.headers


@pytest.mark.parametrize(
    ("content", "media_type", "status"),
    [
        (b'{"email": "a@b.cc"}', "application/json", 415),
        (b"email=a", "text/plain", 415),
        (b"email=a", "multipart/form-data; boundary=x", 415),
        (b"email=a", "application/x-www-form-urlencoded; charset=latin-1", 415),
        (b"email=a&email=b", "application/x-www-form-urlencoded", 400),
        (b"email=%ff", "application/x-www-form-urlencoded", 400),
        (b"email=\xff", "application/x-www-form-urlencoded", 400),
        (b"email=%ED%A0%80", "application/x-www-form-urlencoded", 400),
        (b"&".join([b"a=b"] * 1000), "application/x-www-form-urlencoded", 400),
        (b"email=" + b"x" * MAX_FORM_BYTES, "application/x-www-form-urlencoded", 413),
        (b"email=" + b"x" * 2 * 1024 * 1024, "application/x-www-form-urlencoded", 413),
        (b"", "application/x-www-form-urlencoded", 422),
        (b"email=a%00%40b&password=x%00", "application/x-www-form-urlencoded", 422),
        (b"password=%F0%9F%94%91&email=%F0%9F%94%91", "application/x-www-form-urlencoded", 422),
    ],
)
async def test_a_form_that_is_none_is_refused(web, ada, content, media_type, status):
    headers = {**PAGE, **ada.host, **HERE, "Content-Type": media_type}

    response = await web.post("/sign-in", content=content, headers=headers)

    assert response.status_code == status
    assert "set-cookie" not in response.headers


# -- from elsewhere ---------------------------------------------------------------------------------

FROM_ELSEWHERE = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "same-site", "Origin": "http://{host}"},
    {"Origin": "https://evil.example"},
    {"Origin": "http://other.localhost"},
    {"Origin": "http://{host}:8000"},
    {"Origin": "http://{host}.evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://[broken"},
    {"Origin": "http://{host}:port"},
    {"Origin": "ftp://{host}"},
    {"Origin": "é"},
]


def of_host(headers, who):
    host = who.host["Host"]
    return {name: value.replace("{host}", host).encode() for name, value in headers.items()}


@pytest.mark.parametrize("said", FROM_ELSEWHERE, ids=str)
async def test_what_another_site_asks_for_is_not_done(web, ada, said):
    mine = await signed_in(web, ada)
    without = {name: value for name, value in mine.items() if name not in HERE}
    theirs = {**without, **of_host(said, ada)}

    entered = await post_form(web, ada, headers=of_host(said, ada))
    left = await web.post("/sign-out", headers={**PAGE, **theirs})
    changed = await web.post(
        OWN_PASSWORD, json={"current": PASSWORD, "new": "a sentence of theirs"}, headers=theirs
    )
    made = await web.post("/api/v1/keys", json={"name": "x", "scopes": ["admin"]}, headers=theirs)

    assert [one.status_code for one in (entered, left, changed, made)] == [403] * 4
    assert "set-cookie" not in entered.headers
    assert (await web.get(ME, headers=mine)).status_code == 200
    assert (await post_form(web, ada)).status_code == 303


@pytest.mark.parametrize(
    "said",
    [
        # A program, which is no browser.
        {},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "null"},
        {"Origin": "http://{host}"},
        {"Origin": "https://{host}"},
        {"Origin": "https://{host}:443"},
        {"Origin": "http://{host}:80"},
    ],
    ids=str,
)
async def test_what_our_own_page_asks_for_is_done(web, ada, said):
    entered = await post_form(web, ada, headers=of_host(said, ada))
    mine = {**ada.host, **of_host(said, ada), **cookie(cookie_of(entered))}

    left = await web.post("/sign-out", headers={**PAGE, **mine})

    assert (entered.status_code, left.status_code) == (303, 303)
    check_problem(await web.get(ME, headers={**mine, **HERE}), 401)


async def test_reading_with_the_cookie_needs_no_word_of_where_from(web, ada):
    mine = await signed_in(web, ada)
    del mine["Sec-Fetch-Site"]

    assert (await web.get(ME, headers=mine)).status_code == 200


# -- where the cookie counts ------------------------------------------------------------------------


async def test_the_api_knows_who_signed_in(web, someone, new_together):
    tenant = await new_together()
    for role, scopes in (
        ("owner", ["admin"]),
        ("admin", ["admin"]),
        ("editor", ["read", "write"]),
        ("viewer", ["read"]),
    ):
        who = await someone(tenant, role, name="Grace")
        mine = await signed_in(web, who)

        me = (await web.get(ME, headers=mine)).json()
        keys = await web.get("/api/v1/keys", headers=mine)
        posted = await web.post("/api/v1/sessions", json={}, headers=mine)

        assert me["principal"] == {"kind": "user", "id": str(who.id), "name": "Grace"}
        assert (me["role"], me["scopes"]) == (role, scopes)
        assert keys.status_code == (200 if role in ("owner", "admin") else 403)
        if role in ("editor", "viewer"):
            assert check_problem(posted, 403)["detail"] == f"the role {role} lacks the scope ingest"


async def test_the_cookie_is_no_credential_for_telemetry_nor_for_links(web, ada, tenant_once):
    mine = await signed_in(web, ada)

    sent = await web.post("/v1/logs", json=LOGS, headers=mine)
    shared = await web.get(f"/api/v1/shared/{'x' * 60}", headers=mine)

    assert sent.status_code == 401
    check_problem(shared, 404)


async def test_of_a_key_and_a_cookie_the_key_counts(web, ada, tenant_once):
    mine = await signed_in(web, ada)
    for name, prefix in (("Authorization", "Bearer "), ("X-API-Key", "")):
        good = await web.get(ME, headers={**mine, name: f"{prefix}{tenant_once.key}"})
        bad = await web.get(ME, headers={**mine, name: f"{prefix}msk_wrong"})
        empty = await web.get(ME, headers={**mine, name: ""})

        assert good.json()["principal"]["kind"] == "api_key"
        check_problem(bad, 401)
        check_problem(empty, 401)
    # And a key is asked for nothing that only browsers say.
    posted = await web.post(
        "/api/v1/keys",
        json={"name": "x", "scopes": ["read"]},
        headers={**tenant_once.headers, "Cookie": mine["Cookie"]},
    )
    assert posted.status_code == 201


async def test_another_tenants_cookie_is_nobodys(web, ada, someone, new_together):
    stranger = await someone(await new_together())
    mine = await signed_in(web, ada)
    there = {**mine, "Host": stranger.host["Host"]}

    api = await web.get(ME, headers=there)
    page = await web.get("/", headers={**PAGE, **there})
    form = await web.get("/sign-in", headers={**PAGE, **there})
    await web.post("/sign-out", headers={**PAGE, **there})

    check_problem(api, 401)
    assert (page.status_code, page.headers["location"]) == (303, "/sign-in")
    assert form.status_code == 200
    assert (await web.get(ME, headers=mine)).status_code == 200


def odd_cookies(token: str) -> list[str]:
    return [
        f"{COOKIE}={token}; {COOKIE}={token}",
        f"{COOKIE}={token}; {COOKIE}=other",
        f"{COOKIE}=",
        COOKIE,
        f"{COOKIE}={token}x",
        f"{COOKIE}={'x' * 4000}",
        f"{COOKIE}={'x' * 43}",
        f"{COOKIE}=é",
        f'{COOKIE}="{token}"',
        f"__host-metrics={token}",
        f"metrics={token}",
    ]


async def test_a_cookie_that_is_odd_is_none(web, ada):
    mine = await signed_in(web, ada)
    token = mine["Cookie"].partition("=")[2]

    for odd in odd_cookies(token):
        headers = {**ada.host, "Cookie": odd.encode()}
        api = await web.get(ME, headers={**headers, **HERE})
        page = await web.get("/", headers={**PAGE, **headers})
        assert (api.status_code, page.status_code) == (401, 303), odd
    among = f"a=b; {COOKIE}={token} ;c={COOKIE}"
    assert (await web.get(ME, headers={**ada.host, "Cookie": among})).status_code == 200


async def test_the_methods_of_a_page_are_told_to_everybody(web, ada):
    for who in ({}, await signed_in(web, ada)):
        for path in ("/", "/sessions", "/dashboards/preview"):
            answer = await web.options(path, headers={**ada.host, **who})

            assert answer.status_code == 204, path
            assert "OPTIONS" in answer.headers["allow"]


async def test_pages_send_strangers_to_the_form_and_back(web, ada):
    page = await web.get("/?last=30d", headers={**PAGE, **ada.host})

    assert page.status_code == 303
    assert page.headers["location"] == "/sign-in?next=%2F%3Flast%3D30d"


async def test_a_token_that_a_client_brings_is_never_made_good(web, ada):
    brought = "A" * 43

    entered = await post_form(web, ada, headers={**HERE, **cookie(brought)})

    assert cookie_of(entered) != brought
    check_problem(await web.get(ME, headers={**ada.host, **HERE, **cookie(brought)}), 401)


async def test_who_signs_in_again_leaves_no_sign_in_behind(web, ada):
    mine = await signed_in(web, ada)

    again = await post_form(web, ada, headers={**HERE, "Cookie": mine["Cookie"]})

    check_problem(await web.get(ME, headers=mine), 401)
    mine |= cookie(cookie_of(again))
    assert (await web.get(ME, headers=mine)).status_code == 200


# -- the end ----------------------------------------------------------------------------------------


async def test_signing_out_ends_it_everywhere_and_clears_the_cookie(web, ada, open_app, wire):
    mine = await signed_in(web, ada)
    async with open_app() as second, wire.client() as far:
        for one in (second, far):
            assert (await one.get(ME, headers=mine)).status_code == 200

        left = await web.post("/sign-out", headers={**PAGE, **mine})

        check_problem(await web.get(ME, headers=mine), 401)
        for one in (second, far):

            async def is_out(one=one):
                return (await one.get(ME, headers=mine)).status_code == 401

            assert await seconds_until(is_out) < HOLDS_EVERYWHERE_AFTER_S

    assert (left.status_code, left.headers["location"]) == (303, "/sign-in")
    gone = SimpleCookie(left.headers["set-cookie"])[COOKIE]
    assert (gone.value, gone["max-age"], gone["path"]) == ("", "0", "/")


async def test_who_is_not_signed_in_signs_out_without_a_word(web, ada):
    left = await web.post("/sign-out", headers={**PAGE, **ada.host, **HERE})

    assert left.status_code == 303


async def test_reading_changes_nothing(web, ada):
    mine = await signed_in(web, ada)

    out = await web.get("/sign-out", headers={**PAGE, **mine})
    for path in ("/sign-in?email=a&password=b", f"/sign-in?{COOKIE}=x"):
        form = await web.get(path, headers={**PAGE, **ada.host})
        assert (form.status_code, "set-cookie" in form.headers) == (200, False)

    assert out.status_code == 405
    assert (await web.get(ME, headers=mine)).status_code == 200


async def test_a_sign_in_that_expired_is_over(web, ada, engine, open_app):
    mine = await signed_in(web, ada)
    async with tenant_connection(engine, TenantContext(ada.tenant.id)) as connection:
        await connection.execute(
            "UPDATE sign_ins SET expires_at = now() WHERE user_id = $1", ada.id
        )

    async with open_app() as fresh:
        problem = check_problem(await fresh.get(ME, headers=mine), 401)

    assert "sign in again" in problem["detail"]


async def test_a_lower_role_and_a_deleted_user_hold_within_two_seconds(
    web, someone, new_together, engine
):
    who = await someone(await new_together(), "owner")
    mine = await signed_in(web, who)
    assert (await web.get("/api/v1/keys", headers=mine)).status_code == 200

    async def status_is(status, path="/api/v1/keys"):
        return (await web.get(path, headers=mine)).status_code == status

    await change_role(who.people, who.email, "viewer")
    lowered = await seconds_until(lambda: status_is(403))
    async with tenant_connection(engine, TenantContext(who.tenant.id)) as connection:
        await connection.execute("DELETE FROM users WHERE id = $1", who.id)
        await connection.execute(
            "SELECT pg_notify('metrics_registry', shared.current_tenant()::text)"
        )
    deleted = await seconds_until(lambda: status_is(401))

    assert max(lowered, deleted) < HOLDS_EVERYWHERE_AFTER_S


async def test_a_suspended_tenants_people_are_shut_out(web, someone, new_together, addresses):
    who = await someone(await new_together())
    mine = await signed_in(web, who)
    async with owner_connection(addresses.require_owner()) as connection:
        await lifecycle.suspend(connection, who.tenant.slug)

    async def is_shut():
        return (await web.get(ME, headers=mine)).status_code == 403

    assert await seconds_until(is_shut) < HOLDS_EVERYWHERE_AFTER_S
    assert (await post_form(web, who)).status_code == 403
    page = await web.get("/", headers={**PAGE, **mine})
    assert page.status_code == 403
    assert "Ask whoever runs this service" in page.text
    assert "Go to the overview" not in page.text


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "nobody.localhost"])
async def test_where_no_tenant_is_a_page_says_what_to_do_and_names_none(web, ada, host):
    outside = await web.get("/", headers={**PAGE, "Host": host})
    inside = await web.get("/nowhere", headers={**PAGE, **ada.host})

    assert outside.status_code == inside.status_code == 404
    assert "Each organisation has an address of its own" in outside.text
    # It would lead to this very page.
    assert "Go to the overview" not in outside.text
    assert "Go to the overview" in inside.text
    assert ada.tenant.slug not in outside.text


# -- guessing ---------------------------------------------------------------------------------------


async def test_a_thousand_wrong_passwords_are_not_looked_at(open_app, ada, monkeypatch):
    looked_at = []
    verify = PasswordHasher.verify
    monkeypatch.setattr(
        PasswordHasher, "verify", lambda *given: looked_at.append(1) or verify(*given)
    )
    async with open_app(metrics_auth_failures_per_minute=5) as client:
        # Of the processor: what else keeps it busy is not their cost.
        begun = time.process_time()
        first = await asyncio.gather(
            *(post_form(client, ada, password=f"wrong number {number}") for number in range(100))
        )
        rest = [
            await post_form(client, ada, password=f"wrong number {number}") for number in range(900)
        ]
        took = time.process_time() - begun
        right = await post_form(client, ada)
        as_json = await post_form(client, ada, headers={**HERE, "Accept": "application/json"})

    statuses = [one.status_code for one in first]
    # Those that came while others were looked at may come again.
    assert statuses.count(422) == 5
    assert set(statuses) <= {422, 429, 503}
    assert {one.status_code for one in rest} == {429}
    assert len(looked_at) == 5
    assert took < 20
    assert right.status_code == 429
    assert "Too many attempts" in shown(right)
    assert ada.email in right.text
    assert 1 <= int(right.headers["retry-after"]) <= 60
    check_problem(as_json, 429)


async def test_an_account_is_counted_wherever_the_attempts_come_from(
    open_app, ada, someone, tenant_once
):
    other = await someone(tenant_once)
    proxies = {"metrics_trusted_proxies": "192.0.2.0/24", "metrics_auth_failures_per_minute": 3}
    async with open_app(**proxies) as client:

        def attempt(who, number, **fields):
            headers = {**HERE, "X-Forwarded-For": f"198.51.100.{number}"}
            return post_form(client, who, headers=headers, **fields)

        wrong = [
            await attempt(ada, number, email=email, password="wrong wrong wrong")
            for number, email in enumerate([ada.email, ada.email.upper(), f" {ada.email}"])
        ]
        refused = await attempt(ada, 50)
        others = await attempt(other, 51)

    assert [one.status_code for one in wrong] == [422] * 3
    assert (refused.status_code, others.status_code) == (429, 303)


async def test_right_passwords_are_not_counted(open_app, ada):
    async with open_app(metrics_auth_failures_per_minute=2) as client:
        for _ in range(5):
            assert (await post_form(client, ada)).status_code == 303
        wrong = [
            (await post_form(client, ada, password="wrong wrong")).status_code for _ in range(3)
        ]

    assert wrong == [422, 422, 429]


async def test_wrong_passwords_shut_no_key_out_and_wrong_keys_no_person(open_app, ada, tenant_once):
    async with open_app(metrics_auth_failures_per_minute=2) as client:
        for _ in range(4):
            await client.get(ME, headers={**ada.host, "X-API-Key": "wrong"})
        entered = await post_form(client, ada)
        for _ in range(4):
            await post_form(client, ada, password="wrong wrong")

        assert entered.status_code == 303
        assert (await client.get(ME, headers=tenant_once.headers)).status_code == 200


async def test_a_page_whose_sign_in_ended_locks_nobody_out(open_app, ada, tenant_once):
    async with open_app(metrics_auth_failures_per_minute=2) as client:
        ended = {**ada.host, **HERE, **cookie("x" * 43)}
        for _ in range(10):
            check_problem(await client.get(ME, headers=ended), 401)
            # Nor does one whose browser has dropped the cookie.
            check_problem(await client.get(ME, headers={**ada.host, **HERE}), 401)
        first = await client.get(ME, headers={**ada.host, "X-API-Key": "wrong"})
        assert (await post_form(client, ada)).status_code == 303
        # What is no page is counted as before.
        counted = [(await client.get(ME, headers=ada.host)).status_code for _ in range(3)]

    check_problem(first, 401)
    assert counted == [401, 429, 429]


async def test_too_many_at_once_are_asked_to_come_back(
    open_app, someone, new_together, monkeypatch
):
    who = await someone(await new_together())
    monkeypatch.setattr(passwords_module, "WAITING_AT_MOST", 2)
    async with open_app(metrics_auth_failures_per_minute=100) as client:
        answers = await asyncio.gather(*(post_form(client, who) for _ in range(20)))
        late = await post_form(client, who)

    statuses = [one.status_code for one in answers]
    assert set(statuses) == {303, 503}
    assert statuses.count(303) >= 4
    busy = next(one for one in answers if one.status_code == 503)
    assert "busy" in shown(busy)
    assert who.email in busy.text
    assert late.status_code == 303


async def test_no_log_has_a_token_a_password_or_an_email(open_app, ada):
    lines: list[str] = []

    def keep(_, __, event):
        lines.append(repr(event))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(0))
    try:
        async with open_app() as client:
            mine = await signed_in(client, ada)
            await client.get("/", headers={**PAGE, **mine})
            await post_form(client, ada, password="wrong wrong wrong")
            await client.post("/sign-out", headers={**PAGE, **mine})
    finally:
        structlog.configure(**before)

    told = "\n".join(lines)
    assert "/sign-in" in told and "/sign-out" in told
    for secret in (mine["Cookie"].partition("=")[2], PASSWORD, "wrong wrong", ada.email):
        assert secret not in told


# -- what people change themselves ------------------------------------------------------------------


async def test_one_changes_their_own_password_and_other_browsers_are_signed_out(
    web, someone, new_together
):
    who = await someone(await new_together())
    here, there = await signed_in(web, who), await signed_in(web, who)
    new = "a sentence of my own"

    wrong = await web.post(OWN_PASSWORD, json={"current": "wrong wrong", "new": new}, headers=here)
    short = await web.post(OWN_PASSWORD, json={"current": PASSWORD, "new": "x"}, headers=here)
    changed = await web.post(OWN_PASSWORD, json={"current": PASSWORD, "new": new}, headers=here)

    (error,) = check_problem(wrong, 422)["errors"]
    assert error == {"field": "current", "reason": "is not your password"}
    (error,) = check_problem(short, 422)["errors"]
    assert error == {"field": "new", "reason": "must have 10 to 200 characters"}
    assert (changed.status_code, changed.content) == (204, b"")
    assert (await web.get(ME, headers=here)).status_code == 200
    check_problem(await web.get(ME, headers=there), 401)
    assert (await post_form(web, who)).status_code == 422
    assert (await post_form(web, who, password=new)).status_code == 303


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"current": PASSWORD}, 422, "new"),
        ({"new": PASSWORD}, 422, "current"),
        ({"current": 1, "new": PASSWORD}, 422, "current"),
        ({"current": PASSWORD, "new": PASSWORD, "more": 1}, 422, "more"),
        ({"current": "x" * 1001, "new": PASSWORD}, 422, "current"),
        ({"current": PASSWORD, "new": "x" * 1001}, 422, "new"),
        ({"current": PASSWORD, "new": "long enough\0"}, 422, "new"),
        ([], 422, None),
    ],
)
async def test_a_change_that_is_none_names_the_field(web, ada, body, status, field):
    mine = await signed_in(web, ada)

    problem = check_problem(await web.post(OWN_PASSWORD, json=body, headers=mine), status)

    assert problem["errors"][0].get("field") == field
    assert (await web.get(ME, headers=mine)).status_code == 200


async def test_an_open_browser_does_not_find_the_password_out(open_app, ada, monkeypatch):
    looked_at = []
    verify = PasswordHasher.verify
    async with open_app(metrics_auth_failures_per_minute=3) as client:
        mine = await signed_in(client, ada)
        monkeypatch.setattr(
            PasswordHasher, "verify", lambda *given: looked_at.append(1) or verify(*given)
        )
        statuses = [
            (
                await client.post(
                    OWN_PASSWORD,
                    json={"current": f"guess number {number}", "new": "a sentence of theirs"},
                    headers=mine,
                )
            ).status_code
            for number in range(30)
        ]

    assert statuses == [422] * 3 + [429] * 27
    assert len(looked_at) == 3


async def test_one_sees_and_ends_their_own_sign_ins_alone(web, someone, new_together):
    tenant = await new_together()
    who, other = await someone(tenant), await someone(tenant)
    stranger = await someone(await new_together())
    here, there = await signed_in(web, who), await signed_in(web, who)
    theirs, far = await signed_in(web, other), await signed_in(web, stranger)

    listed = (await web.get(OWN_SIGN_INS, headers=here)).json()

    assert listed["meta"] == {"limit": 50, "next_cursor": None}
    assert [row["is_current"] for row in listed["data"]] == [False, True]
    for row in listed["data"]:
        assert row.keys() == {"id", "created_at", "expires_at", "user_agent", "is_current"}
        assert row["user_agent"].startswith("python-httpx")
    other_id = listed["data"][0]["id"]
    for thief in (theirs, far):
        check_problem(await web.delete(f"{OWN_SIGN_INS}/{other_id}", headers=thief), 404)
        seen = (await web.get(OWN_SIGN_INS, headers=thief)).json()["data"]
        assert len(seen) == 1
    check_problem(await web.delete(f"{OWN_SIGN_INS}/{uuid4()}", headers=here), 404)
    check_problem(await web.delete(f"{OWN_SIGN_INS}/nonsense", headers=here), 404)
    assert (await web.get(ME, headers=there)).status_code == 200

    ended = await web.delete(f"{OWN_SIGN_INS}/{other_id}", headers=here)

    assert (ended.status_code, ended.content) == (204, b"")
    check_problem(await web.get(ME, headers=there), 401)
    assert (await web.get(ME, headers=here)).status_code == 200


async def test_keys_have_no_password_and_no_sign_ins(web, ada, tenant_once, new_person):
    person = await new_person(tenant_once, f"p{uuid4().hex}@example.com", scopes=("admin",))
    mine = await signed_in(web, ada)
    for headers in (tenant_once.headers, person.headers):
        for with_cookie in ({}, {"Cookie": mine["Cookie"]}):
            asked = {**headers, **with_cookie}
            answers = [
                await web.get(OWN_SIGN_INS, headers=asked),
                await web.delete(f"{OWN_SIGN_INS}/{uuid4()}", headers=asked),
                await web.post(
                    OWN_PASSWORD, json={"current": PASSWORD, "new": "x" * 10}, headers=asked
                ),
            ]
            assert [check_problem(one, 403)["status"] for one in answers] == [403] * 3
    check_problem(await web.get(OWN_SIGN_INS, headers=ada.host), 401)


async def test_what_people_make_is_theirs(web, someone, new_together):
    who = await someone(await new_together(), "editor")
    mine = await signed_in(web, who)

    made = await stored_dashboard(web, SimpleNamespace(headers=mine))

    assert made["owner"]["id"] == str(who.id)


# -- one kind of visitor does not shut the other out ------------------------------------------------


class Everybody:
    """Lets in whoever says a word, as the kind that it is asked for."""

    def __init__(self, kind: str) -> None:
        self._principal = Principal(kind, UUID(int=1), "x", frozenset({"read"}))

    async def find(self, *_):
        return self._principal

    find_principal = find


async def test_machines_and_people_each_have_places_of_their_own():
    go_on, answered = asyncio.Event(), []

    class Tenant(msgspec.Struct):
        id: UUID = UUID(int=7)

    async def app(scope, receive, send):
        await go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    gate = CredentialGate(
        app,
        Everybody("api_key"),
        None,
        sign_ins=Everybody("user"),
        throttle=FailureThrottle(0),
        trusted_proxies=[ip_network("10.0.0.0/8")],
        rate=RateLimit(0),
        admission=Admission(1),
    )

    async def ask(path, *headers):
        async def send(message):
            if message["type"] == "http.response.start":
                answered.append((path, message["status"]))

        state = {"tenant": Tenant(), "host": "a", "request_id": "x"}
        scope = {
            "type": "http", "method": "GET", "path": path, "headers": list(headers),
            "query_string": b"", "state": state, "client": ("192.0.2.1", 1),
        }  # fmt: skip
        await gate(scope, None, send)

    key, person = (b"x-api-key", b"x"), (b"cookie", f"{COOKIE}={'x' * 43}".encode())
    asked = [
        *(ask("/api/v1/sessions", key) for _ in range(IN_FLIGHT_A_TENANT + 1)),
        *(ask("/", person) for _ in range(IN_FLIGHT_A_TENANT + 1)),
        *(ask(LIVE_PATH, person) for _ in range(IN_FLIGHT_A_TENANT)),
    ]
    under_way = [asyncio.create_task(one) for one in asked]
    await asyncio.sleep(0.05)

    assert sorted(answered) == [("/", 429), ("/api/v1/sessions", 429)]
    go_on.set()
    await asyncio.gather(*under_way)
    assert len([status for _, status in answered if status == 200]) == 3 * IN_FLIGHT_A_TENANT
