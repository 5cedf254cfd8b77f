"""Whether what another process looked up still holds, as far as this process can know.

All in the database's time, for processes' clocks differ. This process hears of every change after it was
committed, and asks the database's clock at every heartbeat: so it can say a moment by which all changes
that it heard of were there to be seen. A look-up that began later has seen them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import datetime
from uuid import UUID

import msgspec

MOMENT = "now() AS looked_up_at, pg_catalog.pg_postmaster_start_time() AS server"
"""When a look-up began, to be selected beside it: the transaction's begin, never later than what it sees."""


class Moment(msgspec.Struct, frozen=True):
    """A time by the clock of a server, which is known by when it started: after a failover, another's."""

    at: float
    server: float

    @classmethod
    def of(cls, at: datetime, server: datetime) -> Moment:
        return cls(at.timestamp(), server.timestamp())


class DatabaseTime:
    """What heartbeats and announcements tell of the database's time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._asked_at = 0.0
        self._said = Moment(-math.inf, 0.0)
        # No server's clock of which this process knows has ever been later.
        self._highest = -math.inf
        self._hears_since: float | None = None
        self._lost_at = -math.inf
        self._changed: dict[UUID, float] = {}
        # Heard of after the last heartbeat was asked: when, by our clock.
        self._unplaced: dict[UUID, float] = {}

    def lose(self) -> None:
        """Changes are not heard of any more, or may not have been."""
        self._hears_since = None
        self._lost_at = self._clock()
        self._changed.clear()
        self._unplaced.clear()

    def note_change(self, tenant_id: UUID | None) -> None:
        """A change of this tenant was heard of, or of anything at all."""
        if tenant_id is None:
            self.lose()
        else:
            self._unplaced[tenant_id] = self._clock()

    def note_heartbeat(self, *, asked_at: float, said: Moment) -> None:
        """The database said this on a connection that hears; `asked_at` is by our clock."""
        now = self._clock()
        before = self._said.at + (now - self._asked_at)
        self._asked_at, self._said = asked_at, said
        # A clock may be set back: what was looked up by the one before must not seem to be later.
        self._highest = highest = max(self._highest, before, said.at + (now - asked_at))
        # What was heard of meanwhile is placed by the next: the clock may have been set in between.
        if self._hears_since is None and self._lost_at < asked_at:
            self._hears_since = highest
        for tenant_id in [one for one, heard in self._unplaced.items() if heard < asked_at]:
            del self._unplaced[tenant_id]
            self._changed[tenant_id] = highest

    def forget_before(self, age_s: float) -> None:
        """Forget changes that nothing younger than this can have missed."""
        since = self._said.at - age_s
        for tenant_id in [one for one, at in self._changed.items() if at < since]:
            del self._changed[tenant_id]

    def age_s(self, tenant_id: UUID, moment: Moment) -> float | None:
        """How old a look-up is at most; None where it may have missed a change."""
        if self._hears_since is None or moment.server != self._said.server:
            return None
        if tenant_id in self._unplaced:
            return None
        if moment.at <= max(self._hears_since, self._changed.get(tenant_id, -math.inf)):
            return None
        age = self._said.at + (self._clock() - self._asked_at) - moment.at
        # From the future: by a clock that was set since.
        return age if age >= 0 else None
