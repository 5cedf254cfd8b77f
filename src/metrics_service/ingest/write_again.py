"""Storing what was stored before: what is told now replaces what the same teller told then.

Requests are mapped again one after the other. The first that tells a part of a call, or an event, puts
it in the place of what is stored; those that follow are joined to it as always. So the rows end as if
they had been mapped as they are now from the beginning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Generic
from uuid import UUID

import msgspec
from asyncpg import Record

from metrics_service.db.tenancy import ContextConnection
from metrics_service.ingest.calls import Calls, Place
from metrics_service.ingest.happenings import store_events
from metrics_service.ingest.held_sessions import Held
from metrics_service.ingest.parts import IMPORT, ModelPart, Part, PartT, join_parts
from metrics_service.ingest.prices import Prices
from metrics_service.ingest.rows import array, as_json, as_uuids, encode
from metrics_service.ingest.session_state import PROVEN, Tally
from metrics_service.ingest.telemetry import COUNT_OF, Call, Event, SessionPart, Telemetry
from metrics_service.ingest.tool_names import ToolNames
from metrics_service.ingest.tool_spans import find_calls
from metrics_service.ingest.write_telemetry import TelemetryWriter
from metrics_service.rollups.ledger import Ledger

EVENT, SPAN, ROW, ADDED, CHANGED = "\0event", "\0span", "\0row", "added", "changed"
SESSIONS, EVENTS = "metrics_sessions", "session_events"

FIND_EVENTS = """
SELECT id, session_id, kind, signal FROM session_events WHERE id = ANY ($1::text::uuid[])
ORDER BY id FOR UPDATE
"""
CHANGE_EVENTS = """
UPDATE session_events t SET
    kind = r.kind, name = r.name, occurred_at = r.occurred_at, duration_ms = r.duration_ms,
    turn_id = r.turn_id, trace_id = r.trace_id, span_id = r.span_id,
    parent_span_id = r.parent_span_id, severity = r.severity,
    signal = coalesce(r.signal, 'logs'), attributes = r.attributes, content = r.content
FROM json_to_recordset($1::json) AS r(
    id uuid, kind text, name text, occurred_at timestamptz, duration_ms double precision,
    turn_id text, trace_id text, span_id text, parent_span_id text, severity integer, signal text,
    attributes jsonb, content text)
WHERE t.id = r.id AND ROW(
    t.kind, t.name, t.occurred_at, t.duration_ms, t.turn_id, t.trace_id, t.span_id,
    t.parent_span_id, t.severity, t.signal, t.attributes, t.content) IS DISTINCT FROM ROW(
    r.kind, r.name, r.occurred_at, r.duration_ms, r.turn_id, r.trace_id, r.span_id,
    r.parent_span_id, r.severity, coalesce(r.signal, 'logs'), r.attributes, r.content)
RETURNING t.id
"""
LOCK_SPANS = "SELECT id FROM tool_spans WHERE id = ANY ($1::text::uuid[]) ORDER BY id FOR UPDATE"
LINK_SPANS = """
UPDATE tool_spans t SET tool_metric_id = r.tool_metric_id
FROM json_to_recordset($1::json) AS r(id uuid, tool_metric_id uuid)
WHERE t.id = r.id AND t.tool_metric_id <> r.tool_metric_id
"""


class Retelling:
    """What the requests of one run have told so far, and what that made of the tables.

    A part takes a number in a set, about 70 bytes.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        """Of rows, by what became of them and table."""
        self._told: set[int] = set()
        self._telling: set[int] = set()
        self._counting: Counter[tuple[str, str]] = Counter()

    def tells_first(self, row_id: int, name: str) -> bool:
        """Note that this request tells it; say whether no request before it did."""
        mark = hash((row_id, name))
        self._telling.add(mark)
        return mark not in self._told

    def count(self, what: str, table: str, row_id: int) -> None:
        """Count a row that was added or changed: once, and none that was added as changed too."""
        if self.tells_first(row_id, ROW):
            self._counting[what, table] += 1

    def end_request(self) -> None:
        """What the request told is stored."""
        self._told |= self._telling
        self.counts += self._counting
        self.forget_request()

    def forget_request(self) -> None:
        """It is not, and what it told may be told again."""
        self._telling.clear()
        self._counting.clear()


class CallsAgain(Calls[PartT], Generic[PartT], kw_only=True):
    """One table's way of storing calls again."""

    retelling: Retelling

    async def _insert(
        self,
        connection: ContextConnection,
        row_ids: Iterable[int],
        calls: Mapping[int, Call[PartT]],
        places: Mapping[UUID, Place],
        ledger: Ledger,
    ) -> set[int]:
        new = await super()._insert(connection, row_ids, calls, places, ledger)  # type: ignore[arg-type]  # mypy forgets in super() what PartT stands for
        for row_id in new:
            self.retelling.count(ADDED, self.table.source.table, row_id)
            for name in calls[row_id].parts:
                self.retelling.tells_first(row_id, name)
        return new

    def _join_parts(self, row_id: int, parts: dict[str, PartT], told: Mapping[str, PartT]) -> bool:
        again: dict[str, PartT] = {}
        has_changed = False
        for name, part in told.items():
            is_first = self.retelling.tells_first(row_id, name)
            if name in parts and _is_same(parts[name], part):
                continue
            if is_first:
                parts[name] = part
                has_changed = True
            else:
                again[name] = part
        if join_parts(parts, again) or has_changed:
            self.retelling.count(CHANGED, self.table.source.table, row_id)
            return True
        return False


def _is_same(stored: Part, told: Part) -> bool:
    if isinstance(stored, ModelPart) and isinstance(told, ModelPart) and told.provider is None:
        # Some clients name it for the session alone, and it stands in the row.
        stored = msgspec.structs.replace(stored, provider=None)
    # As it is stored: without U+0000, and numbers as JSON has them.
    return stored == told or as_json(stored) == as_json(told)


class TelemetryRewriter(TelemetryWriter):
    """The write path of telemetry that was written before."""

    def __init__(self, tool_names: ToolNames, prices: Prices, retelling: Retelling) -> None:
        super().__init__(tool_names, prices)
        self._retelling = retelling
        self._tools = CallsAgain(**msgspec.structs.asdict(self._tools), retelling=retelling)
        self._models = CallsAgain(**msgspec.structs.asdict(self._models), retelling=retelling)

    async def _find_calls(self, connection: ContextConnection, out: Telemetry) -> list[UUID]:
        spans = {
            span: row_id
            for span, row_id in out.spans.items()
            if self._retelling.tells_first(span, SPAN)
        }
        if spans:
            # The call of a span may have another id by now.
            await connection.execute(LOCK_SPANS, as_uuids(spans))
            await connection.execute(
                LINK_SPANS,
                as_json(
                    [
                        {"id": f"{span:032x}", "tool_metric_id": f"{row_id:032x}"}
                        for span, row_id in spans.items()
                    ]
                ),
            )
        return await find_calls(connection, out)

    def _meet(self, held: dict[UUID, Held], parts: dict[UUID, SessionPart]) -> None:
        for session_id, part in parts.items():
            one = held[session_id]
            if one.is_new:
                self._retelling.count(ADDED, SESSIONS, session_id.int)
            stored = one.state.said
            for name, (time_ns, value) in part.said.items():
                if name == PROVEN or not self._retelling.tells_first(session_id.int, name):
                    continue
                # Said at the same time as before, and not the same: this time it is right.
                if name in stored and stored[name][0] == time_ns and stored[name][1] != value:
                    del stored[name]

    async def _store_events(
        self,
        connection: ContextConnection,
        events: Mapping[int, Event],
        places: Mapping[UUID, Place],
    ) -> dict[UUID, Tally]:
        stored: list[Record] = []
        if events:
            stored = await connection.fetch(FIND_EVENTS, as_uuids(events))
        tallies = await store_events(connection, events, places)
        for row_id in events.keys() - {row["id"].int for row in stored}:
            self._retelling.tells_first(row_id, EVENT)
            self._retelling.count(ADDED, EVENTS, row_id)
        again = {
            row["id"].int: row
            for row in stored
            if self._retelling.tells_first(row["id"].int, EVENT)
            and _may_replace(row, events[row["id"].int], places)
        }
        if again:
            rows = [
                b'{"id":"%032x",%b' % (row_id, encode(events[row_id].record)[1:])
                for row_id in again
            ]
            for found in await connection.fetch(CHANGE_EVENTS, array(rows)):
                row_id = found["id"].int
                self._retelling.count(CHANGED, EVENTS, row_id)
                _recount(tallies, again[row_id], events[row_id])
        return tallies


def _may_replace(row: Record, event: Event, places: Mapping[UUID, Place]) -> bool:
    # Of another session that nobody holds, the first that told of it keeps it, as calls do; and what
    # was said live stays better than what was brought in, which `store_events` sees to.
    is_ours = row["session_id"] is None or row["session_id"] in places
    return is_ours and (row["signal"] == IMPORT) == (event.record.signal == IMPORT)


def _recount(tallies: dict[UUID, Tally], row: Record, event: Event) -> None:
    before, after = COUNT_OF.get(row["kind"]), event.counts
    if before == after or row["session_id"] is None:
        return
    tally = tallies.setdefault(row["session_id"], Tally())
    for name, sign in ((before, -1), (after, 1)):
        if name is not None:
            tally.count(name, row["signal"], has_common_name=event.has_common_name, sign=sign)
