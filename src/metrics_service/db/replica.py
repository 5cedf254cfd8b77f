"""One replica as reads may use it: a pool of its own, who reads of it now, and to whom it is no use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Literal, TypeAlias

from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.pauses import Pauses
from metrics_service.db.pool import breaker_of

DIFFERING_S = (0.0, 0.05, 2.0)
"""Nobody is sent there to whom it would show other data; but once is nothing: somebody just wrote."""
FAILING_S = (0.5, 0.5, 10.0)
"""Nobody at all, where it fails."""

EVERYBODY = "everybody"

Refusal: TypeAlias = Literal["unhealthy", "away", "resting", "busy"]


def replica_names(count: int) -> list[str]:
    """One for each, in the order of DATABASE_REPLICA_URLS: a DSN itself is shown to nobody."""
    return [f"replica-{number}" for number in range(1, count + 1)]


class Replica:
    """Nobody waits for it: whoever finds no place here has the primary still."""

    def __init__(self, name: str, engine: AsyncEngine, *, places: int) -> None:
        self.name = name
        self.engine = engine
        self.is_fit = True
        """Whether it was found to follow the primary, and closely enough."""
        self.differing = Pauses(*DIFFERING_S)
        """By tenants."""
        self.failing = Pauses(*FAILING_S)
        """Of `EVERYBODY`."""
        self._breaker = breaker_of(engine)
        self._free = places
        # As of the primary's: what is stuck with its connection leaves other tenants theirs.
        self._most = max(1, places // 3)
        self._held: Counter[Hashable] = Counter()

    def refusal(self, tenant: Hashable) -> Refusal | None:
        """Why the tenant's next read is not worth trying here."""
        if not self.is_fit:
            return "unhealthy"
        if self._breaker.is_open or self.failing.holds(EVERYBODY):
            return "away"
        if self.differing.holds(tenant):
            return "resting"
        if not self._free or self._held[tenant] >= self._most:
            return "busy"
        return None

    def enter(self, tenant: Hashable) -> None:
        """Take one of its places, where there was no `refusal`."""
        self._free -= 1
        self._held[tenant] += 1

    def leave(self, tenant: Hashable) -> None:
        self._free += 1
        self._held[tenant] -= 1
        if not self._held[tenant]:
            del self._held[tenant]
