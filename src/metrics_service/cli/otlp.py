"""`metrics-service otlp`: what concerns OpenTelemetry, from outside the server and behind it."""

from __future__ import annotations

import rich_click as click

from metrics_service.cli.replay import replay
from metrics_service.cli.send_test import send_test


@click.group()
def otlp() -> None:
    """Test what arrives over OpenTelemetry, and map it again.

    Example: metrics-service otlp send-test --endpoint https://acme.example.com
    """


for command in (send_test, replay):
    otlp.add_command(command)
