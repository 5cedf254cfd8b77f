"""What the benchmarks share: the data directory, the servers under test, medians and CPU time."""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import msgspec
import psutil

from metrics_service.db.addresses import SUPERUSER, Addresses, database_addresses
from metrics_service.settings import Settings

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src"
DATA = Path("/tmp/metrics-bench")  # noqa: S108 - short enough for a socket, and not worth keeping
TENANTS_FILE = "bench.json"
SECRET = "a secret key that only benchmarks ever use"  # noqa: S105 - it is none
START_PATIENCE_S = 60


class BenchTenant(msgspec.Struct, frozen=True):
    """A tenant to be asked for at random."""

    id: UUID
    schema: str
    host: str
    key: str


@contextmanager
def database(data: Path) -> Iterator[Addresses]:
    """Start or join the embedded server of a data directory."""
    with database_addresses(Settings(metrics_data_dir=str(data))) as addresses:
        yield addresses


def admin_dsn(addresses: Addresses) -> str:
    """The superuser's DSN; benchmarks only run on the embedded server."""
    if addresses.embedded is None:
        raise SystemExit("unset DATABASE_URL: benchmarks make a server of their own")
    return addresses.embedded.dsn(SUPERUSER)


def load_tenants(data: Path) -> list[BenchTenant]:
    return msgspec.json.decode((data / TENANTS_FILE).read_bytes(), type=list[BenchTenant])


class Running(msgspec.Struct, frozen=True):
    """A server under test."""

    name: str
    port: int
    process: psutil.Process

    def processes(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def cpu_s(self) -> float:
        """User and system time of all its processes so far."""
        times = [process.cpu_times() for process in self.processes()]
        return sum(time.user + time.system for time in times)

    def worker(self) -> psutil.Process:
        """The process that serves: the one with the most memory."""
        return max(self.processes(), key=lambda process: process.memory_info().rss)


@contextmanager
def serving(
    name: str,
    runtime_dsn: str,
    *,
    source: Path = SOURCE,
    data: Path = DATA,
    pool_max: int = 10,
    program: Sequence[str] = (),
    more: Mapping[str, str] | None = None,
) -> Iterator[Running]:
    """Run `floor`, or the product of a source tree, with one worker and without a log of accesses.

    `program`: what Python is to run instead, which is told the port. `more`: of its environment.
    """
    port = _free_port()
    is_floor = name == "floor"
    environ = {
        **os.environ,
        "PYTHONPATH": str(source),
        "DATABASE_URL": runtime_dsn,
        "DATABASE_POOL_MAX": str(pool_max),
        "METRICS_SECRET_KEY": SECRET,
        "METRICS_LOG_LEVEL": "warning",
        "BENCH_DATA": str(data),
        **(more or {}),
    }
    what = [str(HERE / "floor.py")] if is_floor else ["-m", "metrics_service", "serve"]
    process = subprocess.Popen(
        [sys.executable, *(program or what), "--port", str(port)], env=environ, stdout=2
    )
    try:
        _wait(port, process)
        yield Running(name, port, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(30)


def mib(process: psutil.Process) -> float:
    """The memory that it has resident."""
    return float(process.memory_info().rss) / 2**20


@contextmanager
def watched(process: psutil.Process) -> Iterator[list[float]]:
    """Look at the process every few milliseconds; the list holds the most it had."""
    peak = [mib(process)]
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(0.005):
            peak[0] = max(peak[0], mib(process))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        is_over.set()
        thread.join()


def median(values: list[float]) -> float:
    return statistics.median(values)


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(port: int, process: subprocess.Popen[bytes]) -> None:
    give_up_at = time.monotonic() + START_PATIENCE_S
    while time.monotonic() < give_up_at:
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                # It listens; the lifespan behind it may take a moment longer.
                time.sleep(1)
                return
        time.sleep(0.05)
    raise SystemExit("the server does not listen")
