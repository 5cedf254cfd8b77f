"""The address of a page as a struct: as strict as that of the API, but for what forms leave empty."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from litestar import Request

from metrics_service.http.query import read_query

QueryT = TypeVar("QueryT", bound=msgspec.Struct)


def page_query(request: Request[Any, Any, Any], kind: type[QueryT]) -> QueryT:
    """Raises `InvalidQueryError` that names the parameter."""
    given = request.query_params.multi_items()
    return read_query([(name, value) for name, value in given if value.strip()], kind)
