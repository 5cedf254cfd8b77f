"""What a collector gets of a real server: the trace of a page and of a batch, lines, metrics; and no secret."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from acceptance import export
from acceptance.conftest import SOURCE, Wire, _wait_until_healthy
from acceptance.talk import tool_metric
from metrics_service.db.addresses import Addresses
from metrics_service.settings import Settings

sys.path.append(str(Path(__file__).parents[1]))

from otlp_collector import (
    METHODS,
    HttpCollector,
    Taken,
    attributes_of,
    grpc_collector,
    http_collector,
    silent,
)

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CONTEXT = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
CANARY = "canary4711"
PROMPT = {
    "OTEL_BSP_SCHEDULE_DELAY": "50",
    "OTEL_BLRP_SCHEDULE_DELAY": "50",
    "OTEL_METRIC_EXPORT_INTERVAL": "200",
}

Serve = Callable[..., Any]


@pytest.fixture(scope="module")
def serve(settings: Settings, addresses: Addresses) -> Serve:
    """Run a server of the test's own, told by these variables where to export to."""

    @contextmanager
    def serving(
        variables: dict[str, str], *options: str, port: int | None = None, output: Any = None
    ) -> Iterator[Wire]:
        port = port or free_port()
        options = ("--port", str(port), *options)
        process = _process(settings, addresses, variables, options, stdout=output)
        try:
            _wait_until_healthy(port, process)
            yield Wire(port, process)
        finally:
            process.terminate()
            process.wait(timeout=30)

    return serving


def _process(
    settings: Settings,
    addresses: Addresses,
    variables: dict[str, str],
    options: tuple[str, ...],
    **outputs: Any,
) -> subprocess.Popen[bytes]:
    ours = ("METRICS_", "OTEL_", "DATABASE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environ = {
        **kept,
        "PYTHONPATH": str(SOURCE),
        "PYTHONWARNINGS": "ignore",
        "DATABASE_URL": addresses.runtime,
        "METRICS_SECRET_KEY": str(settings.metrics_secret_key),
        "METRICS_AUTH_FAILURES_PER_MINUTE": "0",
        **variables,
    }
    command = [sys.executable, "-m", "metrics_service", "serve", *options]
    outputs["stdout"] = outputs.get("stdout") or subprocess.DEVNULL
    return subprocess.Popen(command, env=environ, **outputs)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def collector() -> Iterator[HttpCollector]:
    with http_collector() as made:
        yield made


@pytest.fixture(scope="module")
def watched(serve: Serve, collector: HttpCollector) -> Iterator[Wire]:
    """A server whose every request is told to the collector."""
    with serve(
        {
            **PROMPT,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_SERVICE_NAME": "watched",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        }
    ) as wire:
        yield wire


def trace_of(collector: Taken, request_id: str) -> list[Any]:
    """All spans of the trace in which a request was served, when they have arrived."""

    def roots() -> list[Any]:
        return [
            span
            for span in collector.spans()
            if attributes_of(span).get("metrics_service.request_id") == request_id
        ]

    collector.wait_for(lambda: bool(roots()))
    (root,) = roots()
    mine = [span for span in collector.spans() if span.trace_id == root.trace_id]
    known = {span.span_id: span for span in mine}

    def is_below(span: Any) -> bool:
        while span.span_id != root.span_id and span.parent_span_id in known:
            span = known[span.parent_span_id]
        return bool(span.span_id == root.span_id)

    below = [span for span in mine if is_below(span)]
    return sorted(below, key=lambda span: (span.start_time_unix_nano, -span.end_time_unix_nano))


def shape(spans: list[Any]) -> list[tuple[str, str | None]]:
    names = {span.span_id: span.name for span in spans}
    return [(span.name, names.get(span.parent_span_id)) for span in spans]


async def test_a_page_from_its_request_to_its_commit(
    watched: Wire, collector: HttpCollector, new_tenant: Callable[..., Any]
) -> None:
    tenant = await new_tenant()

    async with watched.client() as client:
        answer = await client.get(
            "/api/v1/sessions",
            headers={**tenant.headers, **CONTEXT, "X-Request-ID": "a-page"},
        )

    spans = trace_of(collector, "a-page")
    request = spans[0]
    assert answer.headers["traceresponse"] == f"00-{TRACE}-{request.span_id.hex()}-01"
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, PARENT)
    assert (request.name, request.kind) == ("GET /api/v1/sessions", Span.SPAN_KIND_SERVER)
    assert request.trace_state == "vendor=1"
    assert attributes_of(request) == {
        "http.request.method": "GET",
        "http.route": "/api/v1/sessions",
        "http.response.status_code": 200,
        "metrics_service.tenant.id": str(tenant.id),
        "metrics_service.principal.kind": "api_key",
        "metrics_service.request_id": "a-page",
    }
    names = [span.name for span in spans]
    assert names[-3:] == ["BEGIN", "SELECT metrics_sessions", "COMMIT"]
    read = spans[-2]
    said = attributes_of(read)
    assert read.kind == Span.SPAN_KIND_CLIENT
    assert said["db.system.name"] == "postgresql"
    assert (said["db.operation.name"], said["db.collection.name"]) == ("SELECT", "metrics_sessions")
    assert said["db.response.returned_rows"] == 0
    assert said["db.query.text"].startswith("SELECT ")
    # One within the other, and one after the other.
    for span in spans[1:]:
        assert request.start_time_unix_nano <= span.start_time_unix_nano
        assert span.end_time_unix_nano <= request.end_time_unix_nano
    assert [span.start_time_unix_nano for span in spans[-3:]] == sorted(
        span.start_time_unix_nano for span in spans[-3:]
    )


async def test_a_batch_with_its_stages_and_their_statements(
    watched: Wire, collector: HttpCollector, new_tenant: Callable[..., Any]
) -> None:
    tenant = await new_tenant()
    items = [
        tool_metric(agent="claude-code", external_session_id="s", tool_name=f"tool {number}")
        for number in range(3)
    ]

    async with watched.client() as client:
        answer = await client.post(
            "/api/v1/tool-metrics/batch",
            json=[*items, items[0]],
            headers={**tenant.headers, "X-Request-ID": "a-batch"},
        )

    assert answer.json() == {"inserted": 3, "duplicates": 1}
    spans = shape(trace_of(collector, "a-batch"))
    assert spans[0] == ("POST /api/v1/tool-metrics/batch", None)
    stages = [name for name, _ in spans if name.startswith("ingest.")]
    assert stages[0] == "ingest.decode"
    assert {"ingest.insert", "ingest.sessions", "ingest.rollup"} <= set(stages)
    assert ("INSERT tool_metrics", "ingest.insert") in spans
    assert spans[-1] == ("COMMIT", spans[0][0])
    assert any(name == "BEGIN" for name, _ in spans)
    statements = [name for name, at in spans if str(at).startswith("ingest.")]
    assert len(statements) >= 3


async def test_every_tenants_requests_are_told_as_its_own(
    watched: Wire, collector: HttpCollector, new_tenant: Callable[..., Any]
) -> None:
    tenants = [await new_tenant(), await new_tenant()]
    baggage = {"baggage": f"metrics_service.tenant.id={tenants[1].id}"}

    async with watched.client() as client:
        for number, tenant in enumerate(tenants):
            headers = {**tenant.headers, **baggage, "X-Request-ID": f"whose-{number}"}
            await client.get("/api/v1/me", headers=headers)

    told = [
        attributes_of(trace_of(collector, f"whose-{number}")[0])["metrics_service.tenant.id"]
        for number in range(2)
    ]
    assert told == [str(tenant.id) for tenant in tenants]


async def test_lines_and_metrics_of_a_request_arrive_too(
    watched: Wire, collector: HttpCollector, new_tenant: Callable[..., Any]
) -> None:
    tenant = await new_tenant()

    async with watched.client() as client:
        await client.get("/api/v1/me", headers={**tenant.headers, "X-Request-ID": "a-line"})
    request = trace_of(collector, "a-line")[0]

    def lines() -> list[Any]:
        return [r for r in collector.records() if attributes_of(r).get("request_id") == "a-line"]

    def durations() -> list[Any]:
        return [
            point
            for metric in collector.metrics()
            if metric.name == "http.server.request.duration"
            for point in metric.histogram.data_points
            if attributes_of(point)["http.route"] == "/api/v1/me"
        ]

    collector.wait_for(lambda: bool(lines() and durations()))
    (line,) = lines()
    assert line.body.string_value == "request"
    assert (line.trace_id, line.span_id) == (request.trace_id, request.span_id)
    assert attributes_of(line)["tenant"] == str(tenant.id)
    assert attributes_of(durations()[-1]) == {
        "http.request.method": "GET",
        "http.route": "/api/v1/me",
        "http.response.status_code": 200,
    }
    names = {metric.name for metric in collector.metrics()}
    assert {"db.client.operation.duration", "db.client.connection.count"} <= names
    for kind, message in collector.requests:
        (of_one,) = getattr(message, f"resource_{'spans' if kind == 'traces' else kind}")
        said = attributes_of(of_one.resource)
        assert (said["service.name"], said["deployment.environment.name"]) == ("watched", "test")
        assert said["metrics_service.process"] == "http"


async def test_no_secret_and_no_value_is_told_to_a_collector(
    watched: Wire, collector: HttpCollector, new_tenant: Callable[..., Any], addresses: Addresses
) -> None:
    tenant = await new_tenant()
    item = tool_metric(
        tool_name=f"{CANARY}-tool",
        agent=f"{CANARY}-agent",
        external_session_id=f"{CANARY}-session",
        user_email=f"{CANARY}@example.com",
        metadata={"note": CANARY},
    )
    planted = {
        "Cookie": f"__Host-metrics={CANARY}",
        "User-Agent": CANARY,
        "Referer": f"http://{CANARY}/",
        "X-Forwarded-For": CANARY,
        "baggage": f"a={CANARY}",
    }

    async with watched.client() as client:
        for path in ("/api/v1/sessions", "/api/v1/tool-metrics", f"/{CANARY}", "/api/v1/nothing"):
            given = {"agent": CANARY, "cursor": CANARY, CANARY: CANARY}
            headers = {**tenant.headers, **planted}
            await client.get(path, params={"agent": CANARY}, headers=headers)
            await client.get(path, params=given, headers=headers)
        batch = "/api/v1/tool-metrics/batch"
        await client.post(batch, json=[item], headers={**tenant.headers, **planted})
        await client.post(batch, json=[{CANARY: CANARY}], headers=tenant.headers)
        await client.post(batch, content=f"[{CANARY}".encode(), headers=tenant.headers)
        await client.get(
            "/api/v1/me", headers={**tenant.headers, "Authorization": f"Bearer msk_{CANARY}"}
        )
        await client.get("/api/v1/me", headers={**tenant.headers, "X-Request-ID": "the-last"})
    trace_of(collector, "the-last")
    await asyncio.sleep(0.5)

    told = b"".join(message.SerializeToString() for _, message in collector.requests)
    assert str(tenant.id).encode() in told
    assert CANARY.encode() not in told
    for secret in (tenant.key, addresses.runtime, "only-for-tests"):
        assert secret.encode() not in told


async def test_over_grpc_too_and_at_its_end_a_server_tells_what_is_left(
    serve: Serve, new_tenant: Callable[..., Any]
) -> None:
    tenant = await new_tenant()
    grpc_port = free_port()
    variables = {
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_BSP_SCHEDULE_DELAY": "600000",
    }
    with grpc_collector() as rpc:
        variables["OTEL_EXPORTER_OTLP_ENDPOINT"] = rpc.url
        with serve(variables, "--otlp-grpc-port", str(grpc_port)) as wire:
            call_logs(tenant, grpc_port)
            async with wire.client() as client:
                for number in range(5):
                    headers = {**tenant.headers, "X-Request-ID": f"last-{number}"}
                    await client.get("/api/v1/me", headers=headers)
            assert rpc.requests == []
            wire.process.send_signal(signal.SIGTERM)
            assert wire.process.wait(timeout=20) == 0

        call, *_ = trace_of(rpc, "a-call")
        for number in range(5):
            assert trace_of(rpc, f"last-{number}")
    assert (call.trace_id.hex(), call.parent_span_id.hex()) == (TRACE, PARENT)
    assert call.kind == Span.SPAN_KIND_SERVER
    assert attributes_of(call)["metrics_service.tenant.id"] == str(tenant.id)
    processes = {
        attributes_of(message.resource_spans[0].resource)["metrics_service.process"]
        for _, message in rpc.requests
    }
    assert processes == {"http", "otlp-grpc"}


def call_logs(tenant: Any, port: int) -> None:
    options = [("grpc.default_authority", tenant.headers["Host"])]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        method = next(path for path, kind in METHODS.items() if kind == "logs")
        metadata = [
            ("authorization", tenant.headers["Authorization"]),
            ("x-request-id", "a-call"),
            ("traceparent", CONTEXT["traceparent"]),
        ]
        request = export.REQUESTS["logs"]().SerializeToString()
        channel.unary_unary(method)(request, metadata=metadata, timeout=10)


async def test_a_service_that_tells_itself_does_not_tell_itself_of_that(
    serve: Serve, new_tenant: Callable[..., Any], tmp_path: Path
) -> None:
    tenant = await new_tenant()
    port = free_port()
    key = tenant.headers["Authorization"].replace(" ", "%20")
    variables = {
        **PROMPT,
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{tenant.headers['Host']}:{port}",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={key}",
        # A name that need not be one to this machine: the proxy knows where it is.
        "http_proxy": f"http://127.0.0.1:{port}",
        "no_proxy": "127.0.0.1",
    }
    written = tmp_path / "lines"

    def exports() -> int:
        return written.read_text().count('"route":"/v1/')

    with written.open("wb") as output, serve(variables, port=port, output=output) as wire:
        async with wire.client() as client:
            await client.get("/api/v1/me", headers=tenant.headers)
        until = time.monotonic() + 10
        while exports() < 2:
            assert time.monotonic() < until, "nothing is told"
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        before = exports()
        await asyncio.sleep(1)
        after = exports()

    assert '"status":200' in written.read_text()
    # A circle would be twenty of each; what looks after the service is told now and then.
    assert after - before < 10


async def test_a_collector_that_hangs_holds_up_neither_requests_nor_the_end(
    serve: Serve, new_tenant: Callable[..., Any]
) -> None:
    tenant = await new_tenant()
    with http_collector() as hanging:
        hanging.behaviours = [silent(60)] * 50
        with serve({**PROMPT, "OTEL_EXPORTER_OTLP_ENDPOINT": hanging.url}) as wire:
            async with wire.client() as client:
                began = time.monotonic()
                for _ in range(50):
                    answer = await client.get("/api/v1/me", headers=tenant.headers)
                    assert answer.status_code == 200
                assert time.monotonic() - began < 5
            hanging.wait_for(lambda: bool(hanging.attempts))
            began = time.monotonic()
            wire.process.send_signal(signal.SIGTERM)
            wire.process.wait(timeout=20)

        assert time.monotonic() - began < 8


async def test_unless_a_variable_says_so_nothing_is_traced(
    client: httpx.AsyncClient, new_tenant: Callable[..., Any]
) -> None:
    tenant = await new_tenant()

    answer = await client.get("/api/v1/me", headers={**tenant.headers, **CONTEXT})

    assert answer.status_code == 200
    assert "traceresponse" not in answer.headers
