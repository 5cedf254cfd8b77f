"""Answers a list query with a page, by cursor or by number."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec

from metrics_service.db.listing import ListQuery
from metrics_service.db.pages import Page, PageMeta, Position
from metrics_service.errors import InvalidQueryError
from metrics_service.http.dependencies import Caller

ViewT = TypeVar("ViewT")

Fetch = Callable[[Position | None, int, int], Awaitable[Sequence[Any]]]
"""Fetch(after, limit, offset): the rows of a page."""


async def answer_page(
    caller: Caller,
    route: str,
    query: ListQuery,
    *,
    fetch: Fetch,
    count: Callable[[], Awaitable[int]],
    position: Callable[[Any], Position],
    view: Callable[[Any], ViewT],
) -> Page[ViewT]:
    """Answer by number when `page` is given, else by keyset.

    A cursor is bound to the tenant, the route and every filter. Raises `InvalidCursorError`.
    """
    if query.page is not None:
        return await _numbered(query, query.page, fetch=fetch, count=count, view=view)
    signer, listing = caller.database.signer, _listing(route, query)
    after = (
        signer.verify(caller.tenant_id, listing, query.cursor) if query.cursor is not None else None
    )
    # One row too many tells whether more follow, without counting them.
    rows = await fetch(after, query.limit + 1, 0)
    next_cursor = None
    if len(rows) > query.limit:
        rows = rows[: query.limit]
        next_cursor = signer.sign(caller.tenant_id, listing, position(rows[-1]))
    return Page([view(row) for row in rows], PageMeta(limit=query.limit, next_cursor=next_cursor))


async def _numbered(
    query: ListQuery,
    page: int,
    *,
    fetch: Fetch,
    count: Callable[[], Awaitable[int]],
    view: Callable[[Any], ViewT],
) -> Page[ViewT]:
    if query.cursor is not None:
        raise InvalidQueryError("give cursor or page, not both")
    rows = await fetch(None, query.limit, (page - 1) * query.limit)
    meta = PageMeta.numbered(page, limit=query.limit, total=await count())
    return Page([view(row) for row in rows], meta)


def _listing(route: str, query: ListQuery) -> bytes:
    return msgspec.json.encode([route, query.filters()])
