"""An OpenTelemetry collector in between. Names: its otlphttpexporter, otlpexporter, resourceprocessor."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from metrics_service.setup.agents.agent import SIGNALS, Agent, Snippet
from metrics_service.setup.connection import Connection
from metrics_service.setup.writing import yaml_file


def write(connection: Connection) -> Snippet:
    name, exporter = _exporter(connection)
    processors: dict[str, Any] = {
        "batch": {"send_batch_size": 2000, "send_batch_max_size": 10000, "timeout": "2s"}
    }
    if connection.attributes:
        processors["resource"] = {
            "attributes": [
                {"key": key, "value": _literally(value), "action": "insert"}
                for key, value in connection.attributes.items()
            ]
        }
    pipeline = {
        "receivers": ["otlp"],
        "processors": [*sorted(processors, reverse=True)],
        "exporters": [name],
    }
    protocols = {
        "grpc": {"endpoint": "127.0.0.1:4317"},
        "http": {"endpoint": "127.0.0.1:4318"},
    }
    configuration = {
        "receivers": {"otlp": {"protocols": protocols}},
        "processors": processors,
        "exporters": {name: exporter},
        "service": {"pipelines": dict.fromkeys(sorted(SIGNALS), pipeline)},
    }
    return Snippet(
        [yaml_file("otel-collector.yaml", _without_anchors(configuration))],
        [
            (
                "Agents then send to the collector, at 127.0.0.1:4318 or over gRPC at 127.0.0.1:4317, "
                "without a key."
            ),
            "What the collector sends again after a lost answer is counted once.",
            "Batches of a few thousand records are taken in fastest.",
        ],
    )


def _exporter(connection: Connection) -> tuple[str, dict[str, Any]]:
    headers = {
        # The collector looks for the one that becomes the request's host under this very spelling.
        "Host" if key == "host" else key: _literally(value)
        for key, value in connection.headers.items()
    }
    told: dict[str, Any] = {"endpoint": connection.url, "compression": "gzip", "headers": headers}
    if connection.protocol == "grpc":
        is_plain = urlsplit(connection.url).scheme == "http"
        return "otlp", told | ({"tls": {"insecure": True}} if is_plain else {})
    if connection.protocol == "http/json":
        told["encoding"] = "json"
    return "otlphttp", told


def _literally(value: str) -> str:
    """What the collector does not expand: to it, `${env:...}` is a variable."""
    return value.replace("$", "$$")


def _without_anchors(value: Any) -> Any:
    """Copies all the way down: of what stands there twice, YAML would make a reference."""
    if isinstance(value, dict):
        return {key: _without_anchors(inner) for key, inner in value.items()}
    return [*map(_without_anchors, value)] if isinstance(value, list) else value


AGENT = Agent(
    code="collector",
    name="OpenTelemetry Collector",
    protocols=("http/protobuf", "http/json", "grpc"),
    write=write,
)
