"""`/operator/api/v1/tenants`: all of them, and what is done to one."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from litestar import Controller, Response, get, post
from litestar.openapi.spec import Example
from litestar.params import Body, FromPath

from metrics_service.db.pages import Page
from metrics_service.fleet.jobs import Job
from metrics_service.fleet.reading import get_tenant, list_tenants
from metrics_service.fleet.views import TenantsQuery, TenantView
from metrics_service.http.bodies import JsonBody
from metrics_service.http.query import parse_query, query_operation
from metrics_service.operations.dependencies import API, OperatorRequest, page_of, reading
from metrics_service.operations.queueing import (
    ACCEPTED,
    TenantIn,
    accepted,
    provision,
    resume,
    suspend,
)

EXAMPLE = {"slug": "acme", "name": "Acme", "plan": "basic"}


class TenantController(Controller):
    path = f"{API}/tenants"
    tags = ["tenants"]

    @get(operation_class=query_operation(TenantsQuery))
    async def list_tenants(self, request: OperatorRequest) -> Page[TenantView]:
        """List the tenants, with their size, rate and state."""
        query = parse_query(request, TenantsQuery)
        async with reading(request) as connection:
            return page_of(await list_tenants(connection, request.user.key_hash, query), query)

    @get("/{tenant_id:uuid}")
    async def get_tenant(self, request: OperatorRequest, tenant_id: FromPath[UUID]) -> TenantView:
        """Show one tenant."""
        async with reading(request) as connection:
            return await get_tenant(connection, request.user.key_hash, tenant_id)

    @post(dto=JsonBody[TenantIn], return_dto=None, status_code=ACCEPTED)
    async def post_tenant(
        self,
        request: OperatorRequest,
        data: Annotated[TenantIn, Body(examples=[Example(value=EXAMPLE)])],
    ) -> Response[Job]:
        """Have a tenant made; the answer is the job that makes it."""
        return accepted(await provision(request, data))

    @post("/{tenant_id:uuid}/suspend", status_code=ACCEPTED)
    async def suspend(self, request: OperatorRequest, tenant_id: FromPath[UUID]) -> Response[Job]:
        """Have a tenant served no longer; its data stays."""
        return accepted(await suspend(request, tenant_id))

    @post("/{tenant_id:uuid}/resume", status_code=ACCEPTED)
    async def resume(self, request: OperatorRequest, tenant_id: FromPath[UUID]) -> Response[Job]:
        """Have a suspended tenant served again."""
        return accepted(await resume(request, tenant_id))
