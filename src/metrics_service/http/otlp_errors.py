"""What OTLP clients are told: `google.rpc.Status` in the encoding they spoke, and the right path.

They try again after 429, 502, 503, 504 and a broken connection, and after nothing else; most show the
text to nobody, so that it is the status that decides whether what they sent is lost.
Source: OTLP specification, sections "OTLP/HTTP Response" and "Failures".
"""

from __future__ import annotations

import re

import msgspec
from google.rpc import code_pb2
from google.rpc.status_pb2 import Status
from litestar.types import Scope

from metrics_service.errors import BodyBrokenOffError, MetricsServiceError, RequestTimeoutError
from metrics_service.http import limits
from metrics_service.http.headers import content_type_of, values_of
from metrics_service.http.same_origin import is_same_origin

JSON = "application/json"
PROTOBUF = "application/x-protobuf"
PROTOBUF_TYPES = frozenset({PROTOBUF, "application/protobuf"})
MEDIA_TYPES = PROTOBUF_TYPES | {JSON}

# A client in JavaScript gives up when the wait is longer than what is left of its ten seconds.
MAX_RETRY_AFTER_S = 5

_RETRIED = frozenset({429, 503, 504})
_CODES: dict[int, int] = {
    401: code_pb2.UNAUTHENTICATED,
    403: code_pb2.PERMISSION_DENIED,
    404: code_pb2.NOT_FOUND,
    405: code_pb2.UNIMPLEMENTED,
    413: code_pb2.RESOURCE_EXHAUSTED,
    429: code_pb2.RESOURCE_EXHAUSTED,
    503: code_pb2.UNAVAILABLE,
    504: code_pb2.DEADLINE_EXCEEDED,
}
# For us they are the client's own fault, but it would take 400 and 408 for final.
_BROKEN_CONNECTION = (BodyBrokenOffError, RequestTimeoutError)

_signal_in = re.compile(r"\b(log|metric|trace|span)s?\b", re.IGNORECASE).findall
_PATH_OF = {
    "log": "/v1/logs",
    "metric": "/v1/metrics",
    "trace": "/v1/traces",
    "span": "/v1/traces",
}


def media_type_of(scope: Scope) -> str:
    """The media type that a request says its body has."""
    return content_type_of(values_of(scope["headers"], b"content-type"))[0]


def speaks_otlp(scope: Scope) -> bool:
    """Whether an OTLP client asks: at its paths, or with its bodies where no page takes any."""
    path = scope["path"]
    return limits.is_otlp(path) or (is_lost(scope) and media_type_of(scope) in MEDIA_TYPES)


def is_lost(scope: Scope) -> bool:
    """Whether this can be an export to a wrong path; `/` is what a client makes of an endpoint.

    Our own pages post outside of /api too; a page of another address, which exports, is none of them.
    Nobody exports to operators.
    """
    is_outside = scope.get("method") == "POST" and not limits.takes_json(scope["path"])
    is_operators = scope.get("state", {}).get("is_operators", False)
    return is_outside and not is_operators and not is_same_origin(scope)


def right_path(path: str) -> str:
    """Where to export instead: to the path of the signal that this one names, or else all three."""
    before = limits.MASKED_TOKEN if path.startswith(limits.MASKED_TOKEN) else ""
    named = {_PATH_OF[word.lower()] for word in _signal_in(path)}
    *others, last = sorted(before + one for one in named or set(_PATH_OF.values()))
    return f"{', '.join(others)} or {last}" if others else last


def signal_in(path: str) -> str | None:
    """The one signal that a path names, rightly or nearly."""
    named = {_PATH_OF[word.lower()] for word in _signal_in(path)}
    return named.pop().removeprefix(limits.OTLP_PREFIX) if len(named) == 1 else None


def status_for(error: MetricsServiceError, status: int) -> int:
    """The HTTP status for a client that takes most of them for final."""
    return 503 if isinstance(error, _BROKEN_CONNECTION) else status


def headers_for(status: int, headers: dict[str, str]) -> dict[str, str]:
    """The headers of an error: those that are tried again say when."""
    if status not in _RETRIED:
        return headers
    wait_s = min(int(headers.get("retry-after", 1)), MAX_RETRY_AFTER_S)
    return {**headers, "retry-after": str(wait_s)}


def encode_status(scope: Scope, status: int, message: str) -> tuple[str, bytes]:
    """A `google.rpc.Status` and its media type."""
    code = _CODES.get(status, code_pb2.INVALID_ARGUMENT)
    media_type = media_type_of(scope)
    if media_type in PROTOBUF_TYPES:
        return media_type, Status(code=code, message=message).SerializeToString()
    return JSON, msgspec.json.encode({"code": code, "message": message})
