"""`metrics-service import`: brings in the history that lies on a laptop."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import rich_click as click

from metrics_service.cli.failures import FAILED, UNREACHABLE, without_passwords
from metrics_service.cli.options import Moment
from metrics_service.cli.output import json_option, print_json, progress, some
from metrics_service.send_test.diagnosis import UnusableError
from metrics_service.send_test.endpoint import Endpoint, Told, parse_endpoint, parse_told
from metrics_service.send_test.plain import plain_path
from metrics_service.settings import CLIENTS_KEY
from metrics_service.transcripts.files import Search, find_transcripts
from metrics_service.transcripts.importing import Task, look_through, send_all
from metrics_service.transcripts.reading import Client
from metrics_service.transcripts.sending import NotTakenError, Sender
from metrics_service.transcripts.state import Progresses, folder_of
from metrics_service.transcripts.summary import Summary

MAX_TIMEOUT_S = 600
KIB = 1024

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

OPTIONS = (
    click.argument(
        "path", required=False, type=click.Path(path_type=Path, exists=True), metavar="[PATH]"
    ),
    click.option(
        "--endpoint",
        required=True,
        metavar="URL",
        help="Where the agent would send: https://acme.example.com.",
    ),
    click.option(
        "--key",
        envvar=CLIENTS_KEY,
        show_envvar=True,
        metavar="KEY",
        help="A key with the scope ingest; better in the variable, where no list of processes shows it.",
    ),
    click.option(
        "--host", metavar="NAME", help="The tenant's domain, where the endpoint is an address."
    ),
    click.option(
        "--user",
        "user_email",
        metavar="EMAIL",
        help="Whose history it is; without it, that of the key's owner, or nobody's.",
    ),
    click.option(
        "--since",
        type=Moment(),
        help="Leave out what happened before: 2026-01-31, or 2026-01-31T09:30:00Z.",
    ),
    click.option(
        "--dry-run", "is_dry_run", is_flag=True, help="Say what would be sent; send nothing."
    ),
    click.option(
        "--again",
        "is_again",
        is_flag=True,
        help="Send what was acknowledged before, too; that doubles nothing.",
    ),
    click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(0, MAX_TIMEOUT_S, min_open=True),
        default=60,
        show_default=True,
        metavar="S",
        help="Seconds to wait for each answer.",
    ),
    json_option,
)


def with_options(command: CommandT) -> CommandT:
    """Both commands take the same."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.group(name="import")
def import_group() -> None:
    """Bring in the history that agents left on a laptop, without what anybody wrote.

    Only sizes, names, ids, times, models and tokens leave the machine: no prompt, argument, output, file
    name or path. What live telemetry told already is not counted twice, in whatever order both come.

    Example: METRICS_INGEST_KEY=msk_... metrics-service import codex --endpoint https://acme.example.com
    """


@import_group.command(name="claude-code")
@with_options
def claude_code(path: Path | None, **options: Any) -> int:
    """Bring in the transcripts of Claude Code at PATH ($CLAUDE_CONFIG_DIR/projects, else ~/.claude/projects).

    It can be stopped and started again: what was acknowledged is not sent once more, and of a transcript
    that has grown only what is new. Needs no database and no settings.

    Example: metrics-service import claude-code --endpoint https://acme.example.com --dry-run
    """
    configured = os.environ.get("CLAUDE_CONFIG_DIR", "")
    home = Path(configured) if configured else Path.home() / ".claude"
    return _import("claude-code", path or home / "projects", **options)


@import_group.command(name="codex")
@with_options
def codex(path: Path | None, **options: Any) -> int:
    """Bring in the rollouts of Codex at PATH ($CODEX_HOME/sessions, else ~/.codex/sessions).

    It can be stopped and started again: what was acknowledged is not sent once more, and of a rollout that
    has grown only what is new. Needs no database and no settings.

    Example: metrics-service import codex --endpoint https://acme.example.com --since 2026-01-01
    """
    configured = os.environ.get("CODEX_HOME", "")
    home = Path(configured) if configured else Path.home() / ".codex"
    return _import("codex", path or home / "sessions", **options)


def _import(
    client: Client,
    path: Path,
    *,
    endpoint: str,
    key: str | None,
    host: str | None,
    user_email: str | None,
    since: datetime | None,
    is_dry_run: bool,
    is_again: bool,
    timeout_s: float,
    as_json: bool,
) -> int:
    try:
        told, _ = parse_told(key, (), timeout_s)
        place = parse_endpoint(endpoint, host=host)
    except UnusableError as error:
        raise click.UsageError(str(error)) from None
    if user_email is not None and not ("@" in user_email and user_email.isprintable()):
        raise click.UsageError(f"--user {user_email!r} is no email address")
    since_ns = 0 if since is None else int(since.timestamp()) * 10**9
    task = Task(
        client=client,
        search=_search(path, since_ns),
        user_email=user_email,
        since_ns=since_ns,
        is_again=is_again,
    )
    # Whoever says another person than before means that it was not theirs; and what was read as
    # another client's transcripts was not read.
    target = f"{client} {place.shown} {place.asked} {user_email or ''}"
    kept = Progresses(folder_of(os.environ, target))
    _announce(task, place, path, is_dry_run=is_dry_run)
    try:
        summary = _run(task, kept, place, told, is_dry_run=is_dry_run)
    except UnusableError as error:
        raise click.UsageError(str(error)) from None
    except NotTakenError as error:
        click.echo(f"metrics-service: {without_passwords(str(error))}", err=True)
        return UNREACHABLE if error.is_unreached else FAILED
    if as_json:
        print_json(summary)
    else:
        _report(summary, client)
    return FAILED if summary.refused_records else 0


def _search(path: Path, since_ns: int) -> Search:
    search = find_transcripts(path, since_ns=since_ns)
    if not search.files:
        for line in search.unreadable:
            click.echo(f"not read: {line}", err=True)
        late = "" if not since_ns else " that changed since --since"
        raise click.ClickException(
            f"there are no transcripts at {plain_path(path)}{late}; in a folder, files that end in .jsonl are read"
        )
    return search


def _run(task: Task, kept: Progresses, place: Endpoint, told: Told, *, is_dry_run: bool) -> Summary:
    total = sum(found.size for found in task.search.files)
    with progress() as advance:

        def on_bytes(done: int) -> None:
            advance("reading" if is_dry_run else "importing", done // KIB, max(1, total // KIB))

        if is_dry_run:
            return look_through(task, kept, on_bytes)
        with Sender(place, told) as sender:
            return send_all(task, kept, sender, on_bytes)


def _announce(task: Task, place: Endpoint, path: Path, *, is_dry_run: bool) -> None:
    """Say where it goes and whose it will be, before anything is sent."""
    size = sum(found.size for found in task.search.files)
    whose = (
        f"as the work of {task.user_email}"
        if task.user_email is not None
        else "as the work of the key's owner, or of nobody where the key is no person's"
        " (--user EMAIL says whose it is)"
    )
    what = "Nothing is sent; this would go" if is_dry_run else "It goes"
    click.echo(
        f"{len(task.search.files)} transcripts of {task.client} ({size / KIB / KIB:.1f} MiB) at {plain_path(path)}."
        f" {what} to {place.shown} ({place.asked}), {whose}, whoever it was who worked here.",
        err=True,
    )


def _report(summary: Summary, client: Client) -> None:
    rows = [
        ("transcripts", f"{summary.files} ({summary.files_done_before} without anything new)"),
        ("sessions", f"{summary.sessions}"),
        ("prompts", f"{summary.prompts}"),
        ("model calls", f"{summary.model_calls} ({summary.failed_model_calls} failed)"),
        ("tool calls", f"{summary.tool_calls}"),
        ("tokens", f"{summary.input_tokens} in, {summary.output_tokens} out"),
    ]
    if summary.first_at is not None and summary.last_at is not None:
        days = f"{summary.first_at:%Y-%m-%d %H:%M} to {summary.last_at:%Y-%m-%d %H:%M} UTC"
        rows.insert(1, ("from", days))
    if not summary.is_dry_run:
        rows.append(("records sent", f"{summary.sent_records}"))
    for name, value in rows:
        click.echo(f"{name:<12}  {value}")
    for line in _warnings(summary, client):
        click.echo(line, err=True)


def _warnings(summary: Summary, client: Client) -> list[str]:
    found = [f"not read: {line}" for line in summary.unreadable_files]
    if not summary.sessions and (summary.other_lines or summary.unreadable_lines):
        found.append(f"no session of {client} in what was read; is it another client's PATH?")
    if summary.other_lines:
        found.append(f"{summary.other_lines} lines are of kinds that tell nothing; left out")
    if summary.unreadable_lines:
        found.append(f"{summary.unreadable_lines} lines are not what the client writes; left out")
    if summary.long_lines:
        found.append(f"{summary.long_lines} lines are longer than 64 MiB; left out")
    if summary.refused_records:
        said = some(summary.server_said, "; ")
        found.append(f"the server refused {summary.refused_records} records: {said}")
    return found
