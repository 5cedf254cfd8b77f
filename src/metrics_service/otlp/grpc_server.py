"""The server that takes OTLP over gRPC, and how it ends."""

from __future__ import annotations

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from metrics_service.errors import DatabaseUnreachableError
from metrics_service.health.monitor import HealthMonitor
from metrics_service.http.ending import Ending
from metrics_service.http.foundation import lay_foundation
from metrics_service.http.limits import MAX_HEADER_BYTES, MAX_OTLP_BYTES
from metrics_service.http.throttle import FailureThrottle
from metrics_service.observability.siblings import Siblings
from metrics_service.otlp.grpc_exports import MAX_CALLS, SPARE_THREADS, Exports
from metrics_service.settings import Settings

# A little less than the parent's patience with its processes: what is cut off is cut off in order.
GRACE_S = 18

OPTIONS: list[tuple[str, int]] = [
    # Or a second server could listen on the same port, and take half of the requests.
    ("grpc.so_reuseport", 0),
    # Checked as the message arrives and again while it is inflated, which stops there.
    ("grpc.max_receive_message_length", MAX_OTLP_BYTES),
    ("grpc.max_metadata_size", MAX_HEADER_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_HEADER_BYTES),
    ("grpc.max_allowed_incoming_connections", 1024),
    ("grpc.max_concurrent_streams", 100),
    # A connection that says nothing, or nothing more, makes room for others.
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 300_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # Clients may ask as often whether we live; those that ask more often are sent away.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
]


async def serve_grpc(settings: Settings, address: str) -> None:
    """Serve at the address until SIGTERM; calls in flight are answered before it returns."""
    if settings.database_url is None:
        raise DatabaseUnreachableError("a worker is told where the database is by DATABASE_URL")
    is_told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, is_told.set)
    foundation = lay_foundation(
        settings,
        runtime_dsn=settings.database_url,
        direct_dsn=settings.database_direct_url or settings.database_url,
    )
    ending = Ending(settings.metrics_drain_delay_ms / 1000)
    monitor = HealthMonitor(
        foundation.engine,
        settings,
        runtime_dsn=settings.database_url,
        kind="otlp-grpc",
        listener=foundation.listener,
        second=foundation.second,
        ending=ending,
    )
    async with (
        foundation.standing("otlp-grpc") as export,
        Siblings("otlp-grpc").answering(),
        monitor.kept(None if export is None else export.state),
    ):
        exports = Exports(
            foundation,
            throttle=FailureThrottle(
                settings.metrics_auth_failures_per_minute, second=foundation.second
            ),
            trusted_proxies=settings.trusted_proxies,
            loop=asyncio.get_running_loop(),
        )
        server = _started(exports, address)
        await is_told.wait()
        ending.is_near = True
        await asyncio.sleep(ending.delay_s)
        await asyncio.to_thread(server.stop(GRACE_S).wait)


def _started(exports: Exports, address: str) -> Any:
    threads = ThreadPoolExecutor(MAX_CALLS + SPARE_THREADS, thread_name_prefix="otlp-grpc")
    server = grpc.server(threads, handlers=[exports], options=OPTIONS)
    server.add_insecure_port(address)
    server.start()
    return server
