"""opencode, without a plugin: environment, and a switch in its configuration file.

Names: anomalyco/opencode, its observability sources and `https://opencode.ai/config.json`.
"""

from __future__ import annotations

from metrics_service.setup.agents.agent import Agent, Snippet
from metrics_service.setup.connection import Connection
from metrics_service.setup.writing import environment, json_file


def write(connection: Connection) -> Snippet:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": connection.url,
        "OTEL_EXPORTER_OTLP_HEADERS": connection.header_list,
        "OTEL_RESOURCE_ATTRIBUTES": connection.attribute_list,
        # It ends without waiting for what is queued, by default for up to 5 s; a turn makes 500 spans.
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2048",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    settings = {
        "$schema": "https://opencode.ai/config.json",
        "experimental": {"openTelemetry": True},
    }
    notes = [
        (
            "Without experimental.openTelemetry there are no spans of tools and models, and so no session. "
            "Merge it into an opencode.json that is there already."
        ),
        (
            "Its spans carry prompts, arguments and outputs, and no switch leaves them out; they are "
            "dropped here unless an admin has allowed content."
        ),
        "It sends traces, and logs that are free text; it has no metrics.",
        (
            "It ends without waiting for spans that are still queued: OTEL_BSP_SCHEDULE_DELAY lets them "
            "leave ten times a second."
        ),
    ]
    if not connection.has_plain_attributes:
        notes.append(
            "Its logs take team and repository as they stand, percent-encoded; its traces decode them."
        )
    return Snippet(
        [environment(variables), json_file("~/.config/opencode/opencode.json", settings)], notes
    )


AGENT = Agent(
    code="opencode",
    name="opencode",
    protocols=("http/json",),
    signals=("logs", "traces"),
    write=write,
)
