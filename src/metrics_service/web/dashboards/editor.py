"""`/dashboards/{id}/edit`: the editor; and `/dashboards/preview`: figures of what is not saved yet."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import Body, FromPath

from metrics_service.dashboards.pictures.figures import words
from metrics_service.dashboards.pictures.lettering import clean
from metrics_service.dashboards.schemas import CONTENT, MAX_WIDGETS, Layout, Widgets
from metrics_service.dashboards.widgets import Mark, widget_errors
from metrics_service.db.tenancy import hot_door
from metrics_service.errors import ForbiddenError, InvalidBodyError
from metrics_service.http.bodies import JsonBody
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.rollups.measures import MEASURES
from metrics_service.rollups.ranges import TIMES
from metrics_service.rollups.sources import SOURCES
from metrics_service.web.choices import fetch_choices
from metrics_service.web.dashboards.board import read_board
from metrics_service.web.dashboards.dashboard import (
    LONGEST_TITLE,
    about_of,
    board_html,
    people_to_share_with,
    see_dashboard,
)
from metrics_service.web.page import page

SOURCE_WORDS = {"tool_metrics": "Tool calls", "model_calls": "Model calls", "sessions": "Sessions"}


class PreviewIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Widgets as they would be saved, and how large they are."""

    widgets: Widgets
    layout: Layout = {}


@get("/dashboards/{dashboard_id:uuid}/edit", opt=requires("write"))
async def get_dashboard_editor(
    request: AnyRequest, caller: NamedDependency[Caller], dashboard_id: FromPath[UUID]
) -> Response[bytes]:
    """The editor; without scripts it shows the dashboard, and says what is missing."""
    about = about_of(request)
    sees_people = await caller.sees_people()
    async with caller.looking() as tx:
        view, may = await see_dashboard(tx, caller, dashboard_id)
        if not may.edit:
            raise ForbiddenError("this dashboard was shared with you to be read, not to be changed")
        connection = await hot_door(tx)
        choices = await fetch_choices(connection, about.period)
        people = await people_to_share_with(tx, view) if sees_people else []
    board = await board_html(request, caller, view, about, sees_people=sees_people)
    values = {
        "view": view,
        "board": board,
        "editor": {
            "dashboard": {name: getattr(view, name) for name in ("id", "version", *CONTENT)},
            "sees_people": sees_people,
            "tenant": caller.tenant_id,
            "user": caller.principal.id,
            "may_publish": may.publish,
            "catalogue": catalogue(),
            "choices": choices.known,
            "people": people,
        },
    }
    return page(
        request,
        "dashboard_edit.html",
        title=f"Edit {clean(view.name)[:LONGEST_TITLE]}",
        values=values,
        caller=caller,
        styles=["dashboard.css", "dashboard_edit.css"],
        scripts=["editor/main.js"],
    )


def catalogue() -> dict[str, Any]:
    """What a widget may be made of: no other choice is offered, because no other is taken."""
    return {
        "sources": [
            {
                "name": name,
                "label": SOURCE_WORDS[name],
                "measures": [
                    {"name": one, "label": words(one, name), "unit": measure.unit}
                    for one, measure in MEASURES[name].items()
                ],
                "dimensions": [{"name": one, "label": words(one)} for one in source.dimensions],
            }
            for name, source in SOURCES.items()
        ],
        "times": list(TIMES),
        "marks": list(Mark.__args__),  # type: ignore[attr-defined]
        "max_widgets": MAX_WIDGETS,
    }


@post(
    "/dashboards/preview",
    opt=requires("read"),
    status_code=200,
    dto=JsonBody[PreviewIn],
    return_dto=None,
)
async def post_preview(
    request: AnyRequest, caller: NamedDependency[Caller], data: Annotated[PreviewIn, Body()]
) -> Response[bytes]:
    """The figures of widgets that are stored nowhere; what is wrong with one is named as by the API."""
    about = about_of(request)
    if errors := widget_errors(data.widgets, data.layout):
        raise InvalidBodyError(errors)
    sees_people = await caller.sees_people()
    async with caller.snapshot() as tx:
        bands = await read_board(
            await hot_door(tx),
            data.widgets,
            data.layout,
            about,
            sees_people=sees_people,
        )
    return page(
        request, "dashboard_preview.html", title="Preview", values={"bands": bands}, caller=caller
    )
