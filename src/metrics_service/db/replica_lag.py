"""How far a replica is behind the first server."""

from __future__ import annotations

from collections import deque
from time import monotonic

from metrics_service.db.probe import ServerState

# Of the first server's positions; a replica that is further behind is judged by its clock alone.
MAX_SAMPLES = 500


class Positions:
    """Where the first server was when, by this process's own clock, which never jumps."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=MAX_SAMPLES)
        self._timeline: str | None = None

    def note(self, first: ServerState) -> None:
        if first.timeline != self._timeline:
            # After a promotion positions are counted anew.
            self._samples.clear()
            self._timeline = first.timeline
        if first.wal_position is not None and not first.is_standby:
            self._samples.append((monotonic(), first.wal_position))

    def lag_ms(self, replica: ServerState) -> float | None:
        """How old what the replica shows is at most; None when nobody can say.

        Neither clock alone would do. Nothing is committed on a quiet server, so what was replayed last
        may be of yesterday and the replica current all the same; and this process may have begun only
        after the replica fell behind.
        """
        if replica.wal_position is None:
            return None
        if self._samples and replica.wal_position >= self._samples[-1][1]:
            return 0.0
        ages = [
            (monotonic() - at) * 1000
            for at, position in self._samples
            if position <= replica.wal_position
        ][-1:]
        if replica.replayed_ago_s is not None:
            ages.append(max(0.0, replica.replayed_ago_s * 1000))
        return min(ages, default=None)
