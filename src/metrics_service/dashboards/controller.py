"""`/api/v1/dashboards`."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from litestar import Controller, Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath
from sqlalchemy.ext.asyncio import AsyncSession

from metrics_service.dashboards.repository import (
    Gallery,
    count_versions,
    fetch_versions,
    version_view,
)
from metrics_service.dashboards.schemas import (
    DashboardChange,
    DashboardIn,
    DashboardQuery,
    DashboardVersionView,
    DashboardView,
    VersionQuery,
)
from metrics_service.dashboards.write import (
    create_dashboard,
    delete_dashboard,
    get_dashboard,
    replace_dashboard,
    restore_dashboard,
)
from metrics_service.db.pages import Page, Position
from metrics_service.http.bodies import JsonBody
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.idempotency import once
from metrics_service.http.listing import answer_page
from metrics_service.http.query import parse_query, query_operation

ROUTE = "/api/v1/dashboards"
EXAMPLE = {
    "name": "Tools this week",
    "layout": {"slow": {"x": 0, "y": 0, "w": 6, "h": 4}},
    "widgets": [{"id": "slow", "title": "Slowest tools", "source": "tool_metrics"}],
    "visibility": "tenant",
    "tags": ["tools"],
}
CHANGE = {**EXAMPLE, "name": "Tools last week", "version": 1}


def _gallery(tx: AsyncSession, caller: Caller) -> Gallery:
    principal = caller.principal
    return Gallery(tx, user_id=principal.user_id, is_admin=principal.allows("admin"))


class DashboardController(Controller):
    path = ROUTE
    tags = ["dashboards"]

    @get(opt=requires("read"), operation_class=query_operation(DashboardQuery))
    async def list_dashboards(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
    ) -> Page[DashboardView]:
        """List the dashboards one may see."""
        query = parse_query(request, DashboardQuery)
        gallery = _gallery(tx, caller)
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
        """Create a dashboard."""
        gallery = _gallery(tx, caller)

        async def act() -> DashboardView:
            return await gallery.view(await create_dashboard(gallery, caller.principal, data))

        return await once(request, caller, tx, act)

    @get("/{dashboard_id:uuid}", opt=requires("read"))
    async def get_one(
        self,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
        dashboard_id: FromPath[UUID],
    ) -> DashboardView:
        """Get one dashboard."""
        gallery = _gallery(tx, caller)
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
        """Replace a dashboard; `version` is the one that was read, 409 when it is stale."""
        gallery = _gallery(tx, caller)
        row = await replace_dashboard(gallery, caller.principal, dashboard_id, data)
        return await gallery.view(row)

    @delete("/{dashboard_id:uuid}", opt=requires("write"))
    async def delete_one(
        self,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
        dashboard_id: FromPath[UUID],
    ) -> None:
        """Delete a dashboard with its versions."""
        await delete_dashboard(_gallery(tx, caller), dashboard_id)

    @get(
        "/{dashboard_id:uuid}/versions",
        opt=requires("read"),
        operation_class=query_operation(VersionQuery),
    )
    async def list_versions(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
        dashboard_id: FromPath[UUID],
    ) -> Page[DashboardVersionView]:
        """List the versions of a dashboard, newest first."""
        query = parse_query(request, VersionQuery)
        await get_dashboard(_gallery(tx, caller), dashboard_id)

        async def fetch(after: Position | None, limit: int, offset: int) -> Any:
            before = int(after.value) if after is not None else None  # type: ignore[arg-type]
            return await fetch_versions(tx, dashboard_id, before=before, limit=limit, offset=offset)

        return await answer_page(
            caller,
            f"{ROUTE}/{dashboard_id}/versions",
            query,
            fetch=fetch,
            count=lambda: count_versions(tx, dashboard_id),
            position=lambda row: Position(row.version, dashboard_id),
            view=version_view,
        )

    @post(
        "/{dashboard_id:uuid}/versions/{version:int}/restore",
        opt=requires("write"),
        status_code=200,
    )
    async def restore(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
        dashboard_id: FromPath[UUID],
        version: FromPath[int],
    ) -> Response[DashboardView]:
        """Make an old version the newest."""
        gallery = _gallery(tx, caller)

        async def act() -> DashboardView:
            row = await restore_dashboard(gallery, caller.principal, dashboard_id, version)
            return await gallery.view(row)

        return await once(request, caller, tx, act, status_code=200)
