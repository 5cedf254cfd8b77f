"""`/operator/api/v1/slow-queries`: of all tenants, and of none."""

from __future__ import annotations

from uuid import UUID

from litestar import Controller, get

from metrics_service.db.listing import After, Before
from metrics_service.db.pages import Page, PageMeta
from metrics_service.fleet.slow_queries import (
    Fingerprint,
    FleetSlowQuery,
    FleetSlowQuerySummary,
    SlowQueryFilter,
    SlowQuerySort,
    find_slow_queries,
    of_operator,
    summarise_slow_queries,
    with_statistics,
)
from metrics_service.fleet.statement_statistics import fetch_statistics
from metrics_service.fleet.views import FleetQuery
from metrics_service.http.query import parse_query, query_operation
from metrics_service.operations.dependencies import API, OperatorRequest, page_of, reading
from metrics_service.slow_queries.schemas import Milliseconds, Route, SlowQuerySummaryQuery


class SlowQueriesQuery(FleetQuery, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Which executions."""

    from_: After | None = None
    to: Before | None = None
    tenant_id: UUID | None = None
    fingerprint: Fingerprint | None = None
    route: Route | None = None
    min_duration_ms: Milliseconds | None = None
    sort: SlowQuerySort = "-at"


class SlowSummaryQuery(SlowQuerySummaryQuery, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Which statements."""

    tenant_id: UUID | None = None


class OperatorSlowQueryController(Controller):
    path = f"{API}/slow-queries"
    tags = ["slow queries"]

    @get(operation_class=query_operation(SlowQueriesQuery))
    async def list_slow_queries(self, request: OperatorRequest) -> Page[FleetSlowQuery]:
        """List statements that took too long, each time that they did."""
        query = parse_query(request, SlowQueriesQuery)
        async with reading(request) as connection:
            found = await find_slow_queries(
                connection,
                request.user.key_hash,
                SlowQueryFilter.of(query),
                sort=query.sort,
                limit=query.limit,
                offset=query.offset,
            )
        return page_of(found, query)

    @get("/summary", operation_class=query_operation(SlowSummaryQuery))
    async def summarise_slow_queries(self, request: OperatorRequest) -> Page[FleetSlowQuerySummary]:
        """Add them up by statement, with the server's own counts where it has them."""
        query = parse_query(request, SlowSummaryQuery)
        async with reading(request) as connection:
            found = await summarise_slow_queries(
                connection,
                of_operator(request.user.key_hash),
                SlowQueryFilter.of(query, since=query.since),
                kind=FleetSlowQuerySummary,
                sort=query.sort,
                limit=query.limit,
            )
            statistics = await fetch_statistics(connection, request.user.key_hash)
        return Page(
            with_statistics(found.rows, statistics),
            PageMeta(limit=query.limit, total=found.total),
        )
