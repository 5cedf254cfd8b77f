"""What the layers of one request leave in its state for the diary: what was taken in, or why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from uuid import UUID

import msgspec
from litestar.types import Scope

from metrics_service.errors import (
    FieldError,
    InvalidBodyError,
    MetricsServiceError,
    UnauthenticatedError,
)
from metrics_service.http import limits
from metrics_service.http.headers import Header, values_of
from metrics_service.http.otlp_errors import signal_in, speaks_otlp
from metrics_service.ingest.diary_page import UNKNOWN_SIGNAL, Sender, Taken, client_of

NATIVE_SIGNALS = {
    "/api/v1/sessions": "sessions",
    "/api/v1/sessions/batch": "sessions",
    "/api/v1/tool-metrics/batch": "tool_metrics",
}

_TAKEN, _REFUSAL = "ingest_taken", "ingest_refusal"


class Refusal(msgspec.Struct, frozen=True):
    """Why a request was refused; without its exception, which would keep the body alive."""

    reason: str
    key_id: UUID | None


def signal_of(scope: Scope) -> str | None:
    """What a request brings, or was meant to bring; None when it is no such request."""
    if scope.get("method") != "POST":
        return None
    path = scope["path"]
    if limits.takes_json(path):
        return NATIVE_SIGNALS.get(path)
    return (signal_in(path) or UNKNOWN_SIGNAL) if speaks_otlp(scope) else None


def leave_taken(scope: Scope, taken: Taken) -> None:
    scope["state"][_TAKEN] = taken


def taken_from(scope: Scope) -> Taken | None:
    taken: Taken | None = scope["state"].get(_TAKEN)
    return taken


def leave_refusal(scope: Scope, error: MetricsServiceError) -> None:
    """Called wherever an error becomes an answer."""
    refusal = Refusal(reason_of(error), getattr(error, "key_id", None))
    scope.setdefault("state", {})[_REFUSAL] = refusal


def refusal_from(scope: Scope) -> Refusal | None:
    refusal: Refusal | None = scope["state"].get(_REFUSAL)
    return refusal


def sender_of(
    headers: Iterable[Header], *, key_id: UUID | None, signal: str, encoding: str
) -> Sender:
    """Who sent a request; the client is the one that its first User-Agent names."""
    agents = values_of(headers, b"user-agent")
    client, version = client_of(agents[0] if agents else b"")
    return Sender(key_id, signal, encoding, client, version)


def reason_of(error: MetricsServiceError) -> str:
    """The sentence that a client was told, and what is the matter with the first of its values."""
    if isinstance(error, UnauthenticatedError):
        return error.finding
    if isinstance(error, InvalidBodyError) and error.errors:
        return f"invalid values: {fault_of(error.errors[0])}"
    return str(error)


def reasons_of(errors: list[FieldError]) -> dict[str, int]:
    """How many items were refused for each reason."""
    return dict(Counter(fault_of(error) for error in errors))


def fault_of(error: FieldError) -> str:
    """What is wrong with a value, without a word of what its client wrote."""
    if error.reason == "is not a field":
        return "there is a field that we do not know"
    # What follows is the value, or the name of a field that is not ours.
    reason = error.reason.partition("'")[0].rstrip()
    field = (error.field or "").partition("[")[0]
    return f"{field}: {reason}" if field else reason
