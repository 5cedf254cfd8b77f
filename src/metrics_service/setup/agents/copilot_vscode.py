"""GitHub Copilot in VS Code: settings, which have no headers.

Names: microsoft/vscode-copilot-chat, `docs/monitoring/agent_monitoring.md`, `otelConfig.ts`.
"""

from __future__ import annotations

from metrics_service.http.limits import KEYED_PREFIX
from metrics_service.setup.agents.agent import Agent, Snippet
from metrics_service.setup.connection import Connection
from metrics_service.setup.writing import environment, json_file

_SETTING = "github.copilot.chat.otel"


def write(connection: Connection) -> Snippet:
    # Whoever starts it from a desktop gives it no environment, and there is no setting for headers.
    is_keyed = connection.protocol != "grpc" and not connection.needs_host
    endpoint = f"{connection.url}{KEYED_PREFIX}{connection.key}" if is_keyed else connection.url
    settings = {
        f"{_SETTING}.enabled": True,
        f"{_SETTING}.exporterType": "otlp-grpc" if connection.protocol == "grpc" else "otlp-http",
        f"{_SETTING}.otlpEndpoint": endpoint,
        f"{_SETTING}.captureContent": False,
    }
    variables = {
        "OTEL_EXPORTER_OTLP_HEADERS": "" if is_keyed else connection.header_list,
        "OTEL_RESOURCE_ATTRIBUTES": connection.literal_attribute_list,
    }
    parts = [json_file("~/.config/Code/User/settings.json", settings)]
    notes = [
        (
            'These are user settings ("Preferences: Open User Settings (JSON)"); on macOS the file is '
            "~/Library/Application Support/Code/User/settings.json, on Windows "
            "%APPDATA%\\Code\\User\\settings.json. Add the lines to what is there, then reload the window."
        ),
        "VS Code's own telemetry.telemetryLevel must not be off: that switches this off too.",
        "Variables such as COPILOT_OTEL_ENDPOINT, where they are set, win over these settings.",
    ]
    if is_keyed:
        notes.append(
            "VS Code has no setting for headers, so the key stands in the path, where only a key with "
            "the scope ingest and no other is taken."
        )
    if any(variables.values()):
        parts.append(environment(variables))
        notes.append("The environment counts where VS Code is started from that shell: code .")
    if connection.attributes:
        notes.append("Team and repository are taken as they stand: a comma in them arrives as %2C.")
    return Snippet(parts, notes)


AGENT = Agent(
    code="copilot-vscode",
    name="GitHub Copilot in VS Code",
    protocols=("http/json", "grpc"),
    write=write,
)
