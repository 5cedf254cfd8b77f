"""GitHub Copilot CLI. Names: GitHub's documentation, page "OpenTelemetry monitoring"."""

from __future__ import annotations

from metrics_service.setup.agents.agent import Agent, Snippet
from metrics_service.setup.connection import Connection
from metrics_service.setup.writing import environment


def write(connection: Connection) -> Snippet:
    variables = {
        "COPILOT_OTEL_ENABLED": "true",
        "OTEL_EXPORTER_OTLP_PROTOCOL": connection.protocol,
        "OTEL_EXPORTER_OTLP_ENDPOINT": connection.url,
        "OTEL_EXPORTER_OTLP_HEADERS": connection.header_list,
        "OTEL_RESOURCE_ATTRIBUTES": connection.attribute_list,
    }
    return Snippet(
        [environment(variables)],
        [
            "It sends traces and metrics, and no logs.",
            "Releases before 1.0.61 speak http/json alone.",
        ],
    )


AGENT = Agent(
    code="copilot-cli",
    name="GitHub Copilot CLI",
    protocols=("http/json", "http/protobuf"),
    signals=("metrics", "traces"),
    write=write,
)
