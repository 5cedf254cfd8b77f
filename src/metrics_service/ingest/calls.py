"""Storing tool calls and model calls that several signals tell of.

A new call is inserted; one that is there already gets the parts that it lacks, and its row is made
anew of all of them. What a row adds to its session's figures is taken back before it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC
from functools import lru_cache
from typing import Any, Generic
from uuid import UUID

import msgspec
from asyncpg import Record

from metrics_service.db.tenancy import ContextConnection
from metrics_service.ingest.call_tables import CallTable
from metrics_service.ingest.parts import (
    RANK_SURE,
    ModelPart,
    PartT,
    ToolPart,
    is_told,
    join_parts,
    resolve,
    signal_of,
)
from metrics_service.ingest.rows import array, as_json, batched_ids, encode, pieces
from metrics_service.ingest.session_state import Figures, add
from metrics_service.ingest.telemetry import Call
from metrics_service.observability import catalog
from metrics_service.rollups.ledger import Ledger

_UNKNOWN = "unknown"

_ids = msgspec.json.Decoder(list[UUID])


class Place(msgspec.Struct):
    """A session that calls belong to: how their rows begin, and what they add to it."""

    id: UUID
    head: bytes
    """The beginning of each row, as JSON: session, agent, user."""
    tool_rank: int
    model_rank: int
    figures: Figures


class Calls(msgspec.Struct, Generic[PartT]):
    """One table's way of storing calls."""

    table: CallTable[PartT]
    rank: str
    """Which of a place's ranks decides what counts."""
    figures: Callable[[PartT], Figures]
    finish: Callable[[PartT], tuple[PartT, dict[str, Any]]]
    """The row with what follows from the whole of it, and columns that no part has."""

    async def store(
        self,
        connection: ContextConnection,
        calls: Mapping[int, Call[PartT]],
        places: Mapping[UUID, Place],
        ledger: Ledger,
    ) -> None:
        """Store the calls, each counted once; `places` has every session that they name."""
        new: set[int] = set()
        for row_ids in batched_ids(calls):
            # Rows are made piece by piece: those of a large request are never there all at once.
            new |= await self._insert(connection, row_ids, calls, places, ledger)
        catalog.note_rows(self.table.source.table, inserted=len(new))
        known = {row_id: call for row_id, call in calls.items() if row_id not in new}
        if known:
            await self._join(connection, known, places, ledger)

    async def _insert(
        self,
        connection: ContextConnection,
        row_ids: Iterable[int],
        calls: Mapping[int, Call[PartT]],
        places: Mapping[UUID, Place],
        ledger: Ledger,
    ) -> set[int]:
        """Store those of the calls that are new; return which were."""
        rows: list[bytes] = []
        added: list[tuple[int, Place, Figures]] = []
        for row_id in row_ids:
            call = calls[row_id]
            if call.session is None and not call.agent:
                # Parts of a call that is known already, or of none.
                continue
            place = places[call.session.id] if call.session is not None else None
            row, others = self.finish(resolve(call.parts))
            is_counted = self._counts(call.rank, place)
            head = place.head if place is not None else _head_without(call.agent)
            rows.append(_row(row_id, call, head, row, others, is_counted=is_counted))
            if place is not None and is_counted:
                added.append((row_id, place, self.figures(row)))
        new: set[int] = set()
        for found in await connection.fetch(self.table.insert, array(rows)):
            if not found["is_ids"]:
                ledger.enter(self.table.source, found["session_id"], found["rows"])
            elif found["rows"] is not None:
                new = {one.int for one in _ids.decode(found["rows"])}
        for row_id, place, figures in added:
            if row_id in new:
                add(place.figures, figures)
        return new

    def _counts(self, rank: int, place: Place | None) -> bool:
        return place is None or rank >= RANK_SURE or rank >= getattr(place, self.rank)

    async def _join(
        self,
        connection: ContextConnection,
        calls: Mapping[int, Call[PartT]],
        places: Mapping[UUID, Place],
        ledger: Ledger,
    ) -> None:
        changed: list[bytes] = []
        changed_ids: list[UUID] = []
        ids = as_json([f"{row_id:032x}" for row_id in sorted(calls)])
        for found in await connection.fetch(self.table.find, ids):
            row_id = found["id"].int
            call = calls[row_id]
            place = places.get(found["session_id"])
            if place is None and found["session_id"] is not None:
                # Another session's, whose figures nobody holds: the first that told of it keeps it.
                continue
            parts = self._parts(found)
            rank = max(call.rank, found["source_rank"])
            if not self._join_parts(row_id, parts, call.parts) and rank == found["source_rank"]:
                continue
            row, others = self.finish(resolve(parts))
            is_counted = self._counts(rank, place)
            joined = Call(None, "", rank, parts)
            changed.append(_row(row_id, joined, head_of(found), row, others, is_counted=is_counted))
            changed_ids.append(found["id"])
            if place is not None:
                add(place.figures, self._counted(found) if found["is_counted"] else {}, -1)
                add(place.figures, self.figures(row) if is_counted else {})
        source = self.table.source
        unchanged = len(calls) - len(changed_ids)
        catalog.note_rows(source.table, changed=len(changed_ids), unchanged=unchanged)
        await ledger.enter_rows(connection, source, changed_ids, sign=-1)
        for piece in pieces(changed):
            for added in await connection.fetch(self.table.change, piece):
                ledger.enter(source, added["session_id"], added["rows"])

    def _join_parts(
        self,
        row_id: int,  # noqa: ARG002  # who stores calls again wants to know which it is
        parts: dict[str, PartT],
        told: Mapping[str, PartT],
    ) -> bool:
        """Join what is told to what is stored of a row; say whether that changed anything."""
        return join_parts(parts, told)

    def _parts(self, found: Record) -> dict[str, PartT]:
        if found["parts"] is not None:
            return _decode_parts(found["parts"], self.table.kind)
        part = msgspec.json.decode(found["row"], type=self.table.kind)
        return {found["part"]: _as_told(part, found["row"])}

    async def demote(
        self, connection: ContextConnection, places: Iterable[Place], ledger: Ledger
    ) -> None:
        """Something better tells of these sessions' calls from now on."""
        by_id = {place.id: place for place in places}
        if not by_id:
            return
        ranks = [
            {"session_id": place.id, "rank": getattr(place, self.rank)} for place in by_id.values()
        ]
        for found in await connection.fetch(self.table.outdone, as_json(ranks)):
            ledger.enter(self.table.source, found["session_id"], found["rows"], sign=-1)
        for found in await connection.fetch(self.table.demote, as_json(ranks)):
            add(by_id[found["session_id"]].figures, self._counted(found), -1)

    def _counted(self, found: Record) -> Figures:
        """What a stored row adds to its session's figures."""
        return self.figures(self.table.kind(**{name: found[name] for name in self.table.counted}))


def _decode_parts(encoded: str, kind: type[PartT]) -> dict[str, PartT]:
    return msgspec.json.decode(encoded, type=dict[str, kind])  # type: ignore[valid-type]  # a class


class _Estimated(msgspec.Struct):
    cost_source: str | None = None


def _as_told(part: PartT, row: str) -> PartT:
    """Take back what the row has and its only part had not: defaults and the estimate."""
    if isinstance(part, ToolPart):
        part.status = None if part.status == _UNKNOWN else part.status
        part.tool_name = None if part.tool_name == _UNKNOWN else part.tool_name
    elif isinstance(part, ModelPart):
        part.attempts = None if part.attempts == 1 else part.attempts
        if msgspec.json.decode(row, type=_Estimated).cost_source == "estimated":
            part.cost_usd_micros = None
    for name in ("started_at", "ended_at"):
        moment = getattr(part, name)
        if moment is not None:
            setattr(part, name, moment.astimezone(UTC))
    return part


def _row(
    row_id: int,
    call: Call[PartT],
    head: bytes,
    row: PartT,
    others: dict[str, Any],
    *,
    is_counted: bool,
) -> bytes:
    parts = call.parts
    if is_told(row, parts):
        told = _told_by(next(iter(parts)))
    else:
        told = b'"signal":"%b","part":"several","parts":%b' % (
            signal_of(parts).encode(),
            encode(parts),
        )
    if call.rank != RANK_SURE or not is_counted:
        told += b',"source_rank":%d,"is_counted":%b' % (
            call.rank,
            b"true" if is_counted else b"false",
        )
    for name, value in others.items():
        told += b',"%b":%b' % (name.encode(), encode(value))
    content = encode(row)[1:]
    return b'%b,"id":"%032x",%b%b%b' % (
        head,
        row_id,
        told,
        b"," if content != b"}" else b"",
        content,
    )


@lru_cache(maxsize=64)
def _told_by(name: str) -> bytes:
    """What a row says of its only part."""
    return b'"signal":"%b","part":"%b"' % (signal_of({name: ToolPart()}).encode(), name.encode())


def _head_without(agent: str) -> bytes:
    return b'{"agent":%b' % encode(agent)


def head_of(row: Mapping[str, Any] | Record) -> bytes:
    """How the rows of a session begin."""
    return encode({name: row[name] for name in ("session_id", "agent", "user_id")})[:-1]
