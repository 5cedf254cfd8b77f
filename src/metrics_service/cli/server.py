"""Runs Granian and what serves beside it: when all are ready, and how they end."""

from __future__ import annotations

import errno
import http.client
import math
import multiprocessing
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import msgspec
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels

from metrics_service.cli.otlp_grpc import otlp_grpc_process
from metrics_service.cli.spawn import DRAIN_S
from metrics_service.cli.workers import Server, load_app
from metrics_service.errors import MetricsServiceError, SettingsError
from metrics_service.logs import GRANIAN_LOGGING
from metrics_service.observability.siblings import meters_directory

HEADER_READ_TIMEOUT_MS = 10_000
CONNECTIONS_A_WORKER = 1024
BACKLOG = 2048
READY_POLL_S = 0.05
# To flush and close, after the last request.
CLOSE_S = 5


class PortTakenError(MetricsServiceError):
    """Somebody else listens there."""

    def __init__(self, address: str, option: str) -> None:
        super().__init__(
            f"{address} is in use; stop what listens there, or choose another {option}"
        )


class WorkersFailedError(MetricsServiceError):
    """The workers ended by themselves, again and again."""

    def __init__(self) -> None:
        super().__init__("the server's workers do not stay up; the log above says why")


class Binding(msgspec.Struct, frozen=True):
    """Where to listen, and with how many workers."""

    host: str
    port: int
    workers: int
    otlp_grpc_port: int | None = None

    @property
    def url(self) -> str:
        return f"http://{address_of(self.host, self.port)}"

    @property
    def otlp_grpc_url(self) -> str | None:
        """As OpenTelemetry spells the endpoint; None when nothing listens there."""
        if self.otlp_grpc_port is None:
            return None
        return f"http://{address_of(self.host, self.otlp_grpc_port)}"


def address_of(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def allow_files(count: int) -> None:
    """Let this process and its workers open so many files; many systems begin with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def check_ports(binding: Binding) -> Binding:
    """Resolve the host and try to bind; raises `PortTakenError` or `SettingsError`."""
    if binding.port == binding.otlp_grpc_port:
        raise SettingsError("--port and --otlp-grpc-port must not be the same")
    host = _check_port(binding.host, binding.port, "--port")
    if binding.otlp_grpc_port is not None:
        _check_port(binding.host, binding.otlp_grpc_port, "--otlp-grpc-port")
    return msgspec.structs.replace(binding, host=host)


def _check_port(host: str, port: int, option: str) -> str:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise SettingsError(f"host {host} cannot be resolved: {error.strerror}") from None
    family, _, _, _, address = found[0]
    url = f"http://{address_of(host, port)}"
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTakenError(url, option) from None
            raise SettingsError(f"cannot listen on {url}: {error.strerror}") from None
    return str(address[0])


def run_server(
    binding: Binding,
    *,
    streams_max: int,
    is_verbose: bool,
    on_ready: Callable[[], None],
    drain_delay_ms: int,
) -> None:
    """Serve until a signal; requests in flight are answered before it returns.

    Workers that were told to end serve on for the delay, not ready any more: so whoever sends traffic
    here has seen that, when they take no more. A second signal ends them at once.
    """
    connections = CONNECTIONS_A_WORKER + streams_max
    allow_files(2 * connections)
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
        # Streams of open pages hold a connection each, and take none from others.
        backpressure=connections,
        log_level=LogLevels.debug if is_verbose else LogLevels.warning,
        log_dictconfig=GRANIAN_LOGGING,
        log_access=False,
        respawn_failed_workers=True,
        workers_kill_timeout=DRAIN_S + CLOSE_S + math.ceil(drain_delay_ms / 1000),
    )
    with _told_when_ready(binding, on_ready), meters_directory(), ExitStack() as beside:
        if binding.otlp_grpc_port is not None:
            address = address_of(binding.host, binding.otlp_grpc_port)
            server.otlp_grpc = beside.enter_context(otlp_grpc_process(address))
        try:
            server.serve(target_loader=load_app, wrap_loader=False)
        except SystemExit:
            # Workers that ended a moment before we told them to are no failure.
            if not server.interrupt_signal:
                raise WorkersFailedError from None


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
    if binding.otlp_grpc_port is not None and not _accepts(host, binding.otlp_grpc_port):
        return False
    connection = http.client.HTTPConnection(host, binding.port, timeout=2)
    try:
        connection.request("GET", "/health/live", headers={"Connection": "close"})
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True
