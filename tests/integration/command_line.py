"""Runs the command line as operators do: in a process of its own, told by its environment."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import places
import psutil
import structlog
from forked import COMMAND, Forked, is_like_ours
from said import SAID

from metrics_service.cli.commands import metrics_service
from metrics_service.cli.failures import run
from metrics_service.db.addresses import Addresses
from metrics_service.db.embedded import embedded_server

ROOT = Path(__file__).resolve().parents[2]
SECRET = "a secret key that only tests ever use"
OURS = ("METRICS_", "DATABASE_", "DB_RETRY_", "PG")


class Ended(msgspec.Struct, frozen=True):
    """What became of one command."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


class CommandLine(msgspec.Struct, frozen=True):
    """The command line on one database."""

    environ: dict[str, str]
    command: tuple[str, ...] = COMMAND
    is_forked: bool = True

    def __call__(self, *arguments: str, **environ: str) -> Ended:
        line = msgspec.structs.replace(self, environ=self.environ | environ)
        with line._started(arguments) as process:
            try:
                out, err = process.communicate(timeout=120)
            except BaseException:
                process.kill()
                raise
        assert "Traceback" not in err or environ, err
        return Ended(process.returncode, out, err)

    def here(self, *arguments: str, **environ: str) -> Ended:
        """Run it in this process, which is ten times faster: for what does not need its own."""
        out, err = io.StringIO(), io.StringIO()
        handler, logging = signal.getsignal(signal.SIGTERM), structlog.get_config()
        with (
            Path(os.devnull).open() as stdin,
            mock.patch.object(sys, "stdin", stdin),
            mock.patch.dict(os.environ, self.environ | environ, clear=True),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            try:
                code = run(metrics_service, list(arguments))
            finally:
                signal.signal(signal.SIGTERM, handler)
                structlog.configure(**logging)
        return Ended(code, out.getvalue(), err.getvalue())

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start it in a group of its own, so that a test can kill all of it."""
        return self._started(arguments, start_new_session=True, **options)

    def afresh(self) -> CommandLine:
        """The same, as a new Python that has imported nothing yet."""
        return msgspec.structs.replace(self, is_forked=False)

    def _started(self, arguments: tuple[str, ...], **options: Any) -> subprocess.Popen[str]:
        is_forked = self.is_forked and is_like_ours(self.command, self.environ)
        return (Forked if is_forked else subprocess.Popen[str])(
            [*self.command, *arguments],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def script(self, name: str) -> CommandLine:
        return msgspec.structs.replace(self, command=(sys.executable, str(ROOT / "scripts" / name)))


def without_ours() -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return inherited | {"PYTHONPATH": str(ROOT / "src")}


def on_database(addresses: Addresses) -> CommandLine:
    return CommandLine(
        without_ours()
        | {
            "DATABASE_URL": addresses.runtime,
            "DATABASE_OWNER_URL": addresses.require_owner(),
            "METRICS_SECRET_KEY": SECRET,
        }
    )


def on_directory(data_dir: Path) -> CommandLine:
    return CommandLine(without_ours() | {"METRICS_DATA_DIR": str(data_dir)})


@contextmanager
def new_data_dir() -> Iterator[Path]:
    """A data directory with a space in its path; whatever still runs on it in the end is stopped."""
    with tempfile.TemporaryDirectory(
        prefix="metrics service tests-", dir=places.for_data(), ignore_cleanup_errors=True
    ) as place:
        # PostgreSQL does not run as root: its user must be able to enter.
        Path(place).chmod(0o755)
        data_dir = Path(place) / "data"
        yield data_dir
        if data_dir.exists():
            with embedded_server(data_dir):
                pass


def kill_group(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_alive(pid: int) -> bool:
    """Whether it runs: what ended and was not reaped yet, which is up to whoever adopted it, does not."""
    with suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def eventually(is_true: Callable[[], bool], *, within_s: float = 20) -> None:
    give_up_at = time.monotonic() + within_s
    while not is_true():
        assert time.monotonic() < give_up_at, "it did not happen in time"
        time.sleep(0.05)


class Output:
    """What a running command printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.text = ""
        SAID.add(self)
        self._process = process
        # Two threads add to the text: without it one's line could take away the other's.
        self._adding = threading.Lock()
        self._threads = [
            threading.Thread(target=self._read, args=(pipe,), daemon=True)
            for pipe in (process.stdout, process.stderr)
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, pipe: Any) -> None:
        for line in pipe:
            with self._adding:
                self.text += line
        pipe.close()

    def wait_for(self, words: str, *, within_s: float = 30) -> str:
        eventually(
            lambda: words in self.text or self._process.poll() is not None, within_s=within_s
        )
        assert words in self.text, self.text
        return self.text

    def wait_for_end(self, *, within_s: float = 30) -> int:
        code = self._process.wait(within_s)
        for thread in self._threads:
            thread.join(5)
        return code


@contextmanager
def running(line: CommandLine, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], Output]]:
    process = line.start(*arguments)
    output = Output(process)
    try:
        yield process, output
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        output.wait_for_end()
