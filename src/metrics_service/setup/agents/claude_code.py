"""Claude Code: all by environment. Names: its documentation, page "Monitoring"."""

from __future__ import annotations

from metrics_service.setup.agents.agent import Agent, Snippet
from metrics_service.setup.connection import Connection
from metrics_service.setup.writing import environment


def variables(connection: Connection) -> dict[str, str]:
    """All that it has to be told."""
    return {
        "CLAUDE_CODE_ENABLE_TELEMETRY": "1",
        "CLAUDE_CODE_ENHANCED_TELEMETRY_BETA": "1",
        "OTEL_LOGS_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_PROTOCOL": connection.protocol,
        "OTEL_EXPORTER_OTLP_ENDPOINT": connection.url,
        "OTEL_EXPORTER_OTLP_HEADERS": connection.header_list,
        "OTEL_RESOURCE_ATTRIBUTES": connection.attribute_list,
    }


def write(connection: Connection) -> Snippet:
    return Snippet(
        [environment(variables(connection))],
        [
            "Without a protocol Claude Code sends nothing: it has no default.",
            (
                "Traces are a beta, switched on by CLAUDE_CODE_ENHANCED_TELEMETRY_BETA; logs and metrics "
                "tell of all calls without them."
            ),
            (
                'The same names may stand under "env" in ~/.claude/settings.json, or for a whole company '
                "in its managed settings."
            ),
            "Logs leave every 5 seconds and metrics every minute; a failure to send is shown nowhere.",
        ],
    )


AGENT = Agent(
    code="claude-code",
    name="Claude Code",
    protocols=("http/protobuf", "http/json", "grpc"),
    write=write,
)
