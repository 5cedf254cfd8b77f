"""`/api/v1/dashboards`."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from litestar import Controller, Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath
from sqlalchemy.ext.asyncio import AsyncSession

from metrics_service.dashboards.described import widget_schemas
from metrics_service.dashboards.repository import Gallery
from metrics_service.dashboards.schemas import (
    DashboardChange,
    DashboardCopy,
    DashboardIn,
    DashboardQuery,
    DashboardView,
)
from metrics_service.dashboards.write import (
    copy_dashboard,
    create_dashboard,
    delete_dashboard,
    get_dashboard,
    replace_dashboard,
)
from metrics_service.db.pages import Page, Position
from metrics_service.http.bodies import JsonBody
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.idempotency import once
from metrics_service.http.listing import answer_page
from metrics_service.http.openapi import refers_to
from metrics_service.http.query import parse_query, query_operation

ROUTE = "/api/v1/dashboards"
EXAMPLE = {
    "name": "Tools this week",
    "layout": {"slow": {"x": 0, "y": 0, "w": 6, "h": 4}},
    "widgets": [
        {
            "id": "slow",
            "title": "Slowest tools",
            "kind": "chart",
            "query": {
                "source": "tool_metrics",
                "measures": ["p95_ms"],
                "group_by": ["day", "tool_name"],
                "range": {"last": "7d"},
                "order_by": "-p95_ms",
                "limit": 100,
            },
            "mark": "line",
        }
    ],
    "visibility": "tenant",
    "tags": ["tools"],
}
CHANGE = {**EXAMPLE, "name": "Tools last week", "version": 1, "note": "renamed"}
COPY = {"name": "My tools this week"}
AS_IT_IS = DashboardCopy()


class DashboardController(Controller):
    path = ROUTE
    tags = ["dashboards"]
    opt = refers_to(widget_schemas())

    @get(opt=requires("read"), operation_class=query_operation(DashboardQuery))
    async def list_dashboards(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
    ) -> Page[DashboardView]:
        """List the dashboards one may see."""
        query = parse_query(request, DashboardQuery)
        gallery = Gallery(tx, caller.principal)
        column = query.sort.lstrip("-")
        page = await answer_page(
            caller,
            ROUTE,
            query,
            fetch=lambda after, limit, offset: gallery.fetch(
                query, after=after, limit=limit, offset=offset
            ),
            count=lambda: gallery.count(query),
            position=lambda row: Position(getattr(row, column), row.id),
            view=lambda row: row,
        )
        return Page(await gallery.views(page.data), page.meta)

    @post(opt=requires("write"), dto=JsonBody[DashboardIn], return_dto=None)
    async def post_dashboard(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
        data: Annotated[DashboardIn, Body(examples=[Example(value=EXAMPLE)])],
    ) -> Response[DashboardView]:
        """Create a dashboard; what its widgets may be, `Widget` in openapi.json tells."""
        gallery = Gallery(tx, caller.principal)

        async def act() -> DashboardView:
            return await gallery.view(await create_dashboard(gallery, data))

        return await once(request, caller, tx, act)

    @get("/{dashboard_id:uuid}", opt=requires("read"))
    async def get_one(
        self,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
        dashboard_id: FromPath[UUID],
    ) -> DashboardView:
        """Get one dashboard."""
        gallery = Gallery(tx, caller.principal)
        return await gallery.view(await get_dashboard(gallery, dashboard_id))

    @put(
        "/{dashboard_id:uuid}",
        opt=requires("write"),
        dto=JsonBody[DashboardChange],
        return_dto=None,
    )
    async def put_one(
        self,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
        dashboard_id: FromPath[UUID],
        data: Annotated[DashboardChange, Body(examples=[Example(value=CHANGE)])],
    ) -> DashboardView:
        """Replace a dashboard; `version` is the one that was read, 409 when it is stale.

        What is left out is empty from then on; who sees it stays as it is.
        """
        gallery = Gallery(tx, caller.principal)
        row = await replace_dashboard(gallery, dashboard_id, data)
        return await gallery.view(row)

    @delete("/{dashboard_id:uuid}", opt=requires("write"))
    async def delete_one(
        self,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
        dashboard_id: FromPath[UUID],
    ) -> None:
        """Delete a dashboard with its versions and shares."""
        await delete_dashboard(Gallery(tx, caller.principal), dashboard_id)

    @post(
        "/{dashboard_id:uuid}/copy",
        opt=requires("write"),
        dto=JsonBody[DashboardCopy],
        return_dto=None,
    )
    async def post_copy(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
        dashboard_id: FromPath[UUID],
        data: Annotated[DashboardCopy, Body(examples=[Example(value=COPY)])] = AS_IT_IS,
    ) -> Response[DashboardView]:
        """Copy a dashboard that one sees; the copy is one's own, private unless said otherwise."""
        gallery = Gallery(tx, caller.principal)

        async def act() -> DashboardView:
            return await gallery.view(await copy_dashboard(gallery, dashboard_id, data))

        return await once(request, caller, tx, act)
