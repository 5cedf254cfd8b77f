"""What all lists are asked: limit, cursor or page, sort; and the SQL of where a page begins."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

import msgspec
from asyncpg import Record
from msgspec import Meta

from metrics_service.db.pages import Position
from metrics_service.db.statements import Where

MAX_PAGE = 100_000

After = Annotated[
    datetime, Meta(tz=True, description="Inclusive.", examples=["2026-11-01T00:00:00Z"])
]
Before = Annotated[
    datetime, Meta(tz=True, description="Exclusive.", examples=["2026-12-01T00:00:00Z"])
]


class ListQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of every list; subclasses add filters and name their sorts."""

    limit: Annotated[int, Meta(ge=1, le=500, description="Rows a page.")] = 50
    cursor: Annotated[str, Meta(description="`meta.next_cursor` of the page before.")] | None = None
    page: (
        Annotated[int, Meta(ge=1, le=MAX_PAGE, description="A page by number, with totals.")] | None
    ) = None

    def filters(self) -> dict[str, Any]:
        """The parameters that choose rows, as given."""
        names = (name for name in self.__struct_fields__ if name not in ("limit", "cursor", "page"))
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def position_of(sort: str) -> Callable[[Record], Position]:
    """Where a row stands in a list that is sorted so."""
    column = sort.lstrip("-")
    return lambda row: Position(row[column], row["id"])


def keyset(where: Where, alias: str, sort: str, after: Position | None) -> str:
    """Add where the page begins; return the ORDER BY. `sort` comes from an allow-list."""
    column = f"{alias}.{sort.lstrip('-')}"
    is_down = sort.startswith("-")
    if after is not None:
        sign = "<" if is_down else ">"
        where.require(
            f"({column}, {alias}.id) {sign} ({where.bind(after.value)}, {where.bind(after.id)})"
        )
    direction = "DESC" if is_down else "ASC"
    return f"ORDER BY {column} {direction}, {alias}.id {direction}"


def as_raw(text: str | None) -> msgspec.Raw | None:
    """A column's JSON as it goes into an answer: PostgreSQL's own text, not read again."""
    return msgspec.Raw(text.encode()) if text is not None else None
