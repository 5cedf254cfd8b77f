"""`/api/v1/dashboards/{id}/data` and `/origin`: what a dashboard shows, and why."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from litestar import Controller, Response, post
from litestar.di import NamedDependency
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath

from metrics_service.dashboards.data import DashboardData, known_widgets
from metrics_service.dashboards.data_request import Asked, DataRequest
from metrics_service.dashboards.kept_answers import DashboardAnswers
from metrics_service.dashboards.origin import Origin, OriginRequest, find_origin
from metrics_service.dashboards.repository import Gallery
from metrics_service.dashboards.seen import get_seen
from metrics_service.dashboards.write import get_dashboard
from metrics_service.db.tenancy import hot_door
from metrics_service.http.bodies import JsonBody
from metrics_service.http.dependencies import AnyRequest, Caller, requires

ASKED = {
    "from": "2026-11-01T00:00:00Z",
    "to": "2026-12-01T00:00:00Z",
    "tz": "Europe/Berlin",
    "filters": {"agent": ["claude-code", "codex"]},
}
FIGURE = {
    "widget": "slow",
    "measure": "p95_ms",
    "row": {"day": "2026-11-20T00:00:00Z", "tool_name": "Bash"},
}
AS_IT_IS = DataRequest()


class DashboardDataController(Controller):
    path = "/api/v1/dashboards"
    tags = ["dashboards"]

    @post(
        "/{dashboard_id:uuid}/data",
        opt=requires("read"),
        status_code=200,
        dto=JsonBody[DataRequest],
        return_dto=None,
    )
    async def post_data(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        dashboard_id: FromPath[UUID],
        data: Annotated[DataRequest, Body(examples=[Example(value=ASKED)])] = AS_IT_IS,
    ) -> Response[DashboardData]:
        """Answer all widgets of a dashboard, of one moment."""
        sees_people = await caller.sees_people()
        async with caller.reading() as connection:
            seen = await get_seen(connection, caller.principal, dashboard_id)
        answers: DashboardAnswers = request.app.state.dashboard_answers
        answered = await answers.get(caller, seen, Asked.of(data), sees_people=sees_people)
        return answered.response()

    @post(
        "/{dashboard_id:uuid}/origin",
        opt=requires("read"),
        status_code=200,
        dto=JsonBody[OriginRequest],
        return_dto=None,
    )
    async def post_origin(
        self,
        caller: NamedDependency[Caller],
        dashboard_id: FromPath[UUID],
        data: Annotated[OriginRequest, Body(examples=[Example(value=FIGURE)])],
    ) -> Origin:
        """Find what one figure is made of: rollup rows, sessions and calls, by their signals."""
        sees_people = await caller.sees_people()
        async with caller.snapshot() as tx:
            row = await get_dashboard(Gallery(tx, caller.principal), dashboard_id)
            widgets = known_widgets(row.widgets)
            return await find_origin(await hot_door(tx), widgets, data, sees_people=sees_people)
