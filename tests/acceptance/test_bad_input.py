"""What nobody should send: never a failure, never half stored, never told how it works inside."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import re
import zlib
from uuid import uuid4

import psutil
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acceptance.talk import (
    at,
    check_problem,
    dashboard,
    post_batch,
    session,
    stored_batch,
    stored_dashboard,
    stored_session,
    tool_metric,
)

ME = "/api/v1/me"
SESSIONS = "/api/v1/sessions"
SESSION_BATCH = "/api/v1/sessions/batch"
TOOLS = "/api/v1/tool-metrics"
TOOL_BATCH = "/api/v1/tool-metrics/batch"
DASHBOARDS = "/api/v1/dashboards"
KEYS = "/api/v1/keys"
POSTS = [SESSIONS, SESSION_BATCH, TOOL_BATCH, DASHBOARDS, KEYS]
BATCHES = [SESSION_BATCH, TOOL_BATCH]
LISTS = [SESSIONS, TOOLS, "/api/v1/model-calls", DASHBOARDS, KEYS]
MIB = 1024 * 1024

VALID = {
    SESSIONS: session,
    SESSION_BATCH: session,
    TOOL_BATCH: tool_metric,
    DASHBOARDS: dashboard,
    KEYS: lambda **changes: {"name": "x", "scopes": ["read"], **changes},
}


async def post_raw(client, tenant, path, body, **headers):
    given = {"Content-Type": "application/json", **headers}
    return await client.post(path, content=body, headers={**tenant.headers, **given})


def body_of(path, item):
    return json.dumps([item] if path in BATCHES else item).encode()


@pytest.fixture
async def nothing_stored(tenant_once, count_rows):
    """Whatever the test sends, no row of the tenant is more or less afterwards."""
    before = await count_rows(tenant_once)
    yield
    assert await count_rows(tenant_once) == before


# -- hosts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        b"", b" ", b"a b", b"a:99999", b"a:0", b"a:", b"a:x", b"a:80:80", b"a:-1", b"a:1e3", b"*",
        b"*.localhost", b"user@a.localhost", b"user:pass@a.localhost", b"a/b", b"a\\b", b"a?b",
        b"a#b", b"a..b", b".a", b"-a.localhost", b"a-.localhost", b"a_b.localhost", b"a%2eb",
        b"[::1", b"::1", b"[::1]x", b"[v1.a]", b"1.2.3.4.5", b"999.1.1.1", b"0x7f.1", b"a,b",
        b"a.localhost, b.localhost", b"x" * 64 + b".localhost", b"a." * 130 + b"a", b"\xff\xfe",
        b"a\x00.localhost", "ａ。ｂ..c".encode(), b"xn--a.localhost", b"a\tb", b"<script>",
        b"' OR 1=1 --", b"a.localhost..",
    ],
)  # fmt: skip
async def test_a_malformed_host_is_400(client, tenant_once, host):
    headers = [("Host", host), ("Authorization", tenant_once.headers["Authorization"])]

    response = await client.get(ME, headers=headers)

    # A name that is well-formed but nobody's has another answer; none of these has a tenant.
    check_problem(response, 400)


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        ["{}", "{}"],
        ["{}", "other.localhost"],
        ["other.localhost", "{}"],
        ["{}", ""],
    ],
)
async def test_exactly_one_host_is_required(wire, tenant_once, hosts):
    lines = "".join(f"Host: {one.format(tenant_once.headers['Host'])}\r\n" for one in hosts)
    head = f"GET {ME} HTTP/1.1\r\n{lines}"
    head += f"Authorization: {tenant_once.headers['Authorization']}\r\nConnection: close\r\n\r\n"

    heard = await wire.say(head.encode())

    assert heard.startswith(b"HTTP/1.1 400"), heard
    assert str(tenant_once.id).encode() not in heard


# -- bodies that are not JSON -----------------------------------------------------------------------

NOT_JSON = [
    b"",
    b" ",
    b"{",
    b"[",
    b'{"a":',
    b"nul",
    b"NaN",
    b"[NaN]",
    b"[Infinity]",
    b'{"a": -Infinity}',
    b"[1e]",
    b"[01]",
    b"[1,]",
    b"{'a': 1}",
    b"[] []",
    b"{}{}",
    b'{"a": 1} x',
    b"\xef\xbb\xbf[]",
    b'["\xff"]',
    b'{"name": "\xc3\x28"}',
    b'{"name": "\xed\xa0\x80"}',
    b"\xff\xfe[\x00]\x00",
    "[]".encode("utf-16"),
    "[]".encode("utf-32"),
    b'["a\x00b"]',
    b'["a\nb"]',
    b'["\\x41"]',
    b'["\\ud800"]',
    b'["\\udc00\\ud800"]',
    b'{"\\ud800": 1}',
    b"[" * 100_000,
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    b'[{"a":' * 50_000,
    b'{"unknown": ' + b"[" * 65 + b"]" * 65 + b"}",
    b'{"metadata": ' + b'{"a":' * 65 + b"1" + b"}" * 65 + b"}",
    b"<xml/>",
    b"name=x",
    b"\x00",
    b"\x1f\x8b",
]


@pytest.mark.parametrize("path", POSTS)
async def test_a_body_that_cannot_be_parsed_is_400(client, tenant_once, nothing_stored, path):
    for body in NOT_JSON:
        response = await post_raw(client, tenant_once, path, body)
        assert response.status_code == 400, (body[:50], response.text)


async def test_deep_json_is_refused_in_places_that_nobody_reads(
    client, tenant_once, nothing_stored
):
    deep = b"[" * 100_000 + b"]" * 100_000
    for body in (
        b'[{"tool_name": "x", "started_at": "%s", "unknown": %s}]' % (at().encode(), deep),
        b'[{"tool_name": "x", "started_at": "%s", "metadata": {"a": %s}}]' % (at().encode(), deep),
        b'{"items": [], "unknown": %s}' % deep,
        b'{"items": [%s]}' % deep,
        b'[{"tool_name": %s}]' % deep,
    ):
        for query in ("", "?on_error=skip"):
            response = await post_raw(client, tenant_once, TOOL_BATCH + query, body)
            check_problem(response, 400)
    lines = b'{"tool_name": "x", "started_at": "%s"}\n%s\n' % (at().encode(), deep)
    response = await post_raw(
        client, tenant_once, TOOL_BATCH, lines, **{"Content-Type": "application/x-ndjson"}
    )
    check_problem(response, 400)


async def test_sixty_four_levels_are_not_too_deep(client, tenant_once, nothing_stored):
    body = b'{"unknown": ' + b"[" * 63 + b"]" * 63 + b"}"

    response = await post_raw(client, tenant_once, SESSIONS, body)

    check_problem(response, 422)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("body", [b"null", b"1", b'"x"', b"true", b"1e5"])
async def test_json_of_another_kind_is_422(client, tenant_once, nothing_stored, path, body):
    check_problem(await post_raw(client, tenant_once, path, body), 422)


# -- values that are JSON but impossible ------------------------------------------------------------

TEXT_FIELDS = {
    SESSIONS: ["agent", "external_id", "session_type", "user_email", "repository", "branch", "team"],
    SESSION_BATCH: ["agent", "external_id", "session_type", "user_email", "repository", "branch"],
    TOOL_BATCH: [
        "tool_name", "agent", "external_session_id", "user_email", "tool_category", "error_type",
    ],
    DASHBOARDS: ["name", "description"],
    KEYS: ["name"],
}  # fmt: skip


@pytest.mark.parametrize("path", POSTS)
async def test_u_0000_is_refused_in_every_text(client, tenant_once, nothing_stored, path):
    nested = {
        SESSIONS: [{"tags": ["a\0"]}, {"metadata": {"\0": 1}}, {"metadata": {"a": ["\0"]}}],
        SESSION_BATCH: [{"tags": ["a\0"]}, {"metadata": {"a": {"\0": 1}}}],
        TOOL_BATCH: [{"metadata": {"a\0": 1}}, {"metadata": {"a": {"b": "\0"}}}],
        DASHBOARDS: [{"layout": {"\0": 1}}, {"widgets": [{"a": "\0"}]}, {"tags": ["\0"]}],
        KEYS: [],
    }
    changes = [{field: "a@b\0c"} for field in TEXT_FIELDS[path]] + nested[path]
    for change in changes:
        response = await post_raw(client, tenant_once, path, body_of(path, VALID[path](**change)))
        check_problem(response, 422)
        if path in BATCHES:
            wrapped = b'{"items": %s}' % body_of(path, VALID[path](**change))
            check_problem(await post_raw(client, tenant_once, path, wrapped), 422)


@pytest.mark.parametrize("path", BATCHES)
@pytest.mark.parametrize("body", [b'["\\u0000"]', b'{"items": "\\u0000"}', b'{"\\u0000": []}'])
async def test_u_0000_where_no_text_belongs_is_refused(
    client, tenant_once, nothing_stored, path, body
):
    check_problem(await post_raw(client, tenant_once, path, body), 422)


HUGE = [
    "1" + "0" * 30,
    "-1" + "0" * 30,
    "1" * 5_000,
    "1e400",
    "-1e400",
    "1e999999999",
    "1" * 100_000,
]


@pytest.mark.parametrize("number", HUGE, ids=lambda text: text[:12])
@pytest.mark.parametrize(
    ("path", "field"),
    [
        (SESSIONS, "productivity_score"),
        (SESSION_BATCH, "productivity_score"),
        (TOOL_BATCH, "duration_ms"),
        (TOOL_BATCH, "wait_ms"),
        (TOOL_BATCH, "memory_bytes"),
        (TOOL_BATCH, "output_bytes"),
        (KEYS, "expires_in_days"),
        (SESSIONS, "tags"),
        (TOOL_BATCH, "started_at"),
    ],
)
async def test_a_huge_number_in_a_field_is_422(
    client, tenant_once, nothing_stored, path, field, number
):
    body = body_of(path, VALID[path](**{field: "@"})).replace(b'"@"', number.encode())

    response = await post_raw(client, tenant_once, path, body)

    check_problem(response, 422)


@pytest.fixture(scope="module")
async def tenant_of_numbers(new_tenant):
    return await new_tenant()


@pytest.mark.parametrize("number", HUGE, ids=lambda text: text[:12])
@pytest.mark.parametrize(
    ("path", "field"),
    [(SESSIONS, "metadata"), (SESSION_BATCH, "metadata"), (TOOL_BATCH, "metadata"),
     (DASHBOARDS, "layout")],
)  # fmt: skip
async def test_a_huge_number_within_is_kept_or_refused_but_never_breaks_the_list(
    client, tenant_of_numbers, path, field, number
):
    tenant = tenant_of_numbers
    body = body_of(path, VALID[path](**{field: {"a": ["@"]}})).replace(b'"@"', number.encode())

    response = await post_raw(client, tenant, path, body)

    assert response.status_code in (200, 201, 400, 422), response.text
    for one in (SESSIONS, TOOLS, DASHBOARDS):
        assert (await client.get(one, headers=tenant.headers)).status_code == 200


async def test_numbers_in_metadata_do_not_swell(client, new_tenant):
    tenant = await new_tenant()
    numbers = "[" + ",".join(["1e308"] * 2_700) + "]"
    body = body_of(SESSIONS, session(metadata={"a": "@"})).replace(b'"@"', numbers.encode())

    response = await post_raw(client, tenant, SESSIONS, body)

    # A page has 500 of them: what is kept in 16 KiB must not be answered in a megabyte.
    if response.status_code == 201:
        assert len(response.content) < 100_000
    else:
        check_problem(response, 422)


# -- types, sizes, encodings ------------------------------------------------------------------------


@pytest.mark.parametrize("path", POSTS)
async def test_a_body_of_another_type_is_415(client, tenant_once, nothing_stored, path):
    body = body_of(path, VALID[path]())
    types = [
        "text/plain",
        "text/json",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/json; charset=latin-1",
        "application/json; charset=utf-16",
        "application/vnd.api+json",
        "application/jsonx",
        "*/*",
        "",
        "json",
    ]
    if path not in BATCHES:
        types.append("application/x-ndjson")
    for media_type in types:
        response = await post_raw(client, tenant_once, path, body, **{"Content-Type": media_type})
        assert response.status_code == 415, media_type
    headers = {**tenant_once.headers}
    check_problem(await client.post(path, content=body, headers=headers), 415)
    twice = [*headers.items(), *[("Content-Type", "application/json")] * 2]
    check_problem(await client.post(path, content=body, headers=twice), 415)


@pytest.mark.parametrize("coding", ["br", "compress", "gzip, gzip", "identity, gzip", "utf-8", "x"])
async def test_an_unknown_encoding_is_415(client, tenant_once, nothing_stored, coding):
    response = await post_raw(
        client, tenant_once, TOOL_BATCH, b"[]", **{"Content-Encoding": coding}
    )

    check_problem(response, 415)


def squeezed(coding, data):
    if coding == "gzip":
        return gzip.compress(data, 9)
    if coding == "deflate":
        return zlib.compress(data, 9)
    return zstandard.ZstdCompressor(level=19).compress(data)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
async def test_a_bomb_is_413(client, tenant_once, nothing_stored, coding):
    bombs = {
        TOOL_BATCH: squeezed(coding, b" " * (300 * MIB)),
        SESSIONS: squeezed(coding, b" " * (2 * MIB)),
    }
    for path, bomb in bombs.items():
        response = await post_raw(client, tenant_once, path, bomb, **{"Content-Encoding": coding})
        check_problem(response, 413)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
async def test_an_encoding_that_is_broken_is_400(client, tenant_once, nothing_stored, coding):
    whole = squeezed(coding, body_of(TOOL_BATCH, tool_metric()))
    for body in (b"", b"x", b"[]", whole[:-5], whole[5:], whole[: len(whole) // 2] + b"\xff" * 9):
        response = await post_raw(
            client, tenant_once, TOOL_BATCH, body, **{"Content-Encoding": coding}
        )
        check_problem(response, 400)


@pytest.mark.parametrize(("path", "limit"), [(TOOL_BATCH, 20 * MIB), (SESSIONS, MIB)])
async def test_one_byte_too_many_is_413(client, tenant_once, nothing_stored, path, limit):
    async def in_pieces():
        for _ in range(limit // 65536):
            yield b" " * 65536
        yield b" "

    announced = await post_raw(client, tenant_once, path, b" " * (limit + 1))
    unannounced = await post_raw(client, tenant_once, path, in_pieces())
    inflated = await post_raw(
        client,
        tenant_once,
        path,
        gzip.compress(b" " * (limit + 1)),
        **{"Content-Encoding": "gzip"},
    )

    for response in (announced, unannounced, inflated):
        check_problem(response, 413)


async def test_twenty_mib_are_not_too_many(client, tenant_once, nothing_stored):
    response = await post_raw(client, tenant_once, TOOL_BATCH, b"[" + b" " * (20 * MIB - 2) + b"]")

    assert response.json() == {"inserted": 0, "duplicates": 0}


@pytest.mark.parametrize("path", BATCHES)
async def test_ten_thousand_and_one_items_are_413(client, tenant_once, nothing_stored, path):
    many = b",".join([b"{}"] * 10_001)
    for body in (b"[%s]" % many, b'{"items": [%s]}' % many):
        for query in ("", "?on_error=skip"):
            check_problem(await post_raw(client, tenant_once, path + query, body), 413)
    lines = await post_raw(
        client, tenant_once, path, b"{}\n" * 10_001, **{"Content-Type": "application/x-ndjson"}
    )
    check_problem(lines, 413)


async def test_ten_thousand_bad_items_are_not_answered_with_ten_thousand_reasons(
    client, tenant_once, nothing_stored
):
    response = await post_batch(client, tenant_once, [{}] * 10_000)

    problem = check_problem(response, 422)
    assert 1 <= len(problem["errors"]) <= 100
    assert [error["index"] for error in problem["errors"]] == list(range(len(problem["errors"])))


# -- queries ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", LISTS)
async def test_a_bad_parameter_is_400(client, tenant_once, path):
    common = [
        "limit=0", "limit=501", "limit=-1", "limit=x", "limit=", "limit=null", "limit=1.5",
        "limit=%F0%9D%9F%8F", "limit=" + "9" * 5000, "limit=0x10", "limit=NaN", "limit=Infinity",
        "page=0", "page=-1", "page=1.5", "page=100001", "page=null", "page=", "page=" + "9" * 40,
        "cursor=", "cursor=null", "cursor=x", "cursor=%00", "cursor=" + "A" * 5000, "cursor=%F0%9F",
        "limit=5&limit=5", "limit=5&limit=6", "nonsense=1", "nonsense", "=1", "Limit=5", "limit[]=5",
        "owner=x", "sort=", "sort=name", "sort=id", "sort=email", "sort=--started_at",
        "sort=started_at%20DESC", "sort=started_at,id", "sort=1", "sort=%00", "offset=5",
        "limit=%FF", "x%00=1", "sort=-", "cursor=%ED%A0%80",
    ]  # fmt: skip
    times = [
        f"{name}={value}"
        for name in ("started_after", "started_before")
        for value in (
            "", "null", "x", "0", "1700000000", "1.2e-5", "nan", "inf", "-1e20", "1e400", "2026-01-01",
            "2026-01-01T00:00:00", "2026-13-01T00:00:00Z", "2026-01-01T25:00:00Z",
            "0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00", "10000-01-01T00:00:00Z",
            "0000-01-01T00:00:00Z", "-0001-01-01T00:00:00Z", "2026-01-01T00:00:00%2B99:99",
        )
    ]  # fmt: skip
    facts = [
        "user_id=", "user_id=null", "user_id=x", "user_id=1", "agent=", "tag=", "session_type=",
        "agent=" + "x" * 256, "agent=%00", "tag=a%00b",
    ]  # fmt: skip
    filters = {
        SESSIONS: [*times, *facts, "status=", "status=null", "status=Open", "tool_name=x"],
        TOOLS: [*times, *facts, "status=open", "status=null", "tool_name=", "sort=duration_ms"],
        "/api/v1/model-calls": [*times, *facts, "status=timeout", "request_model=", "tool_name=x"],
        DASHBOARDS: [
            "tag=",
            "tag=%00",
            "visibility=all",
            "visibility=",
            "owner_id=x",
            "shared=x",
            "shared=",
            "q=",
            "q=%00",
            "q=" + "x" * 256,
            "agent=x",
        ],
        KEYS: ["tag=x", "user_id=x"],
    }
    for query in common + filters[path]:
        response = await client.get(f"{path}?{query}", headers=tenant_once.headers)
        assert response.status_code == 400, (query[:80], response.text[:200])
        check_problem(response)


async def test_the_ends_of_time_are_times(client, tenant_once):
    for query in (
        "started_after=0001-01-01T00:00:00Z",
        "started_before=9999-12-31T23:59:59.999999Z",
        "started_after=2026-01-01T00:00:00%2B00:00",
        "started_after=2026-01-01t00:00:00z",
    ):
        response = await client.get(f"{SESSIONS}?{query}", headers=tenant_once.headers)
        assert response.status_code == 200, query


async def test_a_query_that_is_huge_is_400(client, tenant_once):
    for query in (
        "x" * 9000,
        "&".join(f"a{number}=1" for number in range(2000)),
        "tag=" + "x" * 9000,
    ):
        check_problem(await client.get(f"{SESSIONS}?{query}", headers=tenant_once.headers), 400)


@pytest.mark.parametrize("path", [SESSIONS, TOOLS, DASHBOARDS, KEYS])
async def test_a_cursor_with_any_bit_flipped_is_400(client, new_tenant, path):
    tenant = await new_tenant()
    for number in range(3):
        await stored_session(client, tenant, external_id=str(number))
        await stored_batch(client, tenant, [tool_metric(duration_ms=number)])
        await stored_dashboard(client, tenant)
        body = {"name": "x", "scopes": ["read"]}
        await client.post(KEYS, json=body, headers=tenant.headers)
    page = await client.get(path, params={"limit": 1}, headers=tenant.headers)
    cursor = page.json()["meta"]["next_cursor"]
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    # Every bit of what is signed, then every bit of the spelling, then other spellings. One listing is
    # enough for that: of the others, a bit of each byte.
    spoilt = [
        base64.urlsafe_b64encode(flipped(raw, bit)).rstrip(b"=").decode()
        for bit in range(0, len(raw) * 8, 1 if path == SESSIONS else 7)
    ]
    if path == SESSIONS:
        text = cursor.encode()
        spoilt += [flipped(text, bit).decode("latin-1") for bit in range(len(text) * 8)]
    spoilt += [cursor[:-1], cursor + "A", cursor + "=", cursor + "\n", " " + cursor, cursor * 2]

    good = await client.get(path, params={"cursor": cursor, "limit": 1}, headers=tenant.headers)
    answers = [
        await client.get(path, params={"cursor": one, "limit": 1}, headers=tenant.headers)
        for one in spoilt
    ]

    assert good.status_code == 200
    assert {answer.status_code for answer in answers} == {400}


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# -- methods and paths ------------------------------------------------------------------------------


async def test_a_method_that_a_path_does_not_have_is_405(client, tenant_once, nothing_stored):
    wrong = [
        ("PUT", SESSIONS), ("DELETE", SESSIONS), ("PATCH", SESSIONS), ("POST", ME),
        ("GET", TOOL_BATCH), ("DELETE", TOOL_BATCH), ("POST", TOOLS), ("PUT", KEYS),
        ("POST", f"{SESSIONS}/{uuid4()}"), ("PATCH", f"{DASHBOARDS}/{uuid4()}"),
        ("GET", f"{KEYS}/{uuid4()}"),
    ]  # fmt: skip
    for method, path in wrong:
        response = await client.request(method, path, headers=tenant_once.headers)
        check_problem(response, 405)
        assert method not in response.headers["allow"].split(", ")


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "FOO", "QUERY"])
async def test_a_method_that_nothing_has_is_405(client, tenant_once, method):
    response = await client.request(method, ME, headers=tenant_once.headers)

    check_problem(response, 405)


async def test_head_and_options_fail_nowhere_and_open_nothing(client, tenant_once, nothing_stored):
    for path in (*POSTS, *LISTS, ME, f"{SESSIONS}/{uuid4()}", "/schema/openapi.json", "/nothing"):
        for method in ("HEAD", "OPTIONS"):
            response = await client.request(
                method,
                path,
                headers={
                    **tenant_once.headers,
                    "Origin": "https://evil.example",
                    "Access-Control-Request-Method": "POST",
                },
            )
            assert response.status_code < 500
            assert not [name for name in response.headers if name.startswith("access-control")]


async def test_no_spelling_of_a_path_gets_past_the_credential(wire, tenant_once):
    host = tenant_once.headers["Host"]
    targets = [
        "/api/v1/me", "//api/v1/me", "/api//v1/me", "/api/v1/me/", "/api/v1//me", "///api/v1/me",
        "/%61pi/v1/me", "/api%2fv1%2fme", "/api%2Fv1/me", "/%2fapi/v1/me", "/API/v1/me",
        "/./api/v1/me", "/api/./v1/me", "/schema/../api/v1/me", "/health/../api/v1/me",
        "/health/live/../../api/v1/me", "/health/live/%2e%2e/%2e%2e/api/v1/me", "/api/v1/me;x=1",
        "/api/v1/me%00", "/api/v1/me%20", "/api/v1/me?x", "/api/v1/me#x", "/schema/%2e%2e/api/v1/me",
        "\\api\\v1\\me", "/api\\v1\\me", "api/v1/me", "*", f"http://{host}/api/v1/me",
        "http://127.0.0.1/api/v1/me", "/\u00e4pi/v1/me", "/%c0%afapi/v1/me", "/api/v1/%6d%65",
        "/health/api/v1/me", "/api/v1/me/health/live", "/%%61pi/v1/me", "/api/v1/me%ff",
    ]  # fmt: skip
    for target in targets:
        heard = await wire.say(
            f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        )
        status = heard.split(b" ")[1] if heard else b"closed"
        assert status in (b"400", b"401", b"404", b"closed"), (target, heard)
        assert str(tenant_once.id).encode() not in heard


async def test_paths_that_lead_out_of_the_service_lead_nowhere(client, tenant_once):
    for path in (
        "/../../etc/passwd",
        "/schema/../../../etc/passwd",
        "/schema/%2e%2e/%2e%2e/etc/passwd",
        "/api/v1/sessions/..%2f..%2fkeys",
        "/api/v1/sessions/%00",
        "/api/v1/sessions/%ff",
        "/api/v1/sessions/" + "x" * 7000,
        "/api/v1/sessions/" + "a/" * 2000,
        "/api/v1/dashboards/x/versions/1/restore",
    ):
        response = await client.get(path, headers=tenant_once.headers)
        assert response.status_code in (400, 404, 405), (path[:60], response.text)


# -- the wire ---------------------------------------------------------------------------------------


def request_of(tenant, method, path, *headers, body=b""):
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {tenant.headers['Host']}",
        f"Authorization: {tenant.headers['Authorization']}",
        *headers,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


JSON = "Content-Type: application/json"
CLOSE = "Connection: close"


def statuses(heard):
    return re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", heard)


async def test_a_body_may_arrive_in_chunks_and_byte_by_byte(wire, new_tenant):
    tenant = await new_tenant()
    body = json.dumps([tool_metric()]).encode()
    chunked = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    head = request_of(tenant, "POST", TOOL_BATCH, JSON, CLOSE, "Transfer-Encoding: chunked")

    in_chunks = await wire.say(head, chunked)
    bytewise = await wire.say(
        request_of(tenant, "POST", TOOL_BATCH, JSON, CLOSE, f"Content-Length: {len(body)}"),
        *(bytes([byte]) for byte in body),
        pause_s=0.001,
    )

    assert in_chunks.endswith(b'{"inserted":1,"duplicates":0}')
    assert bytewise.endswith(b'{"inserted":0,"duplicates":1}')


async def test_a_client_that_asks_before_it_sends_is_told_to_go_on(wire, new_tenant):
    tenant = await new_tenant()
    body = json.dumps([tool_metric()]).encode()
    head = request_of(
        tenant, "POST", TOOL_BATCH, JSON, CLOSE, f"Content-Length: {len(body)}",
        "Expect: 100-continue",
    )  # fmt: skip

    heard = await wire.say(head, body, pause_s=0.2)

    assert statuses(heard)[-1] == b"200"
    assert heard.endswith(b'{"inserted":1,"duplicates":0}')


async def test_a_client_that_asks_without_a_credential_is_refused_before_it_sends(
    wire, tenant_once
):
    head = (
        f"POST {TOOL_BATCH} HTTP/1.1\r\nHost: {tenant_once.headers['Host']}\r\n{JSON}\r\n"
        f"Content-Length: 1000000\r\nExpect: 100-continue\r\n{CLOSE}\r\n\r\n"
    )

    heard = await wire.say(head.encode(), patience_s=5)

    assert b"401" in statuses(heard)


@pytest.mark.parametrize("size", [17 * 1024, 90 * 1024, 300 * 1024])
async def test_headers_over_sixteen_kib_are_refused(wire, tenant_once, size):
    lines = [f"X-{number}: {'x' * 1000}" for number in range(size // 1000)]
    one = await wire.say(request_of(tenant_once, "GET", ME, CLOSE, f"X-Large: {'x' * size}"))
    many = await wire.say(request_of(tenant_once, "GET", ME, CLOSE, *lines))

    for heard in (one, many):
        # What is larger than the server reads at all may end in a closed connection.
        assert statuses(heard) in ([b"431"], [b"400"], []), heard[:200]
        assert size > 90 * 1024 or statuses(heard) == [b"431"]


@pytest.mark.parametrize(
    "framing",
    [
        ["Content-Length: 2", "Content-Length: 3"],
        ["Content-Length: 2", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked, identity"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding : chunked"],
        ["Content-Length: -1"],
        ["Content-Length: +2"],
        ["Content-Length: 0x2"],
        ["Content-Length: 2 2"],
        ["Content-Length: 99999999999999999999"],
        ["Content-Length: "],
    ],
)
async def test_two_opinions_about_where_a_body_ends_are_refused(wire, tenant_once, framing):
    smuggled = request_of(tenant_once, "GET", ME)
    heard = await wire.say(
        request_of(tenant_once, "POST", TOOL_BATCH, JSON, *framing, body=b"[]" + smuggled),
        patience_s=2,
    )

    # 413 for what is longer than anything may be; the rest of the connection is never a request.
    assert statuses(heard)[:1] in ([b"400"], [b"413"], [b"501"], []), heard
    assert str(tenant_once.id).encode() not in heard


@pytest.mark.parametrize(
    "said",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\n: empty\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"A" * 200_000,
        b"\xff" * 1000,
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /api/v1/sessions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ],
)
async def test_what_is_not_http_gets_no_failure_and_harms_nobody(wire, tenant_once, said):
    heard = await wire.say(said, patience_s=0.5)

    assert not heard or (heard.startswith(b"HTTP/1.") and heard.split(b" ")[1][:1] != b"5"), heard
    async with wire.client() as client:
        assert (await client.get(ME, headers=tenant_once.headers)).status_code == 200


async def test_requests_one_behind_the_other_are_answered_in_turn(wire, tenant_once):
    said = request_of(tenant_once, "GET", ME) * 5 + request_of(tenant_once, "GET", ME, CLOSE)

    heard = await wire.say(said)

    assert statuses(heard) == [b"200"] * 6


async def test_a_connection_serves_two_tenants_and_mixes_nothing_up(wire, new_tenant):
    one, other = await new_tenant(), await new_tenant()
    said = b"".join(
        request_of(who, "GET", ME, *([CLOSE] if last else []))
        for who, last in [(one, False), (other, False), (one, False), (other, True)]
    )

    heard = await wire.say(said)

    answers = heard.split(b"HTTP/1.1 200")[1:]
    assert len(answers) == 4
    for answer, who in zip(answers, [one, other, one, other], strict=True):
        assert str(who.id).encode() in answer


async def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(
    wire, new_tenant, count_rows
):
    tenant = await new_tenant()
    body = json.dumps([tool_metric(duration_ms=number) for number in range(1000)]).encode()
    head = request_of(tenant, "POST", TOOL_BATCH, JSON, f"Content-Length: {len(body)}")

    for share in (0, 100, len(body) // 2, len(body) - 1):
        _, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        writer.write(head + body[:share])
        await writer.drain()
        writer.transport.abort()
    await asyncio.sleep(0.3)

    assert set((await count_rows(tenant)).values()) == {0}


async def test_a_worker_stays_small_under_large_bodies_and_bombs(wire, tenant_once):
    large = b"[" + b" " * (20 * MIB - 2) + b"]"
    items = json.dumps([tool_metric(metadata={"a": "x" * 1800})] * 10_000).encode()
    bomb = gzip.compress(b" " * (300 * MIB))
    async with wire.client() as client:
        for _ in range(2):
            assert (await post_raw(client, tenant_once, TOOL_BATCH, large)).status_code == 200
            assert (await post_raw(client, tenant_once, TOOL_BATCH, items)).status_code == 200
            response = await post_raw(
                client, tenant_once, TOOL_BATCH, bomb, **{"Content-Encoding": "gzip"}
            )
            check_problem(response, 413)

    workers = psutil.Process(wire.process.pid).children(recursive=True)
    resident = [worker.memory_info().rss for worker in workers]
    assert max(resident) < 200 * MIB, resident


# -- anything ---------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(
        ["", "\0", at(), "2026-03-02T10:00:00", "0001-01-01T00:00:00+14:00", str(uuid4()), "a@b", "x" * 300,
         "success", "read", "-0", "\u202e", "\ud7ff", "\uffff", "\U0010ffff", "%s", "$1", "';--", "{}"]
    ),
)  # fmt: skip
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
FIELDS = {
    SESSIONS: [
        "agent", "external_id", "started_at", "ended_at", "session_type", "user_id", "user_email",
        "repository", "branch", "team", "tags", "productivity_score", "metadata", "x",
    ],
    TOOL_BATCH: [
        "tool_name", "started_at", "id", "session_id", "agent", "external_session_id", "user_email",
        "tool_category", "duration_ms", "wait_ms", "status", "error_type", "cpu_ms", "memory_bytes",
        "input_bytes", "output_bytes", "metadata", "x",
    ],
    DASHBOARDS: [
        "name", "description", "layout", "widgets", "visibility", "tags", "version", "x",
    ],
    KEYS: ["name", "scopes", "expires_in_days", "user_id", "x"],
}  # fmt: skip
FIELDS[SESSION_BATCH] = FIELDS[SESSIONS]


def nearly_valid(path):
    """A valid body in which some fields are anything."""
    changes = st.dictionaries(st.sampled_from(FIELDS[path]), ANYTHING, max_size=3)
    item = changes.map(lambda changed: {**VALID[path](), **changed})
    if path not in BATCHES:
        return item | ANYTHING
    items = st.lists(item | ANYTHING, max_size=4)
    return items | items.map(lambda some: {"items": some}) | ANYTHING


@pytest.mark.parametrize("path", POSTS)
async def test_no_json_makes_a_post_fail(client, tenant_once, path):
    @settings(
        max_examples=settings().max_examples // 2,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(body=nearly_valid(path), skip=st.booleans())
    def send(body, skip):
        sent.append((json.dumps(body).encode(), skip and path in BATCHES))

    sent = []
    send()
    for body, skip in sent:
        response = await post_raw(
            client, tenant_once, path + ("?on_error=skip" if skip else ""), body
        )
        assert response.status_code in (200, 201, 400, 413, 422), (body, response.text)
    for one in LISTS:
        assert (await client.get(one, headers=tenant_once.headers)).status_code == 200
