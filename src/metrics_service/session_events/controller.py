"""`/api/v1/sessions/{id}/events`."""

from __future__ import annotations

from uuid import UUID

from litestar import Controller, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from metrics_service.db.listing import position_of
from metrics_service.db.pages import Page
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.hidden_people import shown
from metrics_service.http.listing import answer_page
from metrics_service.http.query import parse_query, query_operation
from metrics_service.ingest.sessions import require_session
from metrics_service.session_events.repository import (
    count_session_events,
    fetch_session_events,
    session_event_view,
)
from metrics_service.session_events.schemas import SessionEventQuery, SessionEventView


class SessionEventController(Controller):
    path = "/api/v1/sessions/{session_id:uuid}/events"
    tags = ["sessions"]

    @get(opt=requires("read"), operation_class=query_operation(SessionEventQuery))
    async def list_events(
        self, request: AnyRequest, caller: NamedDependency[Caller], session_id: FromPath[UUID]
    ) -> Page[SessionEventView]:
        """List what else happened in one session, in order: prompts, turns, modes, hooks."""
        query = parse_query(request, SessionEventQuery)
        sees_people = await caller.sees_people()
        async with caller.reading() as connection:
            await require_session(connection, session_id)
            return await answer_page(
                caller,
                f"/api/v1/session-events/{session_id}",
                query,
                fetch=lambda after, limit, offset: fetch_session_events(
                    connection,
                    query,
                    session_id=session_id,
                    after=after,
                    limit=limit,
                    offset=offset,
                ),
                count=lambda: count_session_events(connection, query, session_id=session_id),
                position=position_of(query.sort),
                view=lambda row: shown(session_event_view(row), sees_people=sees_people),
            )
