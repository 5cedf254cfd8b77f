"""Judges the head of every request before anything else looks at it: method, host, size, types."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias
from urllib.parse import quote, unquote_to_bytes

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from metrics_service.errors import (
    HeadersTooLargeError,
    MalformedRequestError,
    MethodNotAllowedError,
    MetricsServiceError,
    UnsupportedMediaTypeError,
)
from metrics_service.http import limits
from metrics_service.http.headers import Header, adding, coding_of, content_type_of
from metrics_service.http.problems import send_problem
from metrics_service.tenants.names import normalize_host

Watched: TypeAlias = Mapping[bytes, list[bytes]]

_ALLOW = (b"allow", ", ".join(sorted(limits.METHODS)).encode())
_WATCHED = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"content-type", b"content-encoding"}
)
# A header line is more than its words: a colon, a space and the line's end travel with it.
_LINE_BYTES = 4

_is_plain_path = re.compile(rb"/[A-Za-z0-9/_.~:@!$&'()*+,;=-]*").fullmatch
_is_length = re.compile(rb"[0-9]{1,19}").fullmatch
_has_control = re.compile(r"[\x00-\x1f\x7f]").search


class HeadGuard:
    """Middleware: refuses what no route could want; leaves host and token in the state."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.WEBSOCKET:
            # No route speaks it, and none of the checks behind this one would look at it.
            await send({"type": "websocket.close", "code": 1000, "reason": None})
            return
        if scope["type"] == ScopeType.HTTP:
            try:
                admit(scope)
            except MethodNotAllowedError as error:
                await send_problem(error, scope, adding(send, _ALLOW))
                return
            except MetricsServiceError as error:
                await send_problem(error, scope, send)
                return
        await self._app(scope, receive, send)


def admit(scope: Scope) -> None:
    """Raise what is wrong with the head of a request, or note its host and the token of its path."""
    # From here on every layer reads the path as the router does: `//api/` is `/api/` to all; and
    # none sees the token but the one that asks for it.
    path, token = limits.take_token(limits.routed_path(scope["path"]))
    scope["path"] = path
    method = str(scope.get("method"))
    if method not in limits.METHODS:
        raise MethodNotAllowedError("this method is not served here")
    watched = _watch(scope)
    _check_target(scope)
    if token is not None:
        scope.setdefault("state", {})["path_token"] = token
        scope["raw_path"] = quote(path, safe="/:").encode()
    _note_host(scope, watched, path)
    has_body = _check_framing(watched, path)
    if has_body and method in limits.BODY_METHODS:
        _check_coding(watched)
        if limits.takes_json(path):
            _check_type(watched, path)


def _watch(scope: Scope) -> Watched:
    size = 0
    watched: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        size += len(name) + len(value) + _LINE_BYTES
        if name in _WATCHED:
            watched.setdefault(name, []).append(value)
    if size > limits.MAX_HEADER_BYTES:
        raise HeadersTooLargeError(f"headers may have {limits.MAX_HEADER_BYTES} bytes")
    return watched


def _check_target(scope: Scope) -> None:
    # Judged by what travelled: a server has already replaced broken UTF-8 in `path` by U+FFFD.
    path = scope.get("raw_path") or scope["path"].encode("utf-8", "surrogateescape")
    query = scope["query_string"]
    if len(path) + len(query) > limits.MAX_TARGET_BYTES:
        raise MalformedRequestError(f"path and query may have {limits.MAX_TARGET_BYTES} bytes")
    if not _is_plain_path(path):
        _check_path(path)
    if b"%" in query or not query.isascii():
        _check_query(query)


def _check_path(path: bytes) -> None:
    if not path.startswith(b"/"):
        raise MalformedRequestError("the path does not begin with a slash")
    if _has_control(_decoded(path, "path")):
        raise MalformedRequestError("the path has control characters")


def _check_query(query: bytes) -> None:
    if "\x00" in _decoded(query, "query"):
        raise MalformedRequestError("the query has U+0000")


def _decoded(encoded: bytes, what: str) -> str:
    try:
        return unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError:
        raise MalformedRequestError(f"the {what} is not valid UTF-8") from None


def _note_host(scope: Scope, watched: Watched, path: str) -> None:
    values = watched.get(b"host", [])
    try:
        host = _host(values)
    except MalformedRequestError:
        if path not in limits.HEALTH_PATHS:
            raise
        # Probes come by address or by nothing; the framework would stumble over what they send.
        _replace_host(scope, [])
        host = ""
    else:
        if not values[0].isascii():
            # Good for us once it is in its canonical form, but the framework refuses the raw one.
            _replace_host(scope, [(b"host", host.encode())])
    scope.setdefault("state", {})["host"] = host


def _replace_host(scope: Scope, hosts: list[Header]) -> None:
    others = [header for header in scope["headers"] if header[0] != b"host"]
    scope["headers"] = [*hosts, *others]


def _host(values: list[bytes]) -> str:
    if len(values) != 1:
        raise MalformedRequestError("exactly one Host header is required")
    try:
        return normalize_host(values[0].decode())
    except UnicodeDecodeError:
        raise MalformedRequestError("the Host header is not valid UTF-8") from None


def _check_framing(watched: Watched, path: str) -> bool:
    """Whether a body is announced; two opinions about its end are how requests get smuggled."""
    lengths = watched.get(b"content-length", [])
    codings = watched.get(b"transfer-encoding", [])
    if len(lengths) > 1 or (lengths and not _is_length(lengths[0])):
        raise MalformedRequestError("Content-Length must be one number")
    if codings and (lengths or [coding.strip().lower() for coding in codings] != [b"chunked"]):
        raise MalformedRequestError("Transfer-Encoding must be chunked, without Content-Length")
    length = int(lengths[0]) if lengths else 0
    if length > limits.max_body_bytes(path):
        raise limits.too_large(path)
    return bool(length or codings)


def _check_coding(watched: Watched) -> None:
    if coding_of(watched.get(b"content-encoding", [])) is None:
        raise UnsupportedMediaTypeError("Content-Encoding must be gzip, deflate, zstd or identity")


def _check_type(watched: Watched, path: str) -> None:
    media_type, charset = content_type_of(watched.get(b"content-type", []))
    allowed = limits.types_of(path)
    if media_type not in allowed:
        raise UnsupportedMediaTypeError(f"Content-Type must be {' or '.join(sorted(allowed))}")
    if charset not in {"utf-8", "utf8"}:
        raise UnsupportedMediaTypeError("the charset must be utf-8")
