"""The workers of the server: how they are replaced, and how they end."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import structlog
from granian.server.mp import MPServer

from metrics_service.cli.kept import KeptProcess
from metrics_service.cli.signals import Told
from metrics_service.cli.spawn import DRAIN_S, end_with_parent, interrupts_blocked

# A new worker imports and connects; on a busy machine that takes its time.
START_S = 120.0
LOOK_EVERY_S = 0.1
LISTENS_AFTER_S = 0.1
SERVES = b"serves"

_log = structlog.get_logger(__name__)


class Server(MPServer):
    """Granian, except for how it ends and replaces its workers.

    A second signal ends it at once, and Ctrl-C is for the parent alone. A worker is told to end when
    its successor serves, not after a fixed time; one that has none stays.
    """

    # Granian's own methods have no types.

    otlp_grpc: KeptProcess | None = None
    """Told of signals together with the workers: all drain at the same time."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.main_loop_interrupt = Told()  # type: ignore[assignment]  # as much of an `Event` as is asked of it
        # `nohup` ignores it, so that a process stays when its terminal goes.
        hears_hang_up = signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
        self._goes_with_terminal = hears_hang_up and _has_terminal()

    def signal_handler_interrupt(self, *args: Any, **kwargs: Any) -> None:
        if self.otlp_grpc is not None:
            self.otlp_grpc.stop(at_once=self.interrupt_signal)
        if self.interrupt_signal:
            for worker in self.wrks:
                worker.kill()  # type: ignore[no-untyped-call]
        super().signal_handler_interrupt(*args, **kwargs)  # type: ignore[no-untyped-call]

    def signal_handler_reload(self, *args: Any, **kwargs: Any) -> None:
        if self._goes_with_terminal and not _has_terminal():
            # Nobody asked for new workers: the window was closed.
            self.signal_handler_interrupt()
            return
        super().signal_handler_reload(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _spawn_workers(self, *args: Any, **kwargs: Any) -> None:
        with interrupts_blocked():
            super()._spawn_workers(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _spawn_worker(self, idx: int, target: Any, callback_loader: Any) -> Any:  # type: ignore[override]  # as Granian's own
        heard, tells = multiprocessing.Pipe(duplex=False)
        worker: Any = super()._spawn_worker(idx, target, partial(callback_loader, tells))
        worker.heard = heard
        return worker

    def _respawn_workers(
        self, workers: list[int], spawn_target: Any, target_loader: Any, delay: float = 0
    ) -> None:
        del delay
        try:
            for idx in workers:
                if self.interrupt_signal or not self._replace(idx, spawn_target, target_loader):
                    return
        finally:
            if self.interrupt_signal:
                # Granian may have taken back that there is something to do.
                self.main_loop_interrupt.set()

    def _replace(self, idx: int, spawn_target: Any, target_loader: Any) -> bool:
        """Put a new worker in the place of another; say whether there is one."""
        self.respawned_wrks[idx] = time.monotonic()
        old: Any = self.wrks[idx]
        new = self._spawn_worker(idx, spawn_target, target_loader)
        # One that does not come up is no failure of the server's while the old one serves.
        new.interrupt_by_parent = serves = old.is_alive()
        with interrupts_blocked():
            new.start()
        if serves and not self._comes_up(new):
            new.kill()
            new.join()
            if not self.interrupt_signal:
                _log.error("worker not replaced: its successor does not start", worker=idx + 1)
            return False
        self.wrks[idx] = new
        new.interrupt_by_parent = False
        if not new.is_alive():
            # Nobody was told of that.
            self.interrupt_children.append(idx)
            self.main_loop_interrupt.set()
        self._see_off(old)
        return True

    def _comes_up(self, worker: Any) -> bool:
        """Wait until it serves, unless it ends before, or the server is told to."""
        give_up_at = time.monotonic() + START_S
        while not self.interrupt_signal and time.monotonic() < give_up_at:
            if worker.heard.poll(LOOK_EVERY_S):
                # There is an end to read too: that of a worker that ended.
                return worker.is_alive() and _read(worker.heard)
        return False

    def _see_off(self, worker: Any) -> None:
        """Tell it to end, and wait for that; where the server is told to end, with all the others."""
        worker.terminate()
        _wait_for_end(worker, self._patience_ends_at(), unless=lambda: self.interrupt_signal)
        if worker.is_alive():
            self.wrks.append(worker)

    def _stop_workers(self) -> None:
        # Granian's own, on a busy machine, takes one that has ended for one that does not.
        for worker in self.wrks:
            worker.terminate()  # type: ignore[no-untyped-call]
        give_up_at = self._patience_ends_at()
        for worker in self.wrks:
            _wait_for_end(worker, give_up_at)
        self.wrks.clear()

    def _patience_ends_at(self) -> float:
        return time.monotonic() + (self.workers_kill_timeout or DRAIN_S)


def _wait_for_end(
    worker: Any, give_up_at: float, *, unless: Callable[[], bool] = lambda: False
) -> None:
    """Wait for one that was told to end, and end it by force when it is time to give up."""
    while worker.is_alive() and not unless():
        if time.monotonic() >= give_up_at:
            _log.warning("worker ended by force", worker=worker.idx + 1)
            worker.kill()
            worker.join()
            return
        worker.join(LOOK_EVERY_S)


def load_app(tells: Connection) -> Any:
    """Make the application, in a worker; the parent is told when it serves."""
    end_with_parent()
    # All that is made here stays: to look for garbage in it would take a tenth of the start.
    gc.disable()
    # Not in the parent, which needs nothing of it and would keep it in memory.
    from metrics_service.app import serve_app  # noqa: PLC0415

    app = serve_app()
    gc.enable()

    # No coroutine: requests go by it too.
    def telling(scope: Any, receive: Any, send: Any) -> Any:
        if scope["type"] == "lifespan":
            send = _telling(tells, send)
        return app(scope, receive, send)

    return telling


def _telling(tells: Connection, send: Any) -> Any:
    def tell() -> None:
        # Nobody listens any more when the parent is gone, or gave up.
        with suppress(OSError):
            tells.send_bytes(SERVES)
        tells.close()

    async def told(message: Any) -> None:
        await send(message)
        if message["type"] == "lifespan.startup.complete":
            # The server begins to listen right after it.
            asyncio.get_running_loop().call_later(LISTENS_AFTER_S, tell)

    return told


def _read(heard: Connection) -> bool:
    try:
        return heard.recv_bytes() == SERVES
    except (EOFError, OSError):
        return False


def _has_terminal() -> bool:
    try:
        os.close(os.open(os.ctermid(), os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
