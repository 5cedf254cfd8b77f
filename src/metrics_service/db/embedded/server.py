"""A holder's view of the embedded server: join, address, watch, leave."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from metrics_service.db.embedded.binaries import find_bin_dir
from metrics_service.db.embedded.cluster import DATABASE, ensure_cluster
from metrics_service.db.embedded.locks import Lease, exclusive
from metrics_service.db.embedded.places import PORT, find_places, lease_lock, start_lock
from metrics_service.db.embedded.postmaster import Postmaster
from metrics_service.errors import EmbeddedServerError

_LOCK_PATIENCE_S = 240.0
_WATCH_INTERVAL_S = 2.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddedServer:
    data_dir: Path
    socket_dir: Path
    bin_dir: Path
    """Where psql, pg_dump and pg_restore are."""
    _postmaster: Postmaster = field(repr=False)
    _lease: Lease = field(repr=False)

    def dsn(self, user: str, database: str = DATABASE) -> str:
        # With the port, or PGPORT in the caller's environment would choose another.
        name, path, host = (quote(part, safe="") for part in (user, database, str(self.socket_dir)))
        return f"postgresql://{name}@/{path}?host={host}&port={PORT}"

    def ensure_running(self) -> None:
        """Start PostgreSQL again if it died; cheap when it did not."""
        if not self._lease.is_held:
            raise EmbeddedServerError(
                "This embedded server was left, or joined before a fork: join it again."
            )
        if self._postmaster.is_ready():
            return
        with _deciding(self._postmaster.places.root):
            self._postmaster.ensure()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look after it from a thread of its own."""
        is_over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(is_over,), name="watch-postgres")
        thread.daemon = True
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def _watch(self, is_over: threading.Event) -> None:
        while not is_over.wait(_WATCH_INTERVAL_S):
            try:
                self.ensure_running()
            except (EmbeddedServerError, OSError) as error:
                _log.error("The embedded PostgreSQL is down: %s", error)
            self._postmaster.prune_logs()


@contextmanager
def embedded_server(root: Path) -> Iterator[EmbeddedServer]:
    """Start or join the server of this data directory; the last one to leave stops it."""
    try:
        postmaster, lease = _join(root)
    except OSError as error:
        raise EmbeddedServerError(
            f"The embedded PostgreSQL cannot use {root}: {error}. Make that possible, or set "
            f"METRICS_DATA_DIR to another directory."
        ) from error
    places = postmaster.places
    try:
        yield EmbeddedServer(
            data_dir=places.data_dir,
            socket_dir=places.socket_dir,
            bin_dir=postmaster.bin_dir,
            _postmaster=postmaster,
            _lease=lease,
        )
    finally:
        _leave(postmaster, lease)


def _join(root: Path) -> tuple[Postmaster, Lease]:
    root.mkdir(parents=True, exist_ok=True)
    root = root.resolve()
    with _deciding(root):
        places = find_places(root)
        postmaster = Postmaster(places=places, bin_dir=find_bin_dir(places.account))
        ensure_cluster(places, postmaster.bin_dir)
        lease = Lease(lease_lock(root))
        try:
            postmaster.ensure()
        except BaseException:
            if lease.give_back():
                postmaster.stop()
            raise
    return postmaster, lease


def _leave(postmaster: Postmaster, lease: Lease) -> None:
    if not lease.is_held:
        return
    root = postmaster.places.root
    if not root.exists():
        # Somebody removed everything, locks included: nobody can join any more.
        lease.abandon()
        postmaster.stop()
        return
    with _deciding(root):
        if lease.give_back():
            postmaster.stop()
            postmaster.places.remove_socket_dir()


@contextmanager
def _deciding(root: Path) -> Iterator[None]:
    """Only one process at a time starts or stops."""
    with exclusive(start_lock(root), patience_s=_LOCK_PATIENCE_S):
        yield
