"""`/api/v1/keys`."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from litestar import Controller, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath
from sqlalchemy.ext.asyncio import AsyncSession

from metrics_service.db.listing import ListQuery
from metrics_service.db.pages import Page, Position
from metrics_service.errors import NotFoundError
from metrics_service.http.bodies import JsonBody
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.hidden_people import shown
from metrics_service.http.idempotency import once
from metrics_service.http.listing import answer_page
from metrics_service.http.query import parse_query, query_operation
from metrics_service.keys.repository import count_keys, fetch_keys, revoke_key
from metrics_service.keys.schemas import KeyIn
from metrics_service.keys.write import issue_key
from metrics_service.tenants.keys import IssuedKey, KeyRow

ROUTE = "/api/v1/keys"
EXAMPLE = {"name": "collector", "scopes": ["ingest"], "expires_in_days": 90}


class KeyController(Controller):
    path = ROUTE
    tags = ["keys"]
    opt = requires("admin")

    @get(operation_class=query_operation(ListQuery))
    async def list_keys(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
    ) -> Page[KeyRow]:
        """List the tenant's keys; the keys themselves are not kept and cannot be shown."""
        query = parse_query(request, ListQuery)
        sees_people = await caller.sees_people()
        async with caller.looking() as tx:
            return await answer_page(
                caller,
                ROUTE,
                query,
                fetch=lambda after, limit, offset: fetch_keys(
                    tx, after=after, limit=limit, offset=offset
                ),
                count=lambda: count_keys(tx),
                position=lambda row: Position(row.created_at, row.id),
                view=lambda row: shown(row, sees_people=sees_people),
            )

    @post(dto=JsonBody[KeyIn], return_dto=None)
    async def post_key(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
        data: Annotated[KeyIn, Body(examples=[Example(value=EXAMPLE)])],
    ) -> Response[IssuedKey]:
        """Issue a key; the answer is the only place where it is shown."""

        async def act() -> IssuedKey:
            return await issue_key(tx, data)

        return await once(request, caller, tx, act)

    @delete("/{key_id:uuid}")
    async def delete_key(self, tx: NamedDependency[AsyncSession], key_id: FromPath[UUID]) -> None:
        """Revoke a key."""
        if not await revoke_key(tx, key_id):
            raise NotFoundError("key", key_id)
