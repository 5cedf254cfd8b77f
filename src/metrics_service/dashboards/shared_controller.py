"""`/api/v1/shared/{token}`: a dashboard for whoever has its link."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from litestar import Controller, get
from litestar.di import NamedDependency
from sqlalchemy.ext.asyncio import AsyncSession

from metrics_service.dashboards.shares import open_link
from metrics_service.dashboards.widgets import read_widget
from metrics_service.errors import InvalidBodyError
from metrics_service.http.dependencies import Caller, requires
from metrics_service.http.links import PREFIX

NOBODY: list[dict[str, list[str]]] = [{}]
"""In OpenAPI: no credential is required."""


class SharedDashboard(msgspec.Struct, frozen=True):
    """What a link shows: no owner, no history, and a label in place of each user."""

    name: str
    description: str
    layout: dict[str, Any]
    widgets: list[Any]
    tags: list[str]
    updated_at: datetime
    expires_at: datetime | None


class SharedController(Controller):
    path = f"{PREFIX}{{token:str}}"
    tags = ["shared"]
    opt = requires(None)
    security = NOBODY

    @get()
    async def get_shared(
        self, caller: NamedDependency[Caller], tx: NamedDependency[AsyncSession]
    ) -> SharedDashboard:
        """Get the dashboard of a link, without any credential."""
        row = await open_link(tx, caller.principal)
        widgets = {raw["id"]: shown for raw in row.widgets if (shown := _shown(raw, caller))}
        return SharedDashboard(
            name=row.name,
            description=row.description,
            layout={name: place for name, place in row.layout.items() if name in widgets},
            widgets=list(widgets.values()),
            tags=row.tags,
            updated_at=row.updated_at,
            expires_at=caller.principal.expires_at,
        )


def _shown(raw: Any, caller: Caller) -> dict[str, Any] | None:
    """The widget without ids of users; None for one whose parts are not known."""
    try:
        users = read_widget(raw).query.values("user_id")
    except InvalidBodyError:
        return None
    if not users:
        return dict(raw)
    links, share_id = caller.database.links, caller.principal.id
    query = raw["query"]
    labels = [links.label(share_id, UUID(user_id)) for user_id in users]
    return {**raw, "query": {**query, "filters": {**query["filters"], "user_id": labels}}}
