"""`/api/v1/dashboards/{id}/versions`."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath
from sqlalchemy.ext.asyncio import AsyncSession

from metrics_service.dashboards.repository import Gallery
from metrics_service.dashboards.schemas import (
    DashboardVersionView,
    DashboardView,
    DiffQuery,
    RestoreIn,
)
from metrics_service.dashboards.versions import (
    VersionDiff,
    count_versions,
    differences,
    fetch_versions,
    get_version,
    version_views,
)
from metrics_service.dashboards.write import get_dashboard, restore_dashboard
from metrics_service.db.listing import ListQuery
from metrics_service.db.pages import Page, Position
from metrics_service.http.bodies import JsonBody
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.idempotency import once
from metrics_service.http.listing import answer_page
from metrics_service.http.query import parse_query, query_operation

ROUTE = "/api/v1/dashboards/{dashboard_id:uuid}/versions"
EXAMPLE = {"note": "back to the weekly view"}
NOTHING_SAID = RestoreIn()


class DashboardVersionController(Controller):
    path = ROUTE
    tags = ["dashboards"]

    @get(opt=requires("read"), operation_class=query_operation(ListQuery))
    async def list_versions(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
        dashboard_id: FromPath[UUID],
    ) -> Page[DashboardVersionView]:
        """List the versions of a dashboard, newest first."""
        query = parse_query(request, ListQuery)
        await get_dashboard(Gallery(tx, caller.principal), dashboard_id)

        async def fetch(after: Position | None, limit: int, offset: int) -> Any:
            before = int(after.value) if after is not None else None  # type: ignore[arg-type]
            return await fetch_versions(tx, dashboard_id, before=before, limit=limit, offset=offset)

        page = await answer_page(
            caller,
            f"/api/v1/dashboards/{dashboard_id}/versions",
            query,
            fetch=fetch,
            count=lambda: count_versions(tx, dashboard_id),
            position=lambda row: Position(row.version, dashboard_id),
            view=lambda row: row,
        )
        return Page(await version_views(tx, page.data), page.meta)

    @get("/{version:int}", opt=requires("read"))
    async def get_one(
        self,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
        dashboard_id: FromPath[UUID],
        version: FromPath[int],
    ) -> DashboardVersionView:
        """Get one version of a dashboard."""
        row = await get_dashboard(Gallery(tx, caller.principal), dashboard_id)
        old = await get_version(tx, dashboard_id, version, newest=row.version)
        return (await version_views(tx, [old]))[0]

    @get("/{version:int}/diff", opt=requires("read"), operation_class=query_operation(DiffQuery))
    async def get_diff(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
        dashboard_id: FromPath[UUID],
        version: FromPath[int],
    ) -> VersionDiff:
        """Say what changed from one version to another, or to the newest."""
        query = parse_query(request, DiffQuery)
        row = await get_dashboard(Gallery(tx, caller.principal), dashboard_id)
        to = row.version if query.to is None else query.to
        before, after = [
            await get_version(tx, dashboard_id, number, newest=row.version)
            for number in (version, to)
        ]
        return VersionDiff(from_version=version, to_version=to, changes=differences(before, after))

    @post(
        "/{version:int}/restore",
        opt=requires("write"),
        status_code=200,
        dto=JsonBody[RestoreIn],
        return_dto=None,
    )
    async def restore(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
        dashboard_id: FromPath[UUID],
        version: FromPath[int],
        data: Annotated[RestoreIn, Body(examples=[Example(value=EXAMPLE)])] = NOTHING_SAID,
    ) -> Response[DashboardView]:
        """Make an old version the newest; with `version`, 409 when that is stale by now."""
        gallery = Gallery(tx, caller.principal)

        async def act() -> DashboardView:
            row = await restore_dashboard(gallery, dashboard_id, version, data)
            return await gallery.view(row)

        return await once(request, caller, tx, act, status_code=200)
