"""What the head of a request must be like before anything else looks at it."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from asgi import Inner, Reply, exchange, make_scope
from google.rpc import code_pb2
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st
from litestar.utils.path import normalize_path

from metrics_service.http.guard import HeadGuard
from metrics_service.http.limits import MIB, max_body_bytes, routed_path

BATCH = "/api/v1/tool-metrics/batch"
JSON = ("content-type", "application/json")


async def ask(method: str = "GET", path: str = "/", **options: Any) -> tuple[Reply, Inner]:
    inner = Inner(reads=False)
    reply = await exchange(HeadGuard(inner), make_scope(method, path, **options))
    assert (reply.status == 200) == (inner.scope is not None)
    return reply, inner


async def post(path: str, *headers: tuple[str, str], length: int | None = 2) -> int | None:
    framing = [] if length is None else [("content-length", str(length))]
    reply, _ = await ask("POST", path, headers=[*framing, *headers])
    return reply.status


async def test_an_ordinary_request_passes_with_its_canonical_host() -> None:
    reply, inner = await ask(path="/api/v1/me", host="Acme.LOCALHOST.:8000")

    assert reply.status == 200
    assert inner.scope is not None
    assert inner.scope["state"]["host"] == "acme.localhost"


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "FOO", "get", "", "PROPFIND"])
async def test_an_unknown_method_is_not_allowed(method: str) -> None:
    reply, _ = await ask(method)

    assert reply.status == 405
    assert reply.header("allow") == "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
    assert reply.header("content-type") == "application/problem+json"


async def test_headers_may_have_16_kib_together() -> None:
    within, _ = await ask(headers=[("x-a", "a" * 16_000)])
    over_in_one, _ = await ask(headers=[("x-a", "a" * 16_384)])
    over_in_many, _ = await ask(headers=[(f"x-{number}", "a" * 90) for number in range(180)])

    assert [within.status, over_in_one.status, over_in_many.status] == [200, 431, 431]


async def test_path_and_query_may_have_8_kib_together() -> None:
    within, _ = await ask(path="/" + "a" * 4000, query=b"q=" + b"a" * 4000)
    over, _ = await ask(path="/" + "a" * 4096, query=b"q=" + b"a" * 4096)

    assert [within.status, over.status] == [200, 400]


@pytest.mark.parametrize(
    "hosts", [[], [""], ["a b"], ["a", "a"], ["a", "b"], ["a:99999"], [b"\xff"], ["u@a"]]
)
async def test_without_exactly_one_good_host_there_is_no_service(hosts: list[str | bytes]) -> None:
    reply, _ = await ask(path="/api/v1/me", host=None, headers=[("host", host) for host in hosts])

    assert reply.status == 400
    assert reply.json()["title"] == "Bad request"


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready", "//health//live/"])
@pytest.mark.parametrize("hosts", [[], [""], ["a b"], ["a", "b"], [b"\xff"], ["10.0.0.1:99999"]])
async def test_health_answers_on_any_host_and_shows_no_bad_one(
    path: str, hosts: list[str | bytes]
) -> None:
    reply, inner = await ask(path=path, host=None, headers=[("host", host) for host in hosts])

    assert reply.status == 200
    assert inner.scope is not None
    assert inner.scope["state"]["host"] == ""
    assert not [header for header in inner.scope["headers"] if header[0] == b"host"]


async def test_only_the_health_paths_are_so_generous() -> None:
    for path in ["/health/x", "/healthy", "/api/health", "/health/live/x"]:
        reply, _ = await ask(path=path, host="a b")
        assert reply.status == 400


async def test_a_host_in_its_own_letters_goes_on_in_ascii() -> None:
    reply, inner = await ask(host="bücher.example")

    assert reply.status == 200
    assert inner.scope is not None
    assert inner.scope["state"]["host"] == "xn--bcher-kva.example"
    assert (b"host", b"xn--bcher-kva.example") in inner.scope["headers"]


@pytest.mark.parametrize(
    "headers",
    [
        [("content-length", "2"), ("content-length", "2")],
        [("content-length", "2"), ("content-length", "3")],
        [("content-length", "+2")],
        [("content-length", "-2")],
        [("content-length", "2,2")],
        [("content-length", "")],
        [("content-length", "0x2")],
        [("content-length", "9" * 20)],
        [("content-length", "2"), ("transfer-encoding", "chunked")],
        [("transfer-encoding", "gzip, chunked")],
        [("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
        [("transfer-encoding", "identity")],
    ],
)
async def test_two_opinions_about_the_end_of_a_body_are_refused(
    headers: list[tuple[str, str]],
) -> None:
    reply, _ = await ask("POST", BATCH, headers=[JSON, *headers])

    assert reply.status == 400


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        (BATCH, 20 * MIB),
        ("/api/v1/sessions/batch", 20 * MIB),
        ("/api/v1/sessions", MIB),
        ("/v1/logs", 64 * MIB),
        ("/i/token/v1/logs", 64 * MIB),
        ("/i/token/logs", MIB),
        ("/sign-in", 16 * 1024),
        ("/elsewhere", MIB),
    ],
)
async def test_a_body_announced_as_too_large_is_refused_unread(path: str, limit: int) -> None:
    assert await post(path, JSON, length=limit) == 200
    assert await post(path, JSON, length=limit + 1) == 413


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("Application/JSON", 200),
        ("application/json; charset=utf-8", 200),
        ('application/json;charset="UTF-8"', 200),
        ("application/json; charset=utf-16", 415),
        ("application/json; charset=latin1", 415),
        ("application/x-ndjson", 415),
        ("text/plain", 415),
        ("application/jsonp", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("", 415),
    ],
)
async def test_the_api_takes_json_in_utf_8(content_type: str, status: int) -> None:
    assert await post("/api/v1/sessions", ("content-type", content_type)) == status
    assert await post("//api/v1//sessions/", ("content-type", content_type)) == status


async def test_batches_also_take_lines_of_json() -> None:
    for content_type in ["application/x-ndjson", "application/jsonl; charset=utf-8"]:
        assert await post(BATCH, ("content-type", content_type)) == 200
        assert await post("/api/v1/sessions", ("content-type", content_type)) == 415


async def test_a_body_needs_a_content_type_and_only_one() -> None:
    assert await post(BATCH) == 415
    assert await post(BATCH, JSON, JSON) == 415
    assert await post(BATCH, ("transfer-encoding", "chunked"), length=None) == 415
    assert await post("/api/v1/dashboards/x/versions/1/restore", length=0) == 200
    assert await post("/api/v1/dashboards/x/versions/1/restore", length=None) == 200


async def test_content_types_elsewhere_are_for_the_routes_to_judge() -> None:
    assert await post("/v1/logs", ("content-type", "application/x-protobuf")) == 200
    assert await post("/sign-in", ("content-type", "application/x-www-form-urlencoded")) == 200


@pytest.mark.parametrize(
    ("codings", "status"),
    [
        ([], 200),
        (["identity"], 200),
        (["gzip"], 200),
        (["GZIP"], 200),
        (["x-gzip"], 200),
        (["deflate"], 200),
        (["zstd"], 200),
        (["br"], 415),
        (["compress"], 415),
        (["gzip, gzip"], 415),
        (["gzip", "gzip"], 415),
        (["identity, gzip"], 415),
        (["gzip;q=1"], 415),
    ],
)
@pytest.mark.parametrize("path", [BATCH, "/v1/traces"])
async def test_one_known_content_encoding_is_taken(
    codings: list[str], status: int, path: str
) -> None:
    headers = [("content-encoding", coding) for coding in codings]

    assert await post(path, JSON, *headers) == status


@pytest.mark.parametrize(
    "raw_path",
    [
        b"/a%00",
        b"/a%0a",
        b"/a%1F",
        b"/a%7f",
        b"/a%ff",
        b"/a\xff",
        b"/%c3%28",
        b"*",
        b"a",
        b"/a\x01",
    ],
)
async def test_a_path_that_is_no_text_is_refused(raw_path: bytes) -> None:
    reply, _ = await ask(path="/a", raw_path=raw_path)

    assert reply.status == 400


@pytest.mark.parametrize("raw_path", [b"/%C3%A9", "/é".encode(), b"/a%20b", b"/a%2Fb", b"/a%zz"])
async def test_a_path_that_is_text_passes(raw_path: bytes) -> None:
    reply, _ = await ask(path="/a", raw_path=raw_path)

    assert reply.status == 200


@pytest.mark.parametrize(
    ("query", "status"),
    [
        (b"", 200),
        (b"q=%C3%A9", 200),
        ("q=é".encode(), 200),
        (b"q=%zz&%", 200),
        (b"q=%0a", 200),
        (b"q=%ff", 400),
        (b"q=\xff", 400),
        (b"q=%00", 400),
        (b"%ed%a0%80=1", 400),
    ],
)
async def test_a_query_must_be_utf_8_without_nul(query: bytes, status: int) -> None:
    reply, _ = await ask(path="/api/v1/sessions", query=query)

    assert reply.status == status


async def test_a_websocket_is_closed_and_a_lifespan_passes() -> None:
    seen: list[str] = []

    async def inner(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["type"])

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    guard: Any = HeadGuard(inner)
    await guard({"type": "websocket"}, None, send)
    await guard({"type": "lifespan"}, None, send)

    assert sent == ["websocket.close"]
    assert seen == ["lifespan"]


NAMES = st.sampled_from(
    [b"host", b"content-length", b"transfer-encoding", b"content-type", b"content-encoding", b"x"]
)


@given(
    st.sampled_from(["GET", "POST", "PATCH", "X"]),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.lists(st.tuples(NAMES, st.binary(max_size=20)), max_size=8),
)
async def test_no_head_makes_the_guard_fail(
    method: str, path: str, query: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    scope = make_scope(
        method, path, host=None, headers=headers, query=query,
        raw_path=path.encode("utf-8", "replace"),
    )  # fmt: skip

    reply = await exchange(HeadGuard(Inner(reads=False)), scope)

    assert reply.status in {200, 400, 405, 413, 415}


@given(st.text("/ab.", max_size=12))
def test_a_path_is_read_as_the_router_reads_it(path: str) -> None:
    assert routed_path("/" + path) == normalize_path("/" + path)


def test_a_detour_in_the_path_changes_no_limit() -> None:
    assert max_body_bytes(routed_path("//api//v1/tool-metrics/batch/")) == 20 * MIB


async def test_every_later_layer_reads_the_path_as_the_router_does() -> None:
    _, inner = await ask(path="//api///v1/sessions//")

    assert inner.scope is not None
    assert inner.scope["path"] == "/api/v1/sessions"


@pytest.mark.parametrize(
    ("asked", "seen", "token"),
    [
        ("/i/tok/v1/logs", "/v1/logs", "tok"),
        ("/i/tok/v1/nothing", "/v1/nothing", "tok"),
        ("//i//tok//v1//logs/", "/v1/logs", "tok"),
        ("/i/é/v1/logs", "/v1/logs", "é"),
        ("/i/tok/v1", "/i/:token/v1", "tok"),
        ("/i/tok", "/i/:token", "tok"),
        ("/i/tok/api/v1/me", "/i/:token/api/v1/me", "tok"),
        ("/i/tok/health/live", "/i/:token/health/live", "tok"),
        ("/i", "/i", None),
        ("/it/tok/v1/logs", "/it/tok/v1/logs", None),
        ("/x/i/tok/v1/logs", "/x/i/tok/v1/logs", None),
        ("/v1/i/tok", "/v1/i/tok", None),
    ],
)
async def test_a_token_in_the_path_is_taken_out_of_it(
    asked: str, seen: str, token: str | None
) -> None:
    _, inner = await ask(path=asked)

    assert inner.scope is not None
    assert inner.scope["path"] == seen
    assert inner.scope["state"].get("path_token") == token
    if token is not None:
        assert inner.scope["raw_path"] == quote(seen, safe="/:").encode()


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "BREW"},
        {"headers": [("x-a", "a" * 17_000)]},
        {"query": b"q" * 9000},
        {"raw_path": b"/i/tok/x%00"},
        {"host": "a b"},
        {"method": "POST", "headers": [("content-length", "x")]},
        {"method": "POST", "headers": [("content-length", "1"), ("content-encoding", "br")]},
    ],
)
async def test_no_refusal_shows_a_token_in_the_path(wrong: dict[str, Any]) -> None:
    reply, _ = await ask(path="/i/tok/x", **wrong)

    assert reply.status is not None
    assert reply.status >= 400
    assert reply.json()["instance"] == "/i/:token/x"


@pytest.mark.parametrize("path", ["/v1/logs", "/i/token/v1/logs", "/logs", "/"])
@pytest.mark.parametrize("media_type", ["application/x-protobuf", "application/protobuf"])
async def test_an_otlp_client_is_refused_in_its_own_language(path: str, media_type: str) -> None:
    headers = [("content-type", media_type), ("content-length", str(65 * MIB))]

    reply, _ = await ask("POST", path, headers=headers)

    assert reply.status == 413
    assert reply.header("content-type") == media_type
    assert reply.header("retry-after") is None
    assert Status.FromString(reply.body).code == code_pb2.RESOURCE_EXHAUSTED


async def test_what_is_not_for_otlp_stays_a_problem() -> None:
    protobuf = [("content-type", "application/x-protobuf"), ("content-length", "x")]

    for method, path in [("POST", "/api/v1/sessions"), ("PUT", "/x"), ("GET", "/")]:
        reply, _ = await ask(method, path, headers=protobuf)
        assert reply.header("content-type") == "application/problem+json"
