"""How the framework's failures and ours become problems."""

from __future__ import annotations

from typing import Any

import asyncpg
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.types import ExceptionHandlersMap, Scope
from sqlalchemy.exc import SQLAlchemyError

from metrics_service.db.again import UNDONE
from metrics_service.db.attempts import ATTEMPT
from metrics_service.db.failures import domain_error
from metrics_service.errors import (
    MalformedRequestError,
    MethodNotAllowedError,
    MetricsServiceError,
    NotFoundError,
)
from metrics_service.http.otlp_errors import is_lost, right_path, speaks_otlp
from metrics_service.http.problems import refusal_of


def _answer(request: Request[Any, Any, Any], error: MetricsServiceError) -> Response[Any]:
    if isinstance(error, UNDONE) and ATTEMPT.get() is not None:
        # Whoever made the attempt does it again, or answers.
        raise error
    refusal = refusal_of(error, request.scope)
    return Response(
        refusal.body,
        status_code=refusal.status,
        media_type=refusal.media_type,
        headers=refusal.headers,
    )


def _of_framework(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    # A page stands at some of the paths that exporters are wrongly pointed at, `/` above all.
    is_export = is_lost(request.scope) and speaks_otlp(request.scope)
    if isinstance(error, MethodNotAllowedException) and not is_export:
        answer = _answer(request, MethodNotAllowedError("this method is not served here"))
        answer.headers.update(error.headers or {})
        return answer
    if error.status_code in {404, 405}:
        return _answer(request, _not_found(request.scope))
    if error.status_code < 500:
        return _answer(request, MalformedRequestError("the request cannot be understood"))
    raise error


def _not_found(scope: Scope) -> NotFoundError:
    if not is_lost(scope):
        return NotFoundError("such address")
    return NotFoundError(f"such address; OTLP is taken at {right_path(scope['path'])}")


def _of_database(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    meaning = domain_error(error)
    if meaning is None:
        raise error
    return _answer(request, meaning)


def _of_transaction(
    request: Request[Any, Any, Any], error: ExceptionGroup[Exception]
) -> Response[Any]:
    # When a handler fails and its transaction says why, the framework puts the latter in a group.
    for one in error.exceptions:
        if isinstance(one, MetricsServiceError):
            return _answer(request, one)
    raise error


def _bug(_: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    # Raised again, for the outermost layer to log without its text and to answer.
    raise error


EXCEPTION_HANDLERS: ExceptionHandlersMap = {
    MetricsServiceError: _answer,
    HTTPException: _of_framework,
    SQLAlchemyError: _of_database,
    asyncpg.PostgresError: _of_database,
    ExceptionGroup: _of_transaction,
    Exception: _bug,
}
