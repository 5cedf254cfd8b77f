"""`/api/v1/tool-metrics`, and the tool metrics of one session."""

from __future__ import annotations

from uuid import UUID

from litestar import Controller, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from metrics_service.db.listing import position_of
from metrics_service.db.pages import Page
from metrics_service.http.batches import (
    BatchDecoder,
    BatchQuery,
    BatchReceipt,
    batch_operation,
    taken_of,
)
from metrics_service.http.body import take_body
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.diary_notes import leave_taken
from metrics_service.http.hidden_people import check_question, shown
from metrics_service.http.listing import answer_page
from metrics_service.http.query import parse_query, query_operation
from metrics_service.ingest.records import ToolMetricRecord
from metrics_service.ingest.sessions import require_session
from metrics_service.tool_metrics.repository import (
    TOOL_METRICS,
    summarise_tool_metrics,
    tool_metric_view,
)
from metrics_service.tool_metrics.schemas import (
    SessionToolMetricQuery,
    ToolMetricQuery,
    ToolMetricView,
    ToolSummary,
    ToolSummaryQuery,
    tool_metric_error,
)
from metrics_service.tool_metrics.write import store_batch

EXAMPLE = {
    "tool_name": "Bash",
    "started_at": "2026-11-20T09:31:04Z",
    "duration_ms": 412.5,
    "agent": "claude-code",
    "external_session_id": "5f0c8f6e",
    "user_email": "ada@example.com",
}

_batch = BatchDecoder(ToolMetricRecord, tool_metric_error)


class ToolMetricController(Controller):
    path = "/api/v1"
    tags = ["tool metrics"]

    @post(
        "/tool-metrics/batch",
        opt=requires("ingest"),
        status_code=200,
        operation_class=batch_operation(ToolMetricRecord, [EXAMPLE]),
    )
    async def post_batch(
        self, request: AnyRequest, caller: NamedDependency[Caller]
    ) -> BatchReceipt:
        """Store up to 10,000 tool metrics; sending them again is safe."""
        query = parse_query(request, BatchQuery)
        batch = _batch.decode(await take_body(request), request.scope["headers"])
        receipt = await store_batch(caller, batch, query)
        leave_taken(request.scope, taken_of(batch, receipt))
        return receipt

    @get(
        "/tool-metrics",
        opt=requires("read"),
        operation_class=query_operation(ToolMetricQuery),
    )
    async def list_tool_metrics(
        self, request: AnyRequest, caller: NamedDependency[Caller]
    ) -> Page[ToolMetricView]:
        """List tool metrics, newest first."""
        return await _page(request, caller, session_id=None)

    @get(
        "/sessions/{session_id:uuid}/tool-metrics",
        opt=requires("read"),
        operation_class=query_operation(SessionToolMetricQuery),
    )
    async def list_of_session(
        self, request: AnyRequest, caller: NamedDependency[Caller], session_id: FromPath[UUID]
    ) -> Page[ToolMetricView]:
        """List the tool metrics of one session, in order."""
        return await _page(request, caller, session_id=session_id)

    @get(
        "/tool-metrics/summary",
        opt=requires("read"),
        operation_class=query_operation(ToolSummaryQuery),
    )
    async def summarise(self, request: AnyRequest, caller: NamedDependency[Caller]) -> ToolSummary:
        """Count tool calls, errors and durations by group."""
        query = parse_query(request, ToolSummaryQuery)
        check_question(query, sees_people=await caller.sees_people())
        async with caller.summarising() as connection:
            return await summarise_tool_metrics(connection, query)


async def _page(
    request: AnyRequest, caller: Caller, *, session_id: UUID | None
) -> Page[ToolMetricView]:
    query = parse_query(request, SessionToolMetricQuery if session_id else ToolMetricQuery)
    sees_people = await caller.sees_people()
    check_question(query, sees_people=sees_people)
    async with caller.reading() as connection:
        if session_id is not None:
            await require_session(connection, session_id)
        return await answer_page(
            caller,
            f"/api/v1/tool-metrics/{session_id}",
            query,
            fetch=lambda after, limit, offset: TOOL_METRICS.fetch(
                connection, query, session_id=session_id, after=after, limit=limit, offset=offset
            ),
            count=lambda: TOOL_METRICS.count(connection, query, session_id=session_id),
            position=position_of(query.sort),
            view=lambda row: shown(tool_metric_view(row), sees_people=sees_people),
        )
