"""The outermost layer: names every request, logs it in one line, answers when all else failed."""

from __future__ import annotations

import re
from itertools import pairwise
from time import perf_counter
from typing import Any
from uuid import uuid4

import msgspec
import structlog
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from metrics_service.errors import UnavailableError
from metrics_service.http import browser, limits
from metrics_service.http.headers import Header, values_of
from metrics_service.http.otlp_errors import speaks_otlp
from metrics_service.http.problems import MEDIA_TYPE, TITLES, Problem, send_problem

CLIENT_GONE = 499
"""The status in the log when a client left before it was answered."""

MAX_SEGMENTS = 8

_is_request_id = re.compile(rb"[A-Za-z0-9._-]{1,64}").fullmatch
# Words of routes look like this; ids, tokens and what scanners try do not.
_is_word = re.compile(r"[A-Za-z][a-z]*(?:[-_.][a-z]+)*|v[0-9]").fullmatch
_MAX_WORD_LENGTH = 24


class ResponseBrokenOffError(Exception):
    """Tells the server to close a connection whose answer cannot be finished; says nothing else."""


class AccessLog:
    """Middleware: request id, security headers, one log line, and a constant answer to a crash."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._log = structlog.get_logger()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        tokens = structlog.contextvars.bind_contextvars(request_id=exchange.request_id)
        try:
            await self._serve(exchange, scope, receive)
        finally:
            self._write(exchange, scope)
            structlog.contextvars.reset_contextvars(**tokens)

    async def _serve(self, exchange: _Exchange, scope: Scope, receive: Receive) -> None:
        try:
            await self._app(scope, receive, exchange.send)
        except Exception as error:  # noqa: BLE001 - the last place where anything can be caught
            self._log.error("request failed", exc_info=error)
            if exchange.status is not None:
                # Not the exception itself: the server would log its text.
                raise ResponseBrokenOffError from None
            await _send_failure(scope, exchange)

    def _write(self, exchange: _Exchange, scope: Scope) -> None:
        status = exchange.status or CLIENT_GONE
        tenant_id = scope["state"].get("tenant_id")
        log = self._log.warning if status >= 500 else self._log.info
        if exchange.path in limits.HEALTH_PATHS and status < 500:
            # Asked every few seconds by whoever looks after the process.
            log = self._log.debug
        log(
            "request",
            method=exchange.method,
            route=exchange.route(scope),
            status=status,
            duration_ms=round((perf_counter() - exchange.started) * 1000, 3),
            tenant=None if tenant_id is None else str(tenant_id),
        )


class _Exchange:
    """One request and what became of it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.started = perf_counter()
        self.request_id = request_id_of(scope["headers"])
        self.status: int | None = None
        method = scope.get("method")
        self.method = method if method in limits.METHODS else "OTHER"
        # The router writes what it made of the path into the scope; this is what was asked for.
        self.path = limits.routed_path(scope["path"])
        self._send = send
        # A dict of its own: the server's may be the one that all requests share.
        scope["state"] = {**(scope.get("state") or {}), "request_id": self.request_id}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = self._marked(list(message["headers"]))
        await self._send(message)

    def route(self, scope: Scope) -> str:
        template = scope["state"].get("route") or scope.get("path_template")
        return str(template) if template else route_of(self.path)

    def _marked(self, headers: list[Header]) -> list[Header]:
        names = {name.lower() for name, _ in headers}
        marks: list[Header] = []
        if b"x-request-id" not in names:
            marks.append((b"x-request-id", self.request_id.encode()))
        if b"x-content-type-options" not in names:
            marks.append((b"x-content-type-options", b"nosniff"))
        if b"cache-control" not in names and limits.takes_json(self.path):
            marks.append((b"cache-control", b"no-store"))
        return [*headers, *marks]


def request_id_of(headers: Any) -> str:
    """The caller's id for the request when it is harmless, or a new one."""
    values = values_of(headers, b"x-request-id")
    if len(values) == 1 and _is_request_id(values[0]):
        return values[0].decode()
    return uuid4().hex


def route_of(path: str) -> str:
    """The path with only the words of routes left: no id, token or invention of a scanner."""
    segments = path.split("/")[: MAX_SEGMENTS + 1]
    return "/" + "/".join(_shown(segment, before) for before, segment in pairwise(segments))


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
