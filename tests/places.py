"""Where the databases of tests lie: in memory where there is room, since they are thrown away."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import psutil

MEMORY = Path("/dev/shm")
GIB = 1024**3
ROOM_FOR_A_RUN, ROOM_FOR_A_SERVER = 8 * GIB, GIB
ROOM_FOR_PROCESSES = 4 * GIB


def for_run() -> str:
    """A directory for the data of a whole run: a tenant is two hundred files, and there are a thousand."""
    return _with_room(ROOM_FOR_A_RUN)


def for_data() -> str:
    """A directory for the data of one server, with a few tenants."""
    return _with_room(ROOM_FOR_A_SERVER)


def _with_room(needed: int) -> str:
    if (
        MEMORY.is_dir()
        and shutil.disk_usage(MEMORY).free >= needed
        and psutil.virtual_memory().available >= needed + ROOM_FOR_PROCESSES
    ):
        return str(MEMORY)
    return tempfile.gettempdir()
