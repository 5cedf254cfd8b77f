"""Knowing early that the process is to end.

A server that is told to end waits for open requests first, and only then ends the lifespan: a stream
that waits for the lifespan's end would be waited for.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def told_to_end(call: Callable[[], None]) -> Iterator[None]:
    """Call it in this loop as soon as SIGTERM arrives, whatever else is done about that.

    Event loops learn of signals by a file descriptor, and leave a handler at the interpreter only for
    the signal to be written there (`signal.set_wakeup_fd`): so there may be another one in its place.
    """
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        # Nobody waits for requests: the process ends at once, or it is not ours.
        yield
        return
    loop = asyncio.get_running_loop()

    def told(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(call)
        before(number, frame)

    signal.signal(signal.SIGTERM, told)
    # As the loop had it: system calls go on.
    signal.siginterrupt(signal.SIGTERM, False)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is told:
            signal.signal(signal.SIGTERM, before)
