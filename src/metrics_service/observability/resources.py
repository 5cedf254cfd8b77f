"""What this process takes of its machine: memory, processor time, files, threads; and since when.

Linux tells all of it, by `/proc`; what a system does not tell is None.
"""

from __future__ import annotations

import os
import threading
import time
from functools import cache
from pathlib import Path

from metrics_service.observability import catalog

_STARTED = time.monotonic()
_PROC = Path("/proc/self")
_KIB = 1024


def uptime_s() -> float:
    """For how long this process has been running; a clock that is set does not change it."""
    return time.monotonic() - _STARTED


def resident_bytes() -> int | None:
    """Bytes of memory, what is shared with other processes included (RSS)."""
    try:
        pages = int(_PROC.joinpath("statm").read_text("ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def unique_bytes() -> int | None:
    """Bytes that would be free if this process ended (USS); it walks through all its pages for that."""
    try:
        lines = _PROC.joinpath("smaps_rollup").read_text("ascii").splitlines()
    except OSError:
        return None
    return sum(
        int(line.split()[1]) * _KIB
        for line in lines
        if line.startswith(("Private_Clean:", "Private_Dirty:"))
    )


def open_files() -> int | None:
    try:
        return sum(1 for _ in (_PROC / "fd").iterdir())
    except OSError:
        return None


@cache
def read_resources() -> None:
    """Let meters read them from now on, once for as long as the process lives."""
    catalog.PROCESS_MEMORY.read_by(resident_bytes)
    catalog.PROCESS_MEMORY_UNIQUE.read_by(unique_bytes)
    catalog.PROCESS_CPU_TIME.read_by(lambda: os.times().user, "user")
    catalog.PROCESS_CPU_TIME.read_by(lambda: os.times().system, "system")
    catalog.PROCESS_UPTIME.read_by(uptime_s)
    catalog.PROCESS_FILES.read_by(open_files)
    catalog.PROCESS_THREADS.read_by(threading.active_count)
