"""The outermost layer: names every request, logs it in one line, answers when all else failed."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from random import getrandbits
from time import perf_counter
from typing import Any

import msgspec
import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from metrics_service.errors import UnavailableError
from metrics_service.fleet.activity import Activity
from metrics_service.http import browser, limits
from metrics_service.http.headers import Header, values_of
from metrics_service.http.otlp_errors import speaks_otlp
from metrics_service.http.problems import MEDIA_TYPE, TITLES, Problem, send_problem
from metrics_service.http.refused_lines import REFUSED, RefusedLines
from metrics_service.http.served import note_served
from metrics_service.observability.catalog import HTTP_ACTIVE_REQUESTS, known_method
from metrics_service.observability.trace_context import NONE, trace_context, trace_response
from metrics_service.observability.work import begin, end, inside, is_tracing, name_of

CLIENT_GONE = 499
"""The status in the log when a client left before it was answered."""

MAX_SEGMENTS = 8

_is_request_id = re.compile(rb"[A-Za-z0-9._-]{1,64}").fullmatch
# Words of routes look like this; ids, tokens and what scanners try do not.
_is_word = re.compile(r"[A-Za-z][a-z]*(?:[-_.][a-z]+)*|v[0-9]").fullmatch
_MAX_WORD_LENGTH = 24
_REMEMBERED = (limits.JSON_PREFIX, limits.OTLP_PREFIX)
_SHORT = 100


class ResponseBrokenOffError(Exception):
    """Tells the server to close a connection whose answer cannot be finished; says nothing else."""


class AccessLog:
    """Middleware: request id, security headers, one log line, and a constant answer to a crash."""

    def __init__(self, app: ASGIApp, activity: Activity | None = None) -> None:
        self._app = app
        self._activity = activity
        self._log = structlog.get_logger()
        self._refused_lines = RefusedLines()
        self._under_way = 0
        HTTP_ACTIVE_REQUESTS.read_of(self, _under_way)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        tokens = structlog.contextvars.bind_contextvars(request_id=exchange.request_id)
        self._under_way += 1
        with inside(exchange.work):
            try:
                await self._serve(exchange, scope, receive)
            finally:
                self._under_way -= 1
                exchange.describe(scope)
                self._write(exchange, scope)
                structlog.contextvars.reset_contextvars(**tokens)
                end(exchange.work)

    async def _serve(self, exchange: _Exchange, scope: Scope, receive: Receive) -> None:
        try:
            await self._app(scope, receive, exchange.send)
        except Exception as error:  # noqa: BLE001 - the last place where anything can be caught
            self._log.error("request failed", exc_info=error)
            exchange.work.error = name_of(error)
            if exchange.status is not None:
                # Not the exception itself: the server would log its text.
                raise ResponseBrokenOffError from None
            await _send_failure(scope, exchange)

    def _write(self, exchange: _Exchange, scope: Scope) -> None:
        status = exchange.status or CLIENT_GONE
        duration_s = perf_counter() - exchange.work.started
        if status not in REFUSED or not self._refused_lines.take(exchange.work.tenant_id, status):
            self._write_line(exchange, status, duration_s)
        note_served(
            scope, self._activity, method=exchange.method, status=status, duration_s=duration_s
        )

    def _write_line(self, exchange: _Exchange, status: int, duration_s: float) -> None:
        log = self._log.warning if status >= 500 else self._log.info
        if exchange.path in limits.HEALTH_PATHS and status < 500:
            # Asked every few seconds by whoever looks after the process.
            log = self._log.debug
        log(
            "request",
            method=exchange.method,
            route=exchange.work.route,
            status=status,
            duration_ms=round(duration_s * 1000, 3),
            tenant=exchange.work.tenant_id,
        )


def _under_way(log: AccessLog) -> int:
    return log._under_way  # noqa: SLF001  # a module's own


class _Exchange:
    """One request and what became of it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.request_id = request_id_of(scope["headers"])
        self.status: int | None = None
        method = scope.get("method")
        self.method = method if method in limits.METHODS else "OTHER"
        # The router writes what it made of the path into the scope; this is what was asked for.
        self.path = limits.routed_path(scope["path"])
        self._send = send
        # A dict of its own: the server's may be the one that all requests share.
        scope["state"] = {**(scope.get("state") or {}), "request_id": self.request_id}
        told = trace_context(scope["headers"]) if is_tracing() else NONE
        self.work = begin(
            self.method,
            kind="server",
            request_id=self.request_id,
            trace_id=told.trace_id,
            parent_id=told.parent_id,
            is_sampled_by_caller=told.is_sampled,
            trace_state=told.state,
            is_own_export=told.is_own_export,
        )

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = self._marked(list(message["headers"]))
        await self._send(message)

    def describe(self, scope: Scope) -> None:
        """Say in its work what is known of the request now that it is answered."""
        work, state = self.work, scope["state"]
        template = state.get("route") or scope.get("path_template")
        work.route = str(template) if template else route_of(self.path)
        tenant_id = state.get("tenant_id")
        work.tenant_id = None if tenant_id is None else str(tenant_id)
        if not work.is_sampled:
            return
        method = known_method(self.method)
        work.attributes = {
            "http.request.method": method,
            "metrics_service.request_id": self.request_id,
        }
        # What a client made up as a path is no route, and names nothing.
        work.name = f"{method} {work.route}" if template else method
        if template:
            work.attributes["http.route"] = work.route
        if work.tenant_id is not None:
            work.attributes["metrics_service.tenant.id"] = work.tenant_id
        if (principal := scope.get("user")) is not None:
            work.attributes["metrics_service.principal.kind"] = principal.kind
        if self.status is not None:
            work.attributes["http.response.status_code"] = self.status
        if work.error is None and (self.status is None or self.status >= 500):
            work.error = str(self.status or CLIENT_GONE)

    def _marked(self, headers: list[Header]) -> list[Header]:
        names = {name.lower() for name, _ in headers}
        marks: list[Header] = []
        if b"x-request-id" not in names:
            marks.append((b"x-request-id", self.request_id.encode()))
        if b"x-content-type-options" not in names:
            marks.append((b"x-content-type-options", b"nosniff"))
        if b"cache-control" not in names and limits.takes_json(self.path):
            marks.append((b"cache-control", b"no-store"))
        if self.work.is_sampled:
            marks.append((b"traceresponse", trace_response(self.work)))
        return [*headers, *marks]


def request_id_of(headers: Any) -> str:
    """The caller's id for the request when it is harmless, or a new one."""
    values = values_of(headers, b"x-request-id")
    if len(values) == 1 and _is_request_id(values[0]):
        return values[0].decode()
    # Told from others by chance, kept from nobody.
    return f"{getrandbits(128):032x}"


def route_of(path: str) -> str:
    """The path with only the words of routes left: no id, token or invention of a scanner."""
    # No others: there are tokens in some of them, which are not to be remembered.
    is_known = path.startswith(_REMEMBERED) and len(path) <= _SHORT
    return _remembered_route_of(path) if is_known else _route_of(path)


def _route_of(path: str) -> str:
    segments = path.split("/")[: MAX_SEGMENTS + 1]
    return "/" + "/".join(_shown(segment, before) for before, segment in pairwise(segments))


# What is refused is refused again and again, before a route was found for it.
_remembered_route_of = lru_cache(maxsize=1024)(_route_of)


def _shown(segment: str, before: str) -> str:
    if before in {"i", "shared"}:
        return ":token"
    is_word = len(segment) <= _MAX_WORD_LENGTH and _is_word(segment)
    return segment if is_word or not segment else ":id"


async def _send_failure(scope: Scope, exchange: _Exchange) -> None:
    if speaks_otlp(scope):
        # To an OTLP client 500 is final, and what it sent is lost; 503 makes it try again.
        await send_problem(UnavailableError(), scope, exchange.send)
        return
    detail = "the service failed; the request id finds out why"
    if browser.wants_page(scope):
        body = browser.error_page(500, TITLES[500], detail, exchange.request_id)
        named = {**browser.SECURITY_HEADERS, "content-type": browser.HTML_UTF8}
    else:
        body = msgspec.json.encode(
            Problem(title=TITLES[500], status=500, detail=detail, request_id=exchange.request_id)
        )
        named = {"content-type": MEDIA_TYPE}
    headers = [
        (b"content-length", b"%d" % len(body)),
        *((name.encode(), value.encode()) for name, value in named.items()),
    ]
    await exchange.send({"type": "http.response.start", "status": 500, "headers": headers})
    await exchange.send({"type": "http.response.body", "body": body, "more_body": False})
