"""`/v1/logs`, `/v1/metrics`, `/v1/traces`: what a client may send, and what it hears in each case."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import time
import zlib
from contextlib import asynccontextmanager
from itertools import product

import asyncpg
import pytest
import zstandard
from sqlalchemy import text

from acceptance.export import (
    JSON,
    MEDIA_TYPES,
    PROTOBUF,
    SIGNALS,
    Answer,
    answer_of,
    api_request,
    attributes,
    encode,
    export,
    good,
    log,
    logs,
    metrics,
    point,
    span,
    tool_result,
    traces,
)
from acceptance.talk import check_problem, check_refusal, check_status, rows_of, same_but_for_ids
from metrics_service.db.engine import owner_connection
from metrics_service.db.roles import OWNER
from metrics_service.http.in_flight import IN_FLIGHT_A_TENANT
from metrics_service.ingest.write_telemetry import TelemetryWriter
from metrics_service.tenants import lifecycle

MIB = 1024 * 1024
LIMIT = 64 * MIB
TOOLS = "/api/v1/tool-metrics"
CALLS = "/api/v1/model-calls"

in_both = pytest.mark.parametrize("media_type", MEDIA_TYPES)
for_each_signal = pytest.mark.parametrize("signal", SIGNALS)


def bare_deflate(data):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


CODINGS = {
    "identity": bytes,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "x-gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


async def in_pieces(data, size=1000):
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def tools_of(client, tenant, names=("tool_name", "status", "duration_ms")):
    rows = await rows_of(client, TOOLS, tenant)
    return sorted(tuple(row[name] for name in names) for row in rows)


# -- taken in ---------------------------------------------------------------------------------------


@in_both
@for_each_signal
async def test_what_is_right_is_answered_with_nothing(client, tenant_once, signal, media_type):
    response = await export(client, tenant_once.headers, signal, good(signal), media_type)

    assert response.status_code == 200
    assert response.headers["content-type"] == media_type
    assert response.content == (b"{}" if media_type == JSON else b"")


@in_both
@for_each_signal
async def test_an_empty_request_is_right(client, tenant_once, signal, media_type):
    response = await export(client, tenant_once.headers, signal, {}, media_type)

    assert answer_of(signal, response) == Answer()


@in_both
async def test_calls_that_logs_tell_of_are_there_once_answered(client, new_tenant, media_type):
    tenant = await new_tenant()
    request = logs(
        tool_result("c1"),
        tool_result("c2", tool_name="Read", success="false", duration_ms=7),
        api_request("r1"),
        log("user_prompt", prompt_length="12"),
    )

    for _ in range(2):
        response = await export(client, tenant.headers, "logs", request, media_type)
        assert answer_of("logs", response) == Answer()

    assert await tools_of(client, tenant) == [("Bash", "success", 412.0), ("Read", "error", 7.0)]
    (call,) = await rows_of(client, CALLS, tenant)
    assert (call["agent"], call["input_tokens"], call["output_tokens"], call["cost_usd_micros"]) == (
        "claude-code", 10, 20, 250_000,
    )  # fmt: skip
    (session,) = await rows_of(client, "/api/v1/sessions", tenant)
    assert (session["agent"], session["external_id"]) == ("claude-code", "s")
    assert (session["tool_call_count"], session["model_call_count"]) == (2, 1)


@in_both
async def test_calls_that_spans_tell_of_are_there_once_answered(client, new_tenant, media_type):
    tenant = await new_tenant()

    for _ in range(2):
        response = await export(
            client, tenant.headers, "traces", traces(span(1), span(2)), media_type
        )
        assert answer_of("traces", response) == Answer()

    assert await tools_of(client, tenant) == [("Bash", "success", 5.0)] * 2


async def test_a_request_is_the_same_in_both_encodings(client, new_tenant):
    tenant = await new_tenant()
    request = {"logs": logs(tool_result("c"), api_request("r")), "traces": traces(span(1))}

    for signal, one in request.items():
        for media_type in MEDIA_TYPES:
            await export(client, tenant.headers, signal, one, media_type)

    assert len(await rows_of(client, TOOLS, tenant)) == 2
    assert len(await rows_of(client, CALLS, tenant)) == 1


async def test_what_one_tenant_sends_no_other_sees(client, new_tenant):
    tenant, other = await new_tenant(), await new_tenant()

    for signal in SIGNALS:
        await export(client, tenant.headers, signal, good(signal))

    assert len(await rows_of(client, TOOLS, tenant)) == 2
    for path in (TOOLS, CALLS, "/api/v1/sessions"):
        assert await rows_of(client, path, other) == []


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-protobuf",
        "application/protobuf",
        "Application/X-Protobuf; charset=utf-8",
        "application/json",
        "application/json; charset=utf-8",
        "application/json;foo=bar",
    ],
)
async def test_the_answer_is_in_the_type_of_the_request(client, tenant_once, content_type):
    media_type = content_type.lower().partition(";")[0]
    body = encode("logs", good("logs"), JSON if media_type == JSON else PROTOBUF)

    response = await client.post(
        "/v1/logs", content=body, headers={**tenant_once.headers, "Content-Type": content_type}
    )

    assert response.status_code == 200
    assert response.headers["content-type"] == media_type


@in_both
@pytest.mark.parametrize("coding", CODINGS)
async def test_every_coding_is_undone(client, shared_tenant, coding, media_type):
    name = f"{coding} {media_type}"
    request = logs(tool_result(name, tool_name=name))
    packed = CODINGS[coding](encode("logs", request, media_type))

    response = await export(
        client, shared_tenant.headers, "logs", packed, media_type, Content_Encoding=coding
    )

    assert answer_of("logs", response) == Answer()
    stored = await rows_of(client, TOOLS, shared_tenant, tool_name=name)
    assert [row["tool_name"] for row in stored] == [name]


async def test_bare_deflate_is_undone(client, tenant_once):
    packed = bare_deflate(encode("logs", good("logs"), PROTOBUF))

    response = await export(client, tenant_once.headers, "logs", packed, Content_Encoding="deflate")

    assert answer_of("logs", response) == Answer()


async def test_a_body_without_a_length_is_taken(client, new_tenant):
    tenant = await new_tenant()
    body = encode("logs", logs(*(tool_result(f"c{number}") for number in range(100))), PROTOBUF)

    response = await client.post(
        "/v1/logs",
        content=in_pieces(body),
        headers={**tenant.headers, "Content-Type": PROTOBUF},
    )

    assert answer_of("logs", response) == Answer()
    assert len(await rows_of(client, TOOLS, tenant)) == 100


async def test_parameters_that_a_gateway_adds_are_no_mistake(client, tenant_once):
    response = await export(
        client, tenant_once.headers, "logs", good("logs"), path="/v1/logs?source=gateway"
    )

    assert answer_of("logs", response) == Answer()


# -- taken in, but for some -------------------------------------------------------------------------


@in_both
async def test_a_span_without_valid_ids_is_refused_and_the_others_are_taken(
    client, new_tenant, media_type
):
    tenant = await new_tenant()
    request = traces(span(1), span(2, trace_id="ab"), span(3, span_id="0" * 16), span(4))

    response = await export(client, tenant.headers, "traces", request, media_type)

    answer = answer_of("traces", response)
    assert answer.rejected == 2
    assert "span ids" in answer.message
    assert len(await rows_of(client, TOOLS, tenant)) == 2


@in_both
async def test_a_point_without_a_number_is_refused_and_the_others_are_taken(
    client, tenant_once, media_type
):
    bad = [point(0.0, asDouble=one) for one in ("NaN", "Infinity", "-Infinity")]

    some = await export(client, tenant_once.headers, "metrics", metrics(point(), *bad), media_type)
    all_of_them = await export(client, tenant_once.headers, "metrics", metrics(*bad), media_type)

    for response in (some, all_of_them):
        answer = answer_of("metrics", response)
        assert answer.rejected == 3
        assert "NaN" in answer.message


async def test_a_record_of_another_shape_is_refused_and_the_others_are_taken(client, new_tenant):
    tenant = await new_tenant()
    request = logs(tool_result("c"), {"body": 5}, {"attributes": "x"}, tool_result("d"))

    response = await export(client, tenant.headers, "logs", request, JSON)

    assert answer_of("logs", response).rejected == 2
    assert len(await rows_of(client, TOOLS, tenant)) == 2


@in_both
async def test_100_000_attributes_of_one_record_are_cut_with_a_warning(
    client, new_tenant, media_type
):
    tenant = await new_tenant()
    record = tool_result("c")
    record["attributes"] += attributes(**{f"a{number}": "x" for number in range(100_000)})

    response = await export(client, tenant.headers, "logs", logs(record), media_type)

    answer = answer_of("logs", response)
    assert answer.rejected == 0
    assert "512" in answer.message
    assert len(await rows_of(client, TOOLS, tenant)) == 1


async def test_the_reasons_are_cut_where_they_get_long(client, tenant_once):
    bad = [{"attributes": [{"key": "x" * 20, "value": {}}], f"{n}": 1, "body": n} for n in range(5)]
    bad += [{"body": {"arrayValue": {"values": [{}] * n + [1]}}} for n in range(200)]

    response = await export(client, tenant_once.headers, "logs", logs(*bad), JSON)

    answer = answer_of("logs", response)
    assert answer.rejected == 205
    assert len(answer.message) <= 1000


@in_both
async def test_texts_of_a_mebibyte_and_nul_are_taken(client, new_tenant, media_type):
    tenant = await new_tenant()
    long = "é" * (MIB // 2)
    request = logs(
        tool_result("c", tool_input=long, error="a\0b"),
        log("user_prompt", prompt=long),
        log("something_new", text=long, **{"k" * 300: "v\0"}),
        tool_result("d\0d", session__id="s\0t", tool_name="B\0", user__email="a\0@example.com"),
    )

    response = await export(client, tenant.headers, "logs", request, media_type)

    assert answer_of("logs", response).rejected == 0
    assert len(await rows_of(client, TOOLS, tenant)) == 2


HOSTILE = {
    "far below zero": {"intValue": str(-(2**63))},
    "far above zero": {"intValue": str(2**63 - 1)},
    "a fraction": {"doubleValue": 1e308},
    "not a number": {"doubleValue": "NaN"},
    "infinite": {"doubleValue": "-Infinity"},
    "yes": {"boolValue": True},
    "empty": {"stringValue": ""},
    "blank": {"stringValue": " "},
    "long": {"stringValue": "x" * 70_000},
    "many digits": {"stringValue": "9" * 400},
    "infinite text": {"stringValue": "inf"},
    "odd letters": {"stringValue": "\u202e\ufffe\U0001f600'\"\\;--"},
    "bytes": {"bytesValue": "AP8="},
    "a list": {"arrayValue": {"values": [{"stringValue": "a"}, {}, {"intValue": "1"}]}},
    "a mapping": {"kvlistValue": {"values": [{"key": "", "value": {"doubleValue": "NaN"}}]}},
    "nothing": {},
}


def _hostile(record, value, times):
    """The record once for each attribute and each time that can be something else."""
    named = record["attributes"]
    for at, attribute in enumerate(named):
        changed = {"key": attribute["key"], "value": value}
        yield {**record, "attributes": [*named[:at], changed, *named[at + 1 :]]}
    for name in times:
        for moment in ("0", "1", str(2**63 - 1), str(2**64 - 1)):
            yield {**record, name: moment}
    yield {**record, "attributes": [{"key": one["key"], "value": value} for one in named]}


@pytest.mark.parametrize("kind", HOSTILE)
async def test_no_value_of_any_attribute_is_an_accident(client, new_tenant, kind):
    tenant, value = await new_tenant(), HOSTILE[kind]
    people = {"user__email": "a@example.com", "user__id": "u", "prompt__id": "p", "new": "x"}
    one_span = span(
        1, gen_ai__conversation__id="s", gen_ai__tool__call__id="c", error__type="x",
        gen_ai__request__model="m", gen_ai__usage__input_tokens=1, **people,
    )  # fmt: skip
    one_point = point(1)
    one_point["attributes"] += attributes(type="input", model="m", **people)
    one_log = ("timeUnixNano", "observedTimeUnixNano")
    requests = [
        ("logs", logs(*_hostile(tool_result("c", decision="accept", **people), value, one_log))),
        ("logs", logs(*_hostile(api_request("r", **people), value, one_log))),
        ("traces", traces(*_hostile(one_span, value, ("startTimeUnixNano", "endTimeUnixNano")))),
        (
            "metrics",
            metrics(
                *_hostile(one_point, value, ("startTimeUnixNano", "timeUnixNano")),
                name="claude_code.token.usage",
            ),
        ),
    ]

    for media_type, (signal, request) in product(MEDIA_TYPES, requests):
        response = await export(client, tenant.headers, signal, request, media_type)
        assert answer_of(signal, response).rejected == 0

    for path in (TOOLS, CALLS, "/api/v1/sessions"):
        await rows_of(client, path, tenant)


@in_both
async def test_values_within_values_are_taken_until_they_are_too_deep(
    client, tenant_once, media_type
):
    value = {"stringValue": "x"}
    for _ in range(20):
        value = {"arrayValue": {"values": [value]}}
    record = tool_result("c")
    record["attributes"].append({"key": "deep", "value": value})

    response = await export(client, tenant_once.headers, "logs", logs(record), media_type)

    assert answer_of("logs", response).rejected == 0


async def test_values_far_too_deep_are_refused(client, tenant_once):
    deep = b'{"arrayValue":{"values":[' * 50_000 + b"{}" + b"]}}" * 50_000
    body = b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":' + deep + b"}]}]}]}"
    # A message of nothing but messages within messages, which protobuf itself gives up on.
    inner = b""
    for _ in range(2000):
        inner = b"\x0a" + _varint(len(inner)) + inner

    in_json = await export(client, tenant_once.headers, "logs", body, JSON)
    in_protobuf = await export(client, tenant_once.headers, "logs", _record(_value(inner)))

    for response in (in_json, in_protobuf):
        assert response.status_code in (200, 400)


def _value(inner):
    for _ in range(1000):
        array = b"\x0a" + _varint(len(inner)) + inner
        inner = b"\x2a" + _varint(len(array)) + array
    return inner


def _record(body):
    """Bytes of a request whose one record has this body."""
    record = b"\x2a" + _varint(len(body)) + body
    for tag in (b"\x12", b"\x12", b"\x0a"):
        record = tag + _varint(len(record)) + record
    return record


def _varint(number):
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


# -- bad data ---------------------------------------------------------------------------------------


@in_both
async def test_spans_that_all_lack_ids_are_told_what_they_may_be(client, tenant_once, media_type):
    request = traces(span(1, trace_id="00"), span(2, span_id="0" * 16))

    response = await export(client, tenant_once.headers, "traces", request, media_type)

    assert "/v1/traces" in check_status(response, 400)


async def test_logs_at_the_path_of_traces_are_told_so(client, tenant_once):
    body = encode("logs", good("logs"), PROTOBUF)

    response = await export(client, tenant_once.headers, "traces", body)

    assert "/v1/traces" in check_status(response, 400)


@for_each_signal
async def test_json_of_another_signal_is_told_so(client, tenant_once, signal):
    other = {"logs": "traces", "traces": "metrics", "metrics": "logs"}[signal]

    response = await export(client, tenant_once.headers, signal, good(other), JSON)

    assert f"/v1/{other}" in check_status(response, 400)


@for_each_signal
async def test_a_protobuf_that_ends_too_early_is_bad(client, tenant_once, signal):
    body = encode(signal, good(signal), PROTOBUF)

    for cut in (body[:-1], body[: len(body) // 2], b"\xff" * 10, b"\0", b"hello"):
        response = await export(client, tenant_once.headers, signal, cut)
        check_status(response, 400)


async def test_text_that_is_not_utf_8_makes_a_protobuf_bad(client, tenant_once):
    body = encode("logs", logs(tool_result("café")), PROTOBUF).replace("é".encode(), b"\xff\xfe")

    check_status(await export(client, tenant_once.headers, "logs", body), 400)


async def test_text_that_is_not_utf_8_is_mended_in_json(client, new_tenant):
    tenant = await new_tenant()
    body = json.dumps(logs(tool_result("café")), ensure_ascii=False).encode()

    response = await export(
        client, tenant.headers, "logs", body.replace("é".encode(), b"\xff\xfe"), JSON
    )

    assert answer_of("logs", response) == Answer()
    assert len(await rows_of(client, TOOLS, tenant)) == 1


@for_each_signal
@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"1", b'"x"', b"null", b"{", b"nonsense", b'{"resourceLogs": 1, "resourceSpans": 1'
        b', "resourceMetrics": 1}', b"\x0a\x00", b"[" * 100_000, b"{} {}",
    ],
    ids=lambda body: body[:12].decode(),
)  # fmt: skip
async def test_json_that_is_not_otlp_is_bad(client, tenant_once, signal, body):
    check_status(await export(client, tenant_once.headers, signal, body, JSON), 400)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
async def test_a_body_that_is_not_what_its_coding_says_is_bad(client, tenant_once, coding):
    good_one = CODINGS[coding](encode("logs", good("logs"), PROTOBUF))

    for body in (good_one[:-5], b"nonsense" * 10, b""):
        response = await export(client, tenant_once.headers, "logs", body, Content_Encoding=coding)
        check_status(response, 400 if body else response.status_code)


@for_each_signal
@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/grpc",
        "application/x-ndjson",
        "",
    ],
)
async def test_another_content_type_is_not_taken(client, tenant_once, signal, content_type):
    body = encode(signal, good(signal), PROTOBUF)

    response = await export(client, tenant_once.headers, signal, body, content_type)

    assert "application/x-protobuf" in check_status(response, 415)


async def test_another_coding_is_not_taken(client, tenant_once):
    for coding in ("br", "gzip, gzip", "snappy"):
        response = await export(client, tenant_once.headers, "logs", b"x", Content_Encoding=coding)
        check_status(response, 415)


# -- too large --------------------------------------------------------------------------------------


async def test_a_body_that_is_announced_or_arrives_too_large_is_refused(client, tenant_once):
    headers = {**tenant_once.headers, "Content-Type": PROTOBUF}

    async def endless():
        for _ in range(65):
            yield bytes(MIB)

    announced = await client.post(
        "/v1/logs", content=b"", headers={**headers, "Content-Length": str(LIMIT + 1)}
    )
    arrived = await client.post("/v1/logs", content=endless(), headers=headers)

    for response in (announced, arrived):
        assert str(LIMIT) in check_status(response, 413)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "zstd"])
async def test_a_bomb_is_refused_before_it_has_grown(client, tenant_once, coding):
    bomb = CODINGS[coding](bytes(LIMIT + 1))
    begun = time.perf_counter()

    response = await export(client, tenant_once.headers, "logs", bomb, Content_Encoding=coding)

    assert str(LIMIT) in check_status(response, 413)
    assert time.perf_counter() - begun < 5


async def test_just_within_the_limit_is_taken(client, new_tenant):
    tenant = await new_tenant()
    empty = len(encode("logs", logs(tool_result("c", note="")), JSON))
    body = encode("logs", logs(tool_result("c", note="x" * (LIMIT - empty))), JSON)
    assert len(body) == LIMIT

    whole = await export(client, tenant.headers, "logs", body, JSON)
    packed = await export(
        client, tenant.headers, "logs", gzip.compress(body, 1), JSON, Content_Encoding="gzip"
    )

    assert [whole.status_code, packed.status_code] == [200, 200]
    assert len(await rows_of(client, TOOLS, tenant)) == 1


# -- who may ----------------------------------------------------------------------------------------


def basic(password):
    return "Basic " + base64.b64encode(f"x:{password}".encode()).decode()


@in_both
@for_each_signal
async def test_only_a_key_of_the_tenant_is_a_credential(
    client, new_tenant, tenant_once, signal, media_type
):
    other = await new_tenant()
    host = {"Host": tenant_once.headers["Host"]}
    unknown = "msk_0123456789_" + "A" * 43
    ways = [
        {},
        {"Authorization": f"Bearer {unknown}"},
        {"Authorization": f"Bearer {other.key}"},
        {"X-API-Key": other.key},
        {"Authorization": basic(other.key)},
    ]

    answers = [
        await export(client, {**host, **way}, signal, good(signal), media_type) for way in ways
    ]

    for answer in answers:
        check_status(answer, 401)
        assert answer.headers["www-authenticate"]
    assert len({str(same_but_for_ids(answer)) for answer in answers}) == 1
    assert await rows_of(client, TOOLS, other) == []


async def test_a_key_is_taken_as_bearer_as_api_key_and_as_password(client, tenant_once):
    host = {"Host": tenant_once.headers["Host"]}

    for way in (
        {"authorization": f"Bearer {tenant_once.key}"},
        {"X-Api-Key": tenant_once.key},
        {"Authorization": basic(tenant_once.key)},
    ):
        response = await export(client, {**host, **way}, "logs", good("logs"))
        assert response.status_code == 200


@in_both
@for_each_signal
async def test_a_key_without_the_scope_ingest_is_forbidden(
    client, tenant_once, new_key, signal, media_type
):
    issued = await new_key(tenant_once.tenant, scopes=("read", "write"))
    headers = {**tenant_once.headers, "Authorization": f"Bearer {issued.key}"}

    response = await export(client, headers, signal, good(signal), media_type)

    assert "ingest" in check_status(response, 403)


@in_both
async def test_a_suspended_tenant_is_told_so(client, new_tenant, addresses, media_type):
    tenant = await new_tenant(scopes=("ingest",))
    async with owner_connection(addresses.require_owner()) as connection:
        await lifecycle.suspend(connection, tenant.slug)
    host = {"Host": tenant.headers["Host"]}

    answers = [
        await export(client, tenant.headers, "logs", good("logs"), media_type),
        await export(client, host, "logs", good("logs"), media_type),
        await export(
            client, host, "logs", good("logs"), media_type, path=f"/i/{tenant.key}/v1/logs"
        ),
    ]

    assert {check_status(answer, 403) for answer in answers} == {"this tenant is suspended"}


@in_both
async def test_at_a_host_of_nobody_every_export_hears_the_same(client, tenant_once, media_type):
    headers = {**tenant_once.headers, "Host": "nobody.localhost"}
    paths = [
        "/v1/logs", "/v1/traces", "/v1/log", "/", "/otlp/v1/logs", f"/i/{tenant_once.key}/v1/logs",
        "/i/x", "/nothing",
    ]  # fmt: skip

    answers = [
        await export(client, headers, "logs", good("logs"), media_type, path=path) for path in paths
    ]

    assert {check_status(answer, 404) for answer in answers} == {
        "nothing is served at this address; its host must be a tenant's domain"
    }
    assert len({str(same_but_for_ids(answer)) for answer in answers}) == 1


async def test_methods_that_no_exporter_uses_are_not_allowed(client, tenant_once):
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        response = await client.request(method, "/v1/logs", headers=tenant_once.headers)
        check_status(response, 405)
        assert "POST" in response.headers["allow"]
    check_status(await client.request("TRACE", "/v1/logs", headers=tenant_once.headers), 405)


async def test_headers_that_are_too_large_are_refused(client, tenant_once):
    response = await export(client, tenant_once.headers, "logs", good("logs"), X_Large="x" * 17_000)

    check_status(response, 431)


# -- the token in the path --------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def token(new_key, tenant_once):
    return (await new_key(tenant_once.tenant, scopes=("ingest",))).key


@in_both
@for_each_signal
async def test_a_key_in_the_path_is_a_credential(client, tenant_once, token, signal, media_type):
    host = {"Host": tenant_once.headers["Host"]}

    for path in (f"/i/{token}/v1/{signal}", f"/i//{token}//v1/{signal}/"):
        response = await export(client, host, signal, good(signal), media_type, path=path)
        assert answer_of(signal, response) == Answer()


async def test_what_comes_by_a_key_in_the_path_is_stored(client, new_tenant):
    tenant = await new_tenant()
    ingest = await new_tenant(scopes=("ingest",))

    path = f"/i/{ingest.key}/v1/logs"
    response = await export(
        client, {"Host": ingest.headers["Host"]}, "logs", good("logs"), path=path
    )
    elsewhere = await export(
        client, {"Host": tenant.headers["Host"]}, "logs", good("logs"), path=path
    )

    assert answer_of("logs", response) == Answer()
    check_status(elsewhere, 401)
    assert await rows_of(client, TOOLS, tenant) == []


@in_both
async def test_a_wrong_key_in_the_path_is_refused_like_one_in_a_header(
    client, new_tenant, tenant_once, media_type
):
    other = await new_tenant(scopes=("ingest",))
    host = {"Host": tenant_once.headers["Host"]}
    unknown = "msk_0123456789_" + "A" * 43

    answers = [
        await export(client, host, "logs", good("logs"), media_type, path=f"/i/{one}/v1/logs")
        for one in (other.key, unknown, "x", "x" * 600, "%C3%A9", "..%20")
    ]
    in_header = await export(
        client, {**host, "Authorization": f"Bearer {unknown}"}, "logs", good("logs"), media_type
    )

    for answer in answers:
        check_status(answer, 401)
        assert same_but_for_ids(answer) == same_but_for_ids(in_header)


@pytest.mark.parametrize(
    "scopes", [("admin",), ("read",), ("ingest", "read"), ("ingest", "write", "read", "admin")]
)
async def test_a_key_that_may_do_more_must_not_be_in_a_path(client, tenant_once, new_key, scopes):
    issued = await new_key(tenant_once.tenant, scopes=scopes)
    host = {"Host": tenant_once.headers["Host"]}

    response = await export(client, host, "logs", good("logs"), path=f"/i/{issued.key}/v1/logs")

    message = check_status(response, 403)
    assert "no other" in message
    assert issued.key not in message


async def test_the_key_in_the_path_counts_when_there_is_another(client, tenant_once, token):
    wrong = "msk_0123456789_" + "A" * 43
    host = {"Host": tenant_once.headers["Host"]}

    by_path = await export(
        client, {**host, "Authorization": "Bearer x"}, "logs", good("logs"),
        path=f"/i/{token}/v1/logs",
    )  # fmt: skip
    by_header = await export(
        client, tenant_once.headers, "logs", good("logs"), path=f"/i/{wrong}/v1/logs"
    )

    assert by_path.status_code == 200
    check_status(by_header, 401)


async def test_a_key_in_the_path_leads_to_otlp_alone(client, tenant_once, token):
    host = {"Host": tenant_once.headers["Host"]}

    for rest in ("", "/", "/api/v1/me", "/api/v1/tool-metrics/batch", "/logs", "/v1", "/health"):
        for method in ("GET", "POST"):
            response = await client.request(method, f"/i/{token}{rest}", headers=host)
            assert check_problem(response, 404)["instance"] == f"/i/:token{rest.rstrip('/')}"
            assert token not in response.text


async def test_no_refusal_shows_the_key_that_was_in_the_path(client, tenant_once, token):
    host = {"Host": tenant_once.headers["Host"]}

    answers = [
        await client.get(f"/i/{token}/x", headers=host),
        await client.get(f"/i/{token}/x%00", headers=host),
        await client.get(f"/i/{token}/x?" + "q" * 9000, headers=host),
        await client.request("BREW", f"/i/{token}/x", headers=host),
        await client.get(f"/i/{token}/x", headers={**host, "X-Large": "x" * 17_000}),
        await client.get(f"/i/{token}/x", headers={"Host": "nobody.localhost"}),
        await client.get(f"/i/{token}/x", headers={"Host": "a b"}),
    ]

    assert [answer.status_code for answer in answers] == [404, 400, 400, 405, 431, 404, 400]
    for answer in answers:
        assert check_problem(answer)["instance"].startswith("/i/:token/x")
        assert token not in answer.text + str(answer.headers)


# -- wrong paths ------------------------------------------------------------------------------------

LOGS_ONLY = "there is no such address; OTLP is taken at /v1/logs"
ANY_SIGNAL = "there is no such address; OTLP is taken at /v1/logs, /v1/metrics or /v1/traces"


@in_both
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/", ANY_SIGNAL),
        ("/v1", ANY_SIGNAL),
        ("/v1/", ANY_SIGNAL),
        ("/v1/nothing", ANY_SIGNAL),
        ("/otlp", ANY_SIGNAL),
        ("/logs/metrics", "there is no such address; OTLP is taken at /v1/logs or /v1/metrics"),
        ("/v1/log", LOGS_ONLY),
        ("/v1/logs/x", LOGS_ONLY),
        ("/v1/logs/v1/logs", LOGS_ONLY),
        ("/v1/v1/logs", LOGS_ONLY),
        ("/logs", LOGS_ONLY),
        ("/V1/Logs", LOGS_ONLY),
        ("/otlp/v1/logs", LOGS_ONLY),
        ("/api/otlp/v1/traces", None),
        ("/v1/metric", "there is no such address; OTLP is taken at /v1/metrics"),
        ("/v1/trace", "there is no such address; OTLP is taken at /v1/traces"),
        ("/spans", "there is no such address; OTLP is taken at /v1/traces"),
        ("/i/:token", "there is no such address; OTLP is taken at /i/:token/v1/logs, "
            "/i/:token/v1/metrics or /i/:token/v1/traces"),
        ("/i/abc/logs", "there is no such address; OTLP is taken at /i/:token/v1/logs"),
    ],
)  # fmt: skip
async def test_a_wrong_path_is_told_the_right_one(client, tenant_once, path, message, media_type):
    body = encode("logs", good("logs"), media_type)

    response = await client.post(
        path, content=body, headers={**tenant_once.headers, "Content-Type": media_type}
    )

    if message is None:
        # It takes JSON in the way of the API, whatever it is called.
        assert response.status_code in (404, 415)
    else:
        assert check_status(response, 404) == message


@in_both
async def test_at_no_path_of_ours_nobody_is_asked_who_he_is(client, tenant_once, media_type):
    host = {"Host": tenant_once.headers["Host"]}

    for path in ("/", "/logs", "/otlp/v1/logs", "/i/abc/logs"):
        response = await export(client, host, "logs", good("logs"), media_type, path=path)
        assert "/v1/logs" in check_status(response, 404)


async def test_who_only_looks_is_told_of_no_exports(client, tenant_once):
    for path in ("/logs", "/nothing"):
        response = await client.get(path, headers=tenant_once.headers)
        assert check_problem(response, 404)["detail"] == "there is no such address"


# -- too much, too slow, broken ---------------------------------------------------------------------


@in_both
async def test_an_accident_inside_is_503(client, tenant_once, monkeypatch, media_type):
    async def crash(*_, **__):
        raise RuntimeError("secret")

    monkeypatch.setattr(TelemetryWriter, "write", crash)
    response = await export(client, tenant_once.headers, "logs", good("logs"), media_type)

    check_status(response, 503)
    assert response.headers["retry-after"] == "1"
    assert b"secret" not in response.content


@in_both
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (asyncpg.QueryCanceledError("x"), 504),
        (asyncpg.DeadlockDetectedError("x"), 503),
        (asyncpg.DiskFullError("x"), 503),
        (asyncpg.CannotConnectNowError("x"), 503),
        (asyncpg.UndefinedTableError("x"), 503),
        (asyncpg.UniqueViolationError("x"), 503),
        (ConnectionRefusedError("x"), 503),
        (TimeoutError("x"), 503),
        (MemoryError(), 503),
        (RecursionError(), 503),
    ],
)
async def test_what_the_database_has_to_say_is_tried_again(
    client, tenant_once, monkeypatch, error, status, media_type
):
    async def fail(*_, **__):
        raise error

    monkeypatch.setattr(TelemetryWriter, "write", fail)
    response = await export(client, tenant_once.headers, "logs", good("logs"), media_type)

    check_status(response, status)


@asynccontextmanager
async def locked(addresses, tenant, table):
    async with owner_connection(addresses.require_owner()) as connection, connection.begin():
        await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
        where = f"{tenant.tenant.schema_name}.{table}"
        await connection.execute(text(f"LOCK TABLE {where} IN ACCESS EXCLUSIVE MODE"))
        yield


async def test_a_locked_table_is_waited_for_and_then_tried_again(open_app, new_tenant, addresses):
    tenant = await new_tenant()

    async with open_app(database_query_timeout_ms=300) as client:
        async with locked(addresses, tenant, "tool_metrics"):
            response = await export(client, tenant.headers, "logs", good("logs"))
        again = await export(client, tenant.headers, "logs", good("logs"))
        rows = await rows_of(client, TOOLS, tenant)

    assert response.status_code in (503, 504)
    assert answer_of("logs", again) == Answer()
    assert len(rows) == 1


@in_both
async def test_too_many_at_once_are_tried_again(client, new_tenant, media_type):
    tenant = await new_tenant()
    begun, may_end = [], asyncio.Event()

    async def slow():
        begun.append(1)
        yield b""
        await may_end.wait()

    headers = {**tenant.headers, "Content-Type": PROTOBUF}
    held = [
        asyncio.create_task(client.post("/v1/logs", content=slow(), headers=headers))
        for _ in range(IN_FLIGHT_A_TENANT)
    ]
    async with asyncio.timeout(10):
        while len(begun) < IN_FLIGHT_A_TENANT:
            await asyncio.sleep(0.01)

    refused = await export(client, tenant.headers, "logs", good("logs"), media_type)
    may_end.set()

    check_status(refused, 429)
    assert {(await one).status_code for one in held} == {200}


@in_both
async def test_who_guesses_keys_is_not_made_to_wait_for_longer_than_clients_do(
    open_app, new_tenant, media_type
):
    tenant = await new_tenant(scopes=("ingest",))
    wrong = {**tenant.headers, "Authorization": "Bearer x"}
    async with open_app(metrics_auth_failures_per_minute=2) as client:
        answers = [await export(client, wrong, "logs", good("logs"), media_type) for _ in range(2)]
        throttled = await export(client, wrong, "logs", good("logs"), media_type)
        by_path = await export(client, wrong, "logs", good("logs"), media_type, path="/i/x/v1/logs")
        valid = await export(client, tenant.headers, "logs", good("logs"), media_type)

    assert [answer.status_code for answer in answers] == [401, 401]
    for answer in (throttled, by_path):
        check_status(answer, 429)
        assert answer.headers["retry-after"] == "5"
    assert valid.status_code == 200


async def test_a_tenant_that_is_being_upgraded_is_tried_again(client, new_tenant, as_owner):
    tenant = await new_tenant()
    await as_owner(
        "UPDATE public.tenant_schemas SET revision = NULL WHERE schema_name = :name",
        name=tenant.tenant.schema_name,
    )

    response = await export(client, tenant.headers, "logs", good("logs"))

    check_status(response, 503)


async def test_a_refusal_elsewhere_is_still_a_problem(client, tenant_once):
    for path in ("/api/v1/nothing", "/api/v1/sessions"):
        response = await client.post(path, content=b"{", headers=tenant_once.headers)
        check_problem(response)
    assert check_refusal(response, 415)
