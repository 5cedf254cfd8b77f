"""What one request of telemetry says, in our words: sessions, calls, points and events.

Mappers fill a `Telemetry`, the write path stores it. The same item always gives the same ids, however
it was encoded, split or ordered, so that it can meet itself in the database.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Generic, Literal
from uuid import UUID

import msgspec

from metrics_service.errors import BodyTooLargeError
from metrics_service.fields import MAX_BIGINT
from metrics_service.ingest.parts import (
    IMPORT,
    LOG_PARTS,
    LOGS,
    RANK_SPAN,
    RANK_SURE,
    ModelPart,
    PartT,
    ToolPart,
    join_parts,
)
from metrics_service.ingest.records import session_id_of

from_bytes = int.from_bytes
# RFC 9562, version 8: four bits say the version, two the variant.
_FREE = ~(0xF << 76) & ~(0x3 << 62)
_VERSION_8 = 8 << 76 | 0x2 << 62

MAX_NS = MAX_BIGINT
MAX_SESSIONS = 5000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

COUNT_OF: Mapping[str, str] = {
    "prompt": "prompt_count",
    "turn": "turn_count",
    "compaction": "compactions",
}
"""By the kind of an event: the count of its session that it adds to."""

Instrument = Literal["sum", "gauge", "histogram", "exponential_histogram", "summary"]
Key = str | tuple[str, str]
"""A name within the session, or the trace and span ids of what has no other name."""


def instant(time_ns: int) -> datetime:
    """The moment that nanoseconds since 1970 name, to the microsecond."""
    return EPOCH + timedelta(0, 0, time_ns // 1000)


def ns_of(moment: datetime) -> int:
    """Nanoseconds since 1970; `instant` takes them back."""
    return (moment - EPOCH) // timedelta(microseconds=1) * 1000


class SessionPart(msgspec.Struct, kw_only=True):
    """What a request says about one session: when it was, and columns with when they were said."""

    id: UUID
    scope: bytes
    """What the ids of its rows begin with."""
    agent: str
    external_id: str
    first_ns: int
    last_ns: int
    said: dict[str, tuple[int, Any]] = msgspec.field(default_factory=dict)
    """By column, `@` and a claim's name, or `#` and a resource attribute: the last word, and when."""
    signals: set[str] = msgspec.field(default_factory=set)
    words: dict[tuple[tuple[str, ...], Any], int] = msgspec.field(default_factory=dict)
    """What attributes said together, and when last; until it is taken into `said`."""
    last_by_source: dict[bytes, int] = msgspec.field(default_factory=dict)
    """When each resource last spoke; by its digest."""
    horizon_ns: int = MAX_NS
    """No session knows of a later time: a clock that is ahead would have the last word for ever."""
    trace_id: str | None = None
    """Set where no item named a session: what happened in one trace, until a session claims it."""

    def see(self, time_ns: int, signal: str) -> None:
        """Note that something happened in the session."""
        if time_ns > self.last_ns:
            self.last_ns = time_ns if time_ns < self.horizon_ns else self.horizon_ns  # noqa: FURB136  # asked for every item: min() takes three times as long
        elif time_ns < self.first_ns:
            self.first_ns = time_ns
        self.signals.add(signal)

    def say(self, column: str, value: Any, time_ns: int) -> None:
        """Give a column a value; what was said last wins, and a tie falls the same way always."""
        if value is None:
            return
        time_ns = min(time_ns, self.horizon_ns)
        known = self.said.get(column)
        if known is None or (time_ns, str(value)) > (known[0], str(known[1])):
            self.said[column] = (time_ns, value)


class Call(msgspec.Struct, Generic[PartT], gc=False):
    """One call as far as this request knows it."""

    session: SessionPart | None
    agent: str
    rank: int
    parts: dict[str, PartT]


class EventRecord(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """Something that happened and is neither a tool call nor a model call."""

    kind: str
    name: str
    occurred_at: datetime
    duration_ms: float | None = None
    turn_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    severity: int | None = None
    signal: str = LOGS
    attributes: dict[str, Any] | None = None
    content: str | None = None


class Event(msgspec.Struct, gc=False):
    session: SessionPart | None
    agent: str
    record: EventRecord
    has_common_name: bool
    """Whether live telemetry and a transcript call it the same."""

    @property
    def counts(self) -> str | None:
        """The session's count that the event adds to when it is new."""
        return COUNT_OF.get(self.record.kind)


class Point(msgspec.Struct, kw_only=True, gc=False):
    """One data point of a metric, not yet a delta; times in nanoseconds, 0 is unknown."""

    session: SessionPart | None
    agent: str
    metric: str
    instrument: Instrument
    is_monotonic: bool
    is_cumulative: bool
    stream: bytes
    """Digest of resource, scope, metric and attributes: the identity of its stream."""
    start_ns: int
    time_ns: int
    value: float | None = None
    """Of a sum or gauge its value, else the sum of what was measured."""
    count: int | None = None
    bounds: list[float] | None = None
    buckets: list[int] | None = None
    kind: str | None = None
    unit: str | None = None
    model: str | None = None
    tool_name: str | None = None
    language: str | None = None
    status: str | None = None
    attributes: dict[str, Any] | None = None


class Telemetry:
    """Everything that one request says about one tenant; mappers add to it, ingest stores it."""

    def __init__(self, tenant_id: UUID, *, keeps_content: bool = False) -> None:
        self.tenant_id = tenant_id
        self.horizon_ns = MAX_NS
        self.keeps_content = keeps_content
        """Whether the tenant allows prompts, arguments and outputs to be stored."""
        self.sessions: dict[tuple[str, str], SessionPart] = {}
        self.tools: dict[int, Call[ToolPart]] = {}
        self.models: dict[int, Call[ModelPart]] = {}
        self.events: dict[int, Event] = {}
        self.points: list[Point] = []
        self.traces: dict[str, SessionPart] = {}
        """The sessions that traces belong to, as far as items said so."""
        self.spans: dict[int, int] = {}
        """The tool calls of spans that may have spans inside which know no other name."""
        self.inside: dict[int, dict[str, ToolPart]] = {}
        """Parts that only name the span around them."""

    @property
    def is_empty(self) -> bool:
        return not (self.sessions or self.tools or self.models or self.events or self.points)

    def session(self, agent: str, external_id: str, time_ns: int, signal: str) -> SessionPart:
        """The session that `agent` calls `external_id`, seen at `time_ns`."""
        session = self.sessions.get((agent, external_id))
        if session is None:
            if len(self.sessions) >= MAX_SESSIONS:
                raise BodyTooLargeError(f"a request may name {MAX_SESSIONS} sessions; send several")
            session_id = session_id_of(self.tenant_id, agent, external_id)
            session = self.sessions[agent, external_id] = SessionPart(
                id=session_id,
                scope=session_id.bytes,
                agent=agent,
                external_id=external_id,
                first_ns=min(time_ns, self.horizon_ns),
                last_ns=min(time_ns, self.horizon_ns),
                horizon_ns=self.horizon_ns,
            )
        session.see(time_ns, signal)
        return session

    def trace_session(self, agent: str, trace_id: str, time_ns: int, signal: str) -> SessionPart:
        """The session of what names none: its trace, until something in it names one."""
        session = self.session(agent, f"trace:{trace_id}", time_ns, signal)
        session.trace_id = trace_id
        return session

    def tool(
        self,
        session: SessionPart | None,
        agent: str,
        key: Key,
        name: str,
        part: ToolPart,
        *,
        rank: int = RANK_SURE,
        span: tuple[str, str] | None = None,
    ) -> None:
        """Add part `name` of the tool call that `key` names within its session.

        `span` are the trace and span ids by which parts inside know the call.
        """
        row_id = self._id("tool", session, agent, key)
        if part.exit_code is not None:
            part.exit_code = _small(part.exit_code)
        if session is not None and session.trace_id is not None:
            rank = _rank_apart(rank, key, name)
        _add(self.tools, row_id, session, agent, name, part, rank)
        if span is not None:
            self.spans[self._id("tool", None, agent, span)] = row_id

    def inside_tool(self, agent: str, span: tuple[str, str], name: str, part: ToolPart) -> None:
        """Add part `name` of the tool call whose span has these trace and span ids."""
        row_id = self._id("tool", None, agent, span)
        join_parts(self.inside.setdefault(row_id, {}), {name: part})

    def model(
        self,
        session: SessionPart | None,
        agent: str,
        key: Key,
        name: str,
        part: ModelPart,
        *,
        rank: int = RANK_SURE,
    ) -> None:
        """Add part `name` of the model call that `key` names within its session."""
        part.status = part.status or "success"
        part.http_status = _small(part.http_status)
        # A row has one attempt unless more are told of: what says so says nothing, in any order.
        part.attempts = _small(part.attempts) if part.attempts != 1 else None
        if session is not None and session.trace_id is not None:
            rank = _rank_apart(rank, key, name)
        _add(self.models, self._id("model", session, agent, key), session, agent, name, part, rank)

    def event(
        self,
        session: SessionPart | None,
        agent: str,
        key: Key,
        record: EventRecord,
        *,
        has_common_name: bool = False,
    ) -> None:
        """Add an event; `key` names it within its session.

        `has_common_name`: live telemetry and a transcript have the same key for it.
        """
        row_id = self._id("event", session, agent, key)
        known = self.events.get(row_id)
        if known is None or (known.record.signal == IMPORT and record.signal != IMPORT):
            self.events[row_id] = Event(session, agent, record, has_common_name)

    def _id(self, table: str, session: SessionPart | None, agent: str, key: Key) -> int:
        if isinstance(key, tuple):
            # Not by the session, which may become known later.
            return row_id_of(bytes.fromhex(key[0]), table, key[1])
        if session is not None:
            return row_id_of(session.scope, table, key)
        return row_id_of(self.tenant_id.bytes, table, f"{agent}\0{key}")


def row_id_of(scope: bytes, table: str, key: str) -> int:
    """The id of a row that its client names; it begins with 48 bits of its session's.

    So the rows of a session are neighbours in the index, as rows in order of time would be.
    """
    digest = sha256(b"%b%b\0%b" % (scope, table.encode(), key.encode())).digest()
    value = from_bytes(scope[:6] + digest[:10], "big")
    return value & _FREE | _VERSION_8


def _rank_apart(rank: int, key: Key, name: str) -> int:
    # A span's call id is one within a session, and that is not known yet: it cannot meet its log.
    return min(rank, RANK_SPAN) if isinstance(key, str) and name not in LOG_PARTS else rank


def _small(number: int | None) -> int | None:
    """A number that fits into 32 bits: what does not is no status, no exit code, no attempt."""
    return number if number is None or -(2**31) <= number < 2**31 else None


def _add(
    calls: dict[int, Call[PartT]],
    row_id: int,
    session: SessionPart | None,
    agent: str,
    name: str,
    part: PartT,
    rank: int,
) -> None:
    call = calls.get(row_id)
    if call is None:
        calls[row_id] = Call(session, agent, rank, {name: part})
        return
    join_parts(call.parts, {name: part})
    call.rank = max(call.rank, rank)
