"""Codex: a table of its configuration file. Names: openai/codex, `codex-rs/config/src/types.rs`."""

from __future__ import annotations

from typing import Any

from metrics_service.fields import Signal
from metrics_service.setup.agents.agent import Agent, Snippet
from metrics_service.setup.connection import Connection
from metrics_service.setup.writing import environment, toml_file

_EXPORTERS: dict[Signal, str] = {
    "logs": "exporter",
    "traces": "trace_exporter",
    "metrics": "metrics_exporter",
}
_ENCODINGS = {"http/protobuf": "binary", "http/json": "json"}


def write(connection: Connection) -> Snippet:
    table: dict[str, Any] = {
        "log_user_prompt": False,
        **{name: _exporter(connection, signal) for signal, name in _EXPORTERS.items()},
    }
    parts = [toml_file("~/.codex/config.toml", "otel", table)]
    notes = [
        (
            "Codex appends no path over HTTP, so each of the three addresses is a full one; metrics go to "
            "OpenAI unless metrics_exporter says otherwise."
        ),
        "An [otel] table that is there already is replaced by this one.",
        (
            "The tools' arguments and outputs are sent in any case; they are dropped here unless an admin "
            "has allowed content."
        ),
    ]
    if connection.attributes:
        parts.append(environment({"OTEL_RESOURCE_ATTRIBUTES": connection.literal_attribute_list}))
        notes.append(
            "Team and repository are read from the environment alone, and taken as they stand: a comma "
            "in them arrives as %2C."
        )
    return Snippet(parts, notes)


def _exporter(connection: Connection, signal: Signal) -> dict[str, Any]:
    told = {"endpoint": connection.url_of(signal)}
    if connection.protocol == "grpc":
        return {"otlp-grpc": told | {"headers": connection.headers}}
    encoding = {"protocol": _ENCODINGS[connection.protocol]}
    return {"otlp-http": told | encoding | {"headers": connection.headers}}


AGENT = Agent(
    code="codex",
    name="Codex",
    protocols=("http/protobuf", "http/json", "grpc"),
    write=write,
)
