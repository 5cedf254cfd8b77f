"""What a mapper module says about its client: how to recognise it, and what its items mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import msgspec

from metrics_service.ingest.telemetry import SessionPart, Telemetry
from metrics_service.otlp.items import LogItem, Source, SpanItem, Value
from metrics_service.otlp.values import text

LogMapper: TypeAlias = Callable[[LogItem, SessionPart | None, Telemetry], None]
SpanMapper: TypeAlias = Callable[[SpanItem, SessionPart | None, Telemetry], None]


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """What a client's metric is in our words; attribute names say where its dimensions are."""

    name: str
    unit: str | None = None
    """Ours, where the client's own is missing or another."""
    factor: float = 1.0
    """From the client's unit to ours."""
    kind: str | None = None
    """The attribute that splits it: added and removed, kinds of tokens."""
    kinds: Mapping[str, str | None] = {}
    """The client's words for kinds in ours; None: a total of the others, not stored."""
    fixed_kind: str | None = None
    """The kind, where the metric's name says it."""
    status: Callable[[Mapping[str, Value]], str | None] | None = None
    tool: str = "tool_name"
    model: str = "model"
    language: str = "language"


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """One client. Mappers are found by the item's name without the client's prefix.

    An item that no mapper knows is kept as an event or a counter; one that must not be counted, as it
    says again what another said, has the mapper `ignore`.
    """

    code: str = ""
    """As sessions name it; empty for the conventions' mapper, whose items go by their service."""
    scopes: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    """How the names of its events, spans and metrics begin."""
    services: frozenset[str] = frozenset()
    logs: Mapping[str, LogMapper] = {}
    spans: Mapping[str, SpanMapper] = {}
    span_kind: Callable[[SpanItem], str] | None = None
    """What a span is, where its name does not say it; looked up in `spans`."""
    metrics: Mapping[str, Metric | None] = {}
    """None: ignored."""
    content: frozenset[str] = frozenset()
    """Attributes with prompts, arguments or outputs, besides those of the conventions."""
    has_resource_session: bool = True
    """Whether `session.id` of the resource is a session as we mean it."""
    deaf: frozenset[str] = frozenset()
    """Attributes that with this client mean something else, and say nothing of the session."""

    def own(self, name: str) -> str:
        """The name without the client's prefix."""
        for prefix in self.prefixes:
            if name.startswith(prefix):
                return name[len(prefix) :]
        return name

    def code_of(self, source: Source) -> str:
        """What sessions name the client of these items."""
        return self.code or text(source.service.replace("\0", "")) or "unknown"


def ignore(*_: object) -> None:
    """Says again what another item of this client says."""
