"""Gemini CLI and its fork: the same variables, each with its own beginning."""

from __future__ import annotations

from metrics_service.setup.agents.agent import Snippet
from metrics_service.setup.connection import Connection
from metrics_service.setup.writing import environment

HEADERS_NOTE = (
    "It has no setting for headers, but its exporters read OTEL_EXPORTER_OTLP_HEADERS: they must be in "
    "the environment, whatever stands in settings.json."
)
SETTINGS_NOTE = (
    "Environment wins over the telemetry section of settings.json, so nothing needs to be merged."
)


def write_family(
    connection: Connection, prefix: str, more: dict[str, str], notes: list[str]
) -> Snippet:
    told = {
        "ENABLED": "true",
        "TARGET": "local",
        "OTLP_PROTOCOL": "grpc" if connection.protocol == "grpc" else "http",
        "OTLP_ENDPOINT": connection.url,
        "LOG_PROMPTS": "false",
        **more,
    }
    variables = {
        **{f"{prefix}_TELEMETRY_{name}": value for name, value in told.items()},
        "OTEL_EXPORTER_OTLP_HEADERS": connection.header_list,
        "OTEL_RESOURCE_ATTRIBUTES": connection.attribute_list,
    }
    return Snippet([environment(variables)], [HEADERS_NOTE, SETTINGS_NOTE, *notes])
