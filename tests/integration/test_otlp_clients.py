"""OTLP over HTTP from real clients to the real server: OpenTelemetry's exporters, and bare HTTP."""

from __future__ import annotations

import gzip
import json
import logging
import socket
from collections.abc import Iterator

import httpx
import msgspec
import pytest
from command_line import Output, on_database, running
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection
from metrics_service.tenants.keys import create_key

COMPRESSIONS = [Compression.NoCompression, Compression.Gzip, Compression.Deflate]
CLAUDE_CODE = Resource({"service.name": "claude-code"})
BODY = {
    "resourceLogs": [
        {
            "scopeLogs": [
                {
                    "scope": {"name": "com.anthropic.claude_code.events"},
                    "logRecords": [
                        {
                            "timeUnixNano": "1772445600000000000",
                            "attributes": [
                                {"key": "event.name", "value": {"stringValue": "tool_result"}},
                                {"key": "session.id", "value": {"stringValue": "s"}},
                                {"key": "tool_use_id", "value": {"stringValue": "t"}},
                                {"key": "tool_name", "value": {"stringValue": "Bash"}},
                            ],
                        }
                    ],
                }
            ]
        }
    ]
}


class Service(msgspec.Struct):
    """The server that the product ships, and what it printed."""

    url: str
    output: Output

    def get(self, path, tenant):
        response = httpx.get(
            f"{self.url}/api/v1/{path}", headers=tenant.headers, trust_env=False, timeout=20
        )
        assert response.status_code == 200, response.text
        return response.json()["data"]

    def post(self, path, content, **headers):
        return httpx.post(
            f"{self.url}{path}", content=content, headers=headers, trust_env=False, timeout=20
        )


@pytest.fixture(scope="module")
def service(addresses: Addresses) -> Iterator[Service]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with running(on_database(addresses), "serve", "--port", str(port)) as (_, output):
        output.wait_for("Metrics Service serves")
        yield Service(f"http://127.0.0.1:{port}", output)


class Way(msgspec.Struct):
    """How an exporter is told where to send: with a key in a header, or in the path."""

    endpoint: str
    headers: dict[str, str]

    def options(self, signal, compression):
        # Exporters take an endpoint that they are given in code as it is.
        return {
            "endpoint": f"{self.endpoint}/v1/{signal}",
            "headers": self.headers,
            "compression": compression,
            "timeout": 10,
        }


@pytest.fixture(params=["header", "path"])
async def way(request, service, new_tenant, caplog):
    """A fresh tenant and the way to it; in the end, no exporter may have complained."""
    tenant = await new_tenant(scopes=("ingest",))
    one = Way(service.url, tenant.headers)
    if request.param == "path":
        one = Way(f"{service.url}/i/{tenant.key}", {"Host": tenant.headers["Host"]})
    with caplog.at_level(logging.WARNING):
        yield one, tenant
    assert [record for record in caplog.records if "opentelemetry" in record.name] == []


@pytest.fixture
def reading(addresses):
    """A key that may read what a key of the scope ingest has sent."""

    async def issue(tenant):
        async with owner_connection(addresses.require_owner()) as connection, connection.begin():
            issued = await create_key(connection, tenant.id, scopes=["read"], name="reader")
        return type(tenant)(tenant.tenant, issued.key)

    return issue


@pytest.mark.parametrize("compression", COMPRESSIONS, ids=lambda one: one.value)
async def test_logs_of_the_sdk_become_calls(service, way, reading, compression):
    where, tenant = way
    provider = LoggerProvider(CLAUDE_CODE, shutdown_on_exit=False)
    exporter = OTLPLogExporter(**where.options("logs", compression))
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    logger = provider.get_logger("com.anthropic.claude_code.events")

    for number in range(50):
        logger.emit(
            timestamp=1772445600000000000 + number,
            body="claude_code.tool_result",
            attributes={
                "event.name": "tool_result",
                "session.id": "s",
                "tool_use_id": f"t{number}",
                "tool_name": "Bash",
                "success": "true",
                "duration_ms": 7,
            },
        )
    assert provider.force_flush()
    provider.shutdown()

    rows = service.get("tool-metrics", await reading(tenant))
    assert {(row["tool_name"], row["duration_ms"], row["agent"]) for row in rows} == {
        ("Bash", 7.0, "claude-code")
    }
    assert len(rows) == 50


@pytest.mark.parametrize("compression", COMPRESSIONS, ids=lambda one: one.value)
async def test_spans_of_the_sdk_become_calls(service, way, reading, compression):
    where, tenant = way
    provider = TracerProvider(
        resource=Resource({"service.name": "my-agent"}), shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(**where.options("traces", compression))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("my-agent")

    with tracer.start_as_current_span(
        "chat some-model",
        attributes={
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "some-model",
            "gen_ai.conversation.id": "s",
            "gen_ai.usage.input_tokens": 11,
        },
    ):
        pass
    for number in range(3):
        with tracer.start_as_current_span(
            "execute_tool Bash",
            attributes={
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": "Bash",
                "gen_ai.tool.call.id": f"c{number}",
                "gen_ai.conversation.id": "s",
            },
        ):
            pass
    assert provider.force_flush()
    provider.shutdown()

    reader = await reading(tenant)
    assert [row["tool_name"] for row in service.get("tool-metrics", reader)] == ["Bash"] * 3
    assert [row["input_tokens"] for row in service.get("model-calls", reader)] == [11]


@pytest.mark.parametrize("compression", COMPRESSIONS, ids=lambda one: one.value)
async def test_counters_of_the_sdk_are_added_up(service, way, reading, compression):
    where, tenant = way
    exporter = OTLPMetricExporter(**where.options("metrics", compression))
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=60_000)
    provider = MeterProvider([reader], CLAUDE_CODE, shutdown_on_exit=False)
    lines = provider.get_meter("com.anthropic.claude_code").create_counter(
        "claude_code.lines_of_code.count"
    )

    # By default the SDK sends sums from the beginning: what counts is what they grow by.
    for count in (3, 4):
        lines.add(count, {"session.id": "s", "type": "added"})
        assert provider.force_flush()
    provider.shutdown()

    (session,) = service.get("sessions", await reading(tenant))
    assert (session["external_id"], session["lines_added"]) == ("s", 7)


async def test_an_exporter_without_a_key_stops_at_once(service, new_tenant, caplog):
    tenant = await new_tenant()
    way = Way(service.url, {"Host": tenant.headers["Host"]})
    provider = TracerProvider(shutdown_on_exit=False)
    exporter = OTLPSpanExporter(**way.options("traces", Compression.NoCompression))
    provider.add_span_processor(BatchSpanProcessor(exporter))

    with caplog.at_level(logging.WARNING):
        provider.get_tracer("x").start_span("x").end()
        provider.force_flush()
    provider.shutdown()

    complaints = [record.getMessage() for record in caplog.records]
    assert any("401" in complaint for complaint in complaints), complaints
    assert not any("retrying" in complaint.lower() for complaint in complaints), complaints


def pieces(data, size):
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.parametrize("size", [1, 100, 10_000])
async def test_a_chunked_body_by_a_key_in_the_path_is_taken(
    service, new_tenant, reading, coding, size
):
    tenant = await new_tenant(scopes=("ingest",))
    body = json.dumps(BODY).encode()
    packed = gzip.compress(body) if coding == "gzip" else body

    response = service.post(
        f"/i/{tenant.key}/v1/logs",
        pieces(packed, size),
        **{
            "Host": tenant.headers["Host"],
            "Content-Type": "application/json",
            "Content-Encoding": coding,
        },
    )

    assert (response.status_code, response.content) == (200, b"{}")
    assert len(service.get("tool-metrics", await reading(tenant))) == 1


async def test_no_key_in_a_path_is_ever_logged(service, new_tenant):
    tenant = await new_tenant(scopes=("ingest",))
    host = {"Host": tenant.headers["Host"], "Content-Type": "application/json"}

    for path in ("/v1/logs", "/v1/log", "/api/v1/me", "", "/x%00", "/%69"):
        for before in (f"/i/{tenant.key}", f"/%69/{tenant.key}", f"/i//{tenant.key}"):
            response = service.post(before + path, json.dumps(BODY).encode(), **host)
            assert tenant.key not in response.text
            assert response.status_code in (200, 400, 404), (path, response.text)
    service.output.wait_for("/i/:token")

    assert tenant.key not in service.output.text


async def test_64_mib_are_taken_and_not_a_byte_more(service, new_tenant):
    tenant = await new_tenant(scopes=("ingest",))
    host = {"Host": tenant.headers["Host"], "Content-Type": "application/json"}
    limit = 64 * 1024 * 1024
    body = b'{"resourceLogs":[]}'

    at_limit = service.post(f"/i/{tenant.key}/v1/logs", body.ljust(limit), **host)
    bomb = service.post(
        f"/i/{tenant.key}/v1/logs",
        gzip.compress(body.ljust(limit + 1)),
        **{**host, "Content-Encoding": "gzip"},
    )

    assert (at_limit.status_code, at_limit.content) == (200, b"{}")
    assert (bomb.status_code, bomb.json()["code"]) == (413, 8)
