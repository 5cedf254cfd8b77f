"""Qwen Code. Names: QwenLM/qwen-code, `docs/developers/development/telemetry.md`."""

from __future__ import annotations

from metrics_service.setup.agents.agent import Agent, Snippet
from metrics_service.setup.agents.gemini_family import write_family
from metrics_service.setup.connection import Connection


def write(connection: Connection) -> Snippet:
    return write_family(
        connection,
        "QWEN",
        {},
        [
            (
                "Prompts are sent unless QWEN_TELEMETRY_LOG_PROMPTS is false; spans are without them by "
                "default."
            ),
        ],
    )


AGENT = Agent(
    code="qwen-code",
    name="Qwen Code",
    protocols=("http/json", "grpc"),
    write=write,
)
