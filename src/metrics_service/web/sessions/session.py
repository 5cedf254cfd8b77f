"""`/sessions/{id}`: one session; who, what and where, its figures, and all that happened in it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from metrics_service.dashboards.pictures.agents import agent_name
from metrics_service.dashboards.pictures.lettering import clean
from metrics_service.db.tenancy import ContextConnection
from metrics_service.errors import NotFoundError
from metrics_service.fields import now
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.hidden_people import shown
from metrics_service.model_calls.repository import count_cost_sources
from metrics_service.sessions.repository import fetch_sessions, find_session, session_view
from metrics_service.sessions.schemas import SessionQuery, SessionView
from metrics_service.sessions.strip import fetch_strip
from metrics_service.web.page import REFRESH, page_of, remembered, render
from metrics_service.web.query import page_query
from metrics_service.web.sessions.strip import draw
from metrics_service.web.sessions.timeline import (
    TOGGLES,
    Asked,
    Rows,
    TimelineQuery,
    read_rows,
    spelt,
    values_of,
)
from metrics_service.web.viewer import Viewer

REFRESH_S = 2
# What was quiet for longer has ended, whether its client said so or not.
STILL_WARM = timedelta(days=1)
MAX_CHILDREN = 50
LONGEST_TITLE = 100
# Somebody who wants to see what is new sees a little of what was before it.
BEFORE_LATEST = timedelta(minutes=2)


@get("/sessions/{session_id:uuid}", opt=requires("read"))
async def get_session_page(
    request: AnyRequest, caller: NamedDependency[Caller], session_id: FromPath[UUID]
) -> Response[bytes]:
    asked = Asked.of(session_id, page_query(request, TimelineQuery))
    sees_people = await caller.sees_people()
    zone = Viewer.of(request).zone
    # The rows stay where they are; scripts ask for new ones themselves.
    is_refresh = request.headers.get(REFRESH) == "main"

    async def make() -> str:
        view, values = await _values(
            caller, asked, sees_people=sees_people, has_rows=not is_refresh, zone=zone
        )
        return render(request, "session.html", {"view": view, **values})

    if is_refresh:
        key = ("session", session_id, asked.listing, zone.key, sees_people)
        main = await remembered(request, caller, key, make)
        return page_of(request, main, title="Session")
    view, values = await _values(caller, asked, sees_people=sees_people, has_rows=True, zone=zone)
    return page_of(
        request,
        render(request, "session.html", {"view": view, **values}),
        title=_title(view),
        caller=caller,
        styles=["session.css"],
        scripts=["session.js"],
        refresh_s=REFRESH_S if values["is_live"] else None,
        session_id=session_id if values["is_live"] else None,
    )


def _title(view: SessionView) -> str:
    place = f" in {view.repository}" if view.repository else " session"
    return clean(agent_name(view.agent) + place)[:LONGEST_TITLE]


async def _values(
    caller: Caller, asked: Asked, *, sees_people: bool, has_rows: bool, zone: ZoneInfo
) -> tuple[SessionView, Mapping[str, Any]]:
    """Raises `NotFoundError`; whether another tenant has it is never told."""
    session_id, query = asked.session_id, asked.query
    reads_all = has_rows and (query.q is not None or query.failed)
    door = caller.summarising if reads_all else caller.reading
    async with door() as connection:
        found = await find_session(connection, session_id)
        if found is None:
            raise NotFoundError("session", session_id)
        view = shown(found, sees_people=sees_people)
        stretches = await fetch_strip(connection, session_id, lasted_s=view.duration_ms / 1000)
        costs = await count_cost_sources(connection, session_id)
        parent = (
            await find_session(connection, view.parent_session_id)
            if view.parent_session_id is not None
            else None
        )
        children = await _children(connection, session_id)
        rows = await read_rows(caller, connection, asked) if has_rows else Rows([], None)
    strip = draw(stretches, zone)
    latest = max((stretch.until for stretch in stretches), default=view.started_at)
    return view, {
        **values_of(asked, rows, view.started_at),
        "has_rows": has_rows,
        "toggles": TOGGLES,
        "strip": strip,
        "cost_note": _cost_note(costs),
        "parent": parent,
        "children": children,
        "max_children": MAX_CHILDREN,
        "is_live": view.status == "open" or now() - latest < STILL_WARM,
        "known_rows": view.tool_call_count + view.model_call_count + view.prompt_count,
        "latest_href": asked.at(max(latest - BEFORE_LATEST, view.started_at)),
        "state": spelt(view.updated_at),
        "cache_share": view.cache_read_tokens / view.input_tokens if view.input_tokens else None,
    }


async def _children(connection: ContextConnection, session_id: UUID) -> list[SessionView]:
    query = SessionQuery(parent_session_id=session_id, sort="started_at")
    rows = await fetch_sessions(connection, query, after=None, limit=MAX_CHILDREN, offset=0)
    return [session_view(row) for row in rows]


def _cost_note(costs: Mapping[str, int]) -> str:
    """Who says what it cost."""
    reported, estimated = costs.get("reported", 0), costs.get("estimated", 0)
    if reported and estimated:
        return "partly estimated"
    if estimated:
        return "estimated from list prices"
    return "reported by the agent" if reported else ""
