"""How commands speak: JSON for scripts, aligned columns for people, progress for the patient."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import rich_click as click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Advance = Callable[[str, int, int], None]
"""Gets what is being done, how much of it is done, and how much there is."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
yes_option = click.option("--yes", "is_sure", is_flag=True, help="Do it without asking.")


def print_json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_one(value: msgspec.Struct, *, as_json: bool) -> None:
    """Print a struct: as JSON, or a line for each field."""
    if as_json:
        print_json(value)
        return
    fields = {name: _cell(field) for name, field in _fields(value).items()}
    width = max(map(len, fields))
    for name, field in fields.items():
        click.echo(f"{name:<{width}}  {field}")


def print_many(values: Sequence[msgspec.Struct], *, as_json: bool, none: str) -> None:
    """Print structs of one kind: as a JSON array, or as aligned columns; `none` when there are none."""
    if as_json:
        print_json(values)
        return
    if not values:
        click.echo(none, err=True)
        return
    print_columns(
        [list(_fields(values[0])), *(map(_cell, _fields(value).values()) for value in values)]
    )


def print_columns(rows: Sequence[Iterator[str] | Sequence[str]]) -> None:
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def some(words: Sequence[str], between: str = ", ", most: int = 10) -> str:
    """The first of many words, for a message of one line."""
    rest = f"{between}and {len(words) - most} more" if len(words) > most else ""
    return between.join(words[:most]) + rest


def _fields(value: msgspec.Struct) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(value)
    return fields


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, list):
        return ",".join(map(str, value)) or "-"
    return str(value)


def require_consent(question: str, *, is_sure: bool) -> None:
    """Ask before something is destroyed; without a terminal there is nobody to ask."""
    if is_sure:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} There is no terminal to ask on; say --yes")
    click.confirm(question, abort=True, err=True)


@contextmanager
def progress() -> Iterator[Advance]:
    """Show a bar on a terminal; elsewhere nothing."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _what, _done, _total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("", total=None)
        yield lambda what, done, total: bars.update(
            task, description=what, completed=done, total=total
        )
