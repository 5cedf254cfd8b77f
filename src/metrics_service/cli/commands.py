"""The command line: every group of commands, put together."""

from __future__ import annotations

from importlib import import_module

import rich_click as click

from metrics_service.logs import log_beside_output

# Name, and where it is. Most need a second to be imported, so that only the one is that was asked for.
COMMANDS = {
    "demo": "demo.demo",
    "serve": "serve.serve",
    "maintain": "maintain.maintain",
    "db": "db.db",
    "tenant": "tenant.tenant",
    "key": "key.key",
    "user": "user.user",
    "dashboard": "dashboard.dashboard",
    "setup": "setup.setup",
    "otlp": "otlp.otlp",
    "import": "import_transcripts.import_group",
}


class Commands(click.RichGroup):
    """A group that imports a command when it is asked for."""

    def list_commands(self, _: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name].split(".")
        command: click.Command = getattr(import_module(f"metrics_service.cli.{module}"), name)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="metrics-service")
def metrics_service() -> None:
    """The backend where teams see what their coding agents and developer tools do."""
    log_beside_output()
