"""Starts psql on a DSN; the password travels in the environment, where other users cannot see it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from metrics_service.db.embedded.account import caller
from metrics_service.db.embedded.binaries import find_bin_dir
from metrics_service.db.embedded.server import EmbeddedServer
from metrics_service.errors import EmbeddedServerError, MetricsServiceError


class NoPsqlError(MetricsServiceError):
    """There is no psql on this machine."""

    def __init__(self) -> None:
        super().__init__("psql is not installed")


def find_psql(embedded: EmbeddedServer | None) -> Path:
    """The one beside the embedded server, the one on PATH, or the one in the wheel."""
    if embedded is not None:
        return embedded.bin_dir / "psql"
    if (on_path := shutil.which("psql")) is not None:
        return Path(on_path)
    try:
        return find_bin_dir(caller()) / "psql"
    except EmbeddedServerError as error:
        raise NoPsqlError from error


def run_psql(psql: Path, dsn: str, arguments: tuple[str, ...]) -> int:
    """Run psql until it ends; return its exit code."""
    address, password = split_password(dsn)
    # PG* variables of the caller would send psql elsewhere than the DSN says.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    environ = {**kept, "PGPASSWORD": password} if password else kept
    # Ctrl-C belongs to psql: it cancels a query there, and must not end us.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        # Without a shell, and its owner types the arguments.
        return subprocess.run([psql, address, *arguments], env=environ, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)


def split_password(dsn: str) -> tuple[str, str | None]:
    """The DSN without its password, and the password."""
    parts = urlsplit(dsn)
    credentials, at, host = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    query = parse_qsl(parts.query, keep_blank_values=True)
    given = dict(query).get("password") or unquote(password)
    rest = urlencode([pair for pair in query if pair[0] != "password"], quote_via=quote)
    return urlunsplit(parts._replace(netloc=f"{user}{at}{host}", query=rest)), given or None
