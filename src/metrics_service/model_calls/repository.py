"""All reading SQL of model calls. No `tenant_id` in sight: row security filters by it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from asyncpg import Record

from metrics_service.db.facts import CLOCK, FactTable
from metrics_service.db.listing import as_raw
from metrics_service.db.tenancy import ContextConnection
from metrics_service.model_calls.schemas import (
    ModelCallView,
    ModelSummary,
    ModelSummaryQuery,
    ModelSummaryRow,
)
from metrics_service.rollups.series import read_series
from metrics_service.rollups.summaries import SummaryMeta

EXPRESSIONS = {"extra": "f.extra::text AS extra", "clock": CLOCK}
COLUMNS = ", ".join(EXPRESSIONS.get(name, f"f.{name}") for name in ModelCallView.__struct_fields__)
MODEL_CALLS = FactTable("model_calls", COLUMNS)


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


async def count_cost_sources(connection: ContextConnection, session_id: UUID) -> dict[str, int]:
    """Of how many calls of a session each source told the cost."""
    return dict(
        await connection.fetch(
            """
            SELECT cost_source, count(*) FROM model_calls
            WHERE session_id = $1 AND is_counted AND cost_usd_micros > 0 GROUP BY cost_source
            """,
            session_id,
        )
    )
