"""What all summaries are asked: a time range and what to group by."""

from __future__ import annotations

from typing import Annotated

import msgspec
from asyncpg import Record
from msgspec import Meta

from metrics_service.db.listing import After, Before
from metrics_service.errors import InvalidQueryError

# One row for each hour of a quarter, of several tools; more is not read by anybody.
MAX_ROWS = 50_000

TRUNCATED = {
    "hour": "date_trunc('hour', f.started_at, 'UTC')",
    "day": "date_trunc('day', f.started_at, 'UTC')",
}


class SummaryQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    from_: After = msgspec.field(name="from")
    to: Before
    group_by: Annotated[
        str, Meta(description="Comma-separated.", examples=["tool_name,day"], max_length=255)
    ] = ""

    def groups(self, allowed: tuple[str, ...]) -> list[str]:
        """The columns to group by; raises `InvalidQueryError` for one outside the allow-list."""
        names = [name.strip() for name in self.group_by.split(",") if name.strip()]
        for name in names:
            if name not in allowed:
                raise InvalidQueryError(f"group_by takes any of {', '.join(allowed)}")
        if len(set(names)) < len(names):
            raise InvalidQueryError("group_by names a column twice")
        if self.from_ >= self.to:
            raise InvalidQueryError("from must be before to")
        return names


class SummaryMeta(msgspec.Struct, frozen=True):
    """What a summary covers."""

    from_: After = msgspec.field(name="from")
    to: Before
    group_by: list[str]


def group_columns(groups: list[str]) -> tuple[str, str]:
    """The select list and all that follows WHERE, for a grouping over a fact table called `f`."""
    expressions = [TRUNCATED.get(name, f"f.{name}") for name in groups]
    select = "".join(
        f"{expression} AS {name}, " for expression, name in zip(expressions, groups, strict=True)
    )
    places = ", ".join(str(place) for place in range(1, len(groups) + 1))
    if not groups:
        return select, ""
    # One row too many tells that there are too many.
    return select, f"GROUP BY {places} ORDER BY {places} LIMIT {MAX_ROWS + 1}"


def bounded(rows: list[Record]) -> list[Record]:
    """Raises `InvalidQueryError` when the groups are too many to be read."""
    if len(rows) > MAX_ROWS:
        raise InvalidQueryError(f"more than {MAX_ROWS} groups; ask for a shorter time")
    return rows
