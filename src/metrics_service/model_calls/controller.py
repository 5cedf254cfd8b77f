"""`/api/v1/model-calls`, and the model calls of one session."""

from __future__ import annotations

from uuid import UUID

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from metrics_service.db.listing import position_of
from metrics_service.db.pages import Page
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.hidden_people import check_question, shown
from metrics_service.http.listing import answer_page
from metrics_service.http.query import parse_query, query_operation
from metrics_service.ingest.sessions import require_session
from metrics_service.model_calls.repository import (
    MODEL_CALLS,
    model_call_view,
    summarise_model_calls,
)
from metrics_service.model_calls.schemas import (
    ModelCallQuery,
    ModelCallView,
    ModelSummary,
    ModelSummaryQuery,
    SessionModelCallQuery,
)


class ModelCallController(Controller):
    path = "/api/v1"
    tags = ["model calls"]

    @get(
        "/model-calls",
        opt=requires("read"),
        operation_class=query_operation(ModelCallQuery),
    )
    async def list_model_calls(
        self, request: AnyRequest, caller: NamedDependency[Caller]
    ) -> Page[ModelCallView]:
        """List model calls, newest first."""
        return await _page(request, caller, session_id=None)

    @get(
        "/sessions/{session_id:uuid}/model-calls",
        opt=requires("read"),
        operation_class=query_operation(SessionModelCallQuery),
    )
    async def list_of_session(
        self, request: AnyRequest, caller: NamedDependency[Caller], session_id: FromPath[UUID]
    ) -> Page[ModelCallView]:
        """List the model calls of one session, in order."""
        return await _page(request, caller, session_id=session_id)

    @get(
        "/model-calls/summary",
        opt=requires("read"),
        operation_class=query_operation(ModelSummaryQuery),
    )
    async def summarise(self, request: AnyRequest, caller: NamedDependency[Caller]) -> ModelSummary:
        """Count model calls, tokens and cost by group."""
        query = parse_query(request, ModelSummaryQuery)
        check_question(query, sees_people=await caller.sees_people())
        async with caller.summarising() as connection:
            return await summarise_model_calls(connection, query)


async def _page(
    request: AnyRequest, caller: Caller, *, session_id: UUID | None
) -> Page[ModelCallView]:
    query = parse_query(request, SessionModelCallQuery if session_id else ModelCallQuery)
    sees_people = await caller.sees_people()
    check_question(query, sees_people=sees_people)
    async with caller.reading() as connection:
        if session_id is not None:
            await require_session(connection, session_id)
        return await answer_page(
            caller,
            f"/api/v1/model-calls/{session_id}",
            query,
            fetch=lambda after, limit, offset: MODEL_CALLS.fetch(
                connection, query, session_id=session_id, after=after, limit=limit, offset=offset
            ),
            count=lambda: MODEL_CALLS.count(connection, query, session_id=session_id),
            position=position_of(query.sort),
            view=lambda row: shown(model_call_view(row), sees_people=sees_people),
        )
