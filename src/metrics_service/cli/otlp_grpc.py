"""Keeps the process that takes OTLP over gRPC, beside the workers of HTTP."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess

import structlog
import uvloop

from metrics_service.cli.spawn import DRAIN_S, end_with_parent, interrupts_blocked
from metrics_service.logs import configure_logging
from metrics_service.settings import load_settings

# One that cannot start must not keep the machine busy with trying.
PAUSE_S = 1.0

log = structlog.get_logger(__name__)


class OtlpGrpcProcess:
    """One process, replaced when it dies, until it is told to stop."""

    def __init__(self, address: str) -> None:
        self._address = address
        # Taken by the handler of a signal too, which may come while its thread holds it.
        self._lock = threading.RLock()
        self._is_over = threading.Event()
        self._process: BaseProcess | None = None
        self._keeper = threading.Thread(target=self._keep, name="otlp-grpc-keeper", daemon=True)

    def start(self) -> None:
        self._keeper.start()

    def stop(self, *, at_once: bool = False) -> None:
        """Tell the process to answer what is in flight and end; or just to end."""
        with self._lock:
            self._is_over.set()
            if self._process is not None and self._process.is_alive():
                self._process.kill() if at_once else self._process.terminate()

    def join(self, timeout_s: float) -> bool:
        """Wait until the process has ended; say whether it has."""
        self._keeper.join(timeout_s)
        return not self._keeper.is_alive()

    def _keep(self) -> None:
        while (process := self._spawned()) is not None:
            process.join()
            if self._is_over.wait(PAUSE_S):
                return
            log.error("otlp grpc process ended", exit_code=process.exitcode)

    def _spawned(self) -> BaseProcess | None:
        with self._lock:
            if self._is_over.is_set():
                return None
            spawning = multiprocessing.get_context("spawn")
            self._process = spawning.Process(
                target=serve, args=(self._address,), name="otlp-grpc", daemon=True
            )
            with interrupts_blocked():
                self._process.start()
            return self._process


@contextmanager
def otlp_grpc_process(address: str) -> Iterator[OtlpGrpcProcess]:
    """Keep the process while this is open; what is in flight in the end is answered."""
    process = OtlpGrpcProcess(address)
    process.start()
    try:
        yield process
    finally:
        process.stop()
        if not process.join(DRAIN_S):
            process.stop(at_once=True)
            process.join(DRAIN_S)


def serve(address: str) -> None:
    """Take OTLP over gRPC, in a process of its own that is told everything by its environment."""
    end_with_parent()
    # The library writes a line of its own about every malformed header that a stranger sends.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Not in the parent, which needs nothing of it and would keep it in memory.
    from metrics_service.otlp.grpc_server import serve_grpc  # noqa: PLC0415

    settings = load_settings()
    configure_logging(settings.metrics_log_level, json=not sys.stdout.isatty())
    try:
        uvloop.run(serve_grpc(settings, address))
    except Exception:
        log.exception("otlp grpc process failed")
        sys.exit(1)
