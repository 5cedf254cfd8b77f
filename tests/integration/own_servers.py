"""PostgreSQL servers of a test's own, which it may stop, restart and promote."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import asyncpg
import msgspec
import places
import psutil

from metrics_service.db.addresses import MIGRATOR_LOGIN, RUNTIME_LOGIN, SUPERUSER, Addresses
from metrics_service.db.embedded import EmbeddedServer, embedded_server
from metrics_service.db.embedded.account import Account, caller, owner_of
from metrics_service.tenants.initialise import initialise

STANDBY_PORT = 5433
SOON_S = 20.0


@contextmanager
def frozen(data_dir: Path) -> Iterator[None]:
    """Suspend the server that has this directory, with all of its processes."""
    pid = int((data_dir / "postmaster.pid").read_text().split()[0])
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


class OwnServer(msgspec.Struct, frozen=True):
    """An embedded server with roles and registry, that nobody else uses."""

    server: EmbeddedServer

    @property
    def addresses(self) -> Addresses:
        runtime = self.server.dsn(RUNTIME_LOGIN)
        return Addresses(runtime=runtime, direct=runtime, owner=self.server.dsn(MIGRATOR_LOGIN))

    @property
    def admin_dsn(self) -> str:
        return self.server.dsn(SUPERUSER)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """As an administrator stops it, at once; nobody starts it again before this is over."""
        pid = int((self.server.data_dir / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGINT)
        wait_until(lambda: not (self.server.data_dir / "postmaster.pid").exists())
        try:
            yield
        finally:
            self.server.ensure_running()

    def frozen(self) -> AbstractContextManager[None]:
        """Connections to it stay, and nothing answers."""
        return frozen(self.server.data_dir)

    @contextmanager
    def standby(self) -> Iterator[Standby]:
        """A server that follows this one, and listens in a directory of its own."""
        account = owner_of(self.server.data_dir) if os.geteuid() == 0 else caller()
        with tempfile.TemporaryDirectory(
            prefix="standby-", dir=places.for_data(), ignore_cleanup_errors=True
        ) as place:
            home = Path(place)
            os.chown(home, account.uid, account.gid)
            standby = Standby(home=home, bin_dir=self.server.bin_dir, account=account)
            standby.copy(self.server.socket_dir)
            standby.control("start")
            try:
                yield standby
            finally:
                standby.control("stop", "-m", "immediate")


class Standby(msgspec.Struct, frozen=True):
    home: Path
    bin_dir: Path
    account: Account

    @property
    def data_dir(self) -> Path:
        return self.home / "data"

    def dsn(self, user: str) -> str:
        return f"postgresql://{user}@/metrics?host={self.home}&port={STANDBY_PORT}"

    def copy(self, socket_dir: Path) -> None:
        program = self.bin_dir / "pg_basebackup"
        of = ("-h", socket_dir, "-p", "5432", "-U", SUPERUSER)
        self._run(program, *of, "-D", self.data_dir, "-R", "-X", "stream", "-c", "fast")
        with (self.data_dir / "postgresql.auto.conf").open("a") as conf:
            conf.write(
                f"port = {STANDBY_PORT}\nunix_socket_directories = '{self.home}'\n"
                # Else another test's has the port already.
                "listen_addresses = ''\n"
                "logging_collector = off\n"
            )

    def control(self, *arguments: str) -> None:
        log = ("-l", self.home / "log") if arguments[0] == "start" else ()
        self._run(self.bin_dir / "pg_ctl", "-D", self.data_dir, "-w", *log, *arguments)

    def promote(self) -> None:
        self.control("promote")

    def _run(self, *command: str | Path) -> None:
        done = self.account.run(command, timeout_s=60)
        assert done.returncode == 0, done.stderr


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """Start one in a directory of its own, ready to be served from."""
    with tempfile.TemporaryDirectory(
        prefix="own-server-", dir=places.for_data(), ignore_cleanup_errors=True
    ) as place:
        root = Path(place)
        # PostgreSQL does not run as root: its user must be able to enter.
        root.chmod(0o755)
        with embedded_server(root / "data") as server:
            own = OwnServer(server)
            asyncio.run(_prepare(own))
            yield own


async def _prepare(own: OwnServer) -> None:
    await initialise(own.addresses, own.admin_dsn)
    connection = await asyncpg.connect(own.admin_dsn)
    await connection.execute("ALTER SYSTEM SET fsync = off")
    await connection.execute("SELECT pg_reload_conf()")
    await connection.close()


def wait_until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < give_up_at, "it does not come to that"
        time.sleep(0.02)
