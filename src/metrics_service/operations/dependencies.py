"""What the handlers of the operators' side are given: who asks, and what the process holds."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

import msgspec
from litestar import Request
from litestar.openapi.spec import Operation
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.pages import Page, PageMeta
from metrics_service.db.tenancy import ContextConnection, registry_connection, registry_writing
from metrics_service.errors import InvalidQueryError, UnauthenticatedError
from metrics_service.fleet.operators import Operator, OperatorKeys
from metrics_service.fleet.views import FleetQuery, Found, ViewT
from metrics_service.http.limits import SIGN_IN_PATH, SIGN_OUT_PATH, STATIC_PREFIX
from metrics_service.http.throttle import FailureThrottle
from metrics_service.operations.cookies import OperatorCookies
from metrics_service.settings import Settings

API = "/operator/api/v1"
NEEDS_KEY = "a valid operator key is required"

_OPEN = frozenset({"/health/live", "/health/ready", SIGN_IN_PATH, SIGN_OUT_PATH})

OperatorRequest: TypeAlias = Request[Operator, Any, Any]


class Operations(msgspec.Struct, frozen=True):
    """What one process holds for all requests of operators."""

    engine: AsyncEngine
    keys: OperatorKeys
    cookies: OperatorCookies
    throttle: FailureThrottle
    """Of keys that were wrong."""
    settings: Settings


def operations_of(request: Request[Any, Any, Any]) -> Operations:
    operations: Operations = request.app.state.operations
    return operations


def reading(request: OperatorRequest) -> AbstractAsyncContextManager[ContextConnection]:
    """The door to the registry's functions, READ ONLY; no tenant's table can be seen through it."""
    return registry_connection(operations_of(request).engine)


def writing(request: OperatorRequest) -> AbstractAsyncContextManager[ContextConnection]:
    """As `reading`, for those functions that queue something; commits when it closes."""
    return registry_writing(operations_of(request).engine)


def is_open(path: str) -> bool:
    """Whether nobody is asked there who he is: probes, the form, and what it is made of."""
    return path in _OPEN or path.startswith(STATIC_PREFIX)


async def authorize(request: OperatorRequest) -> None:
    """Refuse a stranger, whatever let him come so far."""
    if request.method == "OPTIONS" or is_open(request.scope["path"]):
        # The former only lists methods.
        return
    if "user" not in request.scope:
        raise UnauthenticatedError(NEEDS_KEY)
    if request.scope["query_string"] and request.route_handler.operation_class is Operation:
        # Those that take parameters are described by a class of their own.
        raise InvalidQueryError("there are no parameters here")


def page_of(found: Found[ViewT], query: FleetQuery) -> Page[ViewT]:
    """A page by its number."""
    return Page(found.rows, PageMeta.numbered(query.page, limit=query.limit, total=found.total))
