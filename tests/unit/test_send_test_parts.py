"""`otlp send-test` without a network: the session it makes up, its advice, and what it keeps to itself."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from string import Formatter

import pytest

from metrics_service import send_test
from metrics_service.otlp.decoded import Tally
from metrics_service.otlp.from_json import logs_from_json, points_from_json, spans_from_json
from metrics_service.otlp.from_protobuf import (
    logs_from_protobuf,
    points_from_protobuf,
    spans_from_protobuf,
)
from metrics_service.send_test.answers import JSON, HttpAnswer, Meaning, read_answer
from metrics_service.send_test.as_json import as_json
from metrics_service.send_test.diagnosis import ADVICE, UNREACHED, Finding, Symptom
from metrics_service.send_test.endpoint import parse_endpoint, parse_told
from metrics_service.send_test.environment import Proxy
from metrics_service.send_test.probe import of_name
from metrics_service.send_test.session import new_session

NOW_NS = 1_795_300_983_740_901_172
KEY = "msk_only_for_tests_0123456789"


def test_every_symptom_has_its_advice_and_every_advice_can_be_written():
    endpoint = parse_endpoint(f"https://[::1]:8443/base/i/{KEY}", host="acme.localhost")

    for symptom in Symptom:
        said = endpoint.advice(Finding(symptom, "what was seen"))
        assert said
        assert "{" not in said
        assert KEY not in said
        fields = {field for _, field, _, _ in Formatter().parse(ADVICE[symptom]) if field}
        assert fields <= {"scheme", "host", "port", "asked", "endpoint", "detail"}
    assert set(ADVICE) == set(Symptom)


def test_every_symptom_can_be_found():
    named = set()
    for file in Path(send_test.__path__[0]).glob("*.py"):
        if file.name != "diagnosis.py":
            named |= {
                node.attr
                for node in ast.walk(ast.parse(file.read_text()))
                if isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "Symptom"
            }

    assert named == {symptom.name for symptom in Symptom}


def test_what_was_found_before_sending_is_advised_without_an_endpoint():
    # `UnusableError` knows no more than these.
    configured = list(Symptom)[: list(Symptom).index(Symptom.NAME_UNKNOWN)]

    assert not UNREACHED.intersection(configured)
    for symptom in configured:
        assert ADVICE[symptom].format(detail="", endpoint="")


@pytest.mark.parametrize(
    ("signal", "from_protobuf", "from_json", "items"),
    [
        ("logs", logs_from_protobuf, logs_from_json, 2),
        ("metrics", points_from_protobuf, points_from_json, 3),
        ("traces", spans_from_protobuf, spans_from_json, 4),
    ],
)
def test_both_encodings_say_the_same(signal, from_protobuf, from_json, items):
    session = new_session("http/json", NOW_NS)
    (export,) = (one for one in session.exports if one.signal == signal)
    received = () if signal == "traces" else (NOW_NS,)

    binary = list(from_protobuf(export.request.SerializeToString(), *received, tally := Tally()))
    text = list(from_json(as_json(export.request), *received, tally))

    assert (len(binary), tally.rejected) == (export.items, 0)
    assert len(binary) == items
    assert binary == text


def test_the_json_is_otlps_own():
    session = new_session("http/json", NOW_NS)
    said = {one.signal: json.loads(as_json(one.request)) for one in session.exports}

    spans = said["traces"]["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert all(re.fullmatch("[0-9a-f]{32}", span["traceId"]) for span in spans)
    assert all(re.fullmatch("[0-9a-f]{16}", span["spanId"]) for span in spans)
    assert {span.get("parentSpanId") for span in spans} == {None, spans[0]["spanId"]}
    assert [span["kind"] for span in spans] == [1, 3, 1, 1]
    assert all(isinstance(span["startTimeUnixNano"], str) for span in spans)
    (tokens, *_) = said["metrics"]["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
    assert tokens["histogram"]["aggregationTemporality"] == 1
    assert tokens["histogram"]["dataPoints"][0]["bucketCounts"] == ["0", "0", "1", "0"]


def test_sessions_are_named_by_time_and_protocol_and_nothing_else_is_shared():
    sessions = [new_session(protocol, NOW_NS) for protocol in ("http/protobuf", "grpc")]

    assert [one.external_id for one in sessions] == [
        "send-test-20261121T224303740901Z-http-protobuf",
        "send-test-20261121T224303740901Z-grpc",
    ]
    traces = {
        one.exports[2].request.resource_spans[0].scope_spans[0].spans[0].trace_id
        for one in sessions
    }
    assert len(traces) == 2


def test_the_session_has_just_ended():
    (traces,) = (one for one in new_session("grpc", NOW_NS).exports if one.signal == "traces")

    spans = traces.request.resource_spans[0].scope_spans[0].spans

    assert max(span.end_time_unix_nano for span in spans) == NOW_NS
    assert min(span.start_time_unix_nano for span in spans) == NOW_NS - 4 * 10**9
    assert len(spans) == traces.items == 4


@pytest.mark.parametrize(
    ("text", "host", "url", "asked", "page"),
    [
        ("https://acme.test", None, "https://acme.test:443/v1/logs", "acme.test", "https://acme.test"),
        ("http://a:8000/", None, "http://a:8000/v1/logs", "a:8000", "http://a:8000"),
        ("http://a/x//", None, "http://a:80/x/v1/logs", "a", "http://a/x"),
        (" HTTP://A:80 ", None, "http://a:80/v1/logs", "a", "http://a"),
        ("http://[::1]:8000", None, "http://[::1]:8000/v1/logs", "[::1]:8000", "http://[::1]:8000"),
        ("http://[::1]", "b.test", "http://[::1]:80/v1/logs", "b.test", "http://b.test"),
        ("http://1.2.3.4:8", "b.test", "http://1.2.3.4:8/v1/logs", "b.test", "http://b.test:8"),
        ("http://1.2.3.4:8", "b.test:9", "http://1.2.3.4:8/v1/logs", "b.test:9", "http://b.test:9"),
        ("https://bücher.test", None, "https://xn--bcher-kva.test:443/v1/logs", "xn--bcher-kva.test", "https://xn--bcher-kva.test"),
    ],
)  # fmt: skip
def test_an_endpoint_is_read_as_an_exporter_reads_it(text, host, url, asked, page):
    endpoint = parse_endpoint(text, host=host)

    assert endpoint.url("/v1/logs") == url
    assert (endpoint.asked, endpoint.page) == (asked, page)


def test_grpc_is_looked_for_beside_http():
    beside = parse_endpoint("http://acme.test:8000/base", host=None).of_grpc()
    renamed = parse_endpoint("http://127.0.0.1:8000", host="acme.test").of_grpc()

    assert (beside.authority, beside.path, beside.asked) == ("acme.test:4317", "", "acme.test:4317")
    assert (renamed.authority, renamed.asked) == ("127.0.0.1:4317", "acme.test")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("acme.localhost", Symptom.NAME_LOCALHOST),
        ("ACME.LOCALHOST.", Symptom.NAME_LOCALHOST),
        ("localhost.example", Symptom.NAME_UNKNOWN),
    ],
)
def test_names_of_this_machine_have_an_advice_of_their_own(host, expected):
    assert of_name(host).symptom is expected


def test_the_advice_for_localhost_keeps_the_port_and_the_name():
    said = parse_endpoint("http://acme.localhost:8123", host=None).advice(of_name("acme.localhost"))

    assert "endpoint http://127.0.0.1:8123 and --host acme.localhost" in said


def test_secrets_are_blotted_out_of_whatever_is_said():
    told, host = parse_told(KEY, ["Authorization=Basic c2VjcmV0", "X-Team=web", "Host=a.test"], 1)

    said = told.hide(f"{KEY} Basic c2VjcmV0 web http://a/i/msk_other/v1/logs")

    assert said == "*** *** web http://a/i/***/v1/logs"
    assert host == "a.test"
    assert told.headers == {"x-api-key": KEY, "authorization": "Basic c2VjcmV0", "x-team": "web"}


def test_a_proxy_is_named_without_its_password():
    assert Proxy("http_proxy", "http://user:pass@proxy:3128/").place == "proxy:3128"


# -- answers that are made to break something ---------------------------------------------------------


def meaning_of(status: int, body: bytes, **headers: str) -> Meaning:
    endpoint = parse_endpoint("http://127.0.0.1:8000", host=None)
    answer = HttpAnswer(status, {"content-type": JSON} | headers, body)
    return read_answer(answer, endpoint, "logs", sent=JSON, has_credential=True)


@pytest.mark.parametrize("body", [b'{"a":' * 100_000, b'{"partialSuccess": "\xff"}'])
def test_a_success_that_cannot_be_read_is_none(body):
    finding = meaning_of(200, body).finding

    assert finding is not None
    assert finding.symptom is Symptom.NOT_OTLP


def test_less_than_nothing_cannot_be_refused():
    body = b'{"partialSuccess": {"rejectedLogRecords": "-5", "errorMessage": "a word"}}'

    assert meaning_of(200, body) == Meaning(None, "a word", 0)


@pytest.mark.parametrize(("asked", "told"), [("7", " in 7 s"), ("9" * 1000, "")])
def test_only_a_wait_that_may_be_meant_is_passed_on(asked, told):
    assert meaning_of(429, b"{}", **{"retry-after": asked}).finding == Finding(Symptom.BUSY, told)
