"""Starts the command line without importing it anew, which takes longer than most of what it does.

A process that has imported everything forks once for each command. What comes of it is a child of the
test's process like any other: with its own environment, streams, group and session, `__main__` and
end of Python. What is set before Python starts is not: who changes that starts the command for real.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import runpy
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from metrics_service.cli.commands import COMMANDS

COMMAND = (sys.executable, "-m", "metrics_service")
# Read when a command runs, never when it is imported.
MAY_DIFFER = ("METRICS_", "DATABASE_", "DB_RETRY_", "REDIS_", "PG", "PYTEST_")

ROOT = Path(__file__).resolve().parents[2]

PR_SET_CHILD_SUBREAPER = 36
LONGEST = 1 << 20


def is_like_ours(command: tuple[str, ...], environ: dict[str, str]) -> bool:
    """Whether nobody can tell if it was forked."""
    return (
        command == COMMAND
        and Path.cwd() == ROOT
        and _unchangeable(environ) == _unchangeable(_inherited())
    )


def _unchangeable(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if not name.startswith(MAY_DIFFER)}


def _inherited() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT / "src")}


class Forked(subprocess.Popen[str]):
    """A process as any other, but for who starts it."""

    def _execute_child(self, *given: Any) -> None:
        # In the order in which Python 3.11 and later hand them on.
        arguments, environ, pipes, is_session = given[0], given[6], given[10:16], given[21]
        p2cread, _, _, c2pwrite, _, errwrite = pipes
        try:
            self.pid = forks().ask(
                Wanted(arguments[len(COMMAND) :], environ, is_session=is_session),
                (p2cread, c2pwrite, errwrite),
            )
            self._child_created = True
        finally:
            self._close_pipe_fds(*pipes)


class Wanted(msgspec.Struct, frozen=True):
    """What a command is told, beside its streams."""

    arguments: list[str]
    environ: dict[str, str]
    is_session: bool


class Forks:
    """This end of the process that has imported everything."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # A test's whole environment must fit.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LONGEST)
        self._socket = ours
        # Whose orphans come to us is a matter of the whole process, and answers have an order.
        self._turn = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env=_unchangeable(_inherited()),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        atexit.register(self.close)

    def ask(self, wanted: Wanted, streams: Sequence[int]) -> int:
        """The process id of a new child of ours that runs what is wanted."""
        with self._turn:
            _adopt(orphans=True)
            try:
                socket.send_fds(self._socket, [msgspec.json.encode(wanted)], streams)
                answer = self._socket.recv(64)
            finally:
                _adopt(orphans=False)
        assert answer, "the process that forks has ended"
        return int(answer)

    def close(self) -> None:
        self._socket.close()
        self._process.wait(30)


@cache
def forks() -> Forks:
    return Forks()


def _adopt(*, orphans: bool) -> None:
    """A process whose parent has ended gets the nearest ancestor that wants it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, int(orphans), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


# -- the other end -------------------------------------------------------------------------------------


def become_what_is_wanted(asking: socket.socket) -> None:
    """Fork for each that asks; return in a child, as what was asked for."""
    for place in COMMANDS.values():
        import_module(f"metrics_service.cli.{place.partition('.')[0]}")
    import_module("metrics_service.app")
    # What is there already is looked through by none of them.
    gc.collect()
    gc.freeze()
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "only one thread would go on"
    while True:
        message, streams, *_ = socket.recv_fds(asking, LONGEST, 3)
        if not message:
            sys.exit()
        if child := orphan():
            for stream in streams:
                os.close(stream)
            asking.send(str(child).encode())
        else:
            asking.close()
            become(msgspec.json.decode(message, type=Wanted), streams)
            return


def orphan() -> int:
    """As `os.fork`, but it is no child of this process."""
    reads, writes = os.pipe()
    between = os.fork()
    if not between:
        child = os.fork()
        if child:
            os.write(writes, str(child).encode())
            os._exit(0)
    os.close(writes)
    with open(reads, "rb") as pipe:  # noqa: PTH123  # it has no path
        if not between:
            return 0
        os.waitpid(between, 0)
        return int(pipe.read())


def become(wanted: Wanted, streams: Sequence[int]) -> None:
    if wanted.is_session:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(wanted.environ)
    # As `-m` has it.
    sys.path[0] = str(ROOT)
    sys.argv[1:] = wanted.arguments


if __name__ == "__main__":
    become_what_is_wanted(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module("metrics_service", run_name="__main__", alter_sys=True)
