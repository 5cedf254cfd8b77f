"""File locks between processes: the kernel drops them with their holder, even after kill -9."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from metrics_service.errors import EmbeddedServerError

_POLL_S = 0.01
_open: set[int] = set()


def open_lock(path: Path) -> int:
    """Open a lock file, never through a link; a new one belongs to the directory's owner."""
    _watch_forks()
    flags = os.O_RDWR | os.O_NOFOLLOW
    try:
        file = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        file = os.open(path, flags)
    else:
        if os.geteuid() == 0:
            # Else a user whose directory root has used once could not open it any more.
            owner = path.parent.stat()
            os.fchown(file, owner.st_uid, owner.st_gid)
    _open.add(file)
    return file


def close_lock(file: int) -> None:
    """Close it here; a process that inherited it holds the lock on."""
    _open.discard(file)
    os.close(file)


def try_exclusive(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def exclusive(path: Path, *, patience_s: float) -> Iterator[None]:
    """Hold a lock alone; wait for it as long as starting or stopping may take."""
    file = open_lock(path)
    try:
        give_up_at = time.monotonic() + patience_s
        while not try_exclusive(file):
            if time.monotonic() > give_up_at:
                raise EmbeddedServerError(
                    f"Another process has been starting or stopping the embedded PostgreSQL for "
                    f"{patience_s:.0f} s: see who holds {path} (`fuser {path}`), and end it."
                )
            time.sleep(_POLL_S)
        yield
    finally:
        close_lock(file)


class Lease:
    """One holder's share in the server; whoever gives back the last one stops it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pid = os.getpid()
        self._is_given_back = False
        self._file = open_lock(path)
        fcntl.flock(self._file, fcntl.LOCK_SH)

    @property
    def is_held(self) -> bool:
        """Not in a forked child: there the share stays with the parent."""
        return not self._is_given_back and self._pid == os.getpid()

    def give_back(self) -> bool:
        """End this share; true when it was the last. The caller holds the start lock."""
        self.abandon()
        file = open_lock(self._path)
        try:
            return try_exclusive(file)
        finally:
            close_lock(file)

    def abandon(self) -> None:
        """End this share without asking for the others."""
        self._is_given_back = True
        close_lock(self._file)


@cache
def _watch_forks() -> None:
    """Let a forked child keep no lock of its parent's: it would hold it on after the parent."""
    os.register_at_fork(after_in_child=_drop_inherited)


def _drop_inherited() -> None:
    while _open:
        with suppress(OSError):
            os.close(_open.pop())
