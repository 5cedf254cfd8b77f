"""Keeps the maintenance process beside a server on the embedded database."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from metrics_service.cli.connect import Opened
from metrics_service.cli.kept import KeptProcess
from metrics_service.cli.spawn import end_with_parent
from metrics_service.logs import configure_logging
from metrics_service.maintenance.place import Place
from metrics_service.settings import Settings, load_settings

# A job that is being done is put back in that time, and the next one to lead does it.
PATIENCE_S = 5.0

log = structlog.get_logger(__name__)


def place_of(opened: Opened) -> Place:
    """Where to work; raises `SettingsError` when the owner's DSN was not given."""
    return Place(
        owner_dsn=opened.addresses.require_owner(),
        direct_dsn=opened.addresses.direct,
        runtime_dsn=opened.addresses.runtime,
        runtime_role=opened.addresses.runtime_role,
        base_domain=opened.base_domain,
        operator_domain=opened.settings.metrics_operator_domain,
    )


@contextmanager
def maintenance_beside(opened: Opened) -> Iterator[KeptProcess | None]:
    """A maintenance process, to be started when the server answers; ended with it.

    There is none for a given database, whose owner a server does not know.
    """
    if opened.addresses.embedded is None:
        yield None
        return
    process = KeptProcess("maintenance", work_beside, place_of(opened))
    try:
        yield process
    finally:
        process.end(PATIENCE_S)


def work_beside(place: Place) -> None:
    """Maintain, in a process of its own; nobody but it is told the owner's DSN."""
    end_with_parent()
    settings = load_settings()
    configure_logging(settings.metrics_log_level, json=not sys.stdout.isatty())
    try:
        maintain_until_told(settings, place)
    except Exception:
        log.exception("maintenance process failed")
        sys.exit(1)


def maintain_until_told(settings: Settings, place: Place) -> None:
    """Maintain until SIGTERM or Ctrl-C."""
    # Not in the server's parent, which needs nothing of it and would keep it in memory.
    from metrics_service.maintenance.keep import keep_maintaining  # noqa: PLC0415

    async def told() -> None:
        is_told = asyncio.Event()
        for kind in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(kind, is_told.set)
        await keep_maintaining(settings, place, is_told)

    handlers = {kind: signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        asyncio.run(told())
    finally:
        for kind, handler in handlers.items():
            signal.signal(kind, handler)
