"""What is said about the health of this process: to strangers one word, to operators all of it."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from metrics_service.db.pool import PoolFigures
from metrics_service.fleet.views import HealthStatus, ProcessKind

SEVERITY: dict[str, int] = {"healthy": 0, "degraded": 1, "unhealthy": 2}


def worst(*statuses: HealthStatus) -> HealthStatus:
    return max(statuses, key=SEVERITY.__getitem__, default="healthy")


class Health(msgspec.Struct, frozen=True):
    """What a probe is told, on any host."""

    status: HealthStatus


class CheckReport(msgspec.Struct, frozen=True):
    """How one check stands."""

    name: str
    status: HealthStatus
    detail: str
    latency_ms: float | None
    """How long the last look took."""
    since: datetime
    """When it came to this status."""
    checked_at: datetime


class MemoryReport(msgspec.Struct, frozen=True):
    """What this process holds; None where the system does not say."""

    rss_bytes: int | None
    unique_bytes: int | None


class ServerReport(msgspec.Struct, frozen=True):
    """The database's server, as it said last."""

    version: str
    address: str | None
    is_standby: bool
    timeline: str | None
    started_at: datetime


class ProcessReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a process leaves in the registry, beside who it is."""

    uptime_s: float
    is_ready: bool
    is_ending: bool
    memory: MemoryReport
    pool: PoolFigures
    server: ServerReport | None
    """None until it answered for the first time."""
    checks: list[CheckReport]


class HealthReport(ProcessReport, frozen=True, kw_only=True):
    """All of it, for an operator who asks this process."""

    status: HealthStatus
    id: UUID
    kind: ProcessKind
    host: str
    pid: int
    version: str
    started_at: datetime
