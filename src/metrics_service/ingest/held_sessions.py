"""Sessions that a transaction holds: locked before their rows, as they were and as they will be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from asyncpg import Record

from metrics_service.db.tenancy import ContextConnection
from metrics_service.ingest.known_people import KnownPeople
from metrics_service.ingest.rows import as_json
from metrics_service.ingest.session_state import COUNTED, Figures, State, Tally, add
from metrics_service.ingest.sessions import hold
from metrics_service.ingest.telemetry import SessionPart, instant, ns_of
from metrics_service.rollups.ledger import Ledger, Place

STATED = "stated"
"""How a user is known of whom a client, or somebody by hand, said that it is theirs."""

SAID = (
    "session_type",
    "repository",
    "branch",
    "team",
    "project",
    "environment",
    "commit_sha",
    "cost_center",
    "start_type",
    "end_reason",
    "agent_version",
    "entrypoint",
    "terminal_type",
    "os_type",
    "os_version",
    "host_arch",
    "surface",
    "permission_mode",
    "sandbox_policy",
    "approval_policy",
    "reasoning_effort",
    "workspace_paths",
    "is_subagent",
)

HOLD = hold(
    "id",
    "agent",
    "started_at",
    "last_event_at",
    "ended_at",
    "user_id",
    "user_source",
    "parent_session_id",
    "tool_call_count",
    "model_call_count",
    *COUNTED,
    "signals",
    "telemetry::text",
    *SAID,
)


class Held(msgspec.Struct):
    """A session that this transaction holds, as it was and as it will be."""

    row: Record
    state: State
    before: State
    """A copy of the state as it was stored."""
    native: dict[str, int]
    """Calls that came by the JSON API."""
    tallies: Figures
    """Prompts, turns and compactions that are new."""
    user_id: UUID | None
    user_source: str | None
    started_at: datetime
    last_event_at: datetime
    signals: set[str]

    @property
    def id(self) -> UUID:
        return self.row["id"]  # type: ignore[no-any-return]  # a uuid

    @property
    def is_new(self) -> bool:
        return self.row["is_new"]  # type: ignore[no-any-return]  # a boolean

    @property
    def place(self) -> Place:
        """Where the session stands from now on."""
        return Place(self.kept("team"), self.kept("repository"))

    @property
    def is_known(self) -> bool:
        """Whether telemetry told of the session before."""
        return self.row["telemetry"] is not None

    def count(self, tally: Tally) -> None:
        """Add what events add."""
        add(self.tallies, tally.all)
        add(self.state.named, tally.named)
        add(self.state.recorded, tally.recorded)

    def kept(self, column: str) -> Any:
        """The column's new value: what was said last, unless somebody changed the column since."""
        current = self.row[column]
        told = self.before.said.get(column)
        if (current or None) != (told[1] if told is not None else None):
            return current
        now = self.state.said.get(column)
        return now[1] if now is not None else current


def part_of(row: Record) -> SessionPart:
    """A stored session, as a request that says nothing of it would name it."""
    return SessionPart(
        id=row["id"],
        scope=row["id"].bytes,
        agent=row["agent"],
        external_id=row["external_id"],
        first_ns=ns_of(row["started_at"]),
        last_ns=ns_of(row["last_event_at"]),
    )


async def hold_sessions(
    connection: ContextConnection, parts: Iterable[SessionPart]
) -> dict[UUID, Held]:
    """Create or lock the sessions, in the order of their ids."""
    by_id = {part.id: part for part in parts}
    given = [
        {
            "id": part.id,
            "agent": part.agent,
            "external_id": part.external_id,
            "started_at": instant(part.first_ns),
            "last_event_at": instant(part.last_ns),
        }
        for part in by_id.values()
    ]
    if not given:
        return {}
    found = await connection.fetch(HOLD, as_json(given))
    return {row["id"]: _held(row, by_id[row["id"]]) for row in found}


def _held(row: Record, part: SessionPart) -> Held:
    stored = (row["telemetry"] or "{}").encode()
    before = msgspec.json.decode(stored, type=State)
    native = {
        name: row[name] - before.shown.get(name, 0)
        for name in ("tool_call_count", "model_call_count")
    }
    return Held(
        row,
        msgspec.json.decode(stored, type=State),
        before,
        native,
        {},
        row["user_id"],
        row["user_source"],
        min(row["started_at"], instant(part.first_ns)),
        max(row["last_event_at"], instant(part.last_ns)),
        set(row["signals"]),
    )


def open_ledger(held: Mapping[UUID, Held]) -> Ledger:
    """A ledger that knows these sessions as they were."""
    ledger = Ledger()
    for session_id, one in held.items():
        if one.is_new:
            ledger.make_session(session_id, one.place)
        else:
            ledger.take_session(one.row)
    return ledger


def identify(held: Held, people: KnownPeople, *, settles: bool = False) -> None:
    """Say whose session it is, by all that was ever said of it.

    `settles` says that everything was looked up: then somebody who cannot be named is nobody.
    """
    known = people.who(held.state.said)
    if known is None and not settles:
        return
    held.state.known = known
    stored = held.before.known
    told = stored.user_id if stored is not None else None
    if held.row["user_source"] != STATED and held.row["user_id"] == told:
        # Nobody said otherwise since.
        held.user_id = known.user_id if known is not None else None
        held.user_source = known.source if known is not None else None


def absorb(held: Held, other: Held) -> None:
    """Take over what the session of a trace had."""
    state, old = held.state, other.state
    state.hear(old.said)
    add(state.calls, old.calls)
    add(state.meters, old.meters)
    state.tool_rank = max(state.tool_rank, old.tool_rank)
    state.model_rank = max(state.model_rank, old.model_rank)
    held.count(Tally({name: other.row[name] for name in COUNTED}, old.named, old.recorded))
    held.started_at = min(held.started_at, other.started_at)
    held.last_event_at = max(held.last_event_at, other.last_event_at)
    held.signals |= other.signals
