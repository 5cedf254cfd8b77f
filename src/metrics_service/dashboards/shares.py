"""Shares of a dashboard: with a user, or by a link that opens it without a key until it ends."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from msgspec import Meta
from sqlalchemy import ColumnElement, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from metrics_service.dashboards.repository import Gallery, living, people
from metrics_service.dashboards.schemas import DashboardOwner
from metrics_service.dashboards.write import get_dashboard
from metrics_service.db.models import DashboardConfig, DashboardShare
from metrics_service.db.pages import Position
from metrics_service.errors import FieldError, ForbiddenError, InvalidBodyError, NotFoundError
from metrics_service.fields import Instant, now
from metrics_service.http.links import KIND, no_link
from metrics_service.tenants.authenticate import Principal

LINK_LIVES = timedelta(days=30)
LONGEST = timedelta(days=366)


class ShareIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    kind: Literal["user", "link"]
    user_id: UUID | None = None
    role: Literal["viewer", "editor"] = "viewer"
    expires_at: (
        Annotated[
            Instant, Meta(description="A year ahead at most; of a link 30 days if not given.")
        ]
        | None
    ) = None


class ShareView(msgspec.Struct, frozen=True):
    id: UUID
    kind: str
    user: DashboardOwner | None
    role: str
    expires_at: datetime | None
    created_by: DashboardOwner | None
    created_at: datetime


class IssuedShare(ShareView, frozen=True):
    """A new share; the token is shown this once, and only a link has one."""

    token: str | None
    url: str | None


class ShareRepository(SQLAlchemyAsyncRepository[DashboardShare]):
    model_type = DashboardShare


async def get_shareable(
    gallery: Gallery, dashboard_id: UUID, *, lock: bool = False
) -> DashboardConfig:
    """Raises `NotFoundError`, or `ForbiddenError` for whoever may not share it."""
    row = await get_dashboard(gallery, dashboard_id, lock=lock)
    if not (await gallery.access(row)).may_share:
        raise ForbiddenError("only the owner of a dashboard and admins share it")
    return row


async def share_dashboard(gallery: Gallery, dashboard_id: UUID, share: ShareIn) -> DashboardShare:
    """Share with a user, in place of how it was shared with them before, or by a new link."""
    row = await get_shareable(gallery, dashboard_id, lock=True)
    if errors := await _errors(gallery.tx, row, share):
        raise InvalidBodyError(errors)
    expires_at = share.expires_at
    if share.kind == KIND:
        # Whole seconds, as the token has them.
        expires_at = (expires_at or now() + LINK_LIVES).replace(microsecond=0)
    elif share.user_id is not None:
        await _revoke(gallery.tx, row.id, DashboardShare.user_id == share.user_id)
    return await ShareRepository(session=gallery.tx).add(
        DashboardShare(
            dashboard_id=row.id,
            kind=share.kind,
            user_id=share.user_id,
            role=share.role,
            expires_at=expires_at,
            created_by=gallery.principal.user_id,
        ),
        auto_refresh=True,
    )


async def revoke_share(gallery: Gallery, dashboard_id: UUID, share_id: UUID) -> None:
    """Take a share back; raises `NotFoundError`, also when it was taken back before."""
    row = await get_shareable(gallery, dashboard_id, lock=True)
    if not await _revoke(gallery.tx, row.id, DashboardShare.id == share_id):
        raise NotFoundError("share", share_id)


async def _revoke(tx: AsyncSession, dashboard_id: UUID, which: ColumnElement[bool]) -> int:
    revoked = await tx.scalars(
        update(DashboardShare)
        .where(
            DashboardShare.dashboard_id == dashboard_id,
            DashboardShare.revoked_at.is_(None),
            which,
        )
        .values(revoked_at=func.now())
        .returning(DashboardShare.id)
        .execution_options(synchronize_session=False)
    )
    return len(revoked.all())


async def _errors(tx: AsyncSession, row: DashboardConfig, share: ShareIn) -> list[FieldError]:
    errors = []
    if share.kind == KIND:
        if share.user_id is not None:
            errors.append(FieldError("is not for a link", field="user_id"))
        if share.role != "viewer":
            errors.append(FieldError("of a link can only be viewer", field="role"))
    elif share.user_id is None:
        errors.append(FieldError("is required", field="user_id"))
    elif share.user_id == row.owner_id:
        errors.append(FieldError("is its owner", field="user_id"))
    elif not await people(tx, [share.user_id]):
        errors.append(FieldError("there is no such user", field="user_id"))
    # A second ahead: what ends within this one has ended when it is first used.
    earliest = now() + timedelta(seconds=1)
    if share.expires_at is not None and not earliest <= share.expires_at <= earliest + LONGEST:
        errors.append(
            FieldError(f"must be in the future, {LONGEST.days} days at most", field="expires_at")
        )
    return errors


async def fetch_shares(
    tx: AsyncSession, dashboard_id: UUID, *, after: Position | None, limit: int, offset: int
) -> list[DashboardShare]:
    """Those that hold, newest first."""
    key = tuple_(DashboardShare.created_at, DashboardShare.id)
    statement = (
        select(DashboardShare)
        .where(DashboardShare.dashboard_id == dashboard_id, *living())
        .order_by(DashboardShare.created_at.desc(), DashboardShare.id.desc())
        .limit(limit)
        .offset(offset)
    )
    if after is not None:
        statement = statement.where(key < tuple_(after.value, after.id))
    return list((await tx.scalars(statement)).all())


async def count_shares(tx: AsyncSession, dashboard_id: UUID) -> int:
    statement = select(func.count()).select_from(DashboardShare)
    statement = statement.where(DashboardShare.dashboard_id == dashboard_id, *living())
    return (await tx.scalars(statement)).one()


async def share_views(tx: AsyncSession, rows: Sequence[DashboardShare]) -> list[ShareView]:
    """The rows with their people, who are fetched in one statement."""
    who = await people(tx, (one for row in rows for one in (row.user_id, row.created_by)))

    def person(user_id: UUID | None) -> DashboardOwner | None:
        return who.get(user_id) if user_id is not None else None

    return [
        ShareView(
            id=row.id,
            kind=row.kind,
            user=person(row.user_id),
            role=row.role,
            expires_at=row.expires_at,
            created_by=person(row.created_by),
            created_at=row.created_at,
        )
        for row in rows
    ]


async def open_link(tx: AsyncSession, principal: Principal) -> DashboardConfig:
    """The dashboard of whoever came by a link; raises `NotFoundError` when it holds no longer.

    The token was verified at the edge; that its share was not taken back is seen here.
    """
    if principal.kind != KIND:
        raise no_link()
    query = (
        select(DashboardConfig)
        .join(DashboardShare, DashboardShare.dashboard_id == DashboardConfig.id)
        .where(DashboardShare.id == principal.id, DashboardShare.kind == KIND, *living())
    )
    row = (await tx.scalars(query)).one_or_none()
    if row is None:
        raise no_link()
    return row
