"""How a body is read, inflated and checked before anything parses it."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import tracemalloc
import zlib
from itertools import pairwise
from typing import Any

import msgspec
import pytest
import zstandard
from asgi import Inner, Reply, Step, exchange, make_scope
from hypothesis import example, given
from hypothesis import strategies as st

from metrics_service.errors import MalformedRequestError
from metrics_service.http import inflate, json_shape, limits
from metrics_service.http.body import BodyGuard
from metrics_service.http.json_shape import check_json, is_shallow
from metrics_service.http.limits import MAX_DEPTH, MIB

BATCH = "/api/v1/tool-metrics/batch"
CODINGS = ["gzip", "x-gzip", "deflate", "zstd"]


def bare_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def encode(coding: str, data: bytes) -> bytes:
    if coding == "zstd":
        return zstandard.ZstdCompressor().compress(data)
    return zlib.compress(data) if coding == "deflate" else gzip.compress(data)


async def post(
    *steps: Step,
    path: str = BATCH,
    coding: str | None = None,
    patience_s: float = 5,
    **options: Any,
) -> tuple[Reply, Inner]:
    inner = Inner()
    headers = [("content-type", options.pop("content_type", "application/json"))]
    headers += [] if coding is None else [("content-encoding", coding)]
    scope = make_scope(options.pop("method", "POST"), path, headers=headers)
    reply = await exchange(BodyGuard(inner, patience_s=patience_s), scope, steps)
    return reply, inner


def header_values(inner: Inner, name: bytes) -> list[bytes]:
    assert inner.scope is not None
    return [value for key, value in inner.scope["headers"] if key == name]


# -- arriving -------------------------------------------------------------------------------------


async def test_a_body_in_pieces_reaches_the_application_in_one() -> None:
    reply, inner = await post(b'{"a"', b"", b": 1", b"}", b"")

    assert reply.status == 200
    assert [message["body"] for message in inner.messages] == [b'{"a": 1}']
    assert header_values(inner, b"content-length") == [b"8"]


async def test_an_empty_body_is_left_to_the_route() -> None:
    reply, inner = await post(b"")

    assert reply.status == 200
    assert inner.body == b""


async def test_a_method_without_a_body_is_not_made_to_wait_for_one() -> None:
    reply, _ = await post(10.0, method="DELETE")

    assert reply.status == 200


async def test_the_application_still_learns_that_the_client_left() -> None:
    told = []

    async def inner(_scope: Any, receive: Any, _send: Any) -> None:
        told.extend([(await receive())["type"], (await receive())["type"]])

    await exchange(BodyGuard(inner), make_scope("POST", BATCH), [b"[]"])

    assert told == ["http.request", "http.disconnect"]


async def test_a_body_that_breaks_off_starts_no_work() -> None:
    reply, inner = await post(b"[", ConnectionError())

    assert reply.status == 400
    assert inner.scope is None


async def test_a_body_that_stops_arriving_is_dropped_with_its_connection() -> None:
    reply, inner = await post(b"[", 1.0, b"]", patience_s=0.05)

    assert reply.status == 408
    assert reply.header("connection") == "close"
    assert inner.scope is None


@pytest.mark.parametrize("steps", [[b"[", ConnectionError()], [b"[", 1.0, b"]"]])
async def test_otlp_that_did_not_arrive_whole_is_sent_again(steps: list[Step]) -> None:
    # To its client 400 and 408 are final, but a broken connection is not.
    reply, inner = await post(*steps, path="/v1/logs", patience_s=0.05)

    assert reply.status == 503
    assert reply.header("retry-after") == "1"
    assert reply.header("connection") == "close"
    assert reply.json()["code"] == 14
    assert inner.scope is None


async def test_empty_pieces_are_no_progress() -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.01)
        return {"type": "http.request", "body": b"", "more_body": True}

    sent = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message.get("status"))

    guard: Any = BodyGuard(Inner(), patience_s=0.1)
    async with asyncio.timeout(5):
        await guard(make_scope("POST", BATCH), receive, send)

    assert sent[0] == 408


async def test_a_slow_body_that_keeps_coming_is_read_to_its_end() -> None:
    reply, inner = await post(b"[", 0.06, b"1", 0.06, b"]", patience_s=0.1)

    assert reply.status == 200
    assert inner.body == b"[1]"


@pytest.mark.parametrize(
    ("path", "limit"), [("/api/v1/sessions", MIB), (BATCH, 20 * MIB), ("/v1/logs", 64 * MIB)]
)
async def test_a_body_over_the_limit_is_refused_while_it_arrives(path: str, limit: int) -> None:
    piece = b" " * (256 * 1024)
    within, _ = await post(*[piece] * (limit // len(piece)), path=path)
    # What follows the first byte too many is never asked for: it would be an error here.
    over, inner = await post(*[piece] * (limit // len(piece)), b"x", 60.0, path=path)

    assert within.status == 200
    assert over.status == 413
    assert over.header("connection") == "close"
    assert inner.scope is None


async def test_a_large_body_is_held_about_once() -> None:
    pieces = [b" " * (64 * 1024)] * (20 * 16 - 1) + [b"[]"]
    tracemalloc.start()
    try:
        reply, _ = await post(*pieces)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert reply.status == 200
    assert peak < 26 * MIB


# -- inflating ------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", CODINGS)
async def test_an_encoded_body_arrives_decoded_and_described_as_such(coding: str) -> None:
    data = json.dumps([{"tool_name": "Bash"}] * 100).encode()
    reply, inner = await post(encode(coding, data), coding=coding)

    assert reply.status == 200
    assert inner.body == data
    assert header_values(inner, b"content-encoding") == []
    assert header_values(inner, b"content-length") == [str(len(data)).encode()]


@given(
    st.sampled_from(["gzip", "deflate", "bare", "zstd"]),
    st.binary(max_size=3000).map(lambda data: data * 20),
    st.lists(st.integers(0, 70_000), max_size=6),
)
async def test_what_is_encoded_comes_out_however_it_is_cut(
    coding: str, data: bytes, cuts: list[int]
) -> None:
    encoded = bare_deflate(data) if coding == "bare" else encode(coding, data)
    edges = [0, *sorted(min(cut, len(encoded)) for cut in cuts), len(encoded)]
    pieces = [encoded[start:end] for start, end in pairwise(edges)]

    reply, inner = await post(
        *pieces, coding="deflate" if coding == "bare" else coding, path="/v1/logs"
    )

    assert reply.status == 200
    assert inner.body == data


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_several_members_are_one_body(coding: str) -> None:
    members = [encode(coding, b"[" + b" " * 5000), encode(coding, b""), encode(coding, b"]")]
    whole, inner = await post(b"".join(members), coding=coding)
    cut, _ = await post(*members, coding=coding)

    assert [whole.status, cut.status] == [200, 200]
    assert inner.body == b"[" + b" " * 5000 + b"]"


async def test_a_zstd_frame_to_be_skipped_is_skipped() -> None:
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    reply, inner = await post(skippable + encode("zstd", b"[]") + skippable, coding="zstd")

    assert reply.status == 200
    assert inner.body == b"[]"


@pytest.mark.parametrize("coding", CODINGS)
async def test_every_cut_end_of_an_encoded_body_is_noticed(coding: str) -> None:
    encoded = encode(coding, json.dumps(list(range(50))).encode())

    for length in range(len(encoded)):
        reply, inner = await post(encoded[:length], coding=coding)
        assert reply.status == 400, length
        assert inner.scope is None


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("tail", [b"x", b"\x00", b"[]", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"])
async def test_what_follows_an_encoded_body_is_refused(coding: str, tail: bytes) -> None:
    encoded = encode(coding, b"[]")
    together, _ = await post(encoded + tail, coding=coding)
    apart, _ = await post(encoded, tail, coding=coding)

    assert [together.status, apart.status] == [400, 400]


@given(st.sampled_from(CODINGS), st.binary(max_size=200))
@example("deflate", b"\x78")
@example("deflate", b"\x78\xbb")
@example("zstd", b"\x28\xb5\x2f\xfd")
async def test_garbage_is_refused_and_never_a_failure(coding: str, data: bytes) -> None:
    reply, _ = await post(data, coding=coding, path="/v1/logs")

    # A few bytes may happen to be a whole deflate body.
    assert reply.status in ({200, 400} if coding == "deflate" else {400})


async def test_deflate_has_no_second_member() -> None:
    reply, _ = await post(encode("deflate", b"[") + encode("deflate", b"]"), coding="deflate")

    assert reply.status == 400


async def test_a_changed_byte_in_gzip_is_noticed_by_its_checksum() -> None:
    encoded = bytearray(gzip.compress(b"[1, 2, 3]", compresslevel=0))
    encoded[-12] ^= 1

    reply, _ = await post(bytes(encoded), coding="gzip")

    assert reply.status == 400


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize(("path", "limit"), [(BATCH, 20 * MIB), ("/v1/logs", 64 * MIB)])
async def test_a_bomb_is_stopped_at_the_limit(coding: str, path: str, limit: int) -> None:
    bomb = encode(coding, bytes(128 * MIB))
    tracemalloc.start()
    try:
        reply, inner = await post(bomb, coding=coding, path=path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert reply.status == 413
    assert inner.scope is None
    assert peak < limit * 9 / 8 + 20 * MIB


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_a_body_of_countless_empty_members_is_refused(coding: str) -> None:
    empty = encode(coding, b"")
    within, _ = await post(empty * inflate.MAX_MEMBERS, coding=coding)
    over, _ = await post(empty * (inflate.MAX_MEMBERS + 1), coding=coding)

    assert [within.status, over.status] == [200, 400]


async def test_zstd_cannot_claim_a_large_window() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    encoded = packer.compress(b"[]") + packer.flush()

    reply, _ = await post(encoded, coding="zstd")

    assert reply.status == 400


async def test_a_body_in_an_unknown_encoding_is_not_read() -> None:
    reply, _ = await post(60.0, coding="br")

    assert reply.status == 415


async def test_other_requests_have_their_turn_while_a_large_body_inflates() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(count())
    await post(gzip.compress(bytes(32 * MIB)), coding="gzip", path="/v1/logs")
    other.cancel()

    assert turns >= 10


# -- the shape of JSON ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf[]",
        b'["\xff"]',
        b'["\xed\xa0\x80"]',
        b'["\xc3"]',
        b'["\xc3',
        b'["\xc0\x80"]',
        b'"' + b"\xc3\xa9" * 300_000 + b'\xc3"',
        "[]".encode("utf-16"),
        b"[" * 65 + b"]" * 65,
        b"[" * 100_000,
        b'{"a":' * 65 + b"1" + b"}" * 65,
    ],
)
async def test_json_that_no_parser_should_see_is_refused(body: bytes) -> None:
    reply, inner = await post(body)

    assert reply.status == 400
    assert inner.scope is None


async def test_what_is_not_json_of_the_api_is_not_looked_at() -> None:
    for path in ["/v1/logs", "/sign-in", "/i/token/v1/logs"]:
        reply, _ = await post(b"\xff" + b"[" * 1000, path=path)
        assert reply.status == 200


async def test_a_detour_in_the_path_avoids_no_check() -> None:
    for path in ["//api/v1/sessions", "/api//v1/sessions/"]:
        reply, _ = await post(b"[" * 1000, path=path)
        assert reply.status == 400


@pytest.mark.parametrize("deep", [b"[", b'{"a":', b'[{"a":'])
def test_nesting_is_allowed_up_to_the_limit_and_not_beyond(deep: bytes) -> None:
    close = deep.replace(b'"a":', b"").translate(bytes.maketrans(b"[{", b"]}"))[::-1]
    levels = MAX_DEPTH // len(close)

    assert is_shallow(deep * levels + b"1" + close * levels)
    assert not is_shallow(b"[" + deep * levels + b"1" + close * levels + b"]")


def test_brackets_in_texts_hide_no_depth() -> None:
    down, up = b'["]",' * 500, b',"["]' * 500

    assert not is_shallow(down + b"1" + up)
    assert not is_shallow(b'["\\"",' * 65 + b"1" + b"]" * 65)
    assert not is_shallow(b'["\\\\",' * 65 + b"1" + b"]" * 65)
    assert is_shallow(json.dumps(["[" * 1000, "]" * 1000, '"[' * 500, "\\[" * 500]).encode())


def test_one_bad_line_hides_nothing_in_the_next() -> None:
    hidden = b'"\n' + b"[" * 100 + b"]" * 100 + b'\n"\n'

    assert not is_shallow(hidden, is_lines=True)
    assert is_shallow(b'{"a": "["}\r\n' * 1000, is_lines=True)
    assert not is_shallow(b"{}\n" + b"[" * 65 + b"]" * 65 + b"\n{}", is_lines=True)


def test_mistakes_in_many_lines_do_not_add_up_to_depth() -> None:
    assert is_shallow(b'{"a": [1\n' * 100, is_lines=True)


async def test_lines_are_judged_as_lines_by_their_content_type() -> None:
    hidden = b'"\n' + b"[" * 100 + b"]" * 100 + b'\n"'
    lines, _ = await post(hidden, content_type="application/x-ndjson; charset=utf-8")

    assert lines.status == 400


def test_a_simple_mistake_is_left_for_the_parser_to_explain() -> None:
    for body in [b"[1,", b'{"a": [}', b'{"a": "x', b"]", b'[{"a": 1}, {', b"nonsense"]:
        check_json(body)


def reference_depth(text: bytes) -> int:
    """The greatest depth in a text that is scanned byte by byte, as a parser does."""
    depth = deepest = position = 0
    in_text = False
    while position < len(text):
        byte = text[position : position + 1]
        if in_text:
            if byte == b"\\":
                position += 1
            in_text = byte != b'"'
        elif byte == b'"':
            in_text = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
        position += 1
    return deepest


VALUES = st.recursive(
    st.none() | st.integers() | st.text('[]{}"\\\n\u00e9x', max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('[]{}"\\', max_size=4), inner)
    ),
    max_leaves=60,
)


@given(VALUES, st.integers(0, 80), st.integers(1, 40), st.booleans())
def test_valid_json_is_refused_exactly_when_it_is_too_deep(
    value: Any, levels: int, block: int, ascii_only: bool
) -> None:
    for level in range(levels):
        value = [value] if level % 3 else {'"]}\\': value, "x": "]["}
    body = json.dumps(value, ensure_ascii=ascii_only).encode()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_shape, "BLOCK_BYTES", block)
        accepted = is_shallow(body)

    assert accepted == (reference_depth(body) <= MAX_DEPTH)


@given(st.lists(VALUES, max_size=5), st.integers(60, 68), st.integers(1, 40))
def test_valid_lines_are_refused_exactly_when_one_is_too_deep(
    values: list[Any], levels: int, block: int
) -> None:
    lines = [json.dumps(value).encode() for value in values]
    lines.insert(len(lines) // 2, b"[" * levels + b"]" * levels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_shape, "BLOCK_BYTES", block)
        accepted = is_shallow(b"\n".join(lines), is_lines=True)

    assert accepted == all(reference_depth(line) <= MAX_DEPTH for line in lines)


def parsed_depth(text: bytes) -> int:
    """How deep a parser gets in any text, valid or not: it stops at the first mistake."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return reference_depth(text[: error.pos])
    except RecursionError:
        pass
    return reference_depth(text)


@given(
    st.lists(
        st.sampled_from([b"[" * 40, b"]" * 40, b'{"":' * 30, b"}" * 30, b'"', b"\\", b"\\\\", b"[",
                         b"]", b"{", b"}", b",", b"1", b'"]",', b',"["', b"\n"]),
        max_size=12,
    ).map(b"".join),
    st.integers(1, 40),
)  # fmt: skip
def test_no_text_makes_a_parser_go_deeper_than_allowed(text: bytes, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_shape, "BLOCK_BYTES", block)
        accepted = is_shallow(text)
        accepted_lines = is_shallow(text, is_lines=True)

    if accepted:
        assert parsed_depth(text) <= MAX_DEPTH
    if accepted_lines:
        assert all(parsed_depth(line) <= MAX_DEPTH for line in text.split(b"\n"))


@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: json.dumps(text).encode()))
def test_what_passes_fails_in_the_parser_only_as_malformed_json(body: bytes) -> None:
    try:
        check_json(body)
    except MalformedRequestError:
        return

    with contextlib.suppress(msgspec.DecodeError):
        msgspec.json.decode(body)


async def test_bodies_of_strangers_keep_no_operator_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_HELD_BYTES", 10)
    is_held, goes_on = asyncio.Event(), asyncio.Event()

    async def held(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if "user" not in scope:
            is_held.set()
            await goes_on.wait()
        await Inner(reads=False)(scope, receive, send)

    guard = BodyGuard(held)
    stranger = asyncio.create_task(exchange(guard, make_scope("POST", "/sign-in"), [b"key=12345"]))
    await is_held.wait()
    scope = make_scope("POST", "/tenants")
    scope["user"] = "an operator"
    reply = await exchange(guard, scope, [b"slug=1234"])
    goes_on.set()

    assert reply.status == 200
    assert (await stranger).status == 200
