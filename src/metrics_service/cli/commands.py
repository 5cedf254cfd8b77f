"""The command line: every group of commands, put together."""

from __future__ import annotations

import rich_click as click

from metrics_service.cli.dashboard import dashboard
from metrics_service.cli.db import db
from metrics_service.cli.demo import demo
from metrics_service.cli.key import key
from metrics_service.cli.serve import serve
from metrics_service.cli.tenant import tenant


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="metrics-service")
def metrics_service() -> None:
    """The backend where teams see what their coding agents and developer tools do."""


for command in (demo, serve, db, tenant, key, dashboard):
    metrics_service.add_command(command)
