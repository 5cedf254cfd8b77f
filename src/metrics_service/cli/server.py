"""Runs Granian: its workers, what it prints when it is ready, and how it ends."""

from __future__ import annotations

import errno
import http.client
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

import msgspec
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.mp import MPServer

from metrics_service.errors import MetricsServiceError, SettingsError
from metrics_service.logs import GRANIAN_LOGGING

HEADER_READ_TIMEOUT_MS = 10_000
# Longer than any request may take by the default limits; the rest is cut off.
DRAIN_S = 20
CONNECTIONS_A_WORKER = 1024
BACKLOG = 2048
READY_POLL_S = 0.05


class PortTakenError(MetricsServiceError):
    """Somebody else listens there."""

    def __init__(self, address: str) -> None:
        super().__init__(f"{address} is in use; stop what listens there, or choose another --port")


class WorkersFailedError(MetricsServiceError):
    """The workers ended by themselves, again and again."""

    def __init__(self) -> None:
        super().__init__("the server's workers do not stay up; the log above says why")


class Binding(msgspec.Struct, frozen=True):
    """Where to listen, and with how many workers."""

    host: str
    port: int
    workers: int

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


class Server(MPServer):
    """Granian, except that a second signal ends it at once, and Ctrl-C is for the parent alone."""

    # Granian's own methods have no types.

    def signal_handler_interrupt(self, *args: Any, **kwargs: Any) -> None:
        if self.interrupt_signal:
            for worker in self.wrks:
                worker.kill()  # type: ignore[no-untyped-call]
        super().signal_handler_interrupt(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _spawn_workers(self, *args: Any, **kwargs: Any) -> None:
        with _interrupts_blocked():
            super()._spawn_workers(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _respawn_workers(self, *args: Any, **kwargs: Any) -> None:
        with _interrupts_blocked():
            super()._respawn_workers(*args, **kwargs)


def check_port(binding: Binding) -> Binding:
    """Resolve the host and try to bind; raises `PortTakenError` or `SettingsError`."""
    try:
        found = socket.getaddrinfo(
            binding.host, binding.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise SettingsError(f"host {binding.host} cannot be resolved: {error.strerror}") from None
    family, _, _, _, address = found[0]
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTakenError(binding.url) from None
            raise SettingsError(f"cannot listen on {binding.url}: {error.strerror}") from None
    return msgspec.structs.replace(binding, host=str(address[0]))


def run_server(binding: Binding, *, is_verbose: bool, on_ready: Callable[[], None]) -> None:
    """Serve until a signal; requests in flight are answered before it returns."""
    # A forked worker would inherit the threads' locks and the memory of everything done so far.
    multiprocessing.set_start_method("spawn", force=True)
    server = Server(
        "metrics_service.app:serve_app",
        address=binding.host,
        port=binding.port,
        interface=Interfaces.ASGI,
        workers=binding.workers,
        # Over HTTP/2 some servers let `host` override `:authority`.
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_READ_TIMEOUT_MS),
        websockets=False,
        backlog=BACKLOG,
        backpressure=CONNECTIONS_A_WORKER,
        log_level=LogLevels.debug if is_verbose else LogLevels.warning,
        log_dictconfig=GRANIAN_LOGGING,
        log_access=False,
        respawn_failed_workers=True,
        workers_kill_timeout=DRAIN_S,
    )
    with _told_when_ready(binding, on_ready):
        try:
            server.serve(target_loader=load_app, wrap_loader=False)
        except SystemExit:
            # Workers that ended a moment before we told them to are no failure.
            if not server.interrupt_signal:
                raise WorkersFailedError from None


def load_app() -> Any:
    """Make the application, in a worker."""
    threading.Thread(target=_end_with_parent, name="end-with-parent", daemon=True).start()
    # Not in the parent, which needs nothing of it and would keep it in memory.
    from metrics_service.app import serve_app  # noqa: PLC0415

    return serve_app()


def _end_with_parent() -> None:
    """A worker whose parent was killed would hold the port, with nobody to look after it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _told_when_ready(binding: Binding, on_ready: Callable[[], None]) -> Iterator[None]:
    is_over = threading.Event()

    def wait() -> None:
        while not is_over.wait(READY_POLL_S):
            if _answers(binding):
                on_ready()
                return

    threading.Thread(target=wait, name="wait-until-ready", daemon=True).start()
    try:
        yield
    finally:
        is_over.set()


def _answers(binding: Binding) -> bool:
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # only asked about
    host = everywhere.get(binding.host, binding.host)
    connection = http.client.HTTPConnection(host, binding.port, timeout=2)
    try:
        connection.request("GET", "/health/live", headers={"Connection": "close"})
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes started here never see Ctrl-C: it reaches the whole group, but we tell them."""
    # Or its own start would unblock the signal again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
