"""The operators' side is for those who prove that they are operators, by a key or by its cookie."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from metrics_service.errors import (
    MetricsServiceError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedMediaTypeError,
)
from metrics_service.fleet.operator_keys import prefix_of
from metrics_service.fleet.operators import Operator, OperatorKeys
from metrics_service.http.auth import header_credential
from metrics_service.http.headers import content_type_of, values_of
from metrics_service.http.in_flight import InFlight
from metrics_service.http.limits import BODY_METHODS, FORM_PATHS, JSON_TYPES, STATIC_PREFIX
from metrics_service.http.problems import send_problem
from metrics_service.http.same_origin import SAFE_METHODS, check_same_origin
from metrics_service.http.throttle import FailureThrottle, client_address
from metrics_service.operations.cookies import OperatorCookies, Shown
from metrics_service.operations.dependencies import NEEDS_KEY, is_open
from metrics_service.tenants.keys import hash_key

# For programs: who has no key is told so. All other paths are pages, which ask to sign in.
FOR_PROGRAMS = ("/operator/", "/schema")
# Of this process alone, and wanted above all while the database is away.
OF_THE_PROCESS = frozenset({"/health", "/metrics"})
# The first page says then what this process knows.
WHILE_AWAY = OF_THE_PROCESS | {"/"}
PATIENCE_S = 1.0
"""How long these wait to be told again whose key it is, where that was known."""
UNKNOWN_NOW = (
    "{}, so no key can be checked; see whether PostgreSQL runs and is reached from here,"
    " and this service's log since its line `connection-error`"
)

_KEY_HEADERS = frozenset({b"authorization", b"x-api-key"})


class OperatorGate:
    """Middleware: puts the operator into `scope["user"]`; none passes where one is needed."""

    def __init__(
        self,
        app: ASGIApp,
        keys: OperatorKeys,
        cookies: OperatorCookies,
        *,
        throttle: FailureThrottle,
        trusted_proxies: Sequence[IPv4Network | IPv6Network],
    ) -> None:
        self._app = app
        self._keys = keys
        self._cookies = cookies
        self._throttle = throttle
        self._trusted_proxies = trusted_proxies
        self._in_flight = InFlight()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        unkept = send if scope["path"].startswith(STATIC_PREFIX) else _unkept(send)
        try:
            operator = await self._identify(scope)
            if operator is None:
                _check_bodiless(scope)
                await self._app(scope, receive, unkept)
                return
            scope["user"] = operator
            _check_type(scope)
            with self._in_flight.hold(operator.id):
                await self._app(scope, receive, unkept)
        except MetricsServiceError as error:
            await send_problem(error, scope, unkept)

    async def _identify(self, scope: Scope) -> Operator | None:
        path = scope["path"]
        if is_open(path):
            return None
        if any(name in _KEY_HEADERS for name, _ in scope["headers"]):
            # A key that is sent counts, and no cookie makes up for one that is wrong.
            return await self._by_key(scope)
        shown = self._cookies.open(scope["headers"])
        operator = None if shown is None else await self._find(shown, path)
        if operator is not None:
            if scope.get("method") not in SAFE_METHODS:
                check_same_origin(scope)
            return operator
        if path in OF_THE_PROCESS or path.startswith(FOR_PROGRAMS):
            # Not counted: nothing was tried that could be guessed.
            raise UnauthenticatedError(NEEDS_KEY)
        return None

    async def _by_key(self, scope: Scope) -> Operator:
        key = header_credential(scope["headers"])
        if key is not None:
            shown = Shown(prefix_of(key), hash_key(key))
            operator = await self._find(shown, scope["path"])
            if operator is not None:
                return operator
        address, host = client_address(scope, self._trusted_proxies), scope["state"]["host"]
        self._throttle.refuse(address, host)
        raise UnauthenticatedError(NEEDS_KEY)

    async def _find(self, shown: Shown, path: str) -> Operator | None:
        known = self._keys.find_known(shown.key_hash) if path in WHILE_AWAY else None
        try:
            async with asyncio.timeout(None if known is None else PATIENCE_S):
                return await self._keys.find(shown.prefix, shown.key_hash)
        except (UnavailableError, TimeoutError) as error:
            if known is not None:
                return known
            raise UnavailableError(UNKNOWN_NOW.format(error)) from error


def _check_bodiless(scope: Scope) -> None:
    """Raises `UnauthenticatedError` before anything of what a stranger sends is read."""
    if scope.get("method") in BODY_METHODS and scope["path"] not in FORM_PATHS:
        raise UnauthenticatedError(NEEDS_KEY)


def _check_type(scope: Scope) -> None:
    """Raises `UnsupportedMediaTypeError` for what no handler of the API could parse."""
    if scope.get("method") not in BODY_METHODS or not scope["path"].startswith("/operator/"):
        return
    headers = scope["headers"]
    lengths = values_of(headers, b"content-length")
    if not values_of(headers, b"transfer-encoding") and (not lengths or lengths == [b"0"]):
        return
    media_type, charset = content_type_of(values_of(headers, b"content-type"))
    if media_type not in JSON_TYPES or charset not in {"utf-8", "utf8"}:
        raise UnsupportedMediaTypeError("Content-Type must be application/json, in UTF-8")


def _unkept(send: Send) -> Send:
    """A `send` that lets no browser and no proxy keep what operators see."""

    async def send_unkept(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message["headers"]
            if not any(name.lower() == b"cache-control" for name, _ in headers):
                message["headers"] = [*headers, (b"cache-control", b"no-store")]
        await send(message)

    return send_unkept
