"""Clients that hold up the end of the process: what becomes of them.

A server that ends waits for its connections. One whose client does not read its answer, or has sent
half of a request, would be waited for until the process is killed, and then nothing is flushed nor
closed. So the process cuts them off itself: as soon as it does nothing for anybody any more, and what
is still travelling had its time; at last in any case.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

import structlog

from metrics_service.observability import catalog

LOOK_EVERY_S = 0.25
# For what was answered and is on its way.
TRAVELS_S = 5.0
# Longer than any request may take by the default limits.
WORKS_S = 20.0

_log = structlog.get_logger(__name__)


class Lingering:
    """The connections of one process's clients, at the port that it listens at."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._last_at: float | None = None
        self._at_rest_since = 0.0

    def end(self) -> None:
        """From now on: cut off who is left, when it is time; to be called on the loop."""
        if self._last_at is None:
            now = asyncio.get_running_loop().time()
            self._last_at, self._at_rest_since = now + WORKS_S, now
            self._look(self._last_at)

    def _look(self, last_at: float) -> None:
        # By timers, not by a task: the loop is left while it waits, and would complain of one.
        loop = asyncio.get_running_loop()
        now = loop.time()
        if _under_way():
            self._at_rest_since = now
        if now < last_at and now - self._at_rest_since < TRAVELS_S:
            loop.call_later(LOOK_EVERY_S, self._look, last_at)
            return
        if (count := cut_off(self._port)) > 0:
            _log.warning("clients cut off at the end", connections=count)


def cut_off(port: int) -> int:
    """Shut down the connections that were made to this process at the port; return how many."""
    count = 0
    for descriptor in list(Path("/dev/fd").iterdir()):
        with suppress(OSError):
            count += _shut(int(descriptor.name), port)
    return count


def _shut(descriptor: int, port: int) -> bool:
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return False
    # They are the server's: it is told by the connection, and closes them itself.
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        if connection.family not in {socket.AF_INET, socket.AF_INET6}:
            return False
        if connection.getsockname()[1] != port:
            return False
        # Raises for what listens, which is connected to nobody.
        connection.getpeername()
        connection.shutdown(socket.SHUT_RDWR)
    return True


def _under_way() -> bool:
    return any(number.value > 0 for number in catalog.HTTP_ACTIVE_REQUESTS.points())
