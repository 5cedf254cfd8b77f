"""Keeps one process beside the server: replaced when it dies, until it is told to end."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import structlog

from metrics_service.cli.signals import Told
from metrics_service.cli.spawn import interrupts_blocked

# One that cannot start must not keep the machine busy with trying.
PAUSE_S = 1.0

log = structlog.get_logger(__name__)


class KeptProcess:
    """One process that does `work`, which a new interpreter must be able to import."""

    def __init__(self, name: str, work: Callable[..., None], *arguments: Any) -> None:
        self._name = name
        self._work = work
        self._arguments = arguments
        # Taken by the handler of a signal too, which may come while its thread holds it.
        self._lock = threading.RLock()
        self._is_over = Told()
        self._process: BaseProcess | None = None
        self._keeper = threading.Thread(target=self._keep, name=f"{name}-keeper", daemon=True)

    def start(self) -> None:
        with self._lock:
            if not self._is_over.is_set():
                self._keeper.start()

    def stop(self, *, at_once: bool = False) -> None:
        """Tell the process to finish and end; or just to end."""
        with self._lock:
            self._is_over.set()
            if self._process is not None and self._process.is_alive():
                self._process.kill() if at_once else self._process.terminate()

    def join(self, timeout_s: float) -> bool:
        """Wait until the process has ended; say whether it has."""
        if self._keeper.ident is None:
            # It was never started.
            return True
        self._keeper.join(timeout_s)
        return not self._keeper.is_alive()

    def end(self, within_s: float) -> None:
        """Tell it to finish, and end it when it does not in time."""
        self.stop()
        if not self.join(within_s):
            self.stop(at_once=True)
            self.join(within_s)

    def _keep(self) -> None:
        while (process := self._spawned()) is not None:
            process.join()
            if self._is_over.wait(PAUSE_S):
                return
            log.error("process ended", process=self._name, exit_code=process.exitcode)

    def _spawned(self) -> BaseProcess | None:
        with self._lock:
            if self._is_over.is_set():
                return None
            self._process = multiprocessing.get_context("spawn").Process(
                target=self._work, args=self._arguments, name=self._name, daemon=True
            )
            with interrupts_blocked():
                self._process.start()
            return self._process
