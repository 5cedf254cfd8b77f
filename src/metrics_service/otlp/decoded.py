"""What decoding from protobuf and from JSON have in common."""

from __future__ import annotations

import re
from hashlib import sha256

import msgspec

from metrics_service.errors import BodyTooLargeError
from metrics_service.ingest.diary_page import OTHER
from metrics_service.ingest.telemetry import MAX_NS
from metrics_service.otlp.items import Attributes, LogItem, Source, Value
from metrics_service.otlp.values import nanoseconds

MAX_ENTRIES = 100_000
MAX_REASONS = 20
MAX_ATTRIBUTES = 512
MAX_DEPTH = 16
MAX_EVENTS = 1000
MAX_SEVERITY = 24

_canonical = msgspec.json.Encoder(order="deterministic").encode
_is_name = re.compile(r"[A-Za-z][\w./-]{0,254}").fullmatch
_no_trace, _no_span = "0" * 32, "0" * 16


class Tally(msgspec.Struct):
    """What became of a request's items; `reasons` also has warnings about items that were taken."""

    accepted: int = 0
    rejected: int = 0
    reasons: list[str] = []
    """Each reason once."""

    refused: dict[str, int] = {}
    """How many items for each reason; what is more than these is under `OTHER`."""

    entries: int = 0
    """Groups, scopes and items so far."""

    def refuse(self, reason: str) -> None:
        self.rejected += 1
        counted = reason
        if reason not in self.refused and len(self.refused) >= MAX_REASONS:
            counted = OTHER
        self.refused[counted] = self.refused.get(counted, 0) + 1
        self.warn(reason)

    def warn(self, reason: str) -> None:
        if len(self.reasons) < MAX_REASONS and reason not in self.reasons:
            self.reasons.append(reason)

    def count(self, entries: int) -> None:
        """Note how many there are; raises `BodyTooLargeError` when they are too many to look at.

        Two bytes can be an item, and a gzip of 64 KiB thirty million of them.
        """
        self.entries += entries
        if self.entries > MAX_ENTRIES:
            raise BodyTooLargeError(f"a request may have {MAX_ENTRIES} items; send several")


def warn_of_attributes(tally: Tally) -> None:
    tally.warn(f"an item has more than {MAX_ATTRIBUTES} attributes; the others were left out")


def source_of(resource: Attributes, scope: str, version: str, attributes: Attributes) -> Source:
    digest = sha256(_canonical((resource, scope, version, attributes))).digest()[:16]
    service = resource.get("service.name")
    return Source(
        resource=resource,
        scope=scope,
        digest=digest,
        service=service if isinstance(service, str) else "",
    )


def log_item(
    source: Source,
    attributes: Attributes,
    time_ns: int,
    observed_ns: int,
    received_ns: int,
    *,
    event_name: str,
    body: Value,
    severity: int,
    trace_id: str | None,
    span_id: str | None,
) -> LogItem:
    """Find a record's name and time where its client put them.

    The attribute comes first: Codex fills the field with a place in its source code, and leaves the
    time zero.
    """
    name = attributes.get("event.name")
    if name.__class__ is not str or not name:
        if _is_name(event_name):
            name = event_name
        else:
            name = body if body.__class__ is str and _is_name(body) else "log"
    is_timed = True
    if time_ns == 0:
        time_ns = nanoseconds(attributes.get("event.timestamp")) or observed_ns
        if time_ns == 0:
            time_ns, is_timed = received_ns, False
    return LogItem(
        source,
        name,
        min(time_ns, MAX_NS),
        attributes,
        body,
        severity if 0 <= severity <= MAX_SEVERITY else 0,
        None if trace_id == _no_trace else trace_id,
        None if span_id == _no_span else span_id,
        is_timed,
    )


def is_span_id(trace_id: str | None, span_id: str | None) -> bool:
    """Whether both ids are there and not all zero."""
    return bool(trace_id and span_id) and trace_id != _no_trace and span_id != _no_span
