"""Changes to dashboards: each is a version, none overwrites what its author did not see."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession

from metrics_service.dashboards.repository import DashboardRepository, Gallery, people
from metrics_service.dashboards.schemas import (
    CONTENT,
    DashboardChange,
    DashboardCopy,
    DashboardIn,
    RestoreIn,
    Visibility,
    dashboard_errors,
)
from metrics_service.dashboards.versions import DashboardVersionRepository, get_version
from metrics_service.dashboards.widgets import read_widget
from metrics_service.db.models import DashboardConfig, DashboardVersion
from metrics_service.errors import (
    ConflictError,
    FieldError,
    ForbiddenError,
    InvalidBodyError,
    NotFoundError,
)
from metrics_service.tenants.authenticate import Principal


async def create_dashboard(gallery: Gallery, dashboard: DashboardIn) -> DashboardConfig:
    """Raises `InvalidBodyError`."""
    owner_id = gallery.principal.user_id
    await _refuse_invalid(gallery.tx, dashboard, has_user=owner_id is not None)
    row = DashboardConfig(**dashboard.content(), owner_id=owner_id, version=1)
    row = await DashboardRepository(session=gallery.tx).add(row, auto_refresh=True)
    await _keep_version(gallery, row, dashboard.note)
    return row


async def copy_dashboard(
    gallery: Gallery, dashboard_id: UUID, copy: DashboardCopy
) -> DashboardConfig:
    """Make a dashboard of the caller's own of one that it sees; raises `InvalidBodyError`."""
    row = await get_dashboard(gallery, dashboard_id)
    own = DashboardIn(
        name=copy.name or row.name,
        description=row.description,
        layout=row.layout,
        widgets=row.widgets,
        visibility=copy.visibility or default_visibility(gallery.principal),
        tags=row.tags,
    )
    return await create_dashboard(gallery, own)


def default_visibility(principal: Principal) -> Any:
    """Of what nobody said who sees it: its owner alone, if there is one."""
    return "tenant" if principal.user_id is None else "private"


async def replace_dashboard(
    gallery: Gallery, dashboard_id: UUID, change: DashboardChange
) -> DashboardConfig:
    """Raises `ConflictError` when `change.version` is not the current one."""
    row = await get_dashboard(gallery, dashboard_id, lock=True)
    changed = change.dashboard(cast("Visibility", row.visibility))
    await _refuse_forbidden(gallery, row, changed.visibility)
    await _refuse_invalid(gallery.tx, changed, has_user=row.owner_id is not None)
    _refuse_stale(row, change.version)
    return await _change(gallery, row, changed)


async def restore_dashboard(
    gallery: Gallery, dashboard_id: UUID, version: int, asked: RestoreIn
) -> DashboardConfig:
    """Make an old version the newest; what came between stays in the history.

    One that was kept before dashboards were checked as they are now may be refused.
    """
    row = await get_dashboard(gallery, dashboard_id, lock=True)
    old = await get_version(gallery.tx, dashboard_id, version, newest=row.version)
    await _refuse_forbidden(gallery, row, old.visibility)
    note = asked.note or f"version {version} restored"
    restored = DashboardIn(**{name: getattr(old, name) for name in CONTENT}, note=note)
    await _refuse_invalid(gallery.tx, restored, has_user=row.owner_id is not None)
    if asked.version is not None:
        _refuse_stale(row, asked.version)
    return await _change(gallery, row, restored)


async def delete_dashboard(gallery: Gallery, dashboard_id: UUID) -> None:
    """Delete a dashboard with its versions and shares."""
    row = await get_dashboard(gallery, dashboard_id, lock=True)
    if not (await gallery.access(row)).may_publish:
        raise ForbiddenError("this dashboard was shared with you, and is not yours to delete")
    await gallery.tx.delete(row)
    await gallery.tx.flush()


async def get_dashboard(
    gallery: Gallery, dashboard_id: UUID, *, lock: bool = False
) -> DashboardConfig:
    """Raises `NotFoundError`, also for one that the caller may not see."""
    row = await gallery.find(dashboard_id, lock=lock)
    if row is None:
        raise NotFoundError("dashboard", dashboard_id)
    return row


async def _change(gallery: Gallery, row: DashboardConfig, change: DashboardIn) -> DashboardConfig:
    for name, value in change.content().items():
        setattr(row, name, value)
    row.version += 1
    row.updated_at = func.clock_timestamp()
    await gallery.tx.flush()
    await gallery.tx.refresh(row)
    await _keep_version(gallery, row, change.note)
    return row


async def _keep_version(gallery: Gallery, row: DashboardConfig, note: str) -> None:
    kept = DashboardVersion(
        dashboard_id=row.id,
        version=row.version,
        author_id=gallery.principal.user_id,
        note=note,
        **{name: getattr(row, name) for name in CONTENT},
    )
    await DashboardVersionRepository(session=gallery.tx).add(kept)


def _refuse_stale(row: DashboardConfig, version: int) -> None:
    if row.version != version:
        raise ConflictError(
            f"the dashboard is at version {row.version} by now; read it and change that"
        )


async def _refuse_forbidden(gallery: Gallery, row: DashboardConfig, visibility: str) -> None:
    access = await gallery.access(row)
    if not access.may_edit:
        raise ForbiddenError("this dashboard was shared with you to be read, not to be changed")
    if visibility != row.visibility and not access.may_publish:
        raise ForbiddenError("this dashboard was shared with you; who sees it is not yours to say")


async def _refuse_invalid(tx: AsyncSession, dashboard: DashboardIn, *, has_user: bool) -> None:
    errors = dashboard_errors(dashboard, has_user=has_user)
    if errors := errors or await _errors_of_users(tx, dashboard.widgets):
        raise InvalidBodyError(errors)


async def _errors_of_users(tx: AsyncSession, widgets: list[dict[str, Any]]) -> list[FieldError]:
    """Filters by users whom this tenant does not have."""
    named = {
        f"widgets[{place}].query.filters.user_id": set(map(UUID, values))
        for place, raw in enumerate(widgets)
        if (values := read_widget(raw).query.values("user_id"))
    }
    known = await people(tx, set().union(*named.values()))
    return [
        FieldError("there is no such user", field=field)
        for field, ids in named.items()
        if not ids <= known.keys()
    ]
