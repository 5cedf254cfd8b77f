"""`/api/v1/slow-queries`."""

from __future__ import annotations

from litestar import Controller, get
from litestar.di import NamedDependency

from metrics_service.db.pages import Page
from metrics_service.fleet.slow_queries import (
    SlowQuery,
    SlowQueryFilter,
    SlowQuerySummary,
    count_slow_queries,
    fetch_slow_queries,
    of_tenant,
    row_position,
    row_view,
    summarise_slow_queries,
)
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.listing import answer_page
from metrics_service.http.query import parse_query, query_operation
from metrics_service.slow_queries.schemas import (
    SlowQueriesQuery,
    SlowQuerySummaryMeta,
    SlowQuerySummaryPage,
    SlowQuerySummaryQuery,
)

ROUTE = "/api/v1/slow-queries"


class SlowQueryController(Controller):
    path = ROUTE
    tags = ["slow queries"]
    opt = requires("admin")

    @get(operation_class=query_operation(SlowQueriesQuery))
    async def list_slow_queries(
        self, request: AnyRequest, caller: NamedDependency[Caller]
    ) -> Page[SlowQuery]:
        """List statements on the tenant's data that took longer than the service allows, newest first.

        The newest two thousand of the last fourteen days are kept. A statement is shown by its shape,
        without any value; one execution in ten minutes has a plan.
        """
        query = parse_query(request, SlowQueriesQuery)
        wanted = SlowQueryFilter.of(query)
        async with caller.reading() as connection:
            return await answer_page(
                caller,
                ROUTE,
                query,
                fetch=lambda after, limit, offset: fetch_slow_queries(
                    connection,
                    of_tenant,
                    wanted,
                    kind=SlowQuery,
                    sort=query.sort,
                    after=after,
                    limit=limit,
                    offset=offset,
                ),
                count=lambda: count_slow_queries(connection, of_tenant, wanted),
                position=row_position(query.sort),
                view=lambda row: row_view(row, SlowQuery),
            )

    @get("/summary", operation_class=query_operation(SlowQuerySummaryQuery))
    async def summarise(
        self, request: AnyRequest, caller: NamedDependency[Caller]
    ) -> SlowQuerySummaryPage:
        """Add up the slow executions of each statement, those that took the most time first."""
        query = parse_query(request, SlowQuerySummaryQuery)
        since = query.since
        async with caller.reading() as connection:
            found = await summarise_slow_queries(
                connection,
                of_tenant,
                SlowQueryFilter.of(query, since=since),
                kind=SlowQuerySummary,
                sort=query.sort,
                limit=query.limit,
            )
        meta = SlowQuerySummaryMeta(from_=since, to=query.to, limit=query.limit, total=found.total)
        return SlowQuerySummaryPage(found.rows, meta)
