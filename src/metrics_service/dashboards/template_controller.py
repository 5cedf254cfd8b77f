"""`/api/v1/dashboard-templates`: the dashboards that the product brings along."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from sqlalchemy.ext.asyncio import AsyncSession

from metrics_service.dashboards.layout import MAX_SHOWN
from metrics_service.dashboards.repository import Gallery
from metrics_service.dashboards.schemas import DashboardIn, DashboardView
from metrics_service.dashboards.templates import TEMPLATES
from metrics_service.dashboards.templates.template import Template
from metrics_service.dashboards.write import create_dashboard, default_visibility
from metrics_service.db.listing import ListQuery
from metrics_service.db.pages import Page, Position
from metrics_service.errors import NotFoundError
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.idempotency import once
from metrics_service.http.listing import answer_page
from metrics_service.http.query import parse_query, query_operation

# Their place in the list is enough: no two have the same.
_NO_ID = UUID(int=0)


class TemplateSummary(msgspec.Struct, frozen=True):
    name: str
    title: str
    description: str
    tags: list[str]
    widget_count: int


class TemplateDashboard(msgspec.Struct, frozen=True):
    """A dashboard that can be posted as it is."""

    name: str
    description: str
    layout: dict[str, dict[str, int]]
    widgets: list[dict[str, Any]]
    tags: list[str]


class DashboardTemplateController(Controller):
    path = "/api/v1/dashboard-templates"
    tags = ["dashboards"]

    @get(opt=requires("read"), operation_class=query_operation(ListQuery))
    async def list_templates(
        self, request: AnyRequest, caller: NamedDependency[Caller]
    ) -> Page[TemplateSummary]:
        """List the templates, the general ones first."""
        places = list(enumerate(TEMPLATES.values()))

        async def fetch(
            after: Position | None, limit: int, offset: int
        ) -> list[tuple[int, Template]]:
            start = int(after.value) + 1 if after is not None else offset  # type: ignore[arg-type]
            return places[start : start + limit]

        async def count() -> int:
            return len(places)

        return await answer_page(
            caller,
            self.path,
            parse_query(request, ListQuery),
            fetch=fetch,
            count=count,
            position=lambda found: Position(found[0], _NO_ID),
            view=lambda found: _summary(found[1]),
        )

    @get("/{name:str}", opt=requires("read"))
    async def get_template(self, name: FromPath[str]) -> TemplateDashboard:
        """Get a template as a dashboard that can be posted."""
        return _dashboard(_template(name))

    @post("/{name:str}/copy", opt=requires("write"))
    async def copy_template(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        tx: NamedDependency[AsyncSession],
        name: FromPath[str],
    ) -> Response[DashboardView]:
        """Make a dashboard of a template."""
        gallery = Gallery(tx, caller.principal)
        dashboard = DashboardIn(
            **msgspec.structs.asdict(_dashboard(_template(name))),
            visibility=default_visibility(caller.principal),
        )

        async def act() -> DashboardView:
            return await gallery.view(await create_dashboard(gallery, dashboard))

        return await once(request, caller, tx, act)


def _summary(template: Template) -> TemplateSummary:
    return TemplateSummary(
        name=template.name,
        title=template.title,
        description=template.description,
        tags=template.tags,
        widget_count=len(template.tiles),
    )


def _dashboard(template: Template) -> TemplateDashboard:
    return TemplateDashboard(
        name=template.title,
        description=template.description,
        layout=template.layout(),
        widgets=template.widgets(),
        tags=template.tags,
    )


def _template(name: str) -> Template:
    """Raises `NotFoundError`."""
    if name not in TEMPLATES:
        raise NotFoundError("template", name[:MAX_SHOWN])
    return TEMPLATES[name]
