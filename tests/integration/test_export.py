"""Export to a real receiver: both protocols, and every way in which a collector can fail."""

from __future__ import annotations

import datetime as dt
import io
import ipaddress
import logging
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from metrics_service.logs import configure_logging
from metrics_service.observability import catalog, work
from metrics_service.observability.export import Export, delivery, load_otel_settings, start_export
from metrics_service.observability.export.batches import MAX_REQUEST_ITEMS

sys.path.append(str(Path(__file__).parents[1]))

from otlp_collector import (
    Behaviour,
    GrpcCollector,
    HttpCollector,
    answering,
    attributes_of,
    break_off,
    dripping,
    grpc_collector,
    hang_up,
    http_collector,
    silent,
)

PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
PROMPT = {"OTEL_BSP_SCHEDULE_DELAY": "20", "OTEL_BLRP_SCHEDULE_DELAY": "20"}
TRACES = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_LOGS_EXPORTER": "none"}
ONLY_TRACES = {**TRACES, "OTEL_METRICS_EXPORTER": "none"}


@pytest.fixture
def http() -> Iterator[HttpCollector]:
    with http_collector() as collector:
        yield collector


@pytest.fixture
def rpc() -> Iterator[GrpcCollector]:
    with grpc_collector() as collector:
        yield collector


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FIRST_PAUSE_S", 0.05)
    for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """What is written to standard output."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, write_through=True))
    root = logging.getLogger()
    before = (root.handlers, root.level)
    configure_logging("info", json=True)
    # A logger remembers where it wrote first.
    monkeypatch.setattr(delivery, "log", structlog.get_logger())
    yield lambda: written.getvalue().decode()
    root.handlers, root.level = before[0], before[1]
    structlog.reset_defaults()


@contextmanager
def exporting(url: str, **variables: str) -> Iterator[Export]:
    settings = load_otel_settings({"OTEL_EXPORTER_OTLP_ENDPOINT": url, **PROMPT, **variables})
    export = start_export(settings, process="test")
    assert export is not None
    try:
        yield export
    finally:
        export.stop()


def do_work(count: int = 1, name: str = "some work") -> None:
    for _ in range(count):
        with work.working(name), work.span("a part"):
            pass


def wait_for(is_so: Callable[[], Any], timeout_s: float = 10.0) -> None:
    until = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.01)


def failure_of(export: Export) -> str | None:
    return export.state()["traces"].failure


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_all_signals_arrive_with_who_sent_them(
    protocol: str, compression: str, lines: Callable[[], str]
) -> None:
    with (
        grpc_collector() if protocol == "grpc" else http_collector() as collector,
        exporting(
            collector.url,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_COMPRESSION=compression,
            OTEL_EXPORTER_OTLP_HEADERS="x-tenant=some%20one",
            OTEL_METRIC_EXPORT_INTERVAL="50",
            OTEL_SERVICE_NAME="watched",
        ) as export,
    ):
        catalog.JOBS.add(1, "test", "done")
        with work.working("some work") as done, work.span("a part"):
            structlog.get_logger().info("a line", number=1)
        collector.wait_for(
            lambda: {signal for signal, _ in collector.requests} == {"traces", "logs", "metrics"}
        )
        wait_for(lambda: all(state.sent for state in export.state().values()))

    assert [span.name for span in collector.spans()] == ["a part", "some work"]
    assert {span.trace_id for span in collector.spans()} == {done.trace_id}
    (record,) = [r for r in collector.records() if r.body.string_value == "a line"]
    assert (record.trace_id, record.span_id) == (done.trace_id, done.span_id)
    assert done.trace_id.hex() in lines()
    assert "metrics_service.maintenance.jobs" in {metric.name for metric in collector.metrics()}
    for headers in collector.headers:
        assert headers["x-tenant"] == "some one"
        assert headers["user-agent"].startswith("metrics-service-export/")
    for signal, message in collector.requests:
        resources = getattr(message, f"resource_{'spans' if signal == 'traces' else signal}")
        said = attributes_of(resources[0].resource)
        assert said["service.name"] == "watched"
        assert said["metrics_service.process"] == "test"
    assert all(state.failure is None for state in export.state().values())


def test_what_is_left_is_sent_in_the_end(http: HttpCollector) -> None:
    slow = {"OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_METRIC_EXPORT_INTERVAL": "60000"}
    with exporting(http.url, **{**TRACES, **slow, "OTEL_METRICS_EXPORTER": "otlp"}):
        do_work(600)

    assert len(http.spans()) == 1200
    assert http.metrics()


def test_after_the_end_nothing_is_kept(http: HttpCollector, lines: Callable[[], str]) -> None:
    with exporting(http.url):
        assert work.is_tracing()

    assert not work.is_tracing()
    with work.working("later") as later:
        structlog.get_logger().info("later")
    assert not later.is_sampled
    assert "trace_id" not in lines()


def test_a_sampler_that_keeps_nothing_sends_nothing(http: HttpCollector) -> None:
    with exporting(http.url, **ONLY_TRACES, OTEL_TRACES_SAMPLER="always_off") as export:
        do_work(10)

    assert http.requests == []
    assert export.state()["traces"].sent == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("protocol", "reason"), [("http/protobuf", "connection refused"), ("grpc", "grpc UNAVAILABLE")]
)
def test_a_collector_that_is_away_costs_nobody_time_and_the_process_little_memory(
    protocol: str, reason: str, lines: Callable[[], str]
) -> None:
    with exporting(
        f"http://127.0.0.1:{free_port()}",
        **ONLY_TRACES,
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        OTEL_EXPORTER_OTLP_TIMEOUT="300",
        OTEL_BSP_MAX_QUEUE_SIZE="100",
    ) as export:
        began = time.monotonic()
        do_work(5_000)
        assert time.monotonic() - began < 2
        wait_for(lambda: failure_of(export) == reason)
        began = time.monotonic()

    assert time.monotonic() - began < 3.5
    state = export.state()["traces"]
    assert state.sent == 0
    assert state.dropped + state.refused == 10_000
    assert state.dropped > 9_000
    # Once, not for each batch.
    assert lines().count("telemetry is not exported") == 1


def test_a_name_that_nobody_has_is_said_to_be_none() -> None:
    with exporting(
        "http://nobody.invalid:4318", **ONLY_TRACES, OTEL_EXPORTER_OTLP_TIMEOUT="200"
    ) as export:
        do_work()
        wait_for(lambda: failure_of(export) == "unknown host")


def test_a_collector_that_comes_back_is_told_what_comes_after(
    http: HttpCollector, lines: Callable[[], str]
) -> None:
    http.behaviours = [answering(400, b"a secret reason")]
    with exporting(http.url, **ONLY_TRACES) as export:
        do_work(name="lost")
        wait_for(lambda: failure_of(export) == "http 400")
        do_work(name="kept")
        http.wait_for(lambda: bool(http.spans()))
        wait_for(lambda: failure_of(export) is None)

    # Refused for good: the same is not sent again.
    assert [span.name for span in http.spans()] == ["a part", "kept"]
    assert len(http.attempts) == 2
    state = export.state()["traces"]
    assert (state.sent, state.refused, state.dropped) == (2, 2, 0)
    said = lines()
    assert "telemetry is not exported" in said
    assert "telemetry is exported again" in said
    assert "a secret reason" not in said


@pytest.mark.parametrize(
    "behaviour", [answering(502), answering(503), answering(504), answering(429), hang_up]
)
def test_what_may_be_tried_again_is(http: HttpCollector, behaviour: Behaviour) -> None:
    http.behaviours = [behaviour, behaviour]
    with exporting(http.url, **ONLY_TRACES) as export:
        do_work()
        http.wait_for(lambda: bool(http.spans()))
        wait_for(lambda: export.state()["traces"].sent == 2)

    assert len(http.attempts) == 3
    assert export.state()["traces"].refused == 0


def in_seconds(seconds: int) -> str:
    return format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("when", "least_s", "most_s"),
    # A date has no parts of a second.
    [(lambda: "1", 1.0, 1.9), (lambda: in_seconds(2), 0.9, 2.9)],
)
def test_a_collector_that_says_when_is_asked_then(
    http: HttpCollector, when: Callable[[], str], least_s: float, most_s: float
) -> None:
    http.behaviours = [answering(429, retry_after=when())]
    with exporting(http.url, **ONLY_TRACES):
        do_work()
        http.wait_for(lambda: bool(http.spans()))

    assert least_s <= http.attempts[1] - http.attempts[0] < most_s


def test_a_collector_that_wants_a_day_is_not_waited_for_in_the_end(http: HttpCollector) -> None:
    http.behaviours = [answering(503, retry_after="86400")]
    with exporting(http.url, **ONLY_TRACES) as export:
        do_work()
        http.wait_for(lambda: bool(http.attempts))
        time.sleep(0.05)
        began = time.monotonic()

    assert time.monotonic() - began < 1
    assert len(http.attempts) == 1
    assert failure_of(export) == "http 503"


def test_a_collector_that_takes_a_part_is_believed(http: HttpCollector) -> None:
    partial = ExportTraceServiceResponse()
    partial.partial_success.rejected_spans = 1
    http.behaviours = [answering(200, partial.SerializeToString())]
    with exporting(http.url, **ONLY_TRACES) as export:
        do_work()
        wait_for(lambda: export.state()["traces"].sent)

    state = export.state()["traces"]
    assert (state.sent, state.refused, state.failure) == (1, 1, "partial success")


@pytest.mark.parametrize("behaviour", [silent(2.0), dripping(2.0)])
@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_BSP_EXPORT_TIMEOUT"])
def test_a_slow_collector_is_waited_for_only_so_long(
    http: HttpCollector, behaviour: Behaviour, name: str
) -> None:
    http.behaviours = [behaviour]
    with exporting(http.url, **ONLY_TRACES, **{name: "300"}) as export:
        began = time.monotonic()
        do_work()
        wait_for(lambda: failure_of(export))
        took = time.monotonic() - began

    assert failure_of(export) in {"timeout", "not http"}
    assert took < 1


def test_the_end_is_not_held_up_by_a_slow_collector(http: HttpCollector) -> None:
    http.behaviours = [silent(30)] * 3
    settings = load_otel_settings({"OTEL_EXPORTER_OTLP_ENDPOINT": http.url})
    export = start_export(settings, process="test")
    assert export is not None
    do_work(100)

    began = time.monotonic()
    export.stop(0.5)

    assert time.monotonic() - began < 1


def test_an_answer_that_breaks_off_after_a_yes_is_a_yes(http: HttpCollector) -> None:
    http.behaviours = [break_off]
    with exporting(http.url, **ONLY_TRACES) as export:
        do_work()
        wait_for(lambda: export.state()["traces"].sent == 2)

    assert len(http.attempts) == 1


def test_a_connection_that_was_closed_meanwhile_loses_nothing(http: HttpCollector) -> None:
    def take_and_close(handler: Any) -> bool:
        handler.close_connection = True
        return True

    http.behaviours = [take_and_close]
    with exporting(http.url, **ONLY_TRACES) as export:
        do_work(name="first")
        wait_for(lambda: export.state()["traces"].sent == 2)
        do_work(name="second")
        wait_for(lambda: export.state()["traces"].sent == 4)

    assert export.state()["traces"].refused == 0
    assert len(http.spans()) == 4


def test_the_wrong_protocol_is_told_as_that(http: HttpCollector, rpc: GrpcCollector) -> None:
    options = {**ONLY_TRACES, "OTEL_EXPORTER_OTLP_TIMEOUT": "300"}
    with exporting(rpc.url, **options) as export:
        do_work()
        wait_for(lambda: failure_of(export) in {"not http", "closed"})
    with exporting(http.url, **options, OTEL_EXPORTER_OTLP_PROTOCOL="grpc") as export:
        do_work()
        wait_for(lambda: str(failure_of(export)).startswith("grpc "))
    for media_type, body in [("text/html", b"<h1>Welcome"), ("application/x-protobuf", b"<h1>")]:
        http.behaviours = [answering(200, body, content_type=media_type)]
        with exporting(http.url, **options) as export:
            do_work()
            wait_for(lambda export=export: failure_of(export) == "not otlp")
    assert http.requests == rpc.requests == []


def test_a_redirect_is_not_followed(http: HttpCollector) -> None:
    with http_collector() as elsewhere:
        http.behaviours = [answering(307, location=f"{elsewhere.url}/v1/traces")]
        with exporting(http.url, **ONLY_TRACES) as export:
            do_work()
            wait_for(lambda: failure_of(export) == "http 307")

        assert elsewhere.attempts == []


def refusing(code: grpc.StatusCode, wait_s: float | None = None) -> Behaviour:
    def behave(context: Any) -> bool:
        if wait_s is not None:
            detail = AnyMessage()
            detail.Pack(RetryInfo(retry_delay=Duration(nanos=int(wait_s * 1e9))))
            status = Status(code=code.value[0], details=[detail])
            context.set_trailing_metadata(
                (("grpc-status-details-bin", status.SerializeToString()),)
            )
        context.abort(code, "a secret reason")
        return False

    return behave


def test_grpc_is_tried_again_when_it_says_so(rpc: GrpcCollector, lines: Callable[[], str]) -> None:
    rpc.behaviours = [
        refusing(grpc.StatusCode.UNAVAILABLE),
        refusing(grpc.StatusCode.RESOURCE_EXHAUSTED, wait_s=0.4),
    ]
    with exporting(rpc.url, **ONLY_TRACES, OTEL_EXPORTER_OTLP_PROTOCOL="grpc") as export:
        do_work()
        rpc.wait_for(lambda: bool(rpc.spans()))
        assert rpc.attempts[2] - rpc.attempts[1] >= 0.39

        for code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT):
            rpc.behaviours = [refusing(code)]
            do_work()
            wait_for(lambda code=code: failure_of(export) == f"grpc {code.name}")

    assert len(rpc.spans()) == 2
    assert len(rpc.attempts) == 5
    assert "a secret reason" not in lines()


def test_a_slow_grpc_collector_is_waited_for_only_so_long(rpc: GrpcCollector) -> None:
    rpc.behaviours = [silent(2.0)]
    options = {PROTOCOL: "grpc", "OTEL_EXPORTER_OTLP_TIMEOUT": "300"}
    with exporting(rpc.url, **ONLY_TRACES, **options) as export:
        do_work()
        wait_for(lambda: failure_of(export) == "grpc DEADLINE_EXCEEDED", 1.5)


class Trust:
    """An authority of the test's own, and a server's certificate by it."""

    def __init__(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "127.0.0.1")])
        now = dt.datetime.now(dt.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        self.path = folder / "authority.pem"
        self.certificate = made.public_bytes(serialization.Encoding.PEM)
        self.path.write_bytes(self.certificate)
        self.key = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        both = folder / "server.pem"
        both.write_bytes(self.certificate + self.key)
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(both)


def test_a_certificate_must_be_of_somebody_trusted(tmp_path: Path) -> None:
    trust = Trust(tmp_path)
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    with http_collector(trust.server) as http:
        url = http.url.replace("http:", "https:")
        options = {**ONLY_TRACES, "OTEL_EXPORTER_OTLP_TIMEOUT": "500"}
        name = "OTEL_EXPORTER_OTLP_CERTIFICATE"
        with exporting(url, **options, **{name: str(Trust(stranger).path)}) as export:
            do_work(name="not to be seen")
            wait_for(lambda: failure_of(export) == "certificate")
        assert http.attempts == []

        with exporting(url, **options, **{name: str(trust.path)}):
            do_work()
            http.wait_for(lambda: bool(http.spans()))
        # In the clear, to a server that waits for more.
        with exporting(http.url, **options) as export:
            do_work()
            wait_for(lambda: failure_of(export) in {"closed", "not http", "timeout", "unreachable"})


def test_a_certificate_holds_for_grpc_too(tmp_path: Path) -> None:
    trust = Trust(tmp_path)
    collector = GrpcCollector()
    pool = grpc.server(ThreadPoolExecutor(2), handlers=[collector])
    collector.port = pool.add_secure_port(
        "127.0.0.1:0", grpc.ssl_server_credentials([(trust.key, trust.certificate)])
    )
    pool.start()
    url = collector.url.replace("http:", "https:")
    options = {**ONLY_TRACES, PROTOCOL: "grpc", "OTEL_EXPORTER_OTLP_TIMEOUT": "2000"}
    try:
        with exporting(url, **options, OTEL_EXPORTER_OTLP_CERTIFICATE=str(trust.path)):
            do_work()
            collector.wait_for(lambda: bool(collector.spans()))
        with exporting(url, **options) as export:
            do_work()
            wait_for(lambda: failure_of(export) == "grpc UNAVAILABLE")
    finally:
        pool.stop(0).wait()


def test_a_proxy_passes_on_what_goes_to_somebody_else(
    http: HttpCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", http.url.replace("://", "://user:pass@"))
    with exporting("http://collector.example:4318", **ONLY_TRACES):
        do_work()
        http.wait_for(lambda: bool(http.spans()))

    (headers,) = http.headers
    assert headers[":path"] == "http://collector.example:4318/v1/traces"
    assert headers["host"] == "collector.example:4318"
    assert headers["proxy-authorization"] == "Basic dXNlcjpwYXNz"


def test_to_the_console_goes_what_would_be_sent(capsys: pytest.CaptureFixture[str]) -> None:
    settings = load_otel_settings({"OTEL_TRACES_EXPORTER": "console"})
    export = start_export(settings, process="test")
    assert export is not None
    do_work(name="to be seen")
    export.stop()

    (line,) = capsys.readouterr().out.splitlines()
    assert '"name": "to be seen"' in line


def test_lines_about_exporting_lines_are_not_exported(
    http: HttpCollector, lines: Callable[[], str]
) -> None:
    options = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
    http.behaviours = [answering(400)]
    with exporting(http.url, **options) as export:
        structlog.get_logger().info("first")
        wait_for(lambda: export.state()["logs"].failure == "http 400")
        time.sleep(0.1)
        assert len(http.attempts) == 1
        structlog.get_logger().info("second")
        logging.getLogger("some.library").warning("third")
        http.wait_for(lambda: len(http.records()) == 2)

    assert "telemetry is not exported" in lines()
    assert {record.body.string_value for record in http.records()} == {"second", "third"}


def test_what_we_take_in_of_ourselves_is_not_told_again(
    http: HttpCollector, lines: Callable[[], str]
) -> None:
    with exporting(http.url, OTEL_METRICS_EXPORTER="none"):
        taking = work.begin("POST /v1/traces", kind="server", is_own_export=True)
        with work.inside(taking), work.span("ingest.decode"):
            structlog.get_logger().info("request")
        work.end(taking)

    assert http.requests == []
    assert "request" in lines()


def test_with_lines_alone_requests_are_asked_all_the_same_whose_they_are(
    http: HttpCollector,
) -> None:
    off = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
    with exporting(http.url, **off):
        assert work.is_tracing()
        with work.working("some work") as done:
            pass

    assert not done.is_sampled
    assert http.requests == []


def test_a_line_may_be_written_while_another_is_being_put(
    http: HttpCollector, lines: Callable[[], str]
) -> None:
    """As a collection of garbage does, which logs what nobody waited for."""
    with exporting(http.url, OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none") as export:
        queue = export._lines
        assert queue is not None
        with queue._lock:
            structlog.get_logger().info("inner")
        wait_for(lambda: export.state()["logs"].sent == 1)

    assert lines().count("inner") == 1


def test_others_have_their_turns_while_much_is_encoded(http: HttpCollector) -> None:
    """Whatever the size of a batch is set to, it is worked on in pieces of a millisecond."""
    much = {"OTEL_BSP_MAX_QUEUE_SIZE": "40000", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "40000"}
    waits: list[float] = []
    is_done = threading.Event()

    def look() -> None:
        while not is_done.is_set():
            began = time.perf_counter()
            time.sleep(0.001)
            waits.append(time.perf_counter() - began - 0.001)

    looking = threading.Thread(target=look)
    with exporting(http.url, **ONLY_TRACES, **much) as export:
        do_work(20_000)
        looking.start()
        wait_for(lambda: export.state()["traces"].sent == 40_000, 20)
        is_done.set()
        looking.join()

    assert max(len(spans_of(message)) for _, message in http.requests) <= MAX_REQUEST_ITEMS
    waits.sort()
    assert not waits or waits[len(waits) // 2] < 0.005


def spans_of(message: Any) -> Any:
    return message.resource_spans[0].scope_spans[0].spans
