"""All reading SQL of model calls. No `tenant_id` in sight: row security filters by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from asyncpg import Record

from metrics_service.db.listing import CLOCK, as_raw, fact_where, keyset
from metrics_service.db.pages import Position
from metrics_service.db.tenancy import ContextConnection
from metrics_service.model_calls.schemas import (
    ModelCallQuery,
    ModelCallView,
    ModelSummary,
    ModelSummaryQuery,
    ModelSummaryRow,
)
from metrics_service.rollups.series import read_series
from metrics_service.rollups.summaries import SummaryMeta

EXPRESSIONS = {"extra": "f.extra::text AS extra", "clock": CLOCK}
COLUMNS = ", ".join(EXPRESSIONS.get(name, f"f.{name}") for name in ModelCallView.__struct_fields__)


async def fetch_model_calls(
    connection: ContextConnection,
    query: ModelCallQuery,
    *,
    session_id: UUID | None,
    after: Position | None,
    limit: int,
    offset: int,
) -> Sequence[Record]:
    """A page, newest first unless the query sorts otherwise; `id` breaks ties."""
    where = fact_where(query, session_id=session_id)
    order = keyset(where, "f", query.sort, after)
    rows: Sequence[Record] = await connection.fetch(
        f"""
        SELECT {COLUMNS} FROM model_calls f {where} {order}
        LIMIT {where.bind(limit)} OFFSET {where.bind(offset)}
        """,
        *where.values,
    )
    return rows


async def count_model_calls(
    connection: ContextConnection, query: ModelCallQuery, *, session_id: UUID | None
) -> int:
    where = fact_where(query, session_id=session_id)
    return int(
        await connection.fetchval(f"SELECT count(*) FROM model_calls f {where}", *where.values)
    )


def model_call_view(row: Record) -> ModelCallView:
    columns: list[Any] = list(row)
    columns[-1] = as_raw(columns[-1])
    return ModelCallView(*columns)


async def summarise_model_calls(
    connection: ContextConnection, query: ModelSummaryQuery
) -> ModelSummary:
    """Raises `InvalidQueryError` for what is on no allow-list, and for more than can be read."""
    series = await read_series(connection, query.series("model_calls", ModelSummaryRow))
    rows = [ModelSummaryRow(**row) for row in series.rows]
    return ModelSummary(rows, SummaryMeta.of(query, series))
