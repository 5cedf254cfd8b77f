"""`/api/v1/dashboards/{id}/shares`."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import msgspec
from litestar import Controller, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath
from sqlalchemy.ext.asyncio import AsyncSession

from metrics_service.dashboards.repository import Gallery
from metrics_service.dashboards.shares import (
    IssuedShare,
    ShareIn,
    ShareView,
    count_shares,
    fetch_shares,
    get_shareable,
    revoke_share,
    share_dashboard,
    share_views,
)
from metrics_service.db.listing import ListQuery
from metrics_service.db.pages import Page, Position
from metrics_service.http.bodies import JsonBody
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.idempotency import once
from metrics_service.http.links import KIND, PREFIX
from metrics_service.http.listing import answer_page
from metrics_service.http.query import parse_query, query_operation

ROUTE = "/api/v1/dashboards/{dashboard_id:uuid}/shares"
EXAMPLE = {"kind": "link"}


class ShareController(Controller):
    path = ROUTE
    tags = ["dashboards"]

    @get(opt=requires("read"), operation_class=query_operation(ListQuery))
    async def list_shares(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
        dashboard_id: FromPath[UUID],
    ) -> Page[ShareView]:
        """List how a dashboard is shared, newest first; for its owner and admins."""
        query = parse_query(request, ListQuery)
        await get_shareable(Gallery(tx, caller.principal), dashboard_id)
        page = await answer_page(
            caller,
            f"/api/v1/dashboards/{dashboard_id}/shares",
            query,
            fetch=lambda after, limit, offset: fetch_shares(
                tx, dashboard_id, after=after, limit=limit, offset=offset
            ),
            count=lambda: count_shares(tx, dashboard_id),
            position=lambda row: Position(row.created_at, row.id),
            view=lambda row: row,
        )
        return Page(await share_views(tx, page.data), page.meta)

    @post(opt=requires("write"), dto=JsonBody[ShareIn], return_dto=None)
    async def post_share(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
        dashboard_id: FromPath[UUID],
        data: Annotated[ShareIn, Body(examples=[Example(value=EXAMPLE)])],
    ) -> Response[IssuedShare]:
        """Share a dashboard with a user, or by a link, whose token is shown this once."""
        gallery = Gallery(tx, caller.principal)

        async def act() -> IssuedShare:
            row = await share_dashboard(gallery, dashboard_id, data)
            (view,) = await share_views(tx, [row])
            token = url = None
            if row.kind == KIND and row.expires_at is not None:
                token = caller.database.links.sign(caller.tenant_id, row.id, row.expires_at)
                url = f"{request.url.scheme}://{request.url.netloc}{PREFIX}{token}"
            return IssuedShare(**msgspec.structs.asdict(view), token=token, url=url)

        return await once(request, caller, tx, act)

    @delete("/{share_id:uuid}", opt=requires("write"))
    async def delete_share(
        self,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
        dashboard_id: FromPath[UUID],
        share_id: FromPath[UUID],
    ) -> None:
        """Take a share back: it opens nothing any more, at once."""
        await revoke_share(Gallery(tx, caller.principal), dashboard_id, share_id)
