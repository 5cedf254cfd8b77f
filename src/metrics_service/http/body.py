"""Reads a request's whole body, inflates and checks it, and hands it on in one piece."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from io import BytesIO
from typing import Any, cast

from litestar.connection import Request
from litestar.enums import ScopeType
from litestar.types import (
    ASGIApp,
    HTTPReceiveMessage,
    HTTPRequestEvent,
    Receive,
    Scope,
    Send,
)

from metrics_service.errors import (
    BodyBrokenOffError,
    BodyTooLargeError,
    MetricsServiceError,
    RequestTimeoutError,
    TooManyRequestsError,
    UnsupportedMediaTypeError,
)
from metrics_service.http import limits
from metrics_service.http.headers import adding, coding_of, content_type_of, values_of
from metrics_service.http.in_flight import HeldBytes
from metrics_service.http.inflate import Inflater, open_inflater
from metrics_service.http.json_shape import check_json
from metrics_service.http.problems import send_problem

_CLOSE = (b"connection", b"close")
# How much is inflated before other requests have their turn.
_TURN_BYTES = 1 * limits.MIB
_NOT_READ_ON = (
    BodyBrokenOffError,
    BodyTooLargeError,
    RequestTimeoutError,
    TooManyRequestsError,
)
_REPLACED = frozenset({b"content-encoding", b"content-length", b"transfer-encoding"})


class BodyGuard:
    """Middleware: no connection is held and nothing is parsed while a body is still arriving."""

    def __init__(self, app: ASGIApp, *, patience_s: float = limits.BODY_PATIENCE_S) -> None:
        self._app = app
        self._patience_s = patience_s
        self._held = HeldBytes(limits.MAX_HELD_BYTES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or scope.get("method") not in limits.BODY_METHODS:
            await self._app(scope, receive, send)
            return
        # Until it is answered: what a body is parsed to takes at least as much.
        with self._held.request(_whose(scope)) as hold:
            await self._serve(scope, receive, send, hold)

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, hold: Callable[[int], None]
    ) -> None:
        try:
            body = await read_body(scope, receive, patience_s=self._patience_s, hold=hold)
        except _NOT_READ_ON as error:
            # The rest of the body may still be on its way: nothing after it can be a request.
            await send_problem(error, scope, adding(send, _CLOSE))
            return
        except MetricsServiceError as error:
            await send_problem(error, scope, send)
            return
        _describe(scope, body)
        await self._app(scope, Replayed(body, receive), send)


def _whose(scope: Scope) -> Hashable:
    tenant = scope.get("state", {}).get("tenant")
    # Strangers are counted apart: they cannot use up what is the tenant's, or the operators'.
    return (None if tenant is None else tenant.id, "user" in scope)


async def read_body(
    scope: Scope, receive: Receive, *, patience_s: float, hold: Callable[[int], None]
) -> bytes:
    """The decoded body, checked as far as its path asks for."""
    path = limits.routed_path(scope["path"])
    coding = coding_of(values_of(scope["headers"], b"content-encoding"))
    if coding is None:
        raise UnsupportedMediaTypeError("Content-Encoding must be gzip, deflate, zstd or identity")
    body = _Body(path, None if coding == "identity" else open_inflater(coding), hold)
    await _receive_all(receive, body, patience_s)
    whole = body.whole()
    media_type, _ = content_type_of(values_of(scope["headers"], b"content-type"))
    # What is no JSON is checked by whoever parses it.
    if whole and limits.takes_json(path) and media_type not in limits.YAML_TYPES:
        check_json(whole, is_lines=media_type in limits.LINE_TYPES)
    return whole


class _Body:
    """A body in the making: bounded as it arrives and as it inflates, and held only once."""

    def __init__(self, path: str, inflater: Inflater | None, hold: Callable[[int], None]) -> None:
        self._path = path
        self._limit = limits.max_body_bytes(path)
        self._inflater = inflater
        self._hold = hold
        self._arrived = 0
        # Gives its memory away at the end instead of copying it, unlike a list that is joined.
        self._decoded = BytesIO()

    async def add(self, chunk: bytes) -> None:
        self._arrived += len(chunk)
        self._check(self._arrived)
        if self._inflater is None:
            self._keep(chunk)
            return
        turn = self._decoded.tell() + _TURN_BYTES
        for piece in self._inflater.feed(chunk):
            self._keep(piece)
            if self._decoded.tell() >= turn:
                # A chunk can inflate for long; other requests have their turn meanwhile.
                await asyncio.sleep(0)
                turn = self._decoded.tell() + _TURN_BYTES

    def whole(self) -> bytes:
        if self._inflater is not None:
            self._inflater.finish()
        return self._decoded.getvalue()

    def _keep(self, piece: bytes) -> None:
        # In this order: what is too large for any request is not worth another attempt.
        self._check(self._decoded.tell() + len(piece))
        self._hold(len(piece))
        self._decoded.write(piece)

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise limits.too_large(self._path)


async def _receive_all(receive: Receive, body: _Body, patience_s: float) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    is_more = True
    while is_more:
        message = await _next(receive, deadline)
        is_more = message.get("more_body", False)
        if chunk := message.get("body", b""):
            await body.add(chunk)
            # Only bytes are progress: a server may also pass empty pieces on.
            deadline = loop.time() + patience_s


async def _next(receive: Receive, deadline: float) -> HTTPRequestEvent:
    try:
        async with asyncio.timeout_at(deadline):
            message = await receive()
    except TimeoutError:
        raise RequestTimeoutError("the body stopped arriving") from None
    if message["type"] != "http.request":
        raise BodyBrokenOffError
    return message


def _describe(scope: Scope, body: bytes) -> None:
    kept = [header for header in scope["headers"] if header[0] not in _REPLACED]
    scope["headers"] = [*kept, (b"content-length", str(len(body)).encode())]


class Replayed:
    """A `receive` that gives the body once, and afterwards only tells that the client left."""

    __slots__ = ("_body", "_is_given", "_receive")

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body = body
        self._receive = receive
        self._is_given = False

    async def __call__(self) -> HTTPReceiveMessage:
        if self._is_given:
            return cast("HTTPReceiveMessage", await self._receive())
        self._is_given = True
        return {"type": "http.request", "body": self._body, "more_body": False}

    def rewind(self) -> None:
        """Give it once more, to another attempt."""
        self._is_given = False


async def take_body(request: Request[Any, Any, Any]) -> bytes:
    """The whole body, once; `Request.body` would keep it until the request is answered."""
    message = await request.receive()
    return cast("HTTPRequestEvent", message)["body"]
