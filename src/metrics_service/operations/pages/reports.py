"""What a process reported of itself, as pages show it; of an older version some of it may be missing."""

from __future__ import annotations

from datetime import datetime

import msgspec

from metrics_service.fleet.views import HealthStatus, ProcessView


class CheckSaid(msgspec.Struct, frozen=True):
    """What one check found last."""

    name: str
    status: HealthStatus
    detail: str | None = None
    latency_ms: float | None = None
    since: datetime | None = None


class MemorySaid(msgspec.Struct, frozen=True):
    """How much of it the process holds, and how much of that it shares with no other."""

    rss_bytes: int | None = None
    unique_bytes: int | None = None


class PoolSaid(msgspec.Struct, frozen=True):
    """Its connections to the database."""

    size: int = 0
    in_use: int = 0
    waiting: int = 0
    timeouts: int = 0
    acquire_p95_ms: float | None = None

    @property
    def share(self) -> float | None:
        """How much of it is in use."""
        return self.in_use / self.size if self.size else None


class ServerSaid(msgspec.Struct, frozen=True):
    """The database server that it talks to."""

    version: str | None = None
    address: str | None = None
    is_standby: bool | None = None


class Report(msgspec.Struct, frozen=True):
    """A report; what it does not say is nothing."""

    is_ready: bool | None = None
    is_ending: bool = False
    memory: MemorySaid | None = None
    pool: PoolSaid | None = None
    server: ServerSaid | None = None
    checks: list[CheckSaid] = []


class Process(msgspec.Struct, frozen=True):
    """A process and its report."""

    view: ProcessView
    report: Report

    @property
    def status(self) -> str:
        """What to show: what a process said that says nothing any more is worth nothing."""
        return "silent" if self.view.is_silent else self.view.status


def process_of(view: ProcessView) -> Process:
    try:
        report = msgspec.convert(view.report, Report)
    except msgspec.ValidationError:
        # Of a version that says it otherwise: that it lives is worth showing all the same.
        report = Report()
    return Process(view, report)
