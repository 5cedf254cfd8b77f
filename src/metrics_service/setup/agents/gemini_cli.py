"""Gemini CLI. Names: google-gemini/gemini-cli, `docs/cli/telemetry.md`."""

from __future__ import annotations

from metrics_service.setup.agents.agent import Agent, Snippet
from metrics_service.setup.agents.gemini_family import write_family
from metrics_service.setup.connection import Connection


def write(connection: Connection) -> Snippet:
    return write_family(
        connection,
        "GEMINI",
        {"TRACES_ENABLED": "false"},
        [
            (
                "Prompts are sent unless GEMINI_TELEMETRY_LOG_PROMPTS is false; the sizes of arguments are "
                "then not told either."
            ),
            (
                "Spans are sent in any case; GEMINI_TELEMETRY_TRACES_ENABLED=false keeps prompts and "
                "outputs out of them."
            ),
            "Over gRPC it takes an origin, and drops a path.",
        ],
    )


AGENT = Agent(
    code="gemini-cli",
    name="Gemini CLI",
    protocols=("http/json", "grpc"),
    signals=("logs", "metrics", "traces"),
    write=write,
)
