"""Storing a `Telemetry` in one transaction, so that any order of requests gives the same tables.

Everything is locked in one order: tool names, traces, spans of tool calls, users, metric streams,
sessions, only then rows, and rollups last; within each by name. So no two requests wait for each other
in a circle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

import msgspec

from metrics_service.db.tenancy import ContextConnection
from metrics_service.ingest.call_tables import MODEL_CALLS, TOOL_METRICS
from metrics_service.ingest.calls import Calls, Place, head_of
from metrics_service.ingest.claims import IMPORTER, OWNER, SENT_BY
from metrics_service.ingest.handing_over import hand_over
from metrics_service.ingest.happenings import store_deltas, store_events
from metrics_service.ingest.held_sessions import (
    Held,
    absorb,
    hold_sessions,
    identify,
    open_ledger,
    part_of,
)
from metrics_service.ingest.known_people import KnownPeople, look_up_people
from metrics_service.ingest.parts import IMPORT, ModelPart, ToolPart
from metrics_service.ingest.prices import Prices, estimate_micros
from metrics_service.ingest.recorded import LONG_BEFORE_NS
from metrics_service.ingest.recorded_events import give_way
from metrics_service.ingest.rows import as_json
from metrics_service.ingest.session_state import Tally, add, figures_of_model, figures_of_tool
from metrics_service.ingest.telemetry import Call, Event, SessionPart, Telemetry
from metrics_service.ingest.telemetry_sessions import change_sessions, drop_sessions
from metrics_service.ingest.temporality import take_deltas
from metrics_service.ingest.tool_names import ToolNames
from metrics_service.ingest.tool_spans import find_calls
from metrics_service.ingest.traces import Adoption, find_traces
from metrics_service.observability.work import span
from metrics_service.rollups.ledger import Ledger
from metrics_service.rollups.sources import MODEL_CALLS as MODEL_CALLS_SOURCE
from metrics_service.rollups.statements import contributions

OTHER = "other"
"""The name of tools when a tenant has too many."""

SESSIONS_OF_CALLS = """
SELECT DISTINCT s.id, s.agent, s.external_id, s.started_at, s.last_event_at
FROM tool_metrics t JOIN metrics_sessions s ON s.tenant_id = t.tenant_id AND s.id = t.session_id
WHERE t.id IN (SELECT value::uuid FROM json_array_elements_text($1::json))
"""

SESSIONS = """
SELECT id, agent, external_id, started_at, last_event_at FROM metrics_sessions
WHERE id IN (SELECT value::uuid FROM json_array_elements_text($1::json))
"""

PROVIDE = f"""
WITH changed AS (
    UPDATE model_calls t SET provider = r.provider
    FROM json_to_recordset($1::json) AS r(session_id uuid, provider text)
    WHERE t.session_id = r.session_id AND t.part IS NOT NULL AND t.provider IS NULL
    RETURNING {MODEL_CALLS_SOURCE.needed("t")}
) {contributions(MODEL_CALLS_SOURCE, "changed")}
"""


class TelemetryWriter:
    """The write path of telemetry, with what one process remembers for it."""

    def __init__(self, tool_names: ToolNames, prices: Prices) -> None:
        self._tool_names = tool_names
        self._prices = prices
        self._tools: Calls[ToolPart] = Calls(
            TOOL_METRICS, "tool_rank", figures_of_tool, lambda row: (row, {})
        )
        self._models: Calls[ModelPart] = Calls(
            MODEL_CALLS, "model_rank", figures_of_model, self._finish
        )

    async def write(
        self,
        connection: ContextConnection,
        out: Telemetry,
        *,
        owner: UUID | None,
        key_id: UUID | None = None,
    ) -> set[str]:
        """Store everything; the caller's transaction commits.

        `owner` is the user whose personal key sent it, `key_id` the key. Returns the tool names to be
        remembered once it is committed.
        """
        with span("ingest.admit"):
            names = await self._admit_names(connection, out)
            adoptions = await find_traces(connection, out)
            elsewhere = await self._find_calls(connection, out)
            people = await _people(connection, out, owner, key_id)
        with span("ingest.streams", points=len(out.points)):
            deltas = await take_deltas(connection, out.points)
        with span("ingest.hold", sessions=len(out.sessions)):
            parts = {session.id: session for session in out.sessions.values()}
            others = await _others(connection, parts, elsewhere, adoptions)
            held = await hold_sessions(connection, [*parts.values(), *others])
            adoptions = [one for one in adoptions if one.old_id in held and one.new_id in held]
            self._meet(held, parts)
            _decide(out, held, parts, adoptions, people)
            ledger = open_ledger(held)
        with span("ingest.hand_over", adoptions=len(adoptions)):
            await hand_over(connection, held, adoptions, ledger)
            for adoption in adoptions:
                del held[adoption.old_id]
            places = {session_id: _place(one) for session_id, one in held.items()}
            await self._demote(connection, held, places, {one.new_id for one in adoptions}, ledger)
        with span("ingest.insert", records=len(out.tools) + len(out.models) + len(out.events)):
            await self._tools.store(connection, out.tools, places, ledger)
            await self._models.store(connection, out.models, places, ledger)
            await _provide(connection, out, held, adoptions, ledger)
            tallies = await self._store_events(connection, out.events, places)
            meters = await store_deltas(connection, deltas, places)
        with span("ingest.sessions", sessions=len(held)):
            for session_id, one in held.items():
                add(one.state.calls, places[session_id].figures)
                add(one.state.meters, meters.get(session_id, {}))
                one.count(tallies.get(session_id, Tally()))
            await give_way(connection, held.values())
            await drop_sessions(connection, [one.old_id for one in adoptions])
            await change_sessions(connection, out.tenant_id, held.values(), parts)
        with span("ingest.rollup"):
            await ledger.put_sessions(connection)
            await ledger.write(connection)
        return names

    def remember(self, tenant_id: UUID, names: set[str]) -> None:
        """Remember the names that `write` returned; after the commit."""
        self._tool_names.remember(tenant_id, names)

    async def _find_calls(self, connection: ContextConnection, out: Telemetry) -> list[UUID]:
        return await find_calls(connection, out)

    def _meet(self, held: dict[UUID, Held], parts: dict[UUID, SessionPart]) -> None:
        """What is to happen between stored sessions and what the request says, before they hear it."""

    async def _store_events(
        self,
        connection: ContextConnection,
        events: Mapping[int, Event],
        places: Mapping[UUID, Place],
    ) -> dict[UUID, Tally]:
        return await store_events(connection, events, places)

    async def _admit_names(self, connection: ContextConnection, out: Telemetry) -> set[str]:
        calls = [*(call.parts for call in out.tools.values()), *out.inside.values()]
        parts = [part for call in calls for part in call.values()]
        names = {part.tool_name for part in parts if part.tool_name is not None}
        if not names:
            return names
        too_many = await self._tool_names.admit(connection, out.tenant_id, names)
        if too_many:
            for part in parts:
                if part.tool_name in too_many:
                    part.extra = {**(part.extra or {}), "tool_name": part.tool_name}
                    part.tool_name = OTHER
        return names - too_many

    async def _demote(
        self,
        connection: ContextConnection,
        held: dict[UUID, Held],
        places: dict[UUID, Place],
        adopting: set[UUID],
        ledger: Ledger,
    ) -> None:
        def outdone(rank: str) -> list[Place]:
            return [
                places[session_id]
                for session_id, one in held.items()
                if session_id in adopting
                or 0 < getattr(one.before, rank) < getattr(one.state, rank)
            ]

        await self._tools.demote(connection, outdone("tool_rank"), ledger)
        await self._models.demote(connection, outdone("model_rank"), ledger)

    def _finish(self, row: ModelPart) -> tuple[ModelPart, dict[str, Any]]:
        if row.input_tokens is not None:
            # Of parts that knew different things: what one reported uncached, another saw written.
            cached = (row.cache_read_tokens or 0) + (row.cache_write_tokens or 0)
            uncached = max(0, row.input_tokens - cached)
            if uncached != row.input_uncached_tokens:
                row = msgspec.structs.replace(row, input_uncached_tokens=uncached)
        if row.cost_usd_micros is not None:
            return row, {"cost_source": "reported"}
        estimate = estimate_micros(self._prices, row)
        if estimate is None:
            return row, {}
        # A copy: the part itself said nothing of money.
        priced = msgspec.structs.replace(row, cost_usd_micros=estimate)
        return priced, {"cost_source": "estimated", "price_version": self._prices.version}


async def _provide(
    connection: ContextConnection,
    out: Telemetry,
    held: dict[UUID, Held],
    adoptions: list[Adoption],
    ledger: Ledger,
) -> None:
    """Give model calls the provider that only their session names, as Codex has it."""
    fresh = {call.session.id for call in out.models.values() if call.session is not None}
    fresh |= {one.new_id for one in adoptions}
    named = [
        {"session_id": session_id, "provider": one.state.said["provider"][1]}
        for session_id, one in held.items()
        if "provider" in one.state.said
        and (session_id in fresh or "provider" not in one.before.said)
    ]
    if not named:
        return
    for found in await connection.fetch(PROVIDE, as_json(named)):
        session_id, rows = found["session_id"], found["rows"]
        before = [{**row, "provider": None} for row in msgspec.json.decode(rows)]
        ledger.enter(MODEL_CALLS_SOURCE, session_id, as_json(before), sign=-1)
        ledger.enter(MODEL_CALLS_SOURCE, session_id, rows)


async def _people(
    connection: ContextConnection, out: Telemetry, owner: UUID | None, key_id: UUID | None
) -> KnownPeople:
    """The people whom the request claims, or proves by its key, to have done it."""
    for session in out.sessions.values():
        is_recorded = session.signals == {IMPORT}
        if key_id is not None:
            # Rules may make a person of it: whoever brings in what is there already changes nobody.
            said_ns = session.last_ns - LONG_BEFORE_NS if is_recorded else session.last_ns
            session.say(f"@{SENT_BY}", str(key_id), said_ns)
        if owner is not None:
            # What a laptop recorded may be of whoever used it before.
            claim = IMPORTER if is_recorded else OWNER
            session.say(f"@{claim}", str(owner), session.last_ns)
    said = [session.said for session in out.sessions.values()]
    return await look_up_people(connection, out.tenant_id, said)


def _decide(
    out: Telemetry,
    held: dict[UUID, Held],
    parts: dict[UUID, SessionPart],
    adoptions: list[Adoption],
    people: KnownPeople,
) -> None:
    """Say of each session what it is now, whose it is, and which of its calls count."""
    for session_id, part in parts.items():
        held[session_id].state.hear(part.said)
    for adoption in adoptions:
        absorb(held[adoption.new_id], held[adoption.old_id])
    for one in held.values():
        if (known := one.before.known) is not None and known.claim is not None:
            people.before[known.claim] = known
    for one in held.values():
        identify(one, people)
    _raise_ranks(held, "tool_rank", out.tools.values())
    _raise_ranks(held, "model_rank", out.models.values())


def _raise_ranks(
    held: dict[UUID, Held], rank: str, calls: Iterable[Call[ToolPart] | Call[ModelPart]]
) -> None:
    for call in calls:
        if call.session is not None:
            state = held[call.session.id].state
            setattr(state, rank, max(getattr(state, rank), call.rank))


async def _others(
    connection: ContextConnection,
    parts: dict[UUID, SessionPart],
    elsewhere: list[UUID],
    adoptions: list[Adoption],
) -> list[SessionPart]:
    """The sessions that change though nothing in this request is theirs."""
    found = []
    if elsewhere:
        found += await connection.fetch(SESSIONS_OF_CALLS, as_json([str(it) for it in elsewhere]))
    if ids := [str(it) for one in adoptions for it in (one.old_id, one.new_id)]:
        found += await connection.fetch(SESSIONS, as_json(ids))
    rows = {row["id"]: row for row in found}.values()
    return [part_of(row) for row in rows if row["id"] not in parts]


def _place(held: Held) -> Place:
    head = head_of({"session_id": held.id, "agent": held.row["agent"], "user_id": held.user_id})
    return Place(held.id, head, held.state.tool_rank, held.state.model_rank, {})
