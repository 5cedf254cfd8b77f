"""PgBouncer in transaction mode, with the settings that we hand out, in front of the server under test."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlencode, urlsplit, urlunsplit

import msgspec

from metrics_service.db.embedded.account import Account, caller, owner_of, unprivileged

PROGRAM = Path("/usr/sbin/pgbouncer")
OURS = Path(__file__).parents[1] / "deploy" / "pgbouncer" / "pgbouncer.ini"
PORT = 6432
STARTS_S = 10.0
DEFAULTS = {
    # Fewer than there are clients, so that these get another's at each transaction.
    "default_pool_size": "3",
    # The second wall that ours has: without it, what the service would leave behind shows.
    "server_reset_query_always": "0",
}

# Ours ends in its last section, and what is said twice counts as it is said last.
INI = """
%include {ours}
listen_addr =
listen_port = {own_port}
unix_socket_dir = {home}
logfile = {home}/log
pidfile = {home}/pid
auth_type = trust
auth_file = {home}/userlist.txt
{settings}

[databases]
{database} = host={host} port={port}
"""


class Pooler(msgspec.Struct, frozen=True):
    """A PgBouncer of the test's own."""

    home: Path
    dsn: str
    """Leads to the same database as the one that it was made for, as the same login."""
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return (self.home / "log").read_text()


def is_installed() -> bool:
    return PROGRAM.exists()


@contextmanager
def pooler_to(dsn: str, *, settings: dict[str, str] | None = None) -> Iterator[Pooler]:
    """Start one for the DSN's database and login, and wait until it answers."""
    parts = urlsplit(dsn)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    host = query.get("host", parts.hostname or "127.0.0.1")
    port = query.get("port", str(parts.port or 5432))
    database = parts.path.removeprefix("/")
    with tempfile.TemporaryDirectory(prefix="pooler-", dir="/tmp") as place:
        home = Path(place)
        login = unquote(parts.username or ""), unquote(parts.password or "")
        (home / "userlist.txt").write_text(" ".join(f'"{word}"' for word in login) + "\n")
        ini = home / "pgbouncer.ini"
        ini.write_text(
            INI.format(
                ours=_copied(home),
                database=database,
                host=host,
                port=port,
                own_port=PORT,
                home=home,
                settings="\n".join(
                    f"{name} = {value}" for name, value in (DEFAULTS | (settings or {})).items()
                ),
            )
        )
        process = _started(home, ini, _account(host))
        there = urlencode({**query, "host": str(home), "port": str(PORT)})
        credentials = parts.netloc.rpartition("@")[0]
        pooled = urlunsplit(parts._replace(netloc=f"{credentials}@", query=there))
        try:
            _wait_until_it_answers(home, process)
            yield Pooler(home, pooled, process)
        finally:
            process.kill()
            process.wait()


def _copied(home: Path) -> Path:
    # Whom it runs as may not be able to read the source.
    copy = home / "ours.ini"
    copy.write_text(OURS.read_text())
    return copy


def _account(host: str) -> Account:
    if os.geteuid() != 0:
        return caller()
    # It refuses to run as root; and the embedded server's socket is its own user's alone.
    return owner_of(Path(host)) if host.startswith("/") else next(unprivileged())


def _started(home: Path, ini: Path, account: Account) -> subprocess.Popen[bytes]:
    for path in (home, *home.iterdir()):
        os.chown(path, account.uid, account.gid)
    as_whom = (
        {"user": account.uid, "group": account.gid, "extra_groups": ()}
        if account.is_switched
        else {}
    )
    return subprocess.Popen(
        [PROGRAM, "--quiet", ini], cwd="/", stderr=subprocess.DEVNULL, **as_whom
    )


def _wait_until_it_answers(home: Path, process: subprocess.Popen[bytes]) -> None:
    give_up_at = time.monotonic() + STARTS_S
    while True:
        assert process.poll() is None, (home / "log").read_text()
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(home / f".s.PGSQL.{PORT}"))
            except OSError:
                assert time.monotonic() < give_up_at, "PgBouncer does not answer"
                time.sleep(0.02)
            else:
                return
