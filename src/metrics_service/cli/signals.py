"""SIGTERM: what is open is closed in order, and nothing is torn up on the way."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, NoReturn, TypeVar

Result = TypeVar("Result")

TERMINATED = 143


class Told:
    """As `threading.Event`, for one thread that waits, and safe to set in the handler of a signal.

    That one takes a lock, which the thread that the handler interrupts may be holding: it would wait for
    itself, for ever.
    """

    def __init__(self) -> None:
        self._is_set = False
        # Of all queues the one whose `put` may interrupt itself.
        self._wakes: SimpleQueue[None] = SimpleQueue()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._wakes.put(None)

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it is set, for at most so many seconds; say whether it is."""
        while not self._is_set:
            try:
                self._wakes.get(timeout=timeout)
            except Empty:
                break
        return self._is_set


_is_told = Told()


def end_on_sigterm() -> None:
    """From now on the signal ends the process by an exception: so the embedded server is stopped."""
    signal.signal(signal.SIGTERM, _terminate)


def end_if_told() -> None:
    """End now if SIGTERM came before: where Python was cleaning up, it swallowed the exception."""
    if _is_told.is_set():
        sys.exit(TERMINATED)


@contextmanager
def until_told() -> Iterator[None]:
    """For what runs until it is told to end: SIGTERM is no failure then, however early it comes."""
    try:
        yield
    except SystemExit as end:
        if end.code != TERMINATED:
            raise


def run_async(work: Coroutine[Any, Any, Result]) -> Result:
    """As `asyncio.run`; SIGTERM cancels the work, and ends the process when that is over.

    An exception out of a signal handler comes up between any two instructions. Where these are the
    driver's, which is called by the event loop and calls back from C, it crashed the process.
    """
    before = signal.getsignal(signal.SIGTERM)

    async def cancellable() -> Result:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def cancel(_: int, __: FrameType | None) -> None:
            _is_told.set()
            if task is not None:
                # Later, and waking the loop: what it is doing now is done first.
                loop.call_soon_threadsafe(task.cancel)

        signal.signal(signal.SIGTERM, cancel)
        try:
            if _is_told.is_set():
                # It came before there was anything to cancel.
                work.close()
                raise asyncio.CancelledError
            return await work
        finally:
            signal.signal(signal.SIGTERM, _note)

    # Not even while the loop is made or taken down.
    signal.signal(signal.SIGTERM, _note)
    try:
        result = asyncio.run(cancellable())
    except asyncio.CancelledError:
        end_if_told()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    end_if_told()
    return result


def _note(_: int, __: FrameType | None) -> None:
    _is_told.set()


def _terminate(_: int, __: FrameType | None) -> NoReturn:
    _is_told.set()
    sys.exit(TERMINATED)
