"""What one transaction adds to the rollups and takes from them, written at its end.

Whoever changes facts holds their sessions, and enters here what the facts added before and add
afterwards. A session's team and repository are its facts' too: they are entered by where the session
stood when it was locked, and when it has moved by the end, all of its facts move with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal
from uuid import UUID

import msgspec
from asyncpg import Record

from metrics_service.db.tenancy import ContextConnection
from metrics_service.rollups.sources import MODEL_CALLS, SESSIONS, SOURCES, TOOL_METRICS, Source
from metrics_service.rollups.statements import STATEMENTS

FACTS = (TOOL_METRICS, MODEL_CALLS)

Sign = Literal[1, -1]


class Place(msgspec.Struct, frozen=True):
    """Where a session stands: what its facts have of it."""

    team: str | None = None
    repository: str | None = None


NOWHERE = Place()


class _Entry(msgspec.Struct, frozen=True):
    session_id: UUID | None
    sign: Sign
    rows: str
    place: Place | None


class Ledger:
    """Entries of one transaction; nothing is written before `write`."""

    def __init__(self) -> None:
        self._entries: dict[str, list[_Entry]] = {name: [] for name in SOURCES}
        self._taken: dict[UUID, Place] = {}
        self._made: dict[UUID, Place] = {}

    def enter(
        self,
        source: Source,
        session_id: UUID | None,
        rows: str | None,
        *,
        sign: Sign = 1,
        place: Place | None = None,
    ) -> None:
        """Enter contributions (JSON, as the statements return them) of one session, or of none.

        Without `place` they stand where their session stood when it was taken or made.
        """
        if rows:
            self._entries[source.name].append(_Entry(session_id, sign, rows, place))

    def make_session(self, session_id: UUID, place: Place = NOWHERE) -> None:
        """Say where a session stands that this transaction makes."""
        self._made[session_id] = place

    def take_session(self, found: Record) -> None:
        """Take out a session, as it stands before it changes: a row of its contributions."""
        self._taken[found["id"]] = Place(found["team"], found["repository"])
        self.enter(SESSIONS, None, f"[{found['rows']}]", sign=-1)

    async def take_sessions(self, connection: ContextConnection, ids: Iterable[UUID]) -> None:
        """Take out sessions that are there, and that are locked, before they change."""
        for found in await _fetch(connection, STATEMENTS[SESSIONS.name].of_sessions, ids):
            self.take_session(found)

    async def put_sessions(
        self, connection: ContextConnection, changed: Iterable[Record] | None = None
    ) -> None:
        """Put back, as they are now, the sessions that were taken out, and those that were made.

        One that is gone stays out; the facts of one that moved move with it. `changed` are their
        rows, where the statement that changed them returned them.
        """
        if changed is None:
            ids = [*self._taken, *self._made]
            changed = await _fetch(connection, STATEMENTS[SESSIONS.name].of_sessions, ids)
        moved: dict[UUID, Place] = {}
        for found in changed:
            self.enter(SESSIONS, None, f"[{found['rows']}]")
            place = Place(found["team"], found["repository"])
            if self._taken.get(found["id"], place) != place:
                moved[found["id"]] = place
        for source in FACTS if moved else ():
            statement = STATEMENTS[source.name].of_sessions
            for found in await _fetch(connection, statement, moved):
                session_id = found["session_id"]
                self.enter(source, session_id, found["rows"], sign=-1)
                self.enter(source, session_id, found["rows"], place=moved[session_id])

    async def enter_facts(
        self, connection: ContextConnection, session_ids: Iterable[UUID], *, sign: Sign
    ) -> None:
        """Enter all facts of these sessions, as they are stored now."""
        ids = list(session_ids)
        for source in FACTS:
            for found in await _fetch(connection, STATEMENTS[source.name].of_sessions, ids):
                self.enter(source, found["session_id"], found["rows"], sign=sign)

    async def enter_rows(
        self, connection: ContextConnection, source: Source, ids: Iterable[UUID], *, sign: Sign
    ) -> None:
        """Enter these facts, as they are stored now."""
        for found in await _fetch(connection, STATEMENTS[source.name].of_rows, ids):
            self.enter(source, found["session_id"], found["rows"], sign=sign)

    async def write(self, connection: ContextConnection) -> None:
        """Write what was entered; after everything else, so that rollups are not locked for long.

        One table after the other, always in the same order: so no two transactions wait for each
        other in a circle.
        """
        for name, entries in self._entries.items():
            if entries:
                rows = b",".join([self._encoded(entry) for entry in entries])
                await connection.execute(STATEMENTS[name].roll_up, f"[{rows.decode()}]")
                entries.clear()

    def _encoded(self, entry: _Entry) -> bytes:
        place = entry.place
        if place is None and entry.session_id is not None:
            place = self._taken.get(entry.session_id) or self._made.get(entry.session_id)
        where = msgspec.json.encode(place or NOWHERE)
        return b'%b,"sign":%d,"rows":%b}' % (where[:-1], entry.sign, entry.rows.encode())


async def _fetch(
    connection: ContextConnection, statement: str, ids: Iterable[UUID]
) -> Sequence[Record]:
    wanted = list(ids)
    if not wanted:
        return []
    rows: Sequence[Record] = await connection.fetch(statement, msgspec.json.encode(wanted).decode())
    return rows
