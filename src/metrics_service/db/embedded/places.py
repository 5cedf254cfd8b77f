"""Where the embedded server keeps its data, socket and locks, and who owns them."""

import hashlib
import os
import re
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from metrics_service.db.embedded.account import (
    Account,
    caller,
    name_of,
    owner_of,
    unprivileged,
)
from metrics_service.errors import EmbeddedServerError

PORT = 5432
# For root alone, when its own directories are closed to the user that PostgreSQL runs as.
_SHARED_BASES = (Path("/var/lib/metrics-service"), Path("/var/tmp/metrics-service"))
_SOCKET_BASES = (Path("/tmp"), Path("/var/tmp"))
# Linux allows 107 bytes, macOS 103, for the directory and "/.s.PGSQL.5432" together.
_SOCKET_PATH_BYTES = 103
# A comma separates hosts for every client; quotes and backslashes end in quoting contests.
_PLAIN = re.compile(r"""[^,"'\\\x00-\x1f]+""")


@dataclass(frozen=True)
class Places:
    root: Path
    """The product's data directory, as it was asked for."""
    home: Path
    """The root, or for root a directory elsewhere that PostgreSQL's user can enter."""
    account: Account

    @property
    def data_dir(self) -> Path:
        return self.home / "postgres"

    @property
    def settings(self) -> Path:
        return self.home / "postgres.conf"

    @property
    def start_log(self) -> Path:
        return self.home / "postgres.log"

    @property
    def lease_lock(self) -> Path:
        return lease_lock(self.root)

    @property
    def start_lock(self) -> Path:
        return start_lock(self.root)

    @property
    def alive_lock(self) -> Path:
        """Held by every process of PostgreSQL itself, which inherits it from the first."""
        return self.root / "postgres.alive.lock"

    @cached_property
    def cluster_name(self) -> str:
        """What PostgreSQL's processes are called in the process table."""
        return f"metrics-service-{_short_hash(self.data_dir)}"

    @cached_property
    def socket_dir(self) -> Path:
        """The first place that is short enough and that this user alone can enter."""
        elsewhere = (base / self.cluster_name for base in _SOCKET_BASES)
        for candidate in (self.home / "run", *elsewhere):
            if _fits(candidate) and _is_private(candidate, self.account):
                return candidate
        raise EmbeddedServerError(
            f"No directory for the socket of PostgreSQL: {self.cluster_name} in /tmp and /var/tmp "
            f"belongs to somebody else. Remove it, or set METRICS_DATA_DIR to a shorter path."
        )

    def renew_socket_dir(self) -> None:
        """Make it again if a cleaner of /tmp took it; holders know its address already."""
        if not _is_private(self.socket_dir, self.account):
            raise EmbeddedServerError(
                f"{self.socket_dir} belongs to somebody else now: remove it, or start again."
            )

    def remove_socket_dir(self) -> None:
        """Leave nothing behind in /tmp."""
        if self.socket_dir.parent != self.home:
            with suppress(OSError):
                self.socket_dir.rmdir()


def find_served(root: Path, socket_dir: Path) -> Places | None:
    """The places of the server that listens there, if it is this data directory's; makes nothing."""
    home = _read_pointer(root) or root
    places = Places(root=root, home=home, account=caller())
    elsewhere = (base / places.cluster_name for base in _SOCKET_BASES)
    return places if socket_dir in (home / "run", *elsewhere) else None


def lease_lock(root: Path) -> Path:
    return root / "postgres.lease.lock"


def start_lock(root: Path) -> Path:
    return root / "postgres.start.lock"


def find_places(root: Path) -> Places:
    """Settle where data is or will be. The caller holds the start lock."""
    if os.geteuid() != 0:
        return _find_as_user(root)
    home = _read_pointer(root) or root
    data_dir = home / "postgres"
    if data_dir.exists() and owner_of(data_dir).uid != 0:
        return Places(root=root, home=home, account=owner_of(data_dir))
    if (data_dir / "PG_VERSION").exists():
        raise EmbeddedServerError(
            f"{data_dir} belongs to root, and PostgreSQL refuses to run as root: give it to an "
            f"ordinary user with `chown -R`, or set METRICS_DATA_DIR to another directory."
        )
    return _find_room(root, home)


def shared_bases() -> Iterator[Path]:
    """Directories of root's that everybody can enter and nobody else can write in."""
    for base in _SHARED_BASES:
        with suppress(OSError):
            _make_public(base)
            state = base.lstat()
            is_ours = stat.S_ISDIR(state.st_mode) and state.st_uid == 0
            if is_ours and not state.st_mode & 0o022:
                yield base


def write_new(path: Path, text: str) -> None:
    """Write it anew, never through a link: as root, this may be another user's directory."""
    path.unlink(missing_ok=True)
    with path.open("x") as file:
        file.write(text)


def _find_as_user(root: Path) -> Places:
    home = _read_pointer(root) or root
    data_dir = home / "postgres"
    account = caller()
    if data_dir.exists() and data_dir.stat().st_uid != account.uid:
        raise EmbeddedServerError(
            f"{data_dir} belongs to {name_of(data_dir.stat().st_uid)}, perhaps because root made "
            f"it: run this as the same user as before, or set METRICS_DATA_DIR to another place."
        )
    return Places(root=root, home=home, account=account)


def _find_room(root: Path, home: Path) -> Places:
    for account in unprivileged():
        if account.can_write_in(home):
            return Places(root=root, home=home, account=account)
    for base in shared_bases():
        for account in unprivileged():
            if account.can_write_in(base):
                return Places(root=root, home=_move_out(root, base), account=account)
    raise EmbeddedServerError(
        f"PostgreSQL refuses to run as root, and neither `postgres` nor `nobody` can write in "
        f"{root}, /var/lib or /var/tmp: run this as an ordinary user, or set DATABASE_URL."
    )


def _move_out(root: Path, base: Path) -> Path:
    # A random part: who removes the root starts afresh, and must not find the old data again.
    home = Path(tempfile.mkdtemp(prefix=f"{_short_hash(root)}-", dir=base))
    home.chmod(0o755)
    pointer = _pointer(root)
    unfinished = pointer.with_suffix(".new")
    write_new(
        unfinished,
        f"{home}\n\nThe database is in the directory above, since the user that PostgreSQL runs as "
        f"cannot enter this one.\nKeep this file as long as you want to keep the data.\n",
    )
    unfinished.replace(pointer)
    return home


def _read_pointer(root: Path) -> Path | None:
    try:
        home = Path(_pointer(root).read_text().partition("\n")[0])
    except FileNotFoundError:
        return None
    if not home.is_absolute() or not home.is_dir() or home.lstat().st_uid != 0:
        raise EmbeddedServerError(
            f"{_pointer(root)} says that the data is in {home}, where it is not: bring that "
            f"directory back, or remove the file to start with an empty database."
        )
    return home


def _pointer(root: Path) -> Path:
    return root / "postgres.location.txt"


def _make_public(directory: Path) -> None:
    with suppress(FileExistsError):
        directory.mkdir()
        # Whatever the umask: this directory is ours, its parents are not touched.
        directory.chmod(0o755)


def _fits(candidate: Path) -> bool:
    try:
        name = str(candidate).encode()
    except UnicodeEncodeError:
        return False  # Clients decode the address as UTF-8.
    length = len(name) + len(f"/.s.PGSQL.{PORT}")
    return length <= _SOCKET_PATH_BYTES and _PLAIN.fullmatch(str(candidate)) is not None


def _is_private(directory: Path, account: Account) -> bool:
    """Make it, or look whether what is there is ours: in /tmp anybody may have been first."""
    try:
        is_new = _make_closed(directory)
        file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        if is_new:
            account.take(file)
        if os.fstat(file).st_uid != account.uid:
            return False
        os.fchmod(file, 0o700)
    finally:
        os.close(file)
    return _accepts_sockets(directory)


def _make_closed(directory: Path) -> bool:
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        return False
    return True


def _accepts_sockets(directory: Path) -> bool:
    """Some mounts of containers and virtual machines know files, but no sockets."""
    probe = directory / ".probe"
    with suppress(OSError), socket.socket(socket.AF_UNIX) as listener:
        probe.unlink(missing_ok=True)
        listener.bind(str(probe))
        probe.unlink()
        return True
    return False


def _short_hash(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:12]
