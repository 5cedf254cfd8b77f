"""What all lists are asked: limit, cursor or page, sort, filters; and the filters' SQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from asyncpg import Record
from msgspec import Meta

from metrics_service.db.pages import Position
from metrics_service.db.statements import Where
from metrics_service.fields import ShortText

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


class FactQuery(ListQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The filters that tool metrics and model calls share with sessions."""

    started_after: After | None = None
    started_before: Before | None = None
    user_id: UUID | None = None
    agent: ShortText | None = None
    session_type: ShortText | None = None
    tag: ShortText | None = None
    repository: ShortText | None = None
    branch: ShortText | None = None
    team: ShortText | None = None
    project: ShortText | None = None
    environment: ShortText | None = None
    sort: Literal["started_at", "-started_at"] = "-started_at"


def _of_session(column: str) -> str:
    return f"""f.session_id IN (
        SELECT s.id FROM metrics_sessions s
        WHERE s.tenant_id = f.tenant_id AND s.{column} = ?)"""


# Telemetry keeps the times that its clients' clocks say; these tell when they are wrong.
CLOCK = """
    CASE WHEN f.started_at > f.received_at + interval '1 day' THEN 'ahead'
         WHEN f.started_at < '2015-01-01T00:00:00Z' THEN 'behind' END AS clock
"""

FACT_FILTERS = {
    "started_after": "f.started_at >= ?",
    "started_before": "f.started_at < ?",
    "user_id": "f.user_id = ?",
    "agent": "f.agent = ?",
    **{
        name: _of_session(name)
        for name in ("session_type", "repository", "branch", "team", "project", "environment")
    },
    "tag": """f.session_id IN (
        SELECT t.session_id FROM session_tags t WHERE t.tenant_id = f.tenant_id AND t.tag = ?)""",
    "session_id": "f.session_id = ?",
    "tool_name": "f.tool_name = ?",
    "request_model": "f.request_model = ?",
    "status": "f.status = ?",
    "decision": "f.decision = ?",
}


def fact_where(query: FactQuery, *, session_id: UUID | None = None) -> Where:
    """The conditions of a query over the calls that count, in a table called `f`."""
    where = Where()
    where.require("f.is_counted")
    for name, value in {**query.filters(), "session_id": session_id}.items():
        if value is not None and name in FACT_FILTERS:
            where.add(FACT_FILTERS[name], value)
    return where


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
