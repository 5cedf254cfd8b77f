"""`/dashboards/{id}/versions`: what a dashboard was, who changed what, and how to go back."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import Meta
from sqlalchemy.ext.asyncio import AsyncSession

from metrics_service.dashboards.pictures.lettering import clean
from metrics_service.dashboards.repository import Gallery
from metrics_service.dashboards.schemas import DashboardVersionView, VersionNumber
from metrics_service.dashboards.versions import (
    differences,
    fetch_versions,
    get_version,
    version_views,
)
from metrics_service.dashboards.write import get_dashboard
from metrics_service.db.models import DashboardConfig, DashboardVersion
from metrics_service.db.tenancy import hot_door
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.web.dashboards.board import read_board
from metrics_service.web.dashboards.dashboard import LONGEST_TITLE, about_of, may_of
from metrics_service.web.dashboards.version_words import Change, in_words
from metrics_service.web.page import page
from metrics_service.web.query import page_query

PAGE_SIZE = 50


class VersionsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which two are compared, and where the list goes on."""

    from_: Annotated[VersionNumber, Meta()] | None = msgspec.field(default=None, name="from")
    to: VersionNumber | None = None
    before: VersionNumber | None = None


class Comparison(msgspec.Struct, frozen=True):
    from_version: int
    to_version: int
    changes: list[Change]


@get("/dashboards/{dashboard_id:uuid}/versions", opt=requires("read"))
async def get_versions(
    request: AnyRequest, caller: NamedDependency[Caller], dashboard_id: FromPath[UUID]
) -> Response[bytes]:
    """List the versions, newest first; with `from` what changed since that one."""
    query = page_query(request, VersionsQuery)
    sees_people = await caller.sees_people()
    async with caller.looking() as tx:
        gallery = Gallery(tx, caller.principal)
        row = await get_dashboard(gallery, dashboard_id)
        may = await may_of(gallery, row)
        found = await fetch_versions(tx, row.id, before=query.before, limit=PAGE_SIZE + 1, offset=0)
        versions = await version_views(tx, found[:PAGE_SIZE])
        compared = await _compared(tx, row, query)
    path = f"/dashboards/{dashboard_id}/versions"
    is_more = len(found) > PAGE_SIZE
    values = {
        "name": row.name,
        "newest": row.version,
        "dashboard_id": dashboard_id,
        "path": path,
        "versions": versions,
        "compared": compared,
        "may": may,
        "sees_people": sees_people,
        "first_href": path if query.before is not None else None,
        "next_href": f"{path}?before={versions[-1].version}" if is_more else None,
    }
    return page(
        request,
        "dashboard_versions.html",
        title=f"Versions of {clean(row.name)[:LONGEST_TITLE]}",
        values=values,
        caller=caller,
        styles=["dashboard.css"],
        scripts=["versions.js"],
    )


async def _compared(
    tx: AsyncSession, row: DashboardConfig, query: VersionsQuery
) -> Comparison | None:
    if query.from_ is None:
        return None
    to = row.version if query.to is None else query.to
    before, after = [
        await get_version(tx, row.id, number, newest=row.version) for number in (query.from_, to)
    ]
    return Comparison(query.from_, to, in_words(differences(before, after), before, after))


@get("/dashboards/{dashboard_id:uuid}/versions/{version:int}", opt=requires("read"))
async def get_version_page(
    request: AnyRequest,
    caller: NamedDependency[Caller],
    dashboard_id: FromPath[UUID],
    version: FromPath[int],
) -> Response[bytes]:
    """Show what an old version would show now."""
    about = about_of(request)
    sees_people = await caller.sees_people()
    async with caller.snapshot() as tx:
        gallery = Gallery(tx, caller.principal)
        row = await get_dashboard(gallery, dashboard_id)
        may = await may_of(gallery, row)
        old = await get_version(tx, dashboard_id, version, newest=row.version)
        view = await _view(tx, old)
        bands = await read_board(
            await hot_door(tx),
            old.widgets,
            old.layout,
            about,
            sees_people=sees_people,
        )
    values = {
        "view": view,
        "newest": row.version,
        "dashboard_id": dashboard_id,
        "may": may,
        "sees_people": sees_people,
        "bands": bands,
        "period": about.period,
        "path": f"/dashboards/{dashboard_id}/versions/{version}",
    }
    return page(
        request,
        "dashboard_version.html",
        title=f"Version {version} of {clean(row.name)[:LONGEST_TITLE]}",
        values=values,
        caller=caller,
        styles=["dashboard.css"],
        scripts=["versions.js"],
    )


async def _view(tx: AsyncSession, row: DashboardVersion) -> DashboardVersionView:
    return (await version_views(tx, [row]))[0]
