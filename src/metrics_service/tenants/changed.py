"""What processes tell each other of a tenant's data: that it changed, by ids alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from uuid import UUID

import msgspec

CHANGES_CHANNEL = "metrics_changes"

MAX_SESSIONS = 50
# PostgreSQL takes less than 8,000 bytes, and all that is told here is ASCII.
MAX_PAYLOAD_BYTES = 7_900
MANY = "*"


class Changed(msgspec.Struct):
    """Which sessions of a tenant changed; none are named where it was of no session, or of many."""

    sessions: set[UUID] = msgspec.field(default_factory=set)
    is_many: bool = False

    def add(self, sessions: Iterable[UUID] | None) -> None:
        """Add sessions; None are many."""
        if self.is_many:
            return
        if sessions is not None:
            for session_id in sessions:
                self.sessions.add(session_id)
                if len(self.sessions) > MAX_SESSIONS:
                    break
            else:
                return
        self.is_many = True
        self.sessions.clear()

    def join(self, other: Changed) -> None:
        self.add(None if other.is_many else other.sessions)


def payloads_of(noted: Mapping[UUID, Changed]) -> list[str]:
    """Spell it for NOTIFY: a line for a tenant, as few payloads as they fit into."""
    payloads: list[str] = []
    for tenant_id, changed in noted.items():
        ids = [MANY] if changed.is_many else [one.hex for one in changed.sessions]
        line = ",".join([tenant_id.hex, *ids])
        if payloads and len(payloads[-1]) + len(line) < MAX_PAYLOAD_BYTES:
            payloads[-1] += f"\n{line}"
        else:
            payloads.append(line)
    return payloads


def read_payload(payload: str) -> Iterator[tuple[UUID, Changed]]:
    """Read what `payloads_of` spelt; raises `ValueError`."""
    for line in payload.split("\n"):
        tenant_id, *ids = line.split(",")
        changed = Changed()
        changed.add(None if ids == [MANY] else [UUID(one) for one in ids])
        yield UUID(tenant_id), changed
