"""`otlp send-test` against the real server over every protocol, and against what breaks in between."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import grpc
import httpx
import msgspec
import pytest
from broken_servers import (
    Answer,
    accepting,
    answering,
    full,
    grpc_answering,
    hang_up,
    never_answer,
    never_end,
    never_end_head,
    new_certificate,
    page_over_http_2,
    say_nothing,
    serving_files,
)
from command_line import (
    CommandLine,
    Ended,
    eventually,
    free_port,
    on_database,
    running,
    without_ours,
)
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from metrics_service.cli.send_test import PROTOCOLS
from metrics_service.db.addresses import Addresses
from metrics_service.send_test.diagnosis import UNREACHED

HTTP_PROTOCOLS = ("http/protobuf", "http/json")
PROTOBUF = {"content-type": "application/x-protobuf"}
JSON = {"content-type": "application/json"}
HTML = {"content-type": "text/html; charset=utf-8"}
KEY = "msk_only_for_tests_0123456789"


class Customer(msgspec.Struct, frozen=True):
    """A tenant of the test's own."""

    slug: str
    key: str

    @property
    def host(self) -> str:
        return f"{self.slug}.localhost"


class Served(msgspec.Struct, frozen=True):
    """A running server."""

    http: int
    grpc: int

    def port(self, protocol: str) -> int:
        return self.grpc if protocol == "grpc" else self.http


@pytest.fixture(scope="module")
def line(addresses: Addresses) -> CommandLine:
    return on_database(addresses)


@pytest.fixture(scope="module")
def served(line: CommandLine) -> Iterator[Served]:
    ports = Served(free_port(), free_port())
    arguments = ("serve", "--port", str(ports.http), "--otlp-grpc-port", str(ports.grpc))
    with running(line, *arguments) as (_, output):
        output.wait_for("OTLP over gRPC is taken at")
        yield ports


@pytest.fixture(scope="module")
def new_key(line: CommandLine) -> Callable[..., str]:
    def make(
        slug: str, *scopes: str, expires_in: str | None = None, is_revoked: bool = False
    ) -> str:
        options = [word for scope in scopes for word in ("--scope", scope)]
        options += ["--expires-in", expires_in] if expires_in is not None else []
        issued = line.here("key", "create", slug, *options, "--json").json()
        if is_revoked:
            assert line.here("key", "revoke", issued["id"], "--yes").code == 0
        return str(issued["key"])

    return make


@pytest.fixture(scope="module")
def new_customer(line: CommandLine, new_key: Callable[..., str]) -> Callable[[], Customer]:
    def make() -> Customer:
        slug = f"p{uuid4().hex[:12]}"
        line.here("tenant", "create", slug, "--json").json()
        return Customer(slug, new_key(slug, "ingest"))

    return make


@pytest.fixture(scope="module")
def customer(new_customer: Callable[[], Customer]) -> Customer:
    return new_customer()


@pytest.fixture(scope="module")
def laptop() -> CommandLine:
    """A machine that knows nothing of the server: no database, no settings, no proxy."""
    return CommandLine(
        {name: value for name, value in without_ours().items() if "proxy" not in name.lower()}
    )


def send(laptop: CommandLine, endpoint: str, *arguments: str, **environ: str) -> Ended:
    environ = {"METRICS_INGEST_KEY": KEY} | environ
    return laptop.here("otlp", "send-test", "--endpoint", endpoint, *arguments, **environ)


def diagnosed(
    laptop: CommandLine,
    protocol: str,
    port: int,
    *arguments: str,
    scheme: str = "http",
    **given: str,
) -> list[dict[str, Any]]:
    """What is said of each signal; every test here is of something that is not accepted."""
    ended = send(
        laptop,
        f"{scheme}://127.0.0.1:{port}",
        *("--protocol", protocol, "--json", "--timeout", "3"),
        *arguments,
        **given,
    )
    assert ended.code in {1, 5}, ended.err
    outcomes = json.loads(ended.out)
    assert [one["signal"] for one in outcomes] == ["logs", "metrics", "traces"]
    assert all(one["accepted"] == 0 and one["advice"] for one in outcomes)
    assert ended.code == (5 if outcomes[0]["symptom"] in UNREACHED else 1)
    return outcomes


def symptom(*arguments: Any, **given: Any) -> str:
    (found,) = {one["symptom"] for one in diagnosed(*arguments, **given)}
    return str(found)


# -- all is well ------------------------------------------------------------------------------------


def sessions(served: Served, customer: Customer, key: str) -> list[dict[str, Any]]:
    answer = httpx.get(
        f"http://127.0.0.1:{served.http}/api/v1/sessions?agent=otlp-send-test",
        headers={"host": customer.host, "x-api-key": key},
        trust_env=False,
    )
    return list(answer.json()["data"])


def test_a_session_arrives_over_each_protocol_whole(laptop, served, new_key, new_customer):
    customer, other = new_customer(), new_customer()
    keys = {one.slug: new_key(one.slug, "read", "write") for one in (customer, other)}

    # In a process of its own, as on a laptop.
    ended = laptop(
        *("otlp", "send-test", "--endpoint", f"http://127.0.0.1:{served.http}"),
        *("--grpc-endpoint", f"http://127.0.0.1:{served.grpc}", "--host", customer.host, "--json"),
        METRICS_INGEST_KEY=customer.key,
    )

    outcomes = ended.json()
    assert [(one["protocol"], one["signal"]) for one in outcomes] == [
        (protocol, signal) for protocol in PROTOCOLS for signal in ("logs", "metrics", "traces")
    ]
    assert {one["status"] for one in outcomes} == {"200", "OK"}
    assert [(one["sent"], one["accepted"], one["refused"]) for one in outcomes] == (
        [(2, 2, 0), (3, 3, 0), (4, 4, 0)] * 3
    )
    assert {(one["symptom"], one["advice"], one["message"]) for one in outcomes} == {
        (None, None, "")
    }
    stored = sessions(served, customer, keys[customer.slug])
    assert {one["external_id"] for one in stored} == {one["session"] for one in outcomes}
    assert len(stored) == 3
    for one in stored:
        assert (one["tool_call_count"], one["tool_error_count"]) == (2, 1)
        assert (one["model_call_count"], one["input_tokens"], one["output_tokens"]) == (
            1,
            1200,
            150,
        )
        names = {
            call["tool_name"]: call["status"]
            for call in inside(served, customer, keys[customer.slug], one["id"], "tool-metrics")
        }
        assert names == {"read_file": "success", "run_tests": "error"}
        events = inside(served, customer, keys[customer.slug], one["id"], "events")
        assert {"turn", "message"} <= {event["kind"] for event in events}
    assert sessions(served, other, keys[other.slug]) == []


def inside(served: Served, customer: Customer, key: str, session: str, what: str) -> Any:
    answer = httpx.get(
        f"http://127.0.0.1:{served.http}/api/v1/sessions/{session}/{what}",
        headers={"host": customer.host, "x-api-key": key},
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def test_it_is_said_where_the_session_is_and_how_it_goes_away(
    laptop, served, new_customer, new_key
):
    customer = new_customer()
    key = new_key(customer.slug, "read", "write")

    ended = send(
        laptop,
        f"http://127.0.0.1:{served.http}",
        *("--protocol", "http/json", "--host", customer.host),
        METRICS_INGEST_KEY=customer.key,
    )

    (stored,) = sessions(served, customer, key)
    assert ended.code == 0
    assert f"session {stored['external_id']} of agent otlp-send-test" in ended.out
    page = f"http://{customer.host}:{served.http}"
    assert f"{page}/api/v1/sessions?agent=otlp-send-test" in ended.out
    assert f"curl -X DELETE {page}/api/v1/sessions/ID" in ended.out
    deleted = httpx.delete(
        f"http://127.0.0.1:{served.http}/api/v1/sessions/{stored['id']}",
        headers={"host": customer.host, "x-api-key": key},
        trust_env=False,
    )
    assert deleted.status_code == 204
    assert sessions(served, customer, key) == []


def test_a_session_that_went_over_grpc_is_looked_at_over_http(laptop, served, customer):
    grpc = f"http://127.0.0.1:{served.grpc}"
    told = ("--host", customer.host)
    given = {"METRICS_INGEST_KEY": customer.key}

    ended = send(laptop, f"http://127.0.0.1:{served.http}", "--grpc-endpoint", grpc, *told, **given)
    alone = send(laptop, grpc, "--protocol", "grpc", *told, **given)

    page = f"http://{customer.host}:{served.http}/api/v1/sessions?agent=otlp-send-test"
    assert (ended.code, ended.out.count(f"see {page}")) == (0, 3)
    assert (alone.code, alone.out.count("see $HOST/api/v1/sessions")) == (0, 1)


def test_the_host_and_the_key_can_be_headers_as_agents_have_them(laptop, served, customer):
    ended = laptop.here(
        *("otlp", "send-test", "--endpoint", f"http://127.0.0.1:{served.http}", "--json"),
        *("--grpc-endpoint", f"http://127.0.0.1:{served.grpc}"),
        *("--header", f"host={customer.host}", "--header", f"Authorization=Bearer {customer.key}"),
    )

    assert all(one["symptom"] is None for one in ended.json())
    assert customer.key not in ended.out + ended.err


def test_a_key_in_the_path_is_taken_and_never_shown(laptop, served, customer):
    ended = laptop.here(
        *("otlp", "send-test", "--endpoint", f"http://127.0.0.1:{served.http}/i/{customer.key}"),
        *("--host", customer.host, "--protocol", "http/protobuf"),
    )
    refused = laptop.here(
        *("otlp", "send-test", "--endpoint", f"http://127.0.0.1:{served.http}/i/msk_wrong/"),
        *("--host", customer.host, "--protocol", "http/protobuf"),
    )

    assert (ended.code, refused.code) == (0, 1), ended.out
    assert customer.key not in ended.out + ended.err
    assert "msk_wrong" not in refused.out + refused.err
    assert "does not take this key" in refused.out


def test_a_server_whose_certificate_is_trusted_and_for_the_host_is_sent_to(laptop, tmp_path):
    certificate = new_certificate(tmp_path, name="team.example")
    with answering(Answer(200, b"{}", JSON), trust=certificate.server_side()) as port:
        ended = send(
            laptop,
            f"https://127.0.0.1:{port}",
            *("--protocol", "http/json", "--host", "team.example"),
            SSL_CERT_FILE=str(certificate.file),
        )

    assert ended.code == 0, ended.out


@pytest.mark.parametrize(("host", "code"), [("team.example", 0), ("other.example", 5)])
def test_grpc_behind_tls_is_sent_to_where_the_certificate_is_for_the_host(
    laptop, tmp_path, host, code
):
    certificate = new_certificate(tmp_path, name="team.example")
    with grpc_answering(lambda _: b"", certificate=certificate) as port:
        ended = send(
            laptop,
            f"https://127.0.0.1:{port}",
            *("--protocol", "grpc", "--host", host),
            SSL_CERT_FILE=str(certificate.file),
        )

    assert ended.code == code, ended.out
    assert ("the certificate is not for other.example" in ended.out) == (code == 5)


@pytest.mark.parametrize("protocol", HTTP_PROTOCOLS)
def test_http_at_a_port_of_grpc_behind_tls_is_told_of(laptop, tmp_path, protocol):
    certificate = new_certificate(tmp_path)
    with grpc_answering(lambda _: b"", certificate=certificate) as port:
        environ = {"SSL_CERT_FILE": str(certificate.file)}
        assert symptom(laptop, protocol, port, scheme="https", **environ) == "http_to_grpc"


# -- the server says no -----------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_host_that_is_no_tenants_is_named(laptop, served, protocol):
    outcomes = diagnosed(laptop, protocol, served.port(protocol), "--host", "nobody.localhost")

    assert {one["symptom"] for one in outcomes} == {"host_unknown"}
    assert "no tenant lives at nobody.localhost" in outcomes[0]["advice"]
    assert "nothing is served at this address" in outcomes[0]["message"]


@pytest.fixture(scope="module")
def unwanted(customer: Customer, new_customer: Any, new_key: Any) -> list[str]:
    """Keys that the customer's tenant does not take."""
    expired = new_key(customer.slug, "ingest", expires_in="1s")
    revoked = new_key(customer.slug, "ingest", is_revoked=True)
    another = new_customer().key
    time.sleep(1)
    return [another, expired, revoked, "msk_nobodys"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_key_that_the_tenant_does_not_take_is_told_of(
    laptop, served, customer, unwanted, protocol
):
    messages = []
    for key in unwanted:
        outcomes = diagnosed(
            laptop, protocol, served.port(protocol), "--host", customer.host, METRICS_INGEST_KEY=key
        )

        assert {one["symptom"] for one in outcomes} == {"key_unknown"}
        assert f"{customer.host} does not take this key" in outcomes[0]["advice"]
        assert key not in json.dumps(outcomes)
        messages.append(outcomes[0]["message"])
    # Whether a key is another tenant's is nobody's to know.
    assert messages[0] == messages[3] == "a valid API key of this tenant is required"
    assert "expired" in messages[1]
    assert "revoked" in messages[2]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_an_address_that_failed_too_often_still_learns_that_its_key_is_wrong(
    laptop, served, new_customer, protocol
):
    customer = new_customer()
    arguments = ("--protocol", protocol, "--host", customer.host, "--json")
    endpoint = f"http://127.0.0.1:{served.port(protocol)}"

    # Each counts once, as no other signal follows a key that is refused.
    said = [json.loads(send(laptop, endpoint, *arguments).out) for _ in range(21)]

    assert {one["symptom"] for outcomes in said[:20] for one in outcomes} == {"key_unknown"}
    assert {one["symptom"] for one in said[20]} == {"too_many_failures"}
    assert [one["status"] for one in said[19]][1:] == ["not tried", "not tried"]
    right = send(laptop, endpoint, *arguments, METRICS_INGEST_KEY=customer.key)
    assert right.code == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_missing_key_is_told_of(laptop, served, customer, protocol):
    arguments = (laptop, protocol, served.port(protocol), "--host", customer.host)

    assert symptom(*arguments, METRICS_INGEST_KEY="") == "key_missing"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_key_that_may_only_read_is_told_of(laptop, served, customer, new_key, protocol):
    arguments = (laptop, protocol, served.port(protocol), "--host", customer.host)

    outcomes = diagnosed(*arguments, METRICS_INGEST_KEY=new_key(customer.slug, "read"))

    assert {one["symptom"] for one in outcomes} == {"scope_missing"}
    assert "scope ingest" in outcomes[0]["message"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_suspended_tenant_is_told_of(laptop, line, served, new_customer, protocol):
    customer = new_customer()
    arguments = ("--protocol", protocol, "--host", customer.host, "--json")
    endpoint = f"http://127.0.0.1:{served.port(protocol)}"
    assert line.here("tenant", "suspend", customer.slug).code == 0

    def said() -> set[str | None]:
        ended = send(laptop, endpoint, *arguments, METRICS_INGEST_KEY=customer.key)
        return {one["symptom"] for one in json.loads(ended.out)}

    # Other processes hear of it a moment later.
    eventually(lambda: said() == {"suspended"})


@pytest.mark.parametrize("protocol", HTTP_PROTOCOLS)
@pytest.mark.parametrize(
    ("path", "expected"), [("/v1/logs", "path_twice"), ("/telemetry", "path_wrong")]
)
def test_a_wrong_path_is_told_of(laptop, served, customer, protocol, path, expected):
    ended = send(
        laptop,
        f"http://127.0.0.1:{served.http}{path}",
        *("--protocol", protocol, "--json", "--host", customer.host),
        METRICS_INGEST_KEY=customer.key,
    )

    outcomes = json.loads(ended.out)
    assert {one["symptom"] for one in outcomes} == {expected}
    assert path in outcomes[0]["advice"]


# -- the wrong port ---------------------------------------------------------------------------------


def test_grpc_at_the_port_of_http_is_told_of(laptop, served):
    assert symptom(laptop, "grpc", served.http) == "grpc_to_http"


@pytest.mark.parametrize("protocol", HTTP_PROTOCOLS)
def test_http_at_the_port_of_grpc_is_told_of(laptop, served, protocol):
    assert symptom(laptop, protocol, served.grpc) == "http_to_grpc"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tls_to_a_plain_port_is_told_of(laptop, served, protocol):
    for port in (served.http, served.grpc):
        assert symptom(laptop, protocol, port, scheme="https") == "tls_to_plain"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_to_a_tls_port_is_told_of(laptop, tmp_path, protocol):
    trust = new_certificate(tmp_path).server_side()
    with answering(Answer(200), trust=trust) as port:
        assert symptom(laptop, protocol, port) == "plain_to_tls"


@pytest.mark.parametrize(
    "page",
    [
        b"<html><title>400 The plain HTTP request was sent to HTTPS port</title></html>",
        b"Client sent an HTTP request to an HTTPS server.\n",
    ],
)
def test_the_words_of_tls_servers_for_plain_http_are_known(laptop, page):
    with answering(Answer(400, page, HTML)) as port:
        assert symptom(laptop, "http/protobuf", port) == "plain_to_tls"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_closed_port_is_told_of(laptop, protocol):
    outcomes = diagnosed(laptop, protocol, port := free_port())

    assert {one["symptom"] for one in outcomes} == {"refused"}
    assert [one["status"] for one in outcomes] == ["", "not tried", "not tried"]
    assert f"nothing listens at 127.0.0.1 port {port}" in outcomes[0]["advice"]
    assert "4317" in outcomes[0]["advice"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_name_that_nobody_knows_is_told_of(laptop, protocol):
    # `.invalid` is nobody's for ever (RFC 2606).
    ended = send(laptop, "http://nothing.invalid:8000", "--protocol", protocol)

    assert ended.code == 5
    assert "this machine does not know the name nothing.invalid" in ended.out


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_silent_program_is_told_of(laptop, protocol):
    with accepting(say_nothing) as port:
        started = time.monotonic()
        assert symptom(laptop, protocol, port, "--timeout", "1") == "silent"

    assert time.monotonic() - started < 8


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_port_that_cannot_be_connected_to_in_time_is_told_of(laptop, protocol):
    with full() as port:
        assert symptom(laptop, protocol, port, "--timeout", "1") == "connect_timeout"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_program_that_hangs_up_is_told_of(laptop, protocol):
    with accepting(hang_up) as port:
        assert symptom(laptop, protocol, port) == "broken_off"


def test_an_answer_without_end_is_left(laptop):
    with accepting(never_end) as port:
        started = time.monotonic()
        found = symptom(laptop, "http/protobuf", port, "--timeout", "1")

    assert found == "not_otlp"
    assert time.monotonic() - started < 8


@pytest.mark.parametrize("talk", [never_answer, never_end_head])
def test_a_head_without_end_is_left(laptop, talk):
    with accepting(talk) as port:
        started = time.monotonic()
        found = symptom(laptop, "http/protobuf", port, "--timeout", "1")

    assert found == "silent"
    assert time.monotonic() - started < 8


# -- certificates -----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("name", "days", "is_trusted", "expected"),
    [
        ("127.0.0.1", 1, False, "certificate_untrusted"),
        ("elsewhere.example", 1, True, "certificate_host"),
        ("127.0.0.1", -1, True, "certificate_expired"),
    ],
)
def test_a_certificate_that_is_refused_is_told_of(
    laptop, tmp_path, protocol, name, days, is_trusted, expected
):
    certificate = new_certificate(tmp_path, name=name, days=days)
    environ = {"SSL_CERT_FILE": str(certificate.file)} if is_trusted else {}
    with answering(Answer(200), trust=certificate.server_side()) as port:
        assert symptom(laptop, protocol, port, scheme="https", **environ) == expected


def test_grpc_at_a_tls_port_without_http_2_is_told_of(laptop, tmp_path):
    certificate = new_certificate(tmp_path)
    with answering(Answer(200), trust=certificate.server_side()) as port:
        arguments = (laptop, "grpc", port)
        environ = {"SSL_CERT_FILE": str(certificate.file)}
        assert symptom(*arguments, scheme="https", **environ) == "grpc_to_http"


# -- somebody else answers --------------------------------------------------------------------------


def status(message: str) -> bytes:
    return Status(code=3, message=message).SerializeToString()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(200, b"<html>Sign in</html>", HTML), "foreign"),
        (Answer(401, b"<html>Who are you?</html>", HTML), "foreign"),
        (Answer(403, b"<html>Blocked</html>", HTML), "foreign"),
        (Answer(404, b"<html>404</html>", HTML), "foreign"),
        (Answer(200, b"", {}), "not_otlp"),
        (Answer(200, b'{"ok": true}', JSON), "not_otlp"),
        (Answer(200, b"\xff\xff\xff", PROTOBUF), "not_otlp"),
        (Answer(204), "not_otlp"),
        (Answer(400, status("a field is wrong"), PROTOBUF), "not_accepted"),
        (Answer(405, status("POST is not for this path"), PROTOBUF), "method"),
        (Answer(413, b"<html>413</html>", HTML), "too_large"),
        (Answer(413, status("64 MiB at most"), PROTOBUF), "too_large"),
        (Answer(415, status("Content-Type must be..."), PROTOBUF), "media_type"),
        (Answer(429, status("too many"), PROTOBUF | {"retry-after": "7"}), "busy"),
        (Answer(502, b"<html>Bad gateway</html>", HTML), "busy"),
        (Answer(503, status("busy"), PROTOBUF | {"retry-after": "2"}), "busy"),
        (Answer(500, b"oh", HTML), "server_error"),
        (Answer(301, b"", {"location": "/login?secret=1"}), "redirect"),
        (Answer(302, b"", {"location": "https://sso.example/in?x=1"}), "redirect"),
        (Answer(308, b"", {"location": "https://127.0.0.1/v1/logs"}), "redirect_to_tls"),
        (Answer(307, b"", {"location": "https://[broken"}), "redirect"),
    ],
)
def test_each_answer_has_its_meaning(laptop, answer, expected):
    with answering(answer) as port:
        outcomes = diagnosed(laptop, "http/protobuf", port)

    assert {one["symptom"] for one in outcomes} == {expected}
    assert {one["status"] for one in outcomes} == {str(answer.status)}
    if answer.headers.get("content-type") == PROTOBUF["content-type"] and answer.status > 399:
        assert outcomes[0]["message"] == Status.FromString(answer.body).message
    if "retry-after" in answer.headers:
        assert f"try again in {answer.headers['retry-after']} s" in outcomes[0]["advice"]
    assert "secret=1" not in json.dumps(outcomes)


def test_a_redirect_to_https_is_the_endpoint_to_use(laptop):
    location = "https://127.0.0.1/base/v1/logs"
    with answering(Answer(301, b"", {"location": location})) as port:
        (advice, *_) = (one["advice"] for one in diagnosed(laptop, "http/json", port))

    assert advice.endswith("use the endpoint https://127.0.0.1/base")


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"code": 3, "message": "in JSON"}).encode(),
        b"[1]",
        b"{",
        json.dumps({"message": 5}).encode(),
        b'{"message": "\xff"}',
        b'{"message": ' * 100_000,
    ],
)
def test_refusals_in_json_are_read_with_care(laptop, body):
    with answering(Answer(400, body, JSON)) as port:
        outcomes = diagnosed(laptop, "http/json", port)

    is_ours = b"in JSON" in body
    assert {one["symptom"] for one in outcomes} == {"not_accepted" if is_ours else "foreign"}
    assert outcomes[0]["message"] == ("in JSON" if is_ours else "")


def test_another_program_on_the_port_is_told_of(laptop, tmp_path):
    with serving_files(tmp_path) as port:
        outcomes = diagnosed(laptop, "http/protobuf", port)

    assert {one["symptom"] for one in outcomes} == {"foreign"}
    assert "SimpleHTTP" in outcomes[0]["advice"]


def test_refused_items_are_counted_and_explained(laptop):
    partial = ExportLogsServiceResponse()
    partial.partial_success.rejected_log_records = 1
    partial.partial_success.error_message = "a \x1b[31mtime\nis wrong"
    with answering(Answer(200, partial.SerializeToString(), PROTOBUF)) as port:
        ended = send(laptop, f"http://127.0.0.1:{port}", "--protocol", "http/protobuf", "--json")

    logs = json.loads(ended.out)[0]
    assert ended.code == 1
    assert (logs["sent"], logs["accepted"], logs["refused"]) == (2, 1, 1)
    assert logs["symptom"] == "items_refused"
    # One line, and nothing that moves a terminal's cursor.
    assert logs["message"] == "a  [31mtime is wrong"


def test_a_server_of_grpc_that_knows_no_otlp_is_told_of(laptop):
    with grpc_answering(None) as port:
        assert symptom(laptop, "grpc", port) == "method"


@pytest.mark.parametrize(
    ("code", "wait_s", "expected"),
    [
        (grpc.StatusCode.UNAVAILABLE, 4, "busy"),
        (grpc.StatusCode.UNAVAILABLE, None, "busy"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 4, "busy"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, None, "too_large"),
        (grpc.StatusCode.INTERNAL, None, "server_error"),
        (grpc.StatusCode.INVALID_ARGUMENT, None, "not_accepted"),
    ],
)
def test_each_refusal_of_grpc_has_its_meaning(laptop, code, wait_s, expected):
    def refuse(context: Any) -> bytes:
        if wait_s is not None:
            told, retry = Status(code=code.value[0], message="no"), RetryInfo()
            retry.retry_delay.seconds = wait_s
            told.details.add().Pack(retry)
            context.set_trailing_metadata((("grpc-status-details-bin", told.SerializeToString()),))
        context.abort(code, "no")
        return b""

    with grpc_answering(refuse) as port:
        outcomes = diagnosed(laptop, "grpc", port)

    assert {one["symptom"] for one in outcomes} == {expected}
    assert {(one["status"], one["message"]) for one in outcomes} == {(code.name, "no")}
    assert ("in 4 s" in outcomes[0]["advice"]) == (wait_s is not None)


def test_an_answer_of_grpc_that_is_none_of_otlp_is_told_of(laptop):
    with grpc_answering(lambda _: b"\xff\xff\xff") as port:
        assert symptom(laptop, "grpc", port) == "not_otlp"


def test_a_gateway_that_does_not_pass_grpc_is_told_of(laptop):
    with accepting(page_over_http_2) as port:
        assert symptom(laptop, "grpc", port) == "foreign"


# -- proxies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_proxy_that_is_away_is_named_without_its_password(laptop, served, protocol):
    proxy = f"http://someone:hunter2@127.0.0.1:{free_port()}"

    outcomes = diagnosed(laptop, protocol, served.port(protocol), http_proxy=proxy)

    assert {one["symptom"] for one in outcomes} == {"proxy_failed"}
    assert "NO_PROXY" in outcomes[0]["advice"]
    assert "hunter2" not in json.dumps(outcomes)


def test_a_proxy_that_wants_a_password_is_told_of(laptop, served):
    with answering(Answer(407, b"<html>Password?</html>", HTML)) as port:
        found = symptom(laptop, "http/json", served.http, http_proxy=f"http://127.0.0.1:{port}")

    assert found == "proxy_failed"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_proxy_lets_it_pass(laptop, served, customer, protocol):
    ended = send(
        laptop,
        f"http://127.0.0.1:{served.port(protocol)}",
        *("--protocol", protocol, "--host", customer.host),
        METRICS_INGEST_KEY=customer.key,
        http_proxy=f"http://127.0.0.1:{free_port()}",
        no_proxy="localhost,127.0.0.1",
    )

    assert ended.code == 0, ended.out


def test_it_is_said_that_a_proxy_was_gone_through(laptop):
    with answering(Answer(200, b"{}", JSON)) as port:
        ended = send(
            laptop,
            "http://metrics.example",
            *("--protocol", "http/json"),
            HTTP_PROXY=f"http://127.0.0.1:{port}",
        )

    assert ended.code == 0, ended.out
    assert f"note: it went through the proxy 127.0.0.1:{port} of http_proxy" in ended.out


# -- what cannot be sent with -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--endpoint", "acme.example.com:8000"], "begins with neither http:// nor https://"),
        (["--endpoint", "//acme.example.com"], "begins with neither http:// nor https://"),
        (["--endpoint", "grpc://acme.example.com"], "begins with grpc://"),
        (["--endpoint", "http://acme.example.com?key=secret"], "all that follows ? or #"),
        (["--endpoint", "http://acme.example.com?"], "all that follows ? or #"),
        (["--endpoint", "http://acme.example.com/#top"], "all that follows ? or #"),
        (["--endpoint", "http://u:secret@acme.example.com"], "leave user:password@ out"),
        (["--endpoint", "http://u:secret@acme.example.com:port"], "is no address"),
        (["--endpoint", "http://acme.example.com:99999"], "is no address"),
        (["--endpoint", "http://"], "is no address"),
        (["--endpoint", ""], "begins with neither"),
        (["--endpoint", "http://a", "--key", "msk_secret\n"], "the key has a line break"),
        (["--endpoint", "http://a", "--key", "msk_secret two"], "the key has a space"),
        (["--endpoint", "http://a", "--key", "msk_sécret"], "outside of ASCII"),
        (["--endpoint", "http://a", "--key", ""], "the key is empty"),
        (["--endpoint", "http://a", "--header", "secret"], "has no name, or no ="),
        (["--endpoint", "http://a", "--header", "a b=secret"], "cannot be sent"),
        (["--endpoint", "http://a", "--header", "a=secret\r\nb: c"], "has a line break"),
        (["--endpoint", "http://a", "--header", "content-length=1"], "is the exporter's own"),
        (["--endpoint", "http://a", "--host", "http://b"], "is no name"),
        (["--endpoint", "http://a/v1", "--protocol", "grpc"], "gRPC has no paths"),
        (["--endpoint", "http://a", "--protocol", "http"], "'http' is not one of"),
        (["--endpoint", "http://a", "--timeout", "0"], "--timeout"),
        (["--endpoint", "http://a", "--timeout", "nan"], "--timeout"),
    ],
)
def test_what_cannot_be_sent_with_is_wrong_usage(laptop, arguments, words):
    ended = laptop.here("otlp", "send-test", *arguments)

    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err
    assert ended.err.count("\n") == 1
    assert "secret" not in ended.err
    assert "sécret" not in ended.err


@pytest.mark.parametrize(
    "environ",
    [
        {"http_proxy": "socks5://127.0.0.1:1080"},
        {"all_proxy": "http://127.0.0.1:x"},
        {"SSL_CERT_FILE": "/nowhere/ca.pem"},
    ],
)
def test_an_environment_that_cannot_be_used_is_named(laptop, environ):
    ended = send(laptop, f"http://127.0.0.1:{free_port()}", **environ)

    assert ended.code == 2
    assert next(iter(environ)) in ended.err


def test_the_key_is_never_shown(laptop, served, customer, tmp_path):
    echo = Answer(400, json.dumps({"code": 3, "message": f"what is {KEY}?"}).encode(), JSON)
    with ExitStack() as held:
        port = held.enter_context(answering(echo))
        said = [
            send(laptop, f"http://127.0.0.1:{place}", *arguments)
            for place in (port, served.http, free_port())
            for arguments in (["--json"], [], ["--host", customer.host, "--protocol", "http/json"])
        ]
        said.append(laptop.here("otlp", "send-test", "--help", METRICS_INGEST_KEY=KEY))

    assert any("what is ***?" in ended.out for ended in said)
    assert all(KEY not in ended.out + ended.err for ended in said)
