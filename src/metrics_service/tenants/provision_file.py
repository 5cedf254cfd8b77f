"""Reads the file of a bulk provisioning, all of it before anything is done, and names each mistake."""

from __future__ import annotations

import csv
import io
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from metrics_service.errors import InvalidNameError
from metrics_service.tenants.new_tenant import NewTenant

FIELDS = ("slug", "name", "domain", "plan")
DEFAULT_PLAN = "basic"
TABLE_HEADER = re.compile(r"\s*\[\[\s*tenant\s*\]\]\s*(#.*)?")


class Entry(msgspec.Struct, frozen=True):
    """One tenant as the file has it, and where it stands."""

    where: str
    values: dict[str, str]
    mistakes: list[str] = []


class InvalidFileError(InvalidNameError):
    """The file asks for something that cannot be; nothing was done."""

    def __init__(self, path: Path, mistakes: list[str]) -> None:
        super().__init__("; ".join(f"{path.name}: {mistake}" for mistake in mistakes))
        self.mistakes = mistakes


def read_tenants(
    path: Path, *, base_domain: str, operator_domain: str | None = None
) -> list[NewTenant]:
    """Raises `InvalidFileError` that names every mistake with its line and field."""
    mistakes: list[str] = []
    tenants: list[NewTenant] = []
    lines_of: dict[str, str] = {}
    for entry in _entries(path):
        if entry.mistakes:
            mistakes += [f"{entry.where}: {mistake}" for mistake in entry.mistakes]
            continue
        try:
            new = _tenant(entry, base_domain, operator_domain)
        except InvalidNameError as error:
            mistakes.append(f"{entry.where}: {error}")
            continue
        tenants.append(new)
        for name in (f"slug {new.slug}", f"domain {new.domain}"):
            if name in lines_of:
                mistakes.append(f"{entry.where}: {name} is in {lines_of[name]} already")
            lines_of.setdefault(name, entry.where)
    if mistakes:
        raise InvalidFileError(path, mistakes)
    return tenants


def _tenant(entry: Entry, base_domain: str, operator_domain: str | None) -> NewTenant:
    if "slug" not in entry.values:
        raise InvalidNameError("slug is missing")
    return NewTenant.of(
        entry.values["slug"],
        name=entry.values.get("name"),
        domain=entry.values.get("domain"),
        plan=entry.values.get("plan", DEFAULT_PLAN),
        base_domain=base_domain,
        operator_domain=operator_domain,
    )


def _entries(path: Path) -> list[Entry]:
    try:
        # Excel begins a CSV file with a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidFileError(path, [f"byte {error.start + 1} is not UTF-8"]) from None
    except OSError as error:
        raise InvalidFileError(path, [f"cannot be read: {error.strerror}"]) from None
    read = _from_toml if path.suffix.lower() == ".toml" else _from_csv
    return list(read(path, text))


def _from_csv(path: Path, text: str) -> Iterator[Entry]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    try:
        for row in rows:
            where = f"line {rows.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if not header:
                header = _header(path, where, row)
                continue
            if len(row) != len(header):
                raise InvalidFileError(
                    path, [f"{where}: has {len(row)} fields, the header has {len(header)}"]
                )
            cells = zip(header, (cell.strip() for cell in row), strict=True)
            yield Entry(where, {field: cell for field, cell in cells if cell})
    except csv.Error as error:
        raise InvalidFileError(path, [f"line {rows.line_num}: {error}"]) from None
    if not header:
        raise InvalidFileError(path, ["is empty"])


def _header(path: Path, where: str, row: list[str]) -> list[str]:
    header = [cell.strip().lower() for cell in row]
    mistakes = [f"{where}: unknown column {name!r}" for name in header if name not in FIELDS]
    if "slug" not in header:
        mistakes.append(f"{where}: the column slug is missing")
    if len(set(header)) < len(header):
        mistakes.append(f"{where}: a column is there twice")
    if mistakes:
        raise InvalidFileError(path, mistakes)
    return header


def _from_toml(path: Path, text: str) -> Iterator[Entry]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidFileError(path, [str(error)]) from None
    tables = document.pop("tenant", None)
    if document:
        raise InvalidFileError(path, [f"unknown key {min(document)!r}"])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InvalidFileError(path, ["needs a [[tenant]] for each tenant"])
    yield from _from_tables(tables, _places(text, len(tables)))


def _from_tables(tables: list[dict[str, object]], places: list[str]) -> Iterator[Entry]:
    for where, table in zip(places, tables, strict=True):
        wrong = [f"unknown field {name!r}" for name in table if name not in FIELDS]
        known = {name: value for name, value in table.items() if name in FIELDS}
        wrong += [f"{name} is not text" for name, value in known.items() if type(value) is not str]
        yield Entry(where, {name: str(value) for name, value in known.items()}, wrong)


def _places(text: str, count: int) -> list[str]:
    """The line of each table: the parser does not tell, so count the headers."""
    lines = [
        number for number, line in enumerate(text.splitlines(), 1) if TABLE_HEADER.fullmatch(line)
    ]
    if len(lines) == count:
        return [f"line {line}" for line in lines]
    return [f"tenant {number}" for number in range(1, count + 1)]
