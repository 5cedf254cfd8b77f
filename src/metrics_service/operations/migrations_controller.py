"""`/operator/api/v1/migrations`: the ledger of schemas, and bringing them to head."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Controller, Response, get, post
from litestar.openapi.spec import Example
from litestar.params import Body
from msgspec import Meta

from metrics_service.db.pages import Page
from metrics_service.fleet.jobs import Job
from metrics_service.fleet.reading import count_schemas, list_schemas
from metrics_service.fleet.views import SchemaCounts, SchemasQuery, SchemaView
from metrics_service.http.bodies import JsonBody
from metrics_service.http.query import parse_query, query_operation
from metrics_service.operations.dependencies import API, OperatorRequest, page_of, reading
from metrics_service.operations.queueing import ACCEPTED, accepted, upgrade
from metrics_service.tenants.revisions import head


class Heads(msgspec.Struct, frozen=True):
    """The newest revision of each history that this process knows."""

    registry: str
    tenant: str


class MigrationsPage(Page[SchemaView], frozen=True):
    """A page of the ledger, and what it amounts to."""

    heads: Heads
    counts: SchemaCounts


class UpgradeIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be brought to head: one schema, or without a name all that are behind or failed."""

    schema: Annotated[str, Meta(pattern=r"^(public|t_[a-z0-9]{1,50})$")] | None = None


EVERYTHING = UpgradeIn()
"""Who wants all of them need not send a body."""


class MigrationController(Controller):
    path = f"{API}/migrations"
    tags = ["migrations"]

    @get(operation_class=query_operation(SchemasQuery))
    async def list_migrations(self, request: OperatorRequest) -> MigrationsPage:
        """List the schemas with their revisions; those that failed or are behind come first."""
        query = parse_query(request, SchemasQuery)
        async with reading(request) as connection:
            found = await list_schemas(connection, request.user.key_hash, query)
            counts = await count_schemas(connection, request.user.key_hash)
        page = page_of(found, query)
        return MigrationsPage(page.data, page.meta, Heads(head("registry"), head("tenant")), counts)

    @post(dto=JsonBody[UpgradeIn], return_dto=None, status_code=ACCEPTED)
    async def post_migration(
        self,
        request: OperatorRequest,
        data: Annotated[UpgradeIn, Body(examples=[Example(value={})])] = EVERYTHING,
    ) -> Response[Job]:
        """Have schemas brought to head; the answer is the job that does it."""
        return accepted(await upgrade(request, data.schema))
