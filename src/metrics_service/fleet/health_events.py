"""What changed in the health of a process: kept until the database takes it, for operators to read."""

from __future__ import annotations

from collections import deque
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from metrics_service.fleet.views import EventKind, HealthStatus

# What happens while the database is away is told when it is back; an outage of hours has not more.
MAX_KEPT = 1000
MAX_DETAIL = 1000

NOTE = "SELECT public.note_health_events($1::json)"


class HealthEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that a process noticed about itself or its database."""

    kind: EventKind
    check_name: str
    at: datetime
    status_before: HealthStatus | None = None
    status: HealthStatus | None = None
    detail: str = ""


class HealthDiary:
    """What one process noticed and has not written down yet. Noting never waits and never fails."""

    def __init__(self, process_id: UUID) -> None:
        self._process_id = process_id
        # The oldest go first: what is wrong now matters more than how it began.
        self._kept: deque[HealthEvent] = deque(maxlen=MAX_KEPT)

    def note(self, event: HealthEvent) -> None:
        self._kept.append(event)

    async def write(self, connection: asyncpg.Connection[Any]) -> None:
        """Write what is kept; raises what the database does, and keeps it then."""
        if not self._kept:
            return
        taken, self._kept = self._kept, deque(maxlen=MAX_KEPT)
        rows = msgspec.json.encode([self._row(event) for event in taken]).decode()
        try:
            await connection.execute(NOTE, rows)
        except BaseException:
            taken.extend(self._kept)
            self._kept = taken
            raise

    def _row(self, event: HealthEvent) -> dict[str, object]:
        return {
            **msgspec.structs.asdict(event),
            "process_id": self._process_id,
            "detail": event.detail[:MAX_DETAIL],
        }
