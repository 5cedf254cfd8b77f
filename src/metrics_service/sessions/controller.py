"""`/api/v1/sessions`."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from litestar import Controller, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath

from metrics_service.db.listing import position_of
from metrics_service.db.pages import Page
from metrics_service.errors import NotFoundError
from metrics_service.http.batches import (
    BatchDecoder,
    BatchQuery,
    BatchReceipt,
    batch_operation,
    taken_of,
)
from metrics_service.http.bodies import JsonBody
from metrics_service.http.body import take_body
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.diary_notes import leave_taken
from metrics_service.http.hidden_people import check_question, shown
from metrics_service.http.listing import answer_page
from metrics_service.http.query import parse_query, query_operation
from metrics_service.ingest.diary_page import Taken
from metrics_service.ingest.records import SessionRecord
from metrics_service.sessions.repository import (
    count_sessions,
    delete_session,
    fetch_sessions,
    session_view,
)
from metrics_service.sessions.schemas import (
    SessionPatch,
    SessionQuery,
    SessionView,
    session_error,
)
from metrics_service.sessions.summary import (
    SessionSummary,
    SessionSummaryQuery,
    summarise_sessions,
)
from metrics_service.sessions.write import (
    get_session,
    patch_session,
    state_session,
    state_sessions,
)

ROUTE = "/api/v1/sessions"
EXAMPLE = {
    "agent": "claude-code",
    "external_id": "5f0c8f6e",
    "started_at": "2026-11-20T09:30:00Z",
    "user_email": "ada@example.com",
    "repository": "acme/shop",
    "tags": ["refactoring"],
}

CHANGE = {"ended_at": "2026-11-20T11:05:00Z", "productivity_score": 80}

_batch = BatchDecoder(SessionRecord, session_error)


class MetricsSessionController(Controller):
    path = ROUTE
    tags = ["sessions"]

    @get(opt=requires("read"), operation_class=query_operation(SessionQuery))
    async def list_sessions(
        self, request: AnyRequest, caller: NamedDependency[Caller]
    ) -> Page[SessionView]:
        """List sessions, newest first."""
        query = parse_query(request, SessionQuery)
        sees_people = await caller.sees_people()
        check_question(query, sees_people=sees_people)
        async with caller.reading() as connection:
            return await answer_page(
                caller,
                ROUTE,
                query,
                fetch=lambda after, limit, offset: fetch_sessions(
                    connection,
                    query,
                    after=after,
                    limit=limit,
                    offset=offset,
                    sees_people=sees_people,
                ),
                count=lambda: count_sessions(connection, query, sees_people=sees_people),
                position=position_of(query.sort),
                view=lambda row: shown(session_view(row), sees_people=sees_people),
            )

    @post(opt=requires("ingest"), dto=JsonBody[SessionRecord], return_dto=None)
    async def post_session(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        data: Annotated[SessionRecord, Body(examples=[Example(value=EXAMPLE)])],
    ) -> Response[SessionView]:
        """Create a session, or update the one with the same `agent` and `external_id`."""
        view, is_new = await state_session(caller, data)
        leave_taken(request.scope, Taken(1, agent=data.agent))
        view = shown(view, sees_people=await caller.sees_people())
        return Response(view, status_code=201 if is_new else 200)

    @post(
        "/batch",
        opt=requires("ingest"),
        status_code=200,
        operation_class=batch_operation(SessionRecord, [EXAMPLE]),
    )
    async def post_sessions(
        self, request: AnyRequest, caller: NamedDependency[Caller]
    ) -> BatchReceipt:
        """Create or update up to 10,000 sessions in one transaction."""
        query = parse_query(request, BatchQuery)
        batch = _batch.decode(await take_body(request), request.scope["headers"])
        receipt = await state_sessions(caller, batch, query)
        leave_taken(request.scope, taken_of(batch, receipt))
        return receipt

    @get(
        "/summary",
        opt=requires("read"),
        operation_class=query_operation(SessionSummaryQuery),
    )
    async def summarise(
        self, request: AnyRequest, caller: NamedDependency[Caller]
    ) -> SessionSummary:
        """Count sessions, and sum up their figures, by group."""
        query = parse_query(request, SessionSummaryQuery)
        check_question(query, sees_people=await caller.sees_people())
        async with caller.summarising() as connection:
            return await summarise_sessions(connection, query)

    @get("/{session_id:uuid}", opt=requires("read"))
    async def get_one(
        self, caller: NamedDependency[Caller], session_id: FromPath[UUID]
    ) -> SessionView:
        """Get one session."""
        sees_people = await caller.sees_people()
        async with caller.reading() as connection:
            return shown(await get_session(connection, session_id), sees_people=sees_people)

    @patch(
        "/{session_id:uuid}",
        opt=requires("write"),
        dto=JsonBody[SessionPatch],
        return_dto=None,
    )
    async def patch_one(
        self,
        caller: NamedDependency[Caller],
        session_id: FromPath[UUID],
        data: Annotated[SessionPatch, Body(examples=[Example(value=CHANGE)])],
    ) -> SessionView:
        """Change fields of a session."""
        view = await patch_session(caller, session_id, data)
        return shown(view, sees_people=await caller.sees_people())

    @delete("/{session_id:uuid}", opt=requires("write"))
    async def delete_one(self, caller: NamedDependency[Caller], session_id: FromPath[UUID]) -> None:
        """Delete a session and all that happened in it."""
        async with caller.writing() as connection:
            if not await delete_session(connection, session_id):
                raise NotFoundError("session", session_id)
        caller.database.changes.note(caller.tenant_id, [session_id])
