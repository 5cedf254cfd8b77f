"""Does one kind of work on many things in several processes, and leaves none of them behind.

Alembic's `op` is global to a process, so schemas are made and migrated by processes, never threads.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from metrics_service.errors import MetricsServiceError

Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkerDiedError(MetricsServiceError):
    """A process that did part of the work was killed, by the kernel perhaps."""

    def __init__(self) -> None:
        super().__init__("a worker process died; run the same command again")


async def in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], *, jobs: int
) -> AsyncGenerator[Result, None]:
    """Yield the results as they come; `work` and what it takes and gives must be picklable."""
    # Not forked: a child of a process with threads and open connections starts half broken.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        max_workers=min(jobs, len(items)) or 1, mp_context=spawn, initializer=_become_worker
    )
    try:
        futures = [asyncio.wrap_future(pool.submit(work, item)) for item in items]
        for done in asyncio.as_completed(futures):
            yield await _result(done)
    finally:
        # On Ctrl-C what is being done is finished, and nothing more is begun.
        pool.shutdown(cancel_futures=True)


async def _result(done: Awaitable[Result]) -> Result:
    try:
        return await done
    except BrokenProcessPool as error:
        raise WorkerDiedError from error


def _become_worker() -> None:
    # Ctrl-C reaches the whole group: the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever, and hold its locks."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
