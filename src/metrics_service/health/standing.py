"""How a check stands: what it found last, and when that is taken for true.

One slow answer is no trouble yet: what may be a chance gets worse only when it was found twice in a
row. It gets better at once.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from metrics_service.fleet.views import HealthStatus
from metrics_service.health.schemas import SEVERITY, CheckReport


class Finding(msgspec.Struct, frozen=True):
    """What one look found."""

    status: HealthStatus
    detail: str
    latency_ms: float | None = None


class Standing:
    """One check's status, and since when."""

    def __init__(self, name: str, *, looks_to_worsen: int = 1) -> None:
        self.name = name
        self.status: HealthStatus = "healthy"
        self._looks_to_worsen = looks_to_worsen
        self._worse: list[Finding] = []
        self._found = Finding("healthy", "not looked at yet")
        self._since = self._checked_at = datetime.now(UTC)

    def take(self, found: Finding) -> HealthStatus | None:
        """Note what a look found; the status before, when this changed it."""
        self._checked_at = datetime.now(UTC)
        if SEVERITY[found.status] <= SEVERITY[self.status]:
            self._worse.clear()
            return self._settle(found)
        self._worse.append(found)
        if len(self._worse) < self._looks_to_worsen:
            # As it stood; how long the look took is known all the same.
            self._found = msgspec.structs.replace(self._found, latency_ms=found.latency_ms)
            return None
        mildest = min(self._worse, key=lambda one: SEVERITY[one.status])
        self._worse.clear()
        return self._settle(mildest)

    def report(self) -> CheckReport:
        return CheckReport(
            name=self.name,
            status=self.status,
            detail=self._found.detail,
            latency_ms=None if self._found.latency_ms is None else round(self._found.latency_ms, 3),
            since=self._since,
            checked_at=self._checked_at,
        )

    def _settle(self, found: Finding) -> HealthStatus | None:
        before, self.status, self._found = self.status, found.status, found
        if before == found.status:
            return None
        self._since = self._checked_at
        return before
