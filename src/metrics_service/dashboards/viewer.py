"""Whom a gallery is for."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from metrics_service.dashboards.repository import Gallery
from metrics_service.http.dependencies import Caller


def gallery_of(tx: AsyncSession, caller: Caller) -> Gallery:
    """The dashboards that the caller may see."""
    principal = caller.principal
    return Gallery(tx, user_id=principal.user_id, is_admin=principal.allows("admin"))
