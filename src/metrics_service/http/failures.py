"""How the framework's failures and ours become problems."""

from __future__ import annotations

from typing import Any

import asyncpg
from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.types import ExceptionHandlersMap
from sqlalchemy.exc import SQLAlchemyError

from metrics_service.db.failures import domain_error
from metrics_service.errors import (
    MalformedRequestError,
    MethodNotAllowedError,
    MetricsServiceError,
    NotFoundError,
)
from metrics_service.http.problems import MEDIA_TYPE, STATUS_OF, headers_of, problem_of


def _answer(request: Request[Any, Any, Any], error: MetricsServiceError) -> Response[Any]:
    problem = problem_of(
        error,
        path=request.scope["path"],
        request_id=request.scope["state"].get("request_id"),
    )
    return Response(
        problem,
        status_code=STATUS_OF[type(error)],
        media_type=MEDIA_TYPE,
        headers=headers_of(error),
    )


def _of_framework(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    if isinstance(error, MethodNotAllowedException):
        answer = _answer(request, MethodNotAllowedError("this method is not served here"))
        answer.headers.update(error.headers or {})
        return answer
    if error.status_code == 404:
        return _answer(request, NotFoundError("such address"))
    if error.status_code < 500:
        return _answer(request, MalformedRequestError("the request cannot be understood"))
    raise error


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
