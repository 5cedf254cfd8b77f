"""The replicas, where there are any: whether they answer, and how far they are behind."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from metrics_service.db.probe import Probe, ServerState
from metrics_service.db.replica import replica_names
from metrics_service.db.replica_lag import Positions
from metrics_service.health.judging import judge_replica
from metrics_service.health.server import ServerWatch, Tell
from metrics_service.health.standing import Finding


class Replicas:
    """Asks all of them at once; there is a check for each."""

    def __init__(self, dsns: Sequence[str], *, application: str, lag_ms: int, tell: Tell) -> None:
        self._lag_ms = lag_ms
        self._positions = Positions()
        self._watches = {
            name: ServerWatch(Probe(dsn, name=application), name, tell)
            for name, dsn in zip(replica_names(len(dsns)), dsns, strict=True)
        }

    @property
    def names(self) -> list[str]:
        return list(self._watches)

    async def look(self, first: ServerState | None) -> dict[str, Finding]:
        """What was found of each; `first` is the server they follow, if it answered."""
        if not self._watches:
            return {}
        if first is not None:
            self._positions.note(first)
        states = await asyncio.gather(*(watch.look() for watch in self._watches.values()))
        return {
            name: self._judged(state) for name, state in zip(self._watches, states, strict=True)
        }

    def close(self) -> None:
        for watch in self._watches.values():
            watch.probe.close()

    def _judged(self, state: ServerState | Finding) -> Finding:
        if isinstance(state, Finding):
            # Whoever reads from it has the first server still.
            return Finding("degraded", state.detail)
        return judge_replica(state, self._positions.lag_ms(state), self._lag_ms)
