"""The data directory: made once, whole or not at all, and the settings it runs with."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from metrics_service.db.embedded.places import Places, write_new
from metrics_service.errors import EmbeddedServerError

MAJOR_VERSION = "18"
DATABASE = "metrics"
_UNFINISHED = "postgres.init-"
_INITDB_TIMEOUT_S = 300
_REMOVALS = 100
_REMOVALS_APART_S = 0.05
_FULL_DISK_BYTES = 64 * 1024 * 1024

SETTINGS = """\
# Written at every start: change settings with ALTER SYSTEM, which wins over this file.
listen_addresses = ''
max_connections = 100
shared_buffers = '128MB'
max_wal_size = '1GB'
wal_compression = on
random_page_cost = 1.1
jit = off
timezone = 'UTC'
# Nothing is acknowledged before it is on disk.
fsync = on
synchronous_commit = on
full_page_writes = on
# A file is 10 MB at most; the supervisor removes all but the newest.
logging_collector = on
log_directory = 'log'
log_filename = 'postgresql-%Y%m%d-%H%M%S.log'
log_rotation_size = '10MB'
log_rotation_age = '1d'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %u@%d '
log_min_messages = warning
log_checkpoints = off
# Details and statements carry tenants' values and secrets.
log_error_verbosity = terse
log_min_error_statement = panic
"""


def ensure_cluster(places: Places, bin_dir: Path) -> None:
    """Make the data directory if there is none. The caller holds the start lock."""
    data_dir = places.data_dir
    if (data_dir / "PG_VERSION").exists():
        _check_version(data_dir)
        return
    if data_dir.exists() and any(data_dir.iterdir()):
        raise EmbeddedServerError(
            f"{data_dir} is not a data directory of PostgreSQL, but has files in it: move them "
            f"away, or set METRICS_DATA_DIR to another directory."
        )
    _remove_unfinished(places.home)
    unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=places.home))
    try:
        _initialise(unfinished, places, bin_dir)
        # A killed initialisation leaves only the unfinished directory, which the next one removes.
        unfinished.rename(data_dir)
        _flush(places.home)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_settings(places: Places) -> None:
    with suppress(FileNotFoundError):
        if places.settings.read_text() == SETTINGS:
            return
    unfinished = places.settings.with_suffix(".new")
    write_new(unfinished, SETTINGS)
    unfinished.chmod(0o644)
    unfinished.replace(places.settings)


def hint_at_disk(directory: Path) -> str:
    """Say so when it is the disk, since a full one leaves no log to read."""
    is_full = shutil.disk_usage(directory).free < _FULL_DISK_BYTES
    return f" The disk is full: free some space at {directory}." if is_full else ""


def _check_version(data_dir: Path) -> None:
    version = (data_dir / "PG_VERSION").read_text().strip()
    if version != MAJOR_VERSION:
        raise EmbeddedServerError(
            f"{data_dir} was made by PostgreSQL {version}, and this is {MAJOR_VERSION}: take a "
            f"backup with the version that made it and restore it into another METRICS_DATA_DIR."
        )


def _initialise(unfinished: Path, places: Places, bin_dir: Path) -> None:
    file = os.open(unfinished, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    places.account.take(file)
    os.close(file)
    _run(places, (bin_dir / "initdb", "-D", unfinished, *_INITDB_OPTIONS))
    file = os.open(unfinished / "postgresql.conf", os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
    with os.fdopen(file, "a") as conf:
        conf.write(f"\ninclude_if_exists '../{places.settings.name}'\n")
        conf.flush()
        os.fsync(conf.fileno())
    # Single-user mode needs no socket and no client, so the directory is complete when it appears.
    options = ("-c", "exit_on_error=on", "-c", "logging_collector=off")
    single = (bin_dir / "postgres", "--single", "-D", unfinished, *options, "postgres")
    _run(places, single, text=f"CREATE DATABASE {DATABASE}\n")


_INITDB_OPTIONS = (
    "--username=postgres",
    "--auth-local=trust",
    "--auth-host=reject",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--data-checksums",
    "--no-instructions",
)


def _run(places: Places, command: Sequence[str | Path], *, text: str = "") -> None:
    try:
        done = places.account.run(command, timeout_s=_INITDB_TIMEOUT_S, text=text)
    except subprocess.TimeoutExpired as error:
        raise EmbeddedServerError(
            f"Making the database in {places.home} took more than {_INITDB_TIMEOUT_S} s: set "
            f"METRICS_DATA_DIR to a directory on a faster disk."
        ) from error
    if done.returncode != 0:
        output = f"{done.stdout}\n{done.stderr}"
        with suppress(OSError):
            write_new(places.start_log, output)
        raise EmbeddedServerError(
            f"The database could not be made in {places.home}: {last_complaint(output)}."
            f"{hint_at_disk(places.home)} Log: {places.start_log}"
        )


def last_complaint(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    complaints = [line for line in lines if "FATAL" in line or "PANIC" in line or "error:" in line]
    return (complaints or lines or ["it said nothing"])[-1].rstrip(".")


def _remove_unfinished(home: Path) -> None:
    for leftover in home.glob(f"{_UNFINISHED}*"):
        for _ in range(_REMOVALS):
            shutil.rmtree(leftover, ignore_errors=True)
            if not leftover.exists():
                break
            # Whoever was killed left an initdb behind, which writes on until it misses something.
            time.sleep(_REMOVALS_APART_S)


def _flush(directory: Path) -> None:
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
