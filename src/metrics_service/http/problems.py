"""Every error's HTTP status in one table, and the body that carries it: RFC 9457, or OTLP's own."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar.types import Scope, Send

from metrics_service import errors
from metrics_service.errors import FieldError, MetricsServiceError
from metrics_service.http import browser, otlp_errors
from metrics_service.http.diary_notes import leave_refusal

STATUS_OF: dict[type[MetricsServiceError], int] = {
    errors.MalformedRequestError: 400,
    errors.BodyBrokenOffError: 400,
    errors.InvalidQueryError: 400,
    errors.InvalidCursorError: 400,
    errors.UnauthenticatedError: 401,
    errors.ForbiddenError: 403,
    errors.TenantSuspendedError: 403,
    errors.UnknownHostError: 404,
    errors.NotFoundError: 404,
    errors.MethodNotAllowedError: 405,
    errors.RequestTimeoutError: 408,
    errors.ConflictError: 409,
    errors.BodyTooLargeError: 413,
    errors.UnsupportedMediaTypeError: 415,
    errors.InvalidBodyError: 422,
    errors.IdempotencyMismatchError: 422,
    errors.TooManyRequestsError: 429,
    errors.HeadersTooLargeError: 431,
    errors.UnavailableError: 503,
    errors.TransientError: 503,
    errors.CommitUnknownError: 503,
    errors.StatementTimeoutError: 504,
}

TITLES = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    409: "Conflict",
    413: "Content too large",
    415: "Unsupported media type",
    422: "Unprocessable content",
    429: "Too many requests",
    431: "Request header fields too large",
    500: "Internal error",
    503: "Service unavailable",
    504: "Timeout",
}

MEDIA_TYPE = "application/problem+json"

# At such a host there is no other page to go to.
NOBODY_SERVED = (errors.UnknownHostError, errors.TenantSuspendedError)


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of every error answer (RFC 9457), but for those to OTLP clients."""

    title: str
    status: int
    detail: str
    instance: str | None = None
    request_id: str | None = None
    errors: list[FieldError] | None = None
    type: str = msgspec.field(default_factory=lambda: "about:blank")


def problem_of(error: MetricsServiceError, *, path: str, request_id: str | None) -> Problem:
    """Say what went wrong in the product's words, and nothing else."""
    status = STATUS_OF[type(error)]
    return Problem(
        title=TITLES[status],
        status=status,
        detail=str(error),
        instance=path,
        request_id=request_id,
        errors=getattr(error, "errors", None),
    )


def headers_of(error: MetricsServiceError) -> dict[str, str]:
    """The headers a client needs to act on the error."""
    headers = {}
    if (retry_after_s := getattr(error, "retry_after_s", None)) is not None:
        headers["retry-after"] = str(retry_after_s)
    if isinstance(error, errors.UnauthenticatedError):
        headers["www-authenticate"] = 'Bearer realm="metrics-service"'
    return headers


class Refusal(msgspec.Struct, frozen=True):
    """An error as its client reads it."""

    status: int
    media_type: str
    headers: dict[str, str]
    body: bytes


def refusal_of(error: MetricsServiceError, scope: Scope) -> Refusal:
    """Say it in the form that whoever asks understands."""
    leave_refusal(scope, error)
    status, headers = STATUS_OF[type(error)], headers_of(error)
    if otlp_errors.speaks_otlp(scope):
        status = otlp_errors.status_for(error, status)
        media_type, body = otlp_errors.encode_status(scope, status, str(error))
        return Refusal(status, media_type, otlp_errors.headers_for(status, headers), body)
    state: dict[str, Any] = scope.get("state") or {}
    request_id = state.get("request_id")
    if browser.wants_page(scope):
        page = browser.error_page(
            status,
            TITLES[status],
            str(error),
            request_id,
            has_overview=not isinstance(error, NOBODY_SERVED),
        )
        return Refusal(status, browser.HTML, {**headers, **browser.SECURITY_HEADERS}, page)
    problem = problem_of(error, path=scope["path"], request_id=request_id)
    return Refusal(status, MEDIA_TYPE, headers, msgspec.json.encode(problem))


async def send_problem(error: MetricsServiceError, scope: Scope, send: Send) -> None:
    """Answer from a layer in front of the framework."""
    refusal = refusal_of(error, scope)
    is_page = refusal.media_type == browser.HTML
    headers = {
        "content-type": browser.HTML_UTF8 if is_page else refusal.media_type,
        "content-length": str(len(refusal.body)),
        **refusal.headers,
    }
    await send(
        {
            "type": "http.response.start",
            "status": refusal.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": refusal.body, "more_body": False})
