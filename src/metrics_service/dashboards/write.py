"""Changes to dashboards: each is a version, none overwrites what its author did not see."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import func

from metrics_service.dashboards.repository import (
    DashboardRepository,
    DashboardVersionRepository,
    Gallery,
    find_version,
)
from metrics_service.dashboards.schemas import DashboardChange, DashboardIn, dashboard_errors
from metrics_service.db.models import DashboardConfig, DashboardVersion
from metrics_service.errors import ConflictError, InvalidBodyError, NotFoundError
from metrics_service.tenants.authenticate import Principal

CONTENT = ("name", "description", "layout", "widgets", "visibility", "tags")


async def create_dashboard(
    gallery: Gallery, principal: Principal, dashboard: DashboardIn
) -> DashboardConfig:
    """Raises `InvalidBodyError`."""
    _refuse_invalid(dashboard, has_user=principal.user_id is not None)
    row = DashboardConfig(**dashboard.content(), owner_id=principal.user_id, version=1)
    row = await DashboardRepository(session=gallery.tx).add(row, auto_refresh=True)
    await _keep_version(gallery, row, principal)
    return row


async def replace_dashboard(
    gallery: Gallery, principal: Principal, dashboard_id: UUID, change: DashboardChange
) -> DashboardConfig:
    """Raises `ConflictError` when `change.version` is not the current one."""
    row = await get_dashboard(gallery, dashboard_id, lock=True)
    _refuse_invalid(change, has_user=row.owner_id is not None)
    if row.version != change.version:
        raise ConflictError(
            f"the dashboard is at version {row.version} by now; read it and change that"
        )
    return await _change(gallery, principal, row, change.content())


async def restore_dashboard(
    gallery: Gallery, principal: Principal, dashboard_id: UUID, version: int
) -> DashboardConfig:
    """Make an old version the newest; what came between stays in the history."""
    row = await get_dashboard(gallery, dashboard_id, lock=True)
    # A number that no version can have is not one that the database could look for.
    old = (
        await find_version(gallery.tx, dashboard_id, version)
        if 1 <= version <= row.version
        else None
    )
    if old is None:
        raise NotFoundError("version", version)
    return await _change(gallery, principal, row, {name: getattr(old, name) for name in CONTENT})


async def delete_dashboard(gallery: Gallery, dashboard_id: UUID) -> None:
    """Delete a dashboard with its versions."""
    row = await get_dashboard(gallery, dashboard_id, lock=True)
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


async def _change(
    gallery: Gallery, principal: Principal, row: DashboardConfig, content: dict[str, Any]
) -> DashboardConfig:
    for name, value in content.items():
        setattr(row, name, value)
    row.version += 1
    row.updated_at = func.clock_timestamp()
    await gallery.tx.flush()
    await gallery.tx.refresh(row)
    await _keep_version(gallery, row, principal)
    return row


async def _keep_version(gallery: Gallery, row: DashboardConfig, principal: Principal) -> None:
    kept = DashboardVersion(
        dashboard_id=row.id,
        version=row.version,
        author_id=principal.user_id,
        **{name: getattr(row, name) for name in CONTENT},
    )
    await DashboardVersionRepository(session=gallery.tx).add(kept)


def _refuse_invalid(dashboard: DashboardIn, *, has_user: bool) -> None:
    if errors := dashboard_errors(dashboard, has_user=has_user):
        raise InvalidBodyError(errors)
