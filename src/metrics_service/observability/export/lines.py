"""Lines of the log as OTLP has them: what stands in them, and where they belong."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from metrics_service.logs import ExceptionSummary
from metrics_service.observability.export.requests import Items, one_item
from metrics_service.observability.export.wire import Attributes, nested, text, varint
from metrics_service.observability.work import Attribute

MAX_LENGTH = 8192
"""Of one value; a longer one is cut."""

# Field numbers of opentelemetry.proto.logs.v1.LogRecord.
_SEVERITY_TEXT, _BODY, _ATTRIBUTES, _TRACE_ID, _SPAN_ID = 3, 5, 6, 9, 10
_AT, _OBSERVED_AT = b"\x09", b"\x59"
_SAMPLED = b"\x45" + (1).to_bytes(4, "little")
_SEVERITIES = {"debug": 5, "info": 9, "warning": 13, "error": 17, "critical": 21}
# Each has a field of its own in a record.
_ELSEWHERE = frozenset({"event", "level", "timestamp", "trace_id", "span_id"})
_ID_LENGTHS = {"trace_id": 32, "span_id": 16}


class Line(msgspec.Struct, frozen=True):
    """One line, as it was when it was written."""

    at_ns: int
    event: Mapping[str, Any]


def line_of(event: Mapping[str, Any]) -> Line:
    return Line(time.time_ns(), dict(event))


class LineEncoder:
    """Turns lines into items of `ScopeLogs.log_records`; of one thread."""

    def __init__(self) -> None:
        self._attributes = Attributes(
            _ATTRIBUTES, unique=frozenset({"request_id", "exception.stacktrace"})
        )
        self._encoder = msgspec.json.Encoder(enc_hook=lambda value: f"<{type(value).__name__}>")

    def encode(self, line: Line) -> Iterator[Items]:
        event = line.event
        level = str(event.get("level", "info"))
        at = line.at_ns.to_bytes(8, "little")
        parts = [
            _AT,
            at,
            _OBSERVED_AT,
            at,
            b"\x10" + varint(_SEVERITIES.get(level, 9)),
            text(_SEVERITY_TEXT, level.upper()),
            nested(_BODY, text(1, str(event.get("event", ""))[:MAX_LENGTH])),
            self._attributes.encode(self._attributes_of(event)),
            _ids(event),
        ]
        yield one_item(b"".join(parts))

    def _attributes_of(self, event: Mapping[str, Any]) -> dict[str, Attribute]:
        found: dict[str, Attribute] = {}
        for key, value in event.items():
            if key in _ELSEWHERE or value is None:
                continue
            if key == "exception" and isinstance(value, list):
                found.update(_exception(value))
            elif isinstance(value, str):
                found[key] = value[:MAX_LENGTH]
            elif isinstance(value, (bool, int, float)):
                found[key] = value
            else:
                found[key] = self._spelled(value)
        return found

    def _spelled(self, value: object) -> str:
        try:
            return self._encoder.encode(value).decode()[:MAX_LENGTH]
        except (TypeError, ValueError):
            return f"<{type(value).__name__}>"


def _exception(links: list[Any]) -> dict[str, Attribute]:
    """As the conventions name it; there is no message, which may hold anything."""
    known = [link for link in links if isinstance(link, ExceptionSummary)]
    if not known:
        return {}
    traced = "\nfrom ".join("\n  at ".join([link.type, *reversed(link.frames)]) for link in known)
    return {"exception.type": known[0].type, "exception.stacktrace": traced[:MAX_LENGTH]}


def _ids(event: Mapping[str, Any]) -> bytes:
    found: list[bytes] = []
    for key, field in (("trace_id", _TRACE_ID), ("span_id", _SPAN_ID)):
        value = event.get(key)
        if isinstance(value, str) and len(value) == _ID_LENGTHS[key]:
            try:
                found.append(nested(field, bytes.fromhex(value)))
            except ValueError:
                continue
    return b"".join([_SAMPLED, *found]) if found else b""
