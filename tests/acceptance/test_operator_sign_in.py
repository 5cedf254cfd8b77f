"""Operators sign in with their key: a form, a cookie that holds no key, and pages of this host alone."""

from __future__ import annotations

import asyncio
import base64
import html
import re
import time
from datetime import timedelta
from http.cookies import SimpleCookie
from unittest import mock

import httpx
import pytest

from acceptance.operators import API, HOST, Site, opened_site
from acceptance.talk import check_problem
from metrics_service.operations.cookies import LIFETIME_S, NAME, OperatorCookies, Shown

HERE = {"Host": HOST, "Sec-Fetch-Site": "same-origin"}
PAGE = {"Host": HOST, "Accept": "text/html"}


@pytest.fixture(scope="module")
async def site(open_app, addresses):
    async with opened_site(open_app, addresses) as opened:
        yield opened


async def post_key(site: Site, key: str, *, headers=HERE, **fields: str) -> httpx.Response:
    return await site.client.post("/sign-in", data={"key": key, **fields}, headers=headers)


def cookie_of(response: httpx.Response) -> str:
    return SimpleCookie(response.headers["set-cookie"])[NAME].value


def shown(response: httpx.Response) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", response.text))


async def signed_in(site: Site) -> dict[str, str]:
    response = await post_key(site, site.key.key)
    assert response.status_code == 303, response.text
    return {**HERE, "Cookie": f"{NAME}={cookie_of(response)}"}


async def test_a_stranger_is_asked_to_sign_in_and_comes_back_to_where_he_was(site):
    asked = await site.client.get("/tenants?status=suspended", headers=PAGE)
    form = await site.client.get(asked.headers["location"], headers=PAGE)
    wanted = re.search(r'name="next" value="([^"]*)"', form.text)

    assert asked.status_code == 303
    assert asked.headers["location"].startswith("/sign-in?next=")
    assert wanted is not None
    done = await post_key(site, site.key.key, next=html.unescape(wanted[1]))
    cookie = {"Cookie": f"{NAME}={cookie_of(done)}"}
    arrived = await site.client.get(done.headers["location"], headers={**PAGE, **cookie})
    assert (arrived.status_code, arrived.headers["location"]) == (303, "/tenants?status=suspended")


async def test_the_cookie_is_this_hosts_alone_and_has_no_key_in_it(site):
    response = await post_key(site, f"  {site.key.key}\n")

    value = response.headers["set-cookie"]
    assert value.startswith(f"{NAME}=")
    assert value.endswith("; Path=/; Secure; HttpOnly; SameSite=Lax")
    assert f"Max-Age={LIFETIME_S};" in value
    token = cookie_of(response)
    sealed = base64.urlsafe_b64decode(token)
    for secret in (site.key.key, site.key.key.split("_", 2)[2], site.key.prefix):
        assert secret.encode() not in sealed
        assert secret not in token


async def test_who_has_signed_in_sees_pages_and_the_api(site):
    headers = await signed_in(site)

    me = await site.client.get(f"{API}/me", headers=headers)
    overview = await site.client.get("/", headers={**headers, "Accept": "text/html"})
    again = await site.client.get("/sign-in", headers=headers)

    assert me.json()["id"] == str(site.key.id)
    assert overview.status_code == 200
    assert (again.status_code, again.headers["location"]) == (303, "/")


@pytest.mark.parametrize("key", ["", "mso_0123456789_x", "msk_0123456789_x", "x" * 600, "\0"])
async def test_a_wrong_key_shows_the_form_again_and_says_so(site, key):
    response = await post_key(site, key, headers={**HERE, "Accept": "text/html"}, next="/jobs")

    assert response.status_code == 401
    assert "set-cookie" not in response.headers
    assert "no operator's key" in shown(response)
    assert 'value="/jobs"' in response.text
    if key:
        assert key not in response.text


async def test_a_tenants_key_does_not_sign_in(site, tenant_once):
    assert (await post_key(site, tenant_once.key)).status_code == 401


async def test_too_many_wrong_keys_are_refused_but_not_the_right_one(open_app, addresses):
    async with opened_site(open_app, addresses, metrics_auth_failures_per_minute=2) as site:
        statuses = [(await post_key(site, "mso_0123456789_x")).status_code for _ in range(4)]
        right = await post_key(site, site.key.key)

    assert statuses == [401, 401, 429, 429]
    assert right.status_code == 303


@pytest.mark.parametrize("wanted", ["//evil.example", "https://evil.example", "/\\evil", "x", ""])
async def test_nobody_is_sent_to_another_host(site, wanted):
    response = await post_key(site, site.key.key, next=wanted)

    assert response.headers["location"] == "/sign-in?arrived=1&next=%2F"


@pytest.mark.parametrize(
    "origin",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": f"https://acme.{HOST}"},
        {"Origin": "null"},
    ],
)
async def test_pages_of_others_neither_sign_in_nor_change_anything(site, origin):
    cookie = {"Cookie": (await signed_in(site))["Cookie"]}
    other = {"Host": HOST, **origin}

    check_problem(await post_key(site, site.key.key, headers=other), 403)
    check_problem(await site.client.post("/sign-out", headers={**other, **cookie}), 403)
    for path in (f"{API}/migrations", "/migrations", "/tenants"):
        response = await site.client.post(path, headers={**other, **cookie})
        check_problem(response, 403)


async def test_signing_out_makes_the_browser_forget(site):
    headers = await signed_in(site)

    response = await site.client.post("/sign-out", headers=headers)

    assert (response.status_code, response.headers["location"]) == (303, "/sign-in")
    assert response.headers["set-cookie"].startswith(f"{NAME}=; Max-Age=0;")


async def test_a_cookie_dies_with_its_key(site):
    issued = await site.new_key(expires_in=timedelta(hours=1))
    cookie = {**HERE, "Cookie": f"{NAME}={cookie_of(await post_key(site, issued.key))}"}
    before = await site.client.get(f"{API}/me", headers=cookie)

    await site.revoke(issued)
    begun = time.monotonic()
    while (response := await site.client.get(f"{API}/me", headers=cookie)).status_code == 200:
        assert time.monotonic() - begun < 2
        await asyncio.sleep(0.02)

    assert before.status_code == 200
    check_problem(response, 401)


async def test_a_cookie_dies_after_half_a_day_and_cannot_be_made_without_the_secret(site, settings):
    cookies = OperatorCookies(settings.secret_key())
    operator = Shown(site.key.prefix, b"x" * 32)
    good = cookies.kept(operator).partition(";")[0].encode()
    foreign = OperatorCookies(b"another secret").kept(operator).partition(";")[0].encode()

    assert cookies.open([(b"cookie", b"a=b; " + good)]) == operator
    assert cookies.open([(b"cookie", foreign)]) is None
    assert cookies.open([(b"cookie", good + b"; " + good)]) is None
    assert cookies.open([(b"cookie", good[:-1])]) is None
    assert cookies.open([]) is None
    with mock.patch("time.time", return_value=time.time() + LIFETIME_S + 1):
        assert cookies.open([(b"cookie", good)]) is None


async def test_a_key_that_is_sent_counts_and_no_cookie_makes_up_for_a_wrong_one(site):
    headers = await signed_in(site)

    response = await site.client.get(
        f"{API}/me", headers={**headers, "Authorization": "Bearer mso_0123456789_x"}
    )

    check_problem(response, 401)


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b"key=a&key=b", "application/x-www-form-urlencoded", 400),
        (b"key=%ff", "application/x-www-form-urlencoded", 400),
        (b'{"key": "a"}', "application/json", 415),
        (b"key=" + b"a" * 20_000, "application/x-www-form-urlencoded", 413),
    ],
)
async def test_a_form_that_cannot_be_read_is_refused(site, body, media_type, status):
    response = await site.client.post(
        "/sign-in", content=body, headers={**HERE, "Content-Type": media_type}
    )

    check_problem(response, status)


async def test_a_stranger_sees_what_pages_are_made_of_and_no_page(site):
    form = await site.client.get("/sign-in", headers=PAGE)
    style = re.search(r'href="(/static/[^"]+style\.css)"', form.text)

    assert style is not None
    assert (await site.client.get(style[1], headers={"Host": HOST})).status_code == 200
    for path in ("/", "/tenants", "/slow-queries", "/health-history", "/migrations", "/jobs"):
        response = await site.client.get(path, headers=PAGE)
        assert response.status_code == 303, path
        assert response.headers["location"].startswith("/sign-in")


@pytest.mark.parametrize("path", ["/tenants", f"{API}/tenants", "/nothing", "/"])
async def test_of_what_a_stranger_sends_nothing_is_read(site, path):
    pieces = []

    async def endless():
        for _ in range(100):
            pieces.append(1)
            yield b" " * 1024

    answer = await site.client.post(path, content=endless(), headers={"Host": HOST})

    assert answer.status_code == 401
    assert pieces == []
