"""What all commands have in common."""

from __future__ import annotations

import pytest
import rich_click as click
import structlog
from command_line import CommandLine, without_ours

from metrics_service.cli.commands import Commands


@click.command()
def told() -> None:
    log = structlog.get_logger()
    log.info("nobody wants to know")
    log.warning("somebody may want to know")
    click.echo("[]")


def test_what_is_logged_does_not_stand_in_what_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Commands, "get_command", lambda *_: told)

    ended = CommandLine(without_ours()).here("told")

    assert ended.json() == []
    assert "somebody may want to know" in ended.err
    assert "nobody wants to know" not in ended.err
