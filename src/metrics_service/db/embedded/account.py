"""Whom PostgreSQL runs as: the caller, or for root an existing unprivileged user."""

import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# The caller's environment holds secrets and PG* variables; a daemon of another user gets neither.
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_UNPRIVILEGED = ("postgres", "nobody")


@dataclass(frozen=True)
class Account:
    uid: int
    gid: int
    is_switched: bool
    """The caller is root and has to become this user, because PostgreSQL refuses root."""

    def run(
        self, command: Sequence[str | Path], *, timeout_s: float, text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=timeout_s,
            cwd="/",
            env=_environment(),
            user=self.uid if self.is_switched else None,
            group=self.gid if self.is_switched else None,
            extra_groups=() if self.is_switched else None,
        )

    def spawn(
        self, command: Sequence[str | Path], *, output: int, inherit: int
    ) -> subprocess.Popen[bytes]:
        """Start a daemon: Ctrl-C does not reach it, and it keeps no pipe of the caller open."""
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(inherit,),
            start_new_session=True,
            cwd="/",
            env=_environment(),
            user=self.uid if self.is_switched else None,
            group=self.gid if self.is_switched else None,
            extra_groups=() if self.is_switched else None,
        )

    def take(self, file: int) -> None:
        """Become the owner of an open file or directory that the caller made."""
        if self.is_switched:
            os.fchown(file, self.uid, self.gid)

    def can_write_in(self, directory: Path) -> bool:
        """Try it: mode bits say nothing of access lists, squashed roots and exotic mounts."""
        try:
            with tempfile.TemporaryDirectory(prefix="postgres.probe-", dir=directory) as probe:
                os.chown(probe, self.uid, self.gid)
                attempt = ("/bin/sh", "-c", 'cd "$1" && : > file', "sh", probe)
                return self.run(attempt, timeout_s=10).returncode == 0
        except OSError:
            return False


def caller() -> Account:
    return Account(uid=os.geteuid(), gid=os.getegid(), is_switched=False)


def owner_of(path: Path) -> Account:
    """For root only: data that somebody already owns stays theirs."""
    uid, gid = path.stat().st_uid, path.stat().st_gid
    with suppress(KeyError):
        gid = pwd.getpwuid(uid).pw_gid
    return Account(uid=uid, gid=gid, is_switched=True)


def unprivileged() -> Iterator[Account]:
    """For root only: the users that PostgreSQL may run as, best first."""
    for name in _UNPRIVILEGED:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            yield Account(uid=entry.pw_uid, gid=entry.pw_gid, is_switched=True)


def name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C"}
