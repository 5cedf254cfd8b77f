"""Cursor's Enterprise export: a server's push of logs and metrics, without calls of tools.

Delivered at least once, in no order; `cursor.event.id` stays the same however often an event comes.
Bridges built on Cursor's hooks send spans by the conventions: those are not recognised here.

Source: cursor.com/docs/enterprise/opentelemetry-export and its Wire Reference (beta).
"""

from __future__ import annotations

from collections.abc import Mapping

from metrics_service.ingest.content import rest
from metrics_service.ingest.parts import RESULT, ModelPart
from metrics_service.ingest.telemetry import SessionPart, Telemetry, instant
from metrics_service.otlp.agents.agent import Agent, Metric
from metrics_service.otlp.agents.events import log_key
from metrics_service.otlp.items import LogItem, Value
from metrics_service.otlp.values import count, text
from metrics_service.otlp.words import STANDARD, model_tokens

CODE = "cursor"

_REQUEST_KEYS = STANDARD | {
    "cursor.request.id", "cursor.usage_event.id", "cursor.model.name", "cursor.api.status",
    "cursor.api.request.input_tokens", "cursor.api.request.output_tokens",
    "cursor.api.request.cache_read_tokens", "cursor.api.request.cache_creation_tokens",
}  # fmt: skip
_STATUSES = {"success": "success", "failure": "error", "errored": "error", "aborted": "cancelled"}


def _status(value: Value) -> str | None:
    return _STATUSES.get(value) if isinstance(value, str) else None


def _request(item: LogItem, session: SessionPart | None, out: Telemetry, status: str) -> None:
    a = item.attributes
    part = ModelPart(
        started_at=instant(item.time_ns),
        ended_at=instant(item.time_ns),
        status=_status(a.get("cursor.api.status")) or status,
        http_status=count(a.get("cursor.api.status")),
        request_id=text(a.get("cursor.request.id")),
        client_request_id=text(a.get("cursor.usage_event.id")),
        trace_id=item.trace_id,
        span_id=item.span_id,
        request_model=text(a.get("cursor.model.name")),
        query_source=_surface(item),
        extra=rest(a, _REQUEST_KEYS, AGENT.content),
    )
    model_tokens(
        part,
        uncached=count(a.get("cursor.api.request.input_tokens")),
        cache_read=count(a.get("cursor.api.request.cache_read_tokens")),
        cache_write=count(a.get("cursor.api.request.cache_creation_tokens")),
        output=count(a.get("cursor.api.request.output_tokens")),
    )
    # A request's id is shared by its corrections and, where a turn asks several times, by all of it.
    out.model(session, CODE, text(a.get("cursor.event.id")) or log_key(item), RESULT, part)


def _surface(item: LogItem) -> str | None:
    name = "cursor.surface"
    return text(item.attributes.get(name)) or text(item.source.resource.get(name))


def api_request(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    _request(item, session, out, "success")


def api_error(item: LogItem, session: SessionPart | None, out: Telemetry) -> None:
    _request(item, session, out, "error")


def _outcome(attributes: Mapping[str, Value]) -> str | None:
    return _status(attributes.get("cursor.tool.status"))


def _answer(attributes: Mapping[str, Value]) -> str | None:
    return _status(attributes.get("cursor.api.status"))


AGENT = Agent(
    code=CODE,
    # Not by its service: the bridges call themselves Cursor as well.
    scopes=frozenset({"cursor.telemetry"}),
    prefixes=("cursor.",),
    # The event's name is the body's, or has dots and the prefix.
    logs={
        "api_request": api_request,
        "api.request": api_request,
        "api_error": api_error,
        "api.error": api_error,
    },
    metrics={
        "token.usage": Metric(
            name="token.usage",
            kind="cursor.token.type",
            kinds={"input": "input_uncached", "cache_creation": "cache_write"},
            model="cursor.model.name",
            status=_answer,
        ),
        "tool.calls": Metric(name="tool.calls", tool="cursor.tool.name", status=_outcome),
        "cost.usage": Metric(
            name="cost.usage", unit="usd_micros", factor=1e6, model="cursor.model.name"
        ),
    },
)
