"""What the process table says of one PostgreSQL, by the cluster name it was started with."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")


def find_processes(cluster_name: str, *, uid: int) -> list[int]:
    """The postmaster, its backends and whatever of them outlived it."""
    table = _read_proc() if (_PROC / "self" / "cmdline").exists() else _ask_ps()
    return [pid for pid, owner, line in table if owner == uid and _is_of(line, cluster_name)]


def _is_of(command_line: str, cluster_name: str) -> bool:
    # A backend rewrites its command line to "postgres: <cluster name>: what it does".
    is_backend = command_line.startswith(f"postgres: {cluster_name}: ")
    return is_backend or f"/postgres -c cluster_name={cluster_name} " in command_line


def _read_proc() -> Iterator[tuple[int, int, str]]:
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                yield int(entry.name), entry.stat().st_uid, line.decode(errors="replace")


def _ask_ps() -> Iterator[tuple[int, int, str]]:
    command = ("ps", "-axww", "-o", "pid=,uid=,command=")
    listing = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
    for line in listing.stdout.splitlines():
        pid, uid, command_line = line.split(None, 2)
        yield int(pid), int(uid), command_line
