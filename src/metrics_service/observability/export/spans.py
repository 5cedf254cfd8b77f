"""Works and their spans as OTLP has them.

The constant part of a span (name, kind, the statement with its attributes) is encoded once; times, ids
and what varies are written around it.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import TypeVar

from metrics_service.observability.export.requests import ITEM, Items, one_item
from metrics_service.observability.export.wire import Attributes, key_value, nested, text, varint
from metrics_service.observability.statements import Statement
from metrics_service.observability.work import SLOW_EVENT, Attribute, Kind, Span, Work

# Field numbers of opentelemetry.proto.trace.v1.Span.
_STATE, _NAME, _ATTRIBUTES, _EVENTS = 3, 5, 9, 11
_FEW = 64
"""So many at once are half a millisecond at most, and half a MiB if each has the longest of statements."""

_TRACE_ID, _SPAN_ID, _PARENT_ID = b"\x0a\x10", b"\x12\x08", b"\x22\x08"
_TIMES = Struct("<cQcQ").pack
_STARTED, _ENDED = b"\x39", b"\x41"
_CHILD_LENGTH = 2 + 16 + 2 + 8 + 2 + 8 + 9 + 9
"""Of the ids and times of a span that has a parent."""

# Field 16, fixed32: sampled, and whether the parent is known to be in another process.
_LOCAL = b"\x85\x01" + (0x101).to_bytes(4, "little")
_REMOTE = b"\x85\x01" + (0x301).to_bytes(4, "little")

_KINDS: dict[Kind, bytes] = {"internal": b"\x30\x01", "server": b"\x30\x02", "client": b"\x30\x03"}
_FAILED = nested(15, b"\x18\x02")
"""Status: code ERROR, without a message."""

_SYSTEM = key_value(_ATTRIBUTES, "db.system.name", "postgresql")
_EVENT_AT = Struct("<cQ")
_EVENT_NAME = text(2, SLOW_EVENT)

_MAX_REMEMBERED = 500
KeyT = TypeVar("KeyT")
_SQLSTATE_LENGTH = 5


class SpanEncoder:
    """Turns what ended into items of `ScopeSpans.spans`; of one thread."""

    def __init__(self) -> None:
        self._attributes = Attributes(_ATTRIBUTES, unique=frozenset({"metrics_service.request_id"}))
        self._statements: dict[str, bytes] = {}
        self._names: dict[tuple[str, Kind], bytes] = {}
        self._rows = _RowCounts()

    def encode(self, work: Work) -> Iterator[Items]:
        """The spans of a work that ended, a few at a time, its own last."""
        trace = _TRACE_ID + work.trace_id + _SPAN_ID
        for first in range(0, len(work.spans), _FEW):
            few = work.spans[first : first + _FEW]
            pieces: list[bytes] = []
            size = 0
            for span in few:
                size += self._child(pieces, span, trace, work.started, work.started_ns)
            yield Items(pieces, len(few), size)
        yield self._own(work, trace)

    def _child(
        self, pieces: list[bytes], span: Span, trace: bytes, started: float, started_ns: int
    ) -> int:
        ended_ns = started_ns + int((span.ended - started) * 1e9)
        times = _TIMES(_STARTED, started_ns + int((span.started - started) * 1e9), _ENDED, ended_ns)
        statement, rows = span.statement, span.row_count
        if statement is None:
            constant = self._named(span.name, span.kind)
        else:
            constant = self._statement(statement)
        varying = b"" if rows is None else self._rows.of(rows)
        if span.attributes or span.is_slow or span.error is not None:
            varying += self._rare(span, ended_ns)
        length = _CHILD_LENGTH + len(constant) + len(varying)
        prefix = varint(length)
        pieces += (
            ITEM, prefix, trace, span.span_id, _PARENT_ID, span.parent_id, times, constant, varying,
        )  # fmt: skip
        return 1 + len(prefix) + length

    def _rare(self, span: Span, ended_ns: int) -> bytes:
        parts: list[bytes] = []
        if span.attributes:
            parts.append(self._attributes.encode(span.attributes))
        if span.is_slow:
            parts.append(nested(_EVENTS, _EVENT_AT.pack(b"\x09", ended_ns) + _EVENT_NAME))
        if span.error is not None:
            parts.append(self._failed(span.error, is_statement=span.statement is not None))
        return b"".join(parts)

    def _own(self, work: Work, trace: bytes) -> Items:
        ended_ns = work.unix_ns(work.started if work.ended is None else work.ended)
        parts = [trace, work.span_id, _TIMES(_STARTED, work.started_ns, _ENDED, ended_ns)]
        parts.append(self._named(work.name, work.kind))
        if work.parent_id is not None:
            # Of two flags the last one counts.
            parts += [_PARENT_ID, work.parent_id, _REMOTE]
        if work.trace_state:
            parts.append(text(_STATE, work.trace_state))
        parts.append(self._attributes.encode(work.attributes))
        if work.dropped_spans:
            parts.append(
                key_value(_ATTRIBUTES, "metrics_service.dropped_spans", work.dropped_spans)
            )
        if work.error is not None:
            parts.append(self._failed(work.error, is_statement=False))
        return one_item(b"".join(parts))

    def _named(self, name: str, kind: Kind) -> bytes:
        encoded = self._names.get((name, kind))
        if encoded is None:
            encoded = text(_NAME, name) + _KINDS[kind] + _LOCAL
            _remember(self._names, (name, kind), encoded)
        return encoded

    def _statement(self, statement: Statement) -> bytes:
        # By the text itself, whose hash is known; that of a struct is made of all its fields each time.
        encoded = self._statements.get(statement.normalised)
        if encoded is None:
            encoded = _encoded_statement(statement)
            _remember(self._statements, statement.normalised, encoded)
        return encoded

    def _failed(self, error: str, *, is_statement: bool) -> bytes:
        named: dict[str, Attribute] = {"error.type": error}
        if is_statement and len(error) == _SQLSTATE_LENGTH and error.isalnum():
            named["db.response.status_code"] = error
        return self._attributes.encode(named) + _FAILED


class _RowCounts:
    """How many rows a statement gave, as an attribute; most give few."""

    def __init__(self) -> None:
        self._few = [self._encoded(count) for count in range(_MAX_REMEMBERED)]

    def of(self, count: int) -> bytes:
        return self._few[count] if 0 <= count < _MAX_REMEMBERED else self._encoded(count)

    @staticmethod
    def _encoded(count: int) -> bytes:
        return key_value(_ATTRIBUTES, "db.response.returned_rows", count)


def _encoded_statement(statement: Statement) -> bytes:
    parts = [
        text(_NAME, statement.summary),
        _KINDS["client"],
        _LOCAL,
        _SYSTEM,
        key_value(_ATTRIBUTES, "db.operation.name", statement.operation),
        key_value(_ATTRIBUTES, "db.query.summary", statement.summary),
        key_value(_ATTRIBUTES, "db.query.text", statement.normalised),
    ]
    if statement.table is not None:
        parts.append(key_value(_ATTRIBUTES, "db.collection.name", statement.table))
    return b"".join(parts)


def _remember(memory: dict[KeyT, bytes], key: KeyT, encoded: bytes) -> None:
    if len(memory) >= _MAX_REMEMBERED:
        memory.clear()
    memory[key] = encoded
