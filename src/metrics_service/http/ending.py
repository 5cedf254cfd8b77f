"""Knowing early that this process is to end: it says so first, serves on for a while, and ends then.

A server that is told to end waits for open requests first, and only then ends the lifespan: a stream
that waits for the lifespan's end would be waited for. And whoever sends traffic has to see that this
process is not ready any more, before it takes none.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Ending:
    """What one process knows about its own end."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        """For how long it serves on, not ready any more."""
        self.is_near = False
        """Whether it was told to end."""
        self._told: list[Callable[[], None]] = []

    def tell(self, call: Callable[[], None]) -> None:
        """Call it when the process stops serving, before open requests are waited for."""
        self._told.append(call)

    @contextmanager
    def foreseen(self) -> Iterator[None]:
        """While this is open SIGTERM is heard of by the loop that runs now, between two of its runs too."""
        before = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is not threading.main_thread() or not callable(before):
            # Nobody waits for requests: the process ends at once, or it is not ours.
            yield
            return
        loop = asyncio.get_running_loop()
        # In the server's place, which would stop taking requests at once.
        loop.add_signal_handler(signal.SIGTERM, self._approach, loop)

        # The server begins to listen after one run of its loop and before the next. What comes then uvloop
        # never hears of; but it leaves a handler at the interpreter, and there may be another in its place.
        def told(_: int, __: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._approach, loop)

        signal.signal(signal.SIGTERM, told)
        # As the loop had it: system calls go on.
        signal.siginterrupt(signal.SIGTERM, False)
        try:
            yield
        finally:
            if signal.getsignal(signal.SIGTERM) is told:
                signal.signal(signal.SIGTERM, before)

    def _approach(self, loop: asyncio.AbstractEventLoop) -> None:
        # A service manager may tell all processes of a service, and the parent tells its workers again.
        if self.is_near:
            return
        self.is_near = True
        # Without its parent it would only keep the port from whoever is started next.
        loop.call_later(0 if _is_orphan() else self.delay_s, self._end_server)

    def _end_server(self) -> None:
        for call in self._told:
            call()
        # The server ends on this as on the signal that was taken from it; the loop runs, and hears it.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        os.kill(os.getpid(), signal.SIGINT)


def _is_orphan() -> bool:
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()
