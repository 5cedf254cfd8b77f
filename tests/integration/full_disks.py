"""A small disk of a test's own, which can be filled and emptied again."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from metrics_service.db.embedded.account import Account

CHUNK = 1024 * 1024


class SmallDisk(msgspec.Struct, frozen=True):
    place: Path

    @contextmanager
    def full(self) -> Iterator[None]:
        """Not a byte is left, until this is over."""
        ballast = self.place / "ballast"
        # Others take room meanwhile: so until there is none, rather than as much as there was.
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(CHUNK))
        assert os.statvfs(self.place).f_bavail == 0
        try:
            yield
        finally:
            ballast.unlink()


@contextmanager
def small_disk(account: Account, megabytes: int) -> Iterator[SmallDisk]:
    """Mount one that the account may write on; skips the test where nothing may be mounted."""
    with tempfile.TemporaryDirectory(prefix="small-disk-") as directory:
        place = Path(directory) / "disk"
        place.mkdir()
        # Whoever the account is must be able to enter.
        place.parent.chmod(0o755)
        options = f"size={megabytes}m,mode=0700,uid={account.uid},gid={account.gid}"
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place],
            capture_output=True,
            text=True,
            check=False,
        )
        if mounted.returncode != 0:
            pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
        try:
            yield SmallDisk(place)
        finally:
            # Even where something still has a file open there.
            subprocess.run(["umount", "--lazy", place], check=True)
