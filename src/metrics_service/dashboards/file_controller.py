"""`/api/v1/dashboards/{id}/export` and `/api/v1/dashboards/import`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.openapi.spec import (
    Example,
    OpenAPIMediaType,
    Operation,
    Reference,
    RequestBody,
    Schema,
)
from litestar.params import Body, FromPath
from sqlalchemy.ext.asyncio import AsyncSession

from metrics_service.dashboards.controller import EXAMPLE, ROUTE
from metrics_service.dashboards.files import (
    FORMAT,
    MEDIA_TYPES,
    DashboardFile,
    FileKind,
    file_stem,
    read_file,
    write_file,
)
from metrics_service.dashboards.repository import Gallery
from metrics_service.dashboards.schemas import DashboardView
from metrics_service.dashboards.write import create_dashboard, default_visibility, get_dashboard
from metrics_service.http.bodies import JsonBody
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.headers import content_type_of, values_of
from metrics_service.http.idempotency import once
from metrics_service.http.query import parse_query, query_operation

FILE = {
    "format": FORMAT,
    "format_version": 1,
    **{name: EXAMPLE[name] for name in ("name", "tags", "layout", "widgets")},
}


DESCRIBED = Reference(ref="#/components/schemas/DashboardFile")
ANSWERS: dict[str, Schema | Reference] = dict.fromkeys(MEDIA_TYPES.values(), DESCRIBED)


class ExportQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    format: FileKind = "json"


@dataclass
class ImportOperation(Operation):
    """With what the framework does not know of: a body that may be YAML."""

    def __post_init__(self) -> None:
        if isinstance(self.request_body, RequestBody):
            self.request_body.content[MEDIA_TYPES["yaml"]] = OpenAPIMediaType(schema=DESCRIBED)


class FileBody(JsonBody[Any]):
    """Decodes JSON, or YAML where the Content-Type says so."""

    def decode_bytes(self, value: bytes) -> DashboardFile:
        headers = self.asgi_connection.scope["headers"]
        media_type, _ = content_type_of(values_of(headers, b"content-type"))
        return read_file(value, "json" if media_type == MEDIA_TYPES["json"] else "yaml")


class DashboardFileController(Controller):
    path = ROUTE
    tags = ["dashboards"]

    @get(
        "/{dashboard_id:uuid}/export",
        opt=requires("read"),
        operation_class=query_operation(ExportQuery, ANSWERS),
    )
    async def get_export(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
        dashboard_id: FromPath[UUID],
    ) -> Response[bytes]:
        """Get a dashboard as a file, which can be kept, and imported anywhere."""
        kind = parse_query(request, ExportQuery).format
        row = await get_dashboard(Gallery(tx, caller.principal), dashboard_id)
        name = f"{file_stem(row.name)}.dashboard.{kind}"
        return Response(
            write_file(DashboardFile.of(row), kind),
            media_type=MEDIA_TYPES[kind],
            headers={"content-disposition": f'attachment; filename="{name}"'},
        )

    @post(
        "/import",
        opt=requires("write"),
        dto=FileBody,
        return_dto=None,
        operation_class=ImportOperation,
    )
    async def post_import(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
        data: Annotated[DashboardFile, Body(examples=[Example(value=FILE)])],
    ) -> Response[DashboardView]:
        """Make a dashboard of a file, in JSON, or as application/yaml in YAML: always a new one."""
        gallery = Gallery(tx, caller.principal)
        dashboard = data.dashboard(visibility=default_visibility(caller.principal))

        async def act() -> DashboardView:
            return await gallery.view(await create_dashboard(gallery, dashboard))

        return await once(request, caller, tx, act)
