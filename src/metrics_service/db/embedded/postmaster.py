"""Starts and stops PostgreSQL itself, and finds out whether it lives."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from metrics_service.db.embedded.cluster import (
    hint_at_disk,
    last_complaint,
    write_settings,
)
from metrics_service.db.embedded.locks import close_lock, open_lock, try_exclusive
from metrics_service.db.embedded.places import PORT, Places
from metrics_service.db.embedded.processes import find_processes
from metrics_service.errors import EmbeddedServerError

# Recovery after a crash may read a gigabyte of WAL.
_START_PATIENCE_S = 120.0
_START_ATTEMPTS = 3
_STOP_PATIENCE_S = 30.0
_QUIT_PATIENCE_S = 5.0
_ORPHAN_GRACE_S = 1.0
_ORPHAN_PATIENCE_S = 20.0
_POLL_S = 0.01
_KEPT_LOGS = 5
_STATUS_LINE = 7  # of postmaster.pid


@dataclass(frozen=True)
class Postmaster:
    places: Places
    bin_dir: Path

    def is_ready(self) -> bool:
        """Cheap: it says so, and listens still."""
        return self._status() == "ready" and self._is_listening()

    def ensure(self) -> None:
        """Have it running and ready. The caller holds the start lock."""
        for _ in range(_START_ATTEMPTS):
            process = None if self._is_alive() else self._start()
            if self._becomes_ready(process):
                return
            if process is not None and (process.poll() or 0) >= 0:
                break  # Not killed by somebody: it gave up by itself, or takes for ever.
        raise EmbeddedServerError(
            f"PostgreSQL does not start: {self._complaint()}.{hint_at_disk(self.places.data_dir)} "
            f"Logs: {self.places.start_log} and {self.places.data_dir / 'log'}"
        )

    def stop(self) -> None:
        """End it with everything it started. The caller holds the start lock."""
        postmaster = self._find_postmaster()
        if postmaster is not None:
            # It alone is told: it ends its backends in the right order.
            _signal([postmaster], signal.SIGINT)
            if _wait(self._is_without_processes, _STOP_PATIENCE_S):
                return
        for kind in (signal.SIGQUIT, signal.SIGKILL):
            _signal(self._pids(), kind)
            if _wait(self._is_without_processes, _QUIT_PATIENCE_S):
                return
        raise EmbeddedServerError(
            f"PostgreSQL in {self.places.data_dir} does not end: see processes {self._pids()}."
        )

    def prune_logs(self) -> None:
        """Keep the newest. By descriptor: root must not follow a link that another user made."""
        with suppress(OSError):
            directory = os.open(
                self.places.data_dir / "log", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            )
            try:
                names = sorted(entry.name for entry in os.scandir(directory))
                logs = [name for name in names if name.startswith("postgresql-")]
                for name in logs[:-_KEPT_LOGS]:
                    os.unlink(name, dir_fd=directory)
            finally:
                os.close(directory)

    def _is_alive(self) -> bool:
        """Somebody listens who does not mean to end."""
        return self._status() != "stopping" and self._is_listening()

    def _becomes_ready(self, process: subprocess.Popen[bytes] | None) -> bool:
        def is_settled() -> bool:
            has_ended = not self._is_alive() if process is None else process.poll() is not None
            return has_ended or self.is_ready()

        _wait(is_settled, _START_PATIENCE_S)
        return self.is_ready()

    def _start(self) -> subprocess.Popen[bytes]:
        write_settings(self.places)
        self.places.renew_socket_dir()
        self.prune_logs()
        if self._find_postmaster() is not None:
            # About to end, or its socket is gone: nobody can join it.
            self.stop()
        with self._alone() as alive:
            self._forget_the_dead()
            process = self._spawn(alive)
        # Reaped as soon as it ends: a zombie would pass for a living process.
        threading.Thread(target=process.wait, name="postmaster", daemon=True).start()
        return process

    @contextmanager
    def _alone(self) -> Iterator[int]:
        """Hold the lock that every process of PostgreSQL inherits: so nothing of it lives."""
        file = open_lock(self.places.alive_lock)
        try:
            if not _wait(lambda: self._is_gone(file), _ORPHAN_GRACE_S):
                self._end_orphans(file)
            yield file
        finally:
            close_lock(file)

    def _is_gone(self, alive: int) -> bool:
        return try_exclusive(alive) and not self._pids()

    def _end_orphans(self, alive: int) -> None:
        """Backends whose postmaster was killed work on; it would have told them to quit."""
        _signal(self._pids(), signal.SIGQUIT)
        if not _wait(lambda: self._is_gone(alive), _ORPHAN_PATIENCE_S):
            raise EmbeddedServerError(
                f"Processes of an earlier PostgreSQL still use {self.places.data_dir} and do not "
                f"end: {self._pids() or f'see `fuser {self.places.alive_lock}`'}. End them."
            )

    def _forget_the_dead(self) -> None:
        """Remove what makes PostgreSQL take an unrelated process for its predecessor."""
        # Its own check of shared memory reads the pid file, so that stays unless its pid lives on.
        if (pid := self._read_pid()) is not None and _exists(pid):
            (self.places.data_dir / "postmaster.pid").unlink()
        for name in (self._socket.name, f"{self._socket.name}.lock"):
            self._socket.with_name(name).unlink(missing_ok=True)

    def _spawn(self, alive: int) -> subprocess.Popen[bytes]:
        places = self.places
        places.start_log.unlink(missing_ok=True)
        output = os.open(places.start_log, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        # On the command line, where neither a file nor ALTER SYSTEM can open another way in.
        settings = (
            f"cluster_name={places.cluster_name}",
            "listen_addresses=",
            f"port={PORT}",
            f'unix_socket_directories="{places.socket_dir}"',
            "unix_socket_permissions=0700",
        )
        options = [word for setting in settings for word in ("-c", setting)]
        command: list[str | Path] = [self.bin_dir / "postgres", *options, "-D", places.data_dir]
        try:
            return places.account.spawn(command, output=output, inherit=alive)
        finally:
            os.close(output)

    def _complaint(self) -> str:
        logs = sorted((self.places.data_dir / "log").glob("postgresql-*.log"))
        texts = [log.read_text(errors="replace") for log in (*logs[-1:], self.places.start_log)]
        return last_complaint("\n".join(texts))

    @property
    def _socket(self) -> Path:
        return self.places.socket_dir / f".s.PGSQL.{PORT}"

    def _is_listening(self) -> bool:
        """Only the postmaster itself listens, never a backend that outlived it."""
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            try:
                client.connect(str(self._socket))
            except BlockingIOError:
                return True  # So busy that others queue already.
            except OSError:
                return False
        return True

    def _pids(self) -> list[int]:
        return find_processes(self.places.cluster_name, uid=self.places.account.uid)

    def _is_without_processes(self) -> bool:
        return not self._pids()

    def _find_postmaster(self) -> int | None:
        """By its pid file, if that pid is still ours: after a crash it may be anybody's."""
        pid = self._read_pid()
        return pid if pid in self._pids() else None

    def _read_pid(self) -> int | None:
        lines = self._read_pid_file()
        return int(lines[0]) if lines and lines[0].isdigit() else None

    def _status(self) -> str:
        lines = self._read_pid_file()
        return lines[_STATUS_LINE].strip() if len(lines) > _STATUS_LINE else ""

    def _read_pid_file(self) -> list[str]:
        try:
            return (self.places.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []


def _signal(pids: list[int], kind: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, kind)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _wait(condition: Callable[[], bool], patience_s: float) -> bool:
    give_up_at = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > give_up_at:
            return False
        time.sleep(_POLL_S)
    return True
