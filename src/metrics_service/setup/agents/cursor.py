"""Cursor: a form that an admin fills in; its servers send. Names: Cursor's docs, "OpenTelemetry Export"."""

from __future__ import annotations

from metrics_service.setup.agents.agent import Agent, Snippet
from metrics_service.setup.connection import Connection
from metrics_service.setup.writing import form


def write(connection: Connection) -> Snippet:
    notes = [
        "It is part of the Enterprise plan, and sends logs and metrics, no traces.",
        (
            "Cursor's servers send, from fixed addresses that its documentation lists: the address must be "
            "https, and be reached from the internet."
        ),
        "Enter the base address: /v1/logs and /v1/metrics are appended.",
    ]
    if connection.endpoint.scheme != "https":
        notes.append(
            f"{connection.url} is not https: Cursor will not send there; give the address "
            "at which the internet reaches this tenant."
        )
    if connection.attributes:
        notes.append("It sends no team and no repository, and cannot be told any.")
    fields = {
        "Endpoint": connection.url,
        "Header": "x-api-key",
        "Value": connection.key,
    }
    return Snippet([form("Team Settings > OpenTelemetry Export", fields)], notes)


AGENT = Agent(
    code="cursor",
    name="Cursor",
    protocols=("http/protobuf",),
    signals=("logs", "metrics"),
    is_remote=True,
    write=write,
)
