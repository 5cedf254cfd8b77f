"""From items to a `Telemetry`: finds each item's client and session, and lets its mapper speak."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from operator import itemgetter
from typing import Any

from metrics_service.ingest.content import MAX_NAME, is_content, rest
from metrics_service.ingest.parts import IMPORT, LOGS, METRICS, TRACES
from metrics_service.ingest.recorded import IMPORT_SCOPE, LONG_BEFORE_NS, Recorded
from metrics_service.ingest.telemetry import Point, SessionPart, Telemetry
from metrics_service.otlp.agents import AGENTS
from metrics_service.otlp.agents.agent import Agent, Metric, ignore
from metrics_service.otlp.agents.events import keep_log, keep_span
from metrics_service.otlp.items import (
    CUMULATIVE,
    Attributes,
    LogItem,
    PointItem,
    Source,
    SpanItem,
    Value,
)
from metrics_service.otlp.streams import stream_of
from metrics_service.otlp.values import strings, text
from metrics_service.otlp.words import (
    CLAIM_ATTRIBUTES,
    COLUMN_STRENGTH,
    NOBODY,
    SESSION_COLUMNS,
    SESSION_KEYS,
    STANDARD,
)

_SPOKEN = frozenset(SESSION_COLUMNS) | CLAIM_ATTRIBUTES
_NOT_RESOURCE = _SPOKEN | frozenset(SESSION_KEYS) | {"service.name"}
_LISTS = frozenset({"workspace_paths"})

# What browsers and servers call a session is none of an agent's.
_KEYS_OF_STRANGERS = SESSION_KEYS[:1]
_LONG_NS = 10**18
_NEVER_NS = -(10**19)
MICROS = "usd_micros"
TURN = 256


def map_logs(items: Iterable[LogItem], out: Telemetry) -> Iterator[None]:
    """Map the items; yields now and then, for others to have their turn."""
    sources: dict[bytes, tuple[Source, Agent]] = {}
    recorded = Recorded(out)
    for number, item in enumerate(items):
        if number % TURN == TURN - 1:
            yield
        source = item.source
        is_recorded = source.scope == IMPORT_SCOPE
        signal, told = (IMPORT, recorded) if is_recorded else (LOGS, out)
        agent = AGENTS.of(source.scope, item.name, source.service)
        sources[source.digest] = source, agent
        mapper = agent.logs.get(agent.own(item.name))
        keys = SESSION_KEYS if agent.code or mapper is not None else _KEYS_OF_STRANGERS
        session = _session_of(agent, keys, source, item.attributes, item.time_ns, signal, out)
        if item.trace_id is not None and mapper is not ignore:
            if session is not None:
                out.traces.setdefault(item.trace_id, session)
            elif mapper is not None:
                session = _trace_session(agent, source, item, signal, out)
        if mapper is None:
            keep_log(item, session, told, agent)
        else:
            mapper(item, session, told)
    yield from _listen_to(sources, out)


def map_spans(items: Iterable[SpanItem], out: Telemetry) -> Iterator[None]:
    """Map the items; yields now and then, for others to have their turn."""
    sources: dict[bytes, tuple[Source, Agent]] = {}
    for number, item in enumerate(items):
        if number % TURN == TURN - 1:
            yield
        source = item.source
        agent = AGENTS.of(source.scope, item.name, source.service)
        sources[source.digest] = source, agent
        kind = agent.own(item.name) if agent.span_kind is None else agent.span_kind(item)
        mapper = agent.spans.get(kind)
        keys = SESSION_KEYS if agent.code or mapper is not None else _KEYS_OF_STRANGERS
        session = _session_of(agent, keys, source, item.attributes, item.time_ns, TRACES, out)
        if session is not None:
            session.see(item.end_ns, TRACES)
        if mapper is not ignore:
            if session is not None:
                out.traces.setdefault(item.trace_id, session)
            elif mapper is not None:
                session = _trace_session(agent, source, item, TRACES, out)
        if mapper is None:
            keep_span(item, session, out, agent)
        else:
            mapper(item, session, out)
    yield from _listen_to(sources, out)


def map_points(items: Iterable[PointItem], out: Telemetry) -> Iterator[None]:
    """Map the items; yields now and then, for others to have their turn."""
    sources: dict[bytes, tuple[Source, Agent]] = {}
    for number, item in enumerate(items):
        if number % TURN == TURN - 1:
            yield
        source = item.source
        agent = AGENTS.of(source.scope, item.metric, source.service)
        sources[source.digest] = source, agent
        metric = agent.metrics.get(agent.own(item.metric), _UNKNOWN)
        if metric is None or not item.has_value:
            continue
        if item.attributes.get("start_type") == "agents_view":
            # A page that lists sessions is none.
            continue
        keys = SESSION_KEYS if agent.code or metric is not _UNKNOWN else _KEYS_OF_STRANGERS
        session = _session_of(agent, keys, source, item.attributes, item.time_ns, METRICS, out)
        if session is not None and metric.name == "session.count":
            session.say("start_type", text(item.attributes.get("start_type")), item.time_ns)
        if (point := _point(item, agent, metric, session)) is not None:
            out.points.append(point)
    yield from _listen_to(sources, out)


_UNKNOWN = Metric(name="")


def _point(
    item: PointItem, agent: Agent, metric: Metric, session: SessionPart | None
) -> Point | None:
    a = item.attributes
    kind = metric.fixed_kind
    if metric.kind is not None:
        word = text(a.get(metric.kind))
        kind = metric.kinds.get(word, word) if word is not None else None
        if kind is None and word is not None:
            return None
    is_known = metric is not _UNKNOWN
    known = STANDARD
    if is_known:
        named = {metric.kind, metric.tool, metric.model, metric.language}
        known = STANDARD | {name for name in named if name is not None}
    factor = metric.factor
    return Point(
        session=session,
        agent=agent.code_of(item.source),
        metric=metric.name or item.metric[:255],
        instrument=item.instrument,
        is_monotonic=item.is_monotonic,
        is_cumulative=item.temporality == CUMULATIVE,
        stream=stream_of(item),
        start_ns=item.start_ns,
        time_ns=item.time_ns,
        value=_scaled(item.value, metric),
        count=item.count,
        bounds=[bound * factor for bound in item.bounds] if item.bounds is not None else None,
        buckets=item.buckets,
        kind=kind,
        unit=metric.unit or text(item.unit),
        model=text(a.get(metric.model)) if is_known else None,
        tool_name=text(a.get(metric.tool)) if is_known else None,
        language=text(a.get(metric.language)) if is_known else None,
        status=metric.status(a) if metric.status is not None else None,
        attributes=rest(a, known, agent.content),
    )


def _scaled(value: float | None, metric: Metric) -> float | None:
    if value is None:
        return None
    scaled = value * metric.factor
    # Money is whole: rounded before it is subtracted, so that the sum is what the client's sum is.
    return float(round(scaled)) if metric.unit == MICROS else scaled


def _session_of(
    agent: Agent,
    keys: tuple[str, ...],
    source: Source,
    attributes: Attributes,
    time_ns: int,
    signal: str,
    out: Telemetry,
) -> SessionPart | None:
    key = None
    for name in keys:
        if name in agent.deaf or name not in attributes:
            continue
        if (key := text(attributes[name])) is not None:
            break
    if key is None and agent.has_resource_session and len(keys) > 1:
        key = text(source.resource.get("session.id"))
    if key is None and len(keys) > 1 and isinstance(thread := attributes.get("thread.id"), str):
        key = text(thread)
    if key is None:
        return None
    session = out.session(agent.code_of(source), key.replace("\0", ""), time_ns, signal)
    _listen(session, agent, source, attributes, time_ns)
    return session


def _trace_session(
    agent: Agent, source: Source, item: LogItem | SpanItem, signal: str, out: Telemetry
) -> SessionPart:
    session = out.trace_session(agent.code_of(source), str(item.trace_id), item.time_ns, signal)
    if isinstance(item, SpanItem):
        session.see(item.end_ns, signal)
    _listen(session, agent, source, item.attributes, item.time_ns)
    return session


def _listen(
    session: SessionPart, agent: Agent, source: Source, attributes: Attributes, time_ns: int
) -> None:
    """Note what an item says about the session: who, where, with what.

    Items say the same again and again: it is kept once, with when it was said last.
    """
    if source.scope == IMPORT_SCOPE:
        time_ns -= LONG_BEFORE_NS
    names, values_of = _spoken(tuple(filter(_SPOKEN.__contains__, attributes)), agent.deaf)
    if names:
        values = values_of(attributes)
        try:
            if session.words.get((names, values), _NEVER_NS) < time_ns:
                session.words[names, values] = time_ns
        except TypeError:
            # A list cannot be remembered so; few clients send any.
            for name in names:
                _say(session, name, attributes[name], time_ns)
    if session.last_by_source.get(source.digest, _NEVER_NS) < time_ns:
        session.last_by_source[source.digest] = time_ns


@lru_cache(maxsize=4096)
def _spoken(
    names: tuple[str, ...], deaf: frozenset[str]
) -> tuple[tuple[str, ...], Callable[[Attributes], Any]]:
    """Those of the names that the client means, and how to get at their values."""
    spoken = tuple(name for name in names if name not in deaf)
    return spoken, itemgetter(*spoken) if spoken else dict


def _listen_to(sources: dict[bytes, tuple[Source, Agent]], out: Telemetry) -> Iterator[None]:
    """Take what was noted, and what resources say."""
    for number, session in enumerate(out.sessions.values()):
        if number % TURN == TURN - 1:
            yield
        for (names, values), time_ns in session.words.items():
            for name, value in zip(names, values if len(names) > 1 else (values,), strict=True):
                _say(session, name, value, time_ns)
        session.words.clear()
        for digest, time_ns in session.last_by_source.items():
            source, agent = sources[digest]
            for name, value in source.resource.items():
                is_deaf = name in agent.deaf
                if name in _SPOKEN and not is_deaf:
                    _say(session, name, value, time_ns)
                elif is_deaf or not (name in _NOT_RESOURCE or is_content(name)):
                    session.say(f"#{name}"[:MAX_NAME], text(value), time_ns)
        session.last_by_source.clear()


def _say(session: SessionPart, name: str, value: Value, time_ns: int) -> None:
    if name in CLAIM_ATTRIBUTES:
        if (word := text(value)) not in NOBODY:
            session.say(f"@{name}", word, time_ns)
        return
    column = SESSION_COLUMNS[name]
    said = strings(value) if column in _LISTS else text(value)
    # A weaker name for the same thing speaks as if it had spoken long before.
    session.say(column, said, time_ns + COLUMN_STRENGTH.get(name, 0) * _LONG_NS)
