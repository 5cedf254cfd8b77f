"""The database's server as this process reaches it: lost, found again, or another one."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TypeAlias

from metrics_service.db.probe import Probe, ServerState, UnreachableError
from metrics_service.fleet.views import EventKind
from metrics_service.health.judging import judge_server
from metrics_service.health.standing import Finding

Tell: TypeAlias = Callable[[EventKind, str, str], None]
"""What happened, to which check, and how."""


class ServerWatch:
    """Asks one server how it is, and tells what became of it."""

    def __init__(self, probe: Probe, name: str, tell: Tell) -> None:
        self.probe = probe
        self.last: ServerState | None = None
        """What it said last, however long ago."""
        self._name = name
        self._tell = tell
        self._lost_at: float | None = None

    async def look(self) -> ServerState | Finding:
        """How it is; or what is to be said where it does not answer."""
        try:
            state = await self.probe.ask()
        except UnreachableError as error:
            if self._lost_at is None:
                self._lost_at = monotonic()
                self._tell("connection-error", self._name, str(error))
            return Finding("unhealthy", str(error))
        self._tell_recovery(state)
        if self.last is not None and (changed := _changes(self.last, state)):
            self._tell("failover", self._name, "; ".join(changed))
        self.last = state
        return state

    def _tell_recovery(self, state: ServerState) -> None:
        is_restarted = self.last is not None and self.last.started_at != state.started_at
        restarted = "the server was started meanwhile" if is_restarted else ""
        if self._lost_at is not None:
            away = f"after {monotonic() - self._lost_at:.0f} s"
            self._lost_at = None
            self._tell(
                "connection-recovery", self._name, "; ".join(filter(None, [away, restarted]))
            )
        elif restarted:
            # It was away between two looks.
            self._tell("connection-recovery", self._name, restarted)


def judge_first(state: ServerState | Finding) -> Finding:
    return state if isinstance(state, Finding) else judge_server(state)


def _changes(before: ServerState, now: ServerState) -> list[str]:
    """What says that this is another server than before, or no longer what it was."""
    found = []
    if (before.address, before.port) != (now.address, now.port):
        found.append(f"the server is at {_place(now)} and was at {_place(before)}")
    if before.is_standby != now.is_standby:
        found.append(
            "a standby was promoted" if before.is_standby else "the server is a standby now"
        )
    if before.timeline and now.timeline and before.timeline != now.timeline:
        found.append(f"its timeline is {int(now.timeline, 16)} and was {int(before.timeline, 16)}")
    return found


def _place(state: ServerState) -> str:
    return "a socket" if state.address is None else f"{state.address}:{state.port}"
