"""Whatever is built on an OpenTelemetry SDK. Names: OpenTelemetry's specification, protocol/exporter."""

from __future__ import annotations

from metrics_service.setup.agents.agent import Agent, Snippet
from metrics_service.setup.connection import Connection
from metrics_service.setup.writing import environment


def write(connection: Connection) -> Snippet:
    variables = {
        "OTEL_LOGS_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_PROTOCOL": connection.protocol,
        "OTEL_EXPORTER_OTLP_ENDPOINT": connection.url,
        "OTEL_EXPORTER_OTLP_HEADERS": connection.header_list,
        "OTEL_RESOURCE_ATTRIBUTES": connection.attribute_list,
    }
    notes = [
        (
            "Spans that follow the GenAI or MCP conventions, or OpenInference, become sessions, tool calls "
            "and model calls; gen_ai.conversation.id or session.id says which belong together."
        ),
        "OTEL_SERVICE_NAME becomes the name of the agent.",
    ]
    if connection.needs_host:
        notes.append(
            "Not every SDK sends the header host as told (Go's does not): there, name the tenant's own "
            "address and let the system resolve it."
        )
    return Snippet([environment(variables)], notes)


AGENT = Agent(
    code="otel",
    name="any OpenTelemetry SDK",
    protocols=("http/protobuf", "http/json", "grpc"),
    write=write,
)
