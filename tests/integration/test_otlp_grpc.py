"""OTLP over gRPC: the real process, the exporters of the OpenTelemetry SDK, and clients that behave badly."""

from __future__ import annotations

import asyncio
import base64
import gzip
import itertools
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace
from typing import Any, Self
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import grpc
import httpx
import msgspec
import psutil
import pytest
from command_line import (
    CommandLine,
    Output,
    eventually,
    free_port,
    is_alive,
    new_data_dir,
    on_database,
    on_directory,
    running,
)
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from metrics_service import errors
from metrics_service.db.addresses import Addresses
from metrics_service.http.admission import Admission
from metrics_service.http.rate import RateLimit
from metrics_service.http.throttle import FailureThrottle
from metrics_service.observability.own_exports import own_user_agent
from metrics_service.observability.work import Work, keep_spans, span
from metrics_service.otlp import grpc_exports
from metrics_service.otlp.decode import Reading
from metrics_service.otlp.grpc_exports import EXPORTS_A_TENANT, SIGNALS, peer_host
from metrics_service.otlp.grpc_server import OPTIONS
from metrics_service.otlp.grpc_status import refused
from metrics_service.tenants.authenticate import Principal

READY = "OTLP over gRPC is taken at"
LOGS, METRICS, TRACES = SIGNALS
MIB = 1024 * 1024


class Customer(msgspec.Struct, frozen=True):
    """A tenant of the test's own."""

    slug: str
    schema: str
    key: str

    @property
    def host(self) -> str:
        return f"{self.slug}.localhost"


class Served(msgspec.Struct):
    """A running server."""

    port: int
    process: subprocess.Popen[str]
    output: Output

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def listeners(self) -> list[psutil.Process]:
        """The process that listens for gRPC, if there is one now."""
        return [
            child
            for child in psutil.Process(self.process.pid).children()
            if is_listening(self.port, child)
        ]

    def requests(self) -> list[dict[str, Any]]:
        lines = [line for line in self.output.text.splitlines() if '"method":"gRPC"' in line]
        return [json.loads(line) for line in lines]


def is_listening(port: int, process: psutil.Process) -> bool:
    try:
        connections = process.net_connections()
    except psutil.Error:
        # It has just ended.
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections)


def is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def serving(line: CommandLine) -> Iterator[Served]:
    port = free_port()
    arguments = ("serve", "--port", str(free_port()), "--otlp-grpc-port", str(port))
    with running(line, *arguments) as (process, output):
        output.wait_for(f"{READY} http://127.0.0.1:{port}\n")
        yield Served(port, process, output)


@pytest.fixture(scope="module")
def line(addresses: Addresses) -> CommandLine:
    return on_database(addresses)


@pytest.fixture(scope="module")
def served(line: CommandLine) -> Iterator[Served]:
    with serving(line) as started:
        yield started


@pytest.fixture(scope="module")
def new_customer(line: CommandLine) -> Callable[..., Customer]:
    def make(*scopes: str) -> Customer:
        slug = f"g{uuid4().hex[:12]}"
        schema = line.here("tenant", "create", slug, "--json").json()["schema_name"]
        options = [word for scope in scopes or ("ingest",) for word in ("--scope", scope)]
        key = line.here("key", "create", slug, *options, "--json").json()["key"]
        return Customer(slug, schema, key)

    return make


@pytest.fixture
def customer(new_customer: Callable[..., Customer]) -> Customer:
    return new_customer()


@pytest.fixture(scope="module")
def somebody(new_customer: Callable[..., Customer]) -> Customer:
    """A customer for tests that neither count its rows nor change what it is."""
    return new_customer()


@pytest.fixture
def count(addresses: Addresses, admin_url: Callable[[str], str]) -> Callable[[str, str], int]:
    """How many rows a table of a schema has."""
    admin = admin_url(urlsplit(addresses.runtime).path.removeprefix("/"))

    async def ask(schema: str, table: str) -> int:
        connection = await asyncpg.connect(admin)
        try:
            return await connection.fetchval(f"SELECT count(*) FROM {schema}.{table}")
        finally:
            await connection.close()

    return lambda schema, table: in_thread(ask(schema, table))


def in_thread(work: Any) -> Any:
    """Run a coroutine wherever a test is, on a loop or not."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


class Client:
    """A client of raw bytes, on one connection."""

    def __init__(self, target: str, host: str, *, key: str | None = None, **options: Any) -> None:
        self.target = target
        self.channel = grpc.insecure_channel(
            target,
            options=[
                ("grpc.default_authority", host),
                ("grpc.max_send_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
            ],
            **options,
        )
        self._metadata = [] if key is None else [("authorization", f"Bearer {key}")]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def export(
        self, method: str, body: bytes, *, metadata: Any = None, timeout: float = 30, **options: Any
    ) -> bytes:
        call = self.channel.unary_unary(method)
        metadata = self._metadata if metadata is None else metadata
        return call(body, metadata=metadata, timeout=timeout, **options)

    def refusal(self, method: str, body: bytes = b"", **options: Any) -> SimpleNamespace:
        with pytest.raises(grpc.RpcError) as raised:
            self.export(method, body, **options)
        return refusal_of(raised.value)


def refusal_of(error: Any) -> SimpleNamespace:
    details = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin")
    said = SimpleNamespace(code=error.code().name, text=error.details(), retry_s=None, bad=None)
    if details is not None:
        status = Status.FromString(details)
        assert (status.code, status.message) == (error.code().value[0], said.text)
        for detail in status.details:
            retry, bad = RetryInfo(), BadRequest()
            if detail.Unpack(retry):
                said.retry_s = retry.retry_delay.seconds
            elif detail.Unpack(bad):
                said.bad = [one.description for one in bad.field_violations]
    return said


def logs_request(*calls: str, session: str = "s-1", filler: str = "") -> bytes:
    """Results of tool calls as Claude Code sends them."""
    request = ExportLogsServiceRequest()
    resource = request.resource_logs.add()
    add_attribute(resource.resource.attributes, "service.name", "claude-code")
    scope = resource.scope_logs.add()
    scope.scope.name = "com.anthropic.claude_code.events"
    for call in calls:
        record = scope.log_records.add(time_unix_nano=time.time_ns())
        record.body.string_value = "claude_code.tool_result"
        values = {
            "event.name": "tool_result",
            "session.id": session,
            "tool_name": "Bash",
            "tool_use_id": call,
            "success": "true",
            "duration_ms": "12",
        }
        if filler:
            values["filler"] = filler
        for key, value in values.items():
            add_attribute(record.attributes, key, value)
    return request.SerializeToString()


def add_attribute(attributes: Any, key: str, value: str) -> None:
    attributes.add(key=key).value.string_value = value


# -- the exporters of the SDK ---------------------------------------------------------------------


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_what_the_sdk_exports_is_stored_for_its_tenant_alone(
    served, new_customer, count, compression
):
    mine, other = new_customer(), new_customer()
    before = {table: count(other.schema, table) for table in ("tool_metrics", "counter_deltas")}

    export_all(served, mine, compression)

    assert count(mine.schema, "tool_metrics") == 2
    assert count(mine.schema, "counter_deltas") == 1
    assert before == {table: count(other.schema, table) for table in before}


def export_all(served: Served, customer: Customer, compression: grpc.Compression) -> None:
    options: dict[str, Any] = {
        "endpoint": f"http://{served.target}",
        "headers": {"authorization": f"Bearer {customer.key}"},
        "compression": compression,
        "channel_options": (("grpc.default_authority", f"{customer.host}:4317"),),
        "timeout": 10,
    }
    resource = Resource.create({"service.name": "claude-code"})
    logs = LoggerProvider(resource=resource)
    logs.add_log_record_processor(SimpleLogRecordProcessor(OTLPLogExporter(**options)))
    logs.get_logger("com.anthropic.claude_code.events").emit(
        LogRecord(
            timestamp=time.time_ns(),
            severity_number=SeverityNumber.INFO,
            body="claude_code.tool_result",
            attributes={
                "event.name": "tool_result",
                "session.id": "sdk",
                "tool_name": "Bash",
                "tool_use_id": "toolu_log",
                "success": "true",
                "duration_ms": "7",
            },
        )
    )
    logs.shutdown()
    traces = TracerProvider(resource=resource)
    traces.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(**options)))
    with traces.get_tracer("com.anthropic.claude_code").start_as_current_span(
        "claude_code.tool",
        attributes={"session.id": "sdk", "tool_name": "Read", "tool_use_id": "toolu_span"},
    ):
        pass
    traces.shutdown()
    metrics = MeterProvider(
        resource=resource,
        metric_readers=[
            PeriodicExportingMetricReader(
                OTLPMetricExporter(**options), export_interval_millis=3_600_000
            )
        ],
    )
    meter = metrics.get_meter("com.anthropic.claude_code")
    meter.create_counter("claude_code.commit.count").add(3, {"session.id": "sdk"})
    metrics.shutdown()


def test_an_empty_request_is_answered_with_nothing(served, somebody):
    with Client(served.target, somebody.host, key=somebody.key) as client:
        answers = [client.export(method, b"") for method in SIGNALS]

    assert answers == [b"", b"", b""]


def test_gzip_and_plain_messages_share_a_connection(served, customer, count):
    with Client(
        served.target, customer.host, key=customer.key, compression=grpc.Compression.Gzip
    ) as client:
        for number in range(6):
            compression = grpc.Compression.Gzip if number % 2 else grpc.Compression.NoCompression
            client.export(LOGS, logs_request(f"call-{number}"), compression=compression)

    assert count(customer.schema, "tool_metrics") == 6


def test_a_request_sent_twice_is_stored_once(served, customer, count):
    body = logs_request("once", "twice")
    with Client(served.target, customer.host, key=customer.key) as client:
        assert client.export(LOGS, body) == client.export(LOGS, body) == b""

    assert count(customer.schema, "tool_metrics") == 2


def test_items_that_are_refused_are_told_of(served, somebody):
    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    scope.spans.add(trace_id=os.urandom(16), span_id=os.urandom(8), name="good")
    scope.spans.add(trace_id=b"short", span_id=os.urandom(8), name="bad")

    with Client(served.target, somebody.host, key=somebody.key) as client:
        answer = client.export(TRACES, request.SerializeToString())

    partial = ExportTraceServiceResponse.FromString(answer).partial_success
    assert partial.rejected_spans == 1
    assert partial.error_message


# -- who asks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["bearer", "basic", "x-api-key"])
def test_every_form_of_credential_is_taken(served, somebody, form):
    basic = base64.b64encode(f"agent:{somebody.key}".encode()).decode()
    metadata = {
        "bearer": ("authorization", f"bearer {somebody.key}"),
        "basic": ("authorization", f"Basic {basic}"),
        "x-api-key": ("x-api-key", somebody.key),
    }[form]
    with Client(served.target, somebody.host) as client:
        assert client.export(LOGS, logs_request("a"), metadata=[metadata]) == b""


@pytest.mark.parametrize("host", ["{slug}", "{SLUG}.LOCALHOST", "{slug}.localhost.:4317"])
def test_the_host_is_read_as_over_http(served, somebody, host):
    host = host.format(slug=somebody.slug, SLUG=somebody.slug.upper())
    with Client(served.target, host, key=somebody.key) as client:
        assert client.export(LOGS, b"") == b""


def test_a_key_of_another_tenant_is_like_a_key_of_nobody(line, new_customer, count):
    mine, other = new_customer(), new_customer()
    with serving(line) as served, Client(served.target, mine.host) as client:
        body = logs_request("stolen")
        said = [
            client.refusal(LOGS, body, metadata=metadata)
            for metadata in (
                [("authorization", f"Bearer {other.key}")],
                [("authorization", "Bearer msk_nobody")],
                [("x-api-key", mine.key), ("x-api-key", mine.key)],
                [],
            )
        ]

        assert {one.code for one in said} == {"UNAUTHENTICATED"}
        assert len({one.text for one in said}) == 1
        assert count(mine.schema, "tool_metrics") == count(other.schema, "tool_metrics") == 0
        assert client.export(LOGS, b"", metadata=[("x-api-key", mine.key)]) == b""


def test_too_many_failures_are_slowed_down_but_a_valid_key_is_served(line, somebody):
    slow = msgspec.structs.replace(
        line, environ=line.environ | {"METRICS_AUTH_FAILURES_PER_MINUTE": "3"}
    )
    with serving(slow) as served, Client(served.target, somebody.host) as client:
        said = [client.refusal(LOGS, metadata=[]) for _ in range(4)]

        assert [one.code for one in said] == ["UNAUTHENTICATED"] * 3 + ["UNAVAILABLE"]
        assert said[-1].retry_s == 5
        assert client.export(LOGS, b"", metadata=[("x-api-key", somebody.key)]) == b""


def test_a_key_without_the_scope_is_forbidden(served, new_customer):
    reader = new_customer("read", "write")
    with Client(served.target, reader.host, key=reader.key) as client:
        said = client.refusal(LOGS, logs_request("a"))

    assert (said.code, said.text) == ("PERMISSION_DENIED", "this key lacks the scope ingest")


def test_an_unknown_host_is_not_found(served, somebody):
    said = []
    for host in ("nobody.localhost", f"{somebody.slug}.example.com", "127.0.0.1:4317"):
        with Client(served.target, host, key=somebody.key) as client:
            said.append(client.refusal(LOGS))

    assert {(one.code, one.text) for one in said} == {
        ("NOT_FOUND", "nothing is served at this address; its host must be a tenant's domain")
    }


def test_a_host_that_is_none_is_malformed(served, somebody):
    with Client(served.target, "bad_host", key=somebody.key) as client:
        assert client.refusal(LOGS).code == "INVALID_ARGUMENT"


def test_a_suspended_tenant_is_forbidden_within_two_seconds(line, served, customer):
    with Client(served.target, customer.host, key=customer.key) as client:
        assert client.export(LOGS, b"") == b""
        line.here("tenant", "suspend", customer.slug)
        time.sleep(2)
        said = client.refusal(LOGS)
        line.here("tenant", "resume", customer.slug)

        assert (said.code, said.text) == ("PERMISSION_DENIED", "this tenant is suspended")
        eventually(lambda: is_served(client), within_s=3)


def is_served(client: Client, body: bytes = b"") -> bool:
    try:
        return client.export(LOGS, body) == b""
    except grpc.RpcError:
        return False


def test_a_revoked_key_is_refused_within_two_seconds(line, served, customer):
    with Client(served.target, customer.host, key=customer.key) as client:
        assert client.export(LOGS, b"") == b""
        (key,) = line.here("key", "list", customer.slug, "--json").json()
        line.here("key", "revoke", key["id"], "--yes")
        time.sleep(2)

        assert client.refusal(LOGS).code == "UNAUTHENTICATED"


# -- what is asked --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SIGNALS)
@pytest.mark.parametrize(
    "body", [b"\xff" * 20, b"\x0a\xff\xff\xff\xff\x0f", gzip.compress(b"x", mtime=0)]
)
def test_what_is_no_request_is_malformed(served, somebody, method, body):
    with Client(served.target, somebody.host, key=somebody.key) as client:
        said = client.refusal(method, body)

    assert said.code == "INVALID_ARGUMENT"
    assert said.bad == [said.text]
    assert said.retry_s is None


@pytest.mark.parametrize(
    "method", ["/opentelemetry.proto.collector.logs.v1.LogsService/Import", "/x.Y/Z", LOGS + "/"]
)
def test_other_methods_are_not_implemented(served, somebody, method):
    with Client(served.target, somebody.host, key=somebody.key) as client:
        assert client.refusal(method).code == "UNIMPLEMENTED"


def test_a_call_without_a_message_is_malformed(served, somebody):
    with Client(served.target, somebody.host) as client:
        call = client.channel.stream_unary(LOGS)
        with pytest.raises(grpc.RpcError) as raised:
            call(iter([]), metadata=[("x-api-key", somebody.key)], timeout=10)

    assert refusal_of(raised.value).code == "INVALID_ARGUMENT"


def test_a_large_request_is_stored(served, customer, count):
    # Attributes that a mapper keeps are bounded; this is about what the way in takes.
    body = logs_request("large", filler="x" * (40 * MIB))
    with Client(served.target, customer.host, key=customer.key) as client:
        assert client.export(LOGS, body, timeout=60) == b""
        assert client.export(LOGS, body, timeout=60, compression=grpc.Compression.Gzip) == b""

    assert count(customer.schema, "tool_metrics") == 1


def test_too_much_is_refused_for_good_plain_and_inflated(served, somebody):
    (listener,) = served.listeners()
    before = listener.memory_info().rss
    most = 0

    def watch() -> None:
        nonlocal most
        while not is_over.wait(0.02):
            most = max(most, listener.memory_info().rss)

    is_over = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    with Client(served.target, somebody.host, key=somebody.key) as client:
        plain = client.refusal(LOGS, bytes(64 * MIB + 1))
        # 700 MiB in 700 KiB: one that inflated it would be seen.
        # It is the client that packs it, in the time that it has.
        packed = {"timeout": 120, "compression": grpc.Compression.Gzip}
        bomb = client.refusal(LOGS, bytes(700 * MIB), **packed)
        is_over.set()
        watcher.join()

        assert (plain.code, bomb.code) == ("RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED")
        assert (plain.retry_s, bomb.retry_s) == (None, None)
        assert most - before < 400 * MIB
        assert client.export(LOGS, b"") == b""
    assert served.listeners() == [listener]


def test_headers_that_are_too_large_are_refused(served, somebody):
    with Client(served.target, somebody.host) as client:
        said = client.refusal(LOGS, metadata=[("x-api-key", "k" * 20_000)])

    assert said.code == "RESOURCE_EXHAUSTED"


# -- many at once ---------------------------------------------------------------------------------


def test_clients_of_two_tenants_do_not_meet(served, new_customer, count):
    tenants = [new_customer(), new_customer()]
    clients = [
        Client(served.target, one.host, key=one.key, compression=compression)
        for one in tenants
        for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip)
    ]

    def work(number: int) -> bytes:
        return clients[number % 4].export(LOGS, logs_request(f"call-{number}"))

    # By chance all of them can be of one tenant.
    with ThreadPoolExecutor(EXPORTS_A_TENANT) as pool:
        answers = list(pool.map(work, range(120)))
    for client in clients:
        client.channel.close()

    assert set(answers) == {b""}
    assert [count(one.schema, "tool_metrics") for one in tenants] == [60, 60]


@pytest.fixture
def locked(addresses: Addresses) -> Callable[..., Any]:
    """Hold a lock on a tenant's sessions, so that what is sent for it waits."""

    @asynccontextmanager
    async def hold(customer: Customer) -> AsyncIterator[Callable[[], int]]:
        connection = await asyncpg.connect(addresses.require_owner())
        watching = await asyncpg.connect(addresses.require_owner())
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(f"LOCK TABLE {customer.schema}.metrics_sessions")
        try:
            yield lambda: watching.fetchval(
                "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation"
                " WHERE NOT granted AND c.relname = 'metrics_sessions'"
                " AND c.relnamespace = $1::text::regnamespace",
                customer.schema,
            )
        finally:
            await transaction.rollback()
            await connection.close()
            await watching.close()

    return hold


async def until_waiting(waiting: Callable[[], Any], count: int = 1) -> None:
    give_up_at = time.monotonic() + 10
    while await waiting() < count:
        assert time.monotonic() < give_up_at, "nothing waits"
        await asyncio.sleep(0.05)


def test_a_tenant_cannot_take_all_of_the_process(served, new_customer):
    greedy, modest = new_customer(), new_customer()
    with (
        Client(served.target, greedy.host, key=greedy.key) as client,
        Client(served.target, modest.host, key=modest.key) as others,
    ):
        with full(client, greedy.key, EXPORTS_A_TENANT):
            said = client.refusal(LOGS)
            served_anyway = others.export(LOGS, b"")
        eventually(lambda: is_served(client))

    assert (said.code, said.retry_s) == ("UNAVAILABLE", 1)
    assert served_anyway == b""


@contextmanager
def full(client: Client, key: str, places: int) -> Iterator[None]:
    """Take all places, with calls without a message: they need no connection to the database."""
    is_over = threading.Event()
    call = client.channel.stream_unary(LOGS)

    def hold() -> Any:
        return call.future(never(is_over), metadata=[("x-api-key", key)], timeout=30)

    held = [hold() for _ in range(places)]

    def is_full() -> bool:
        # One more each time: the question itself takes a place, for a moment.
        held.append(hold())
        return not is_served(client)

    try:
        eventually(is_full)
        yield
    finally:
        is_over.set()
        for one in held:
            one.cancel()


def never(is_over: threading.Event) -> Iterator[bytes]:
    is_over.wait(30)
    yield from ()


async def test_a_client_that_does_not_wait_leaves_nothing_half_done(
    served, customer, count, locked
):
    body = logs_request("a", "b", "c")
    with Client(served.target, customer.host, key=customer.key) as client:
        async with locked(customer) as waiting:
            sent = asyncio.to_thread(client.refusal, LOGS, body, timeout=2)
            said = await sent
            assert said.code == "DEADLINE_EXCEEDED"
            await until_waiting(waiting)
        # It may be stored by now or not: never in part.
        assert count(customer.schema, "tool_metrics") in {0, 3}
        assert await asyncio.to_thread(client.export, LOGS, body) == b""

    assert count(customer.schema, "tool_metrics") == 3


# -- what fails -----------------------------------------------------------------------------------


def test_a_database_that_is_away_is_worth_another_attempt():
    with new_data_dir() as data_dir, serving(on_directory(data_dir)) as served:
        line = on_directory(data_dir)
        slug = line.here("tenant", "create", "acme", "--json").json()["slug"]
        key = line.here("key", "create", slug, "--scope", "ingest", "--json").json()["key"]
        with Client(served.target, "acme.localhost", key=key) as client:
            assert client.export(LOGS, logs_request("a")) == b""
            postmaster = (data_dir / "postgres" / "postmaster.pid").read_text().split()[0]
            # So that nobody starts it again.
            served.process.send_signal(signal.SIGSTOP)
            os.kill(int(postmaster), signal.SIGKILL)
            # Its children notice a moment later.
            numbers = itertools.count()
            eventually(lambda: not is_served(client, logs_request(f"a-{next(numbers)}")))
            said = [client.refusal(LOGS, logs_request(f"b-{number}")) for number in range(3)]
            served.process.send_signal(signal.SIGCONT)

            assert {one.code for one in said} == {"UNAVAILABLE"}
            assert all(1 <= one.retry_s <= 5 for one in said)
            eventually(lambda: is_served(client, logs_request("c")))
        served.process.send_signal(signal.SIGTERM)
        assert served.output.wait_for_end() == 0


@pytest.fixture
def in_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Client]]:
    """Serve in this process without a database: what is received is up to the test."""
    loop = asyncio.new_event_loop()
    runner = threading.Thread(target=loop.run_forever)
    runner.start()
    stops: list[Callable[[], Any]] = []

    def serve(receive: Callable[..., Any], **constants: Any) -> Client:
        monkeypatch.setattr(grpc_exports, "receive", receive)
        for name, value in constants.items():
            monkeypatch.setattr(grpc_exports, name, value)
        exports = grpc_exports.Exports(
            SimpleNamespace(
                directory=Everyone(),
                keys=Everyone(),
                database=SimpleNamespace(
                    diary=Unread(), rate=RateLimit(0), admission=Admission(10)
                ),
                activity=Unread(),
            ),
            throttle=FailureThrottle(0),
            trusted_proxies=[],
            loop=loop,
        )
        server = grpc.server(ThreadPoolExecutor(8), handlers=[exports], options=OPTIONS)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        client = Client(f"127.0.0.1:{port}", "acme.localhost", key="k")
        stops.extend([client.channel.close, lambda: server.stop(None).wait()])
        return client

    yield serve
    for stop in stops:
        stop()
    loop.call_soon_threadsafe(loop.stop)
    runner.join()
    loop.close()


class Unread:
    """A diary that nobody reads, and an account of what tenants do."""

    def accept(self, *_: Any) -> None:
        pass

    def refuse(self, *_: Any) -> None:
        pass

    def note(self, *_: Any, **__: Any) -> None:
        pass


class Everyone:
    """A directory and a key ring that know everybody."""

    async def find(self, host: str) -> Any:
        return SimpleNamespace(
            id=UUID(int=1), status="active", is_active=True, schema_is_ready=True
        )

    async def find_principal(self, tenant_id: UUID, key: str) -> Principal:
        return Principal("api_key", UUID(int=2), "test", frozenset({"ingest"}))


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("secret"), OSError("secret"), asyncio.CancelledError("secret")]
)
def test_what_nobody_foresaw_is_worth_another_attempt(in_this_process, error):
    async def receive(*_: Any, **__: Any) -> Any:
        raise error

    said = in_this_process(receive).refusal(LOGS)

    assert (said.code, said.retry_s is not None) == ("UNAVAILABLE", True)
    assert "secret" not in said.text


def test_a_message_that_does_not_come_is_not_waited_for(in_this_process):
    client = in_this_process(received, MESSAGE_PATIENCE_S=0.3)
    is_over = threading.Event()
    call = client.channel.stream_unary(LOGS)

    with pytest.raises(grpc.RpcError) as raised:
        call(never(is_over), metadata=[("x-api-key", "k")], timeout=10)
    is_over.set()

    assert raised.value.code() is grpc.StatusCode.CANCELLED
    assert client.export(LOGS, b"") == b""


def test_more_calls_than_the_process_takes_are_worth_another_attempt(in_this_process):
    client = in_this_process(received, MAX_CALLS=1)
    with full(client, "k", 1):
        said = client.refusal(LOGS)

    assert (said.code, said.retry_s) == ("UNAVAILABLE", 1)
    eventually(lambda: is_served(client))


@pytest.fixture
def works() -> Iterator[list[Work]]:
    """The works that ended, all of them sampled."""
    taken: list[Work] = []
    stop = keep_spans(lambda _, __: True, taken.append)
    yield taken
    stop()


def test_a_call_has_a_trace_that_its_client_begins(in_this_process, works):
    async def receive(*_: Any, **__: Any) -> Reading:
        with span("ingest.decode"):
            return Reading(0, 0, [])

    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    metadata = [
        ("x-api-key", "k"),
        ("x-request-id", "the-request"),
        ("traceparent", f"00-{trace}-{parent}-01"),
    ]

    in_this_process(receive).export(LOGS, b"", metadata=metadata)

    # The call is answered before its end is told to the loop.
    eventually(lambda: works)
    (work,) = works
    assert (work.name, work.kind, work.error) == (LOGS.strip("/"), "server", None)
    assert (work.trace_id.hex(), (work.parent_id or b"").hex()) == (trace, parent)
    assert [(one.name, one.parent_id) for one in work.spans] == [("ingest.decode", work.span_id)]
    assert work.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": LOGS.strip("/"),
        "rpc.response.status_code": "OK",
        "metrics_service.tenant.id": str(UUID(int=1)),
        "metrics_service.principal.kind": "api_key",
        "metrics_service.request_id": "the-request",
    }


def test_a_call_that_fails_and_one_of_no_method_say_so_in_their_traces(in_this_process, works):
    async def receive(*_: Any, **__: Any) -> Reading:
        raise ZeroDivisionError("secret")

    client = in_this_process(receive)
    client.refusal(LOGS)
    client.refusal("/secret/Method")

    eventually(lambda: len(works) == 2)
    assert [work.error for work in works] == ["UNAVAILABLE", None]
    assert [work.name for work in works] == [LOGS.strip("/"), "_OTHER"]
    assert works[1].attributes["rpc.response.status_code"] == "UNIMPLEMENTED"
    assert "secret" not in repr(works)


def test_our_own_exports_leave_no_trace(in_this_process, works):
    exporter = in_this_process(received)
    named = [("grpc.primary_user_agent", own_user_agent())]
    channel = grpc.insecure_channel(
        exporter.target,
        options=[("grpc.default_authority", "acme.localhost"), *named],
    )

    with channel:
        channel.unary_unary(LOGS)(b"", metadata=[("x-api-key", "k")], timeout=10)
    exporter.export(LOGS, b"")

    eventually(lambda: works)
    assert len(works) == 1


async def received(*_: Any, **__: Any) -> Reading:
    return Reading(0, 0, [])


def test_an_error_of_no_status_is_worth_another_attempt():
    said = refused(errors.MigrationError("something of an operator's"))

    assert said.code == "UNAVAILABLE"


def test_every_error_of_the_edge_has_a_code():
    codes = {
        errors.UnsupportedMediaTypeError("x"): "UNAVAILABLE",
        errors.BodyTooLargeError("x"): "RESOURCE_EXHAUSTED",
        errors.StatementTimeoutError(): "UNAVAILABLE",
        errors.InvalidBodyError([errors.FieldError("bad", "a")]): "INVALID_ARGUMENT",
        errors.TooManyRequestsError("x", retry_after_s=60): "UNAVAILABLE",
    }

    assert {error: refused(error).code for error in codes} == codes


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:192.0.2.1:5000", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:5000", "2001:db8::1"),
        ("ipv6:[::1]:5000", "::1"),
        ("unix:", ""),
    ],
)
def test_the_address_of_a_peer_is_found(peer, host):
    assert peer_host(peer) == host


# -- the process ----------------------------------------------------------------------------------


async def test_requests_in_flight_are_answered_before_the_end(line, customer, locked, count):
    with serving(line) as served:
        client = Client(served.target, customer.host, key=customer.key)
        async with locked(customer) as waiting:
            sent = asyncio.ensure_future(
                asyncio.to_thread(client.export, LOGS, logs_request("a"), timeout=30)
            )
            await until_waiting(waiting)
            served.process.send_signal(signal.SIGTERM)
            eventually(lambda: not is_open(served.port))
            await asyncio.sleep(0.5)
            assert served.process.poll() is None
        answer = await sent
        code = await asyncio.to_thread(served.output.wait_for_end)
        client.channel.close()

    assert (answer, code) == (b"", 0)
    assert count(customer.schema, "tool_metrics") == 1
    assert "Traceback" not in served.output.text


async def test_a_second_signal_does_not_wait(line, customer, locked):
    with serving(line) as served:
        client = Client(served.target, customer.host, key=customer.key)
        async with locked(customer) as waiting:
            sent = asyncio.ensure_future(asyncio.to_thread(client.refusal, LOGS, logs_request("a")))
            await until_waiting(waiting)
            os.killpg(served.process.pid, signal.SIGINT)
            eventually(lambda: not is_open(served.port))
            os.killpg(served.process.pid, signal.SIGINT)
            code = await asyncio.to_thread(served.output.wait_for_end, within_s=3)
        said = await sent
        client.channel.close()

    assert (code, said.code) == (0, "UNAVAILABLE")


def test_the_process_is_replaced_and_does_not_outlive_its_parent(line, somebody):
    with serving(line) as served:
        killed = served.listeners()
        killed[0].kill()
        eventually(lambda: served.listeners() not in ([], killed))
        (replaced,) = served.listeners()
        with Client(served.target, somebody.host, key=somebody.key) as client:
            assert client.export(LOGS, b"") == b""
        assert "DATABASE_OWNER_URL" not in replaced.environ()

        os.kill(served.process.pid, signal.SIGKILL)

        eventually(lambda: not is_alive(replaced.pid), within_s=10)
        assert not is_open(served.port)


def test_a_taken_port_is_said_before_anything_starts(line):
    port = free_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        taken = line("serve", "--port", str(free_port()), "--otlp-grpc-port", str(port))

    same = line("serve", "--port", str(port), "--otlp-grpc-port", str(port))

    assert (taken.code, taken.out) == (1, "")
    assert taken.err == (
        f"metrics-service: http://127.0.0.1:{port} is in use; stop what listens there,"
        " or choose another --otlp-grpc-port\n"
    )
    assert same.code == 2
    assert line("serve", "--otlp-grpc-port", "0").code == 2


def test_one_line_is_logged_for_each_call_and_no_key_in_it(line, somebody):
    with serving(line) as served:
        with Client(served.target, somebody.host, key=somebody.key) as client:
            client.export(
                TRACES, b"", metadata=[("x-api-key", somebody.key), ("x-request-id", "7")]
            )
            client.refusal(LOGS, b"\xff")
            client.refusal(f"/x/{somebody.key}")
        served.process.send_signal(signal.SIGTERM)
        assert served.output.wait_for_end() == 0

        lines = served.requests()
        assert [(one["route"], one["status"]) for one in lines] == [
            (TRACES, "OK"),
            (LOGS, "INVALID_ARGUMENT"),
            ("/:other", "UNIMPLEMENTED"),
        ]
        assert lines[0]["request_id"] == "7"
        assert lines[0]["tenant"] is not None and lines[0]["tenant"] == lines[1]["tenant"]
        assert all(one["duration_ms"] >= 0 for one in lines)
        assert somebody.key not in served.output.text


def test_http_is_served_beside_it(line, somebody):
    port, grpc_port = free_port(), free_port()
    arguments = ("serve", "--port", str(port), "--otlp-grpc-port", str(grpc_port))
    with running(line, *arguments) as (_, output):
        output.wait_for(f"Metrics Service serves http://127.0.0.1:{port}\n{READY}")
        response = httpx.post(
            f"http://127.0.0.1:{port}/v1/logs",
            content=logs_request("a"),
            headers={
                "Host": somebody.host,
                "X-API-Key": somebody.key,
                "Content-Type": "application/x-protobuf",
            },
            trust_env=False,
        )

        assert response.status_code == 200
        assert ExportLogsServiceResponse.FromString(response.content) == ExportLogsServiceResponse()
