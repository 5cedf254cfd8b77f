"""Tells a burst, which passes by itself, from more than can be served, which does not.

As CoDel does for the queues of routers (RFC 8289): what counts is not how many wait, but whether for
a whole interval everybody who was served had waited too long.
"""

from __future__ import annotations

from collections import deque

TARGET_S = 0.25
"""A line may make everybody wait so long, and who still comes then too."""
# How many times as long is still a burst.
_BURST = 2
# A line that is kept at the target is not over it for a moment and then not any more.
_OVER = 0.5
# Of so many that were served last is it known how fast a line moves.
_LATEST = 64


class Congestion:
    """How one line moves."""

    __slots__ = (
        "_gap_s",
        "_gaps_s",
        "_looked_at",
        "_moved_at",
        "_slow_since",
        "_stood_s",
        "_target_s",
    )

    def __init__(self, now: float, *, target_s: float = TARGET_S) -> None:
        self._target_s = target_s
        self._moved_at = self._looked_at = now
        self._gap_s = self._stood_s = 0.0
        self._gaps_s: deque[float] = deque(maxlen=_LATEST)
        self._slow_since: float | None = None

    def begin(self, now: float) -> None:
        """Somebody waits where nobody did."""
        self._moved_at = self._looked_at = now
        self._stood_s = 0.0
        self._slow_since = None

    def move(self, waited_s: float, now: float) -> None:
        """Somebody is served who waited so long."""
        self._gaps_s.append(now - self._moved_at)
        # Without the longest one: a line that stood still once does not go on so.
        self._gap_s = (sum(self._gaps_s) - max(self._gaps_s)) / len(self._gaps_s)
        self._moved_at = self._looked_at = now
        self._stood_s = 0.0
        if waited_s < self._target_s * _OVER:
            self._slow_since = None
        elif self._slow_since is None and waited_s > self._target_s:
            self._slow_since = now

    def flow(self) -> None:
        """Somebody is served who did not wait at all."""
        self._slow_since = None

    def refuses(self, ahead: int, now: float, *, patience_s: float) -> bool:
        """Whether who comes now, behind so many, had better not wait."""
        # Where nobody looked for long, the process itself may have stood still, and not the line.
        self._stood_s += min(now - self._looked_at, self._target_s)
        self._looked_at = now
        # What stands still goes on to for as long as it has, for all that is known.
        wait_s = self._stood_s + ahead * self._gap_s
        if wait_s > patience_s:
            return True
        burst_s = self._target_s * _BURST
        is_slow = self._slow_since is not None and now - self._slow_since > burst_s
        return wait_s > self._target_s and (is_slow or self._stood_s > burst_s)
