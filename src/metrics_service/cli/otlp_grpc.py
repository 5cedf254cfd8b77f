"""Keeps the process that takes OTLP over gRPC, beside the workers of HTTP."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvloop

from metrics_service.cli.kept import KeptProcess
from metrics_service.cli.spawn import DRAIN_S, end_with_parent
from metrics_service.logs import configure_logging
from metrics_service.settings import load_settings

log = structlog.get_logger(__name__)


@contextmanager
def otlp_grpc_process(address: str) -> Iterator[KeptProcess]:
    """Keep the process while this is open; what is in flight in the end is answered."""
    process = KeptProcess("otlp-grpc", serve, address)
    process.start()
    try:
        yield process
    finally:
        process.end(DRAIN_S)


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
