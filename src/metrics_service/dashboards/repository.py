"""Dashboards that the caller may see, and what the caller may do with one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias
from uuid import UUID

import msgspec
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    any_,
    false,
    func,
    literal,
    or_,
    select,
    true,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncSession

from metrics_service.dashboards.schemas import DashboardOwner, DashboardQuery, DashboardView
from metrics_service.db.models import DashboardConfig, DashboardShare, User
from metrics_service.db.pages import Position
from metrics_service.tenants.authenticate import Principal

Viewer: TypeAlias = UUID | BindParameter[UUID] | None


class DashboardRepository(SQLAlchemyAsyncRepository[DashboardConfig]):
    model_type = DashboardConfig


class Access(msgspec.Struct, frozen=True):
    """What one principal may do with a dashboard that it sees."""

    may_share: bool
    """Its owner, and admins."""
    may_publish: bool
    """Decide who sees it, and delete it: whoever sees it without a share."""
    may_edit: bool
    """Change what is in it: those, and whom it was shared with as an editor."""


def by_right(user_id: Viewer, *, is_admin: bool) -> ColumnElement[bool]:
    """Whether a dashboard is a user's to see without a share; of None there is no user."""
    if is_admin:
        return true()
    own = DashboardConfig.visibility == "tenant"
    if user_id is None:
        return own
    team = select(User.team).where(User.id == user_id, User.team.is_not(None))
    mates = select(User.id).where(User.team.in_(team))
    return or_(
        own,
        DashboardConfig.owner_id == user_id,
        (DashboardConfig.visibility == "team") & DashboardConfig.owner_id.in_(mates),
    )


def by_share(user_id: Viewer, *, role: str | None = None) -> ColumnElement[bool]:
    """Whether a dashboard is shared with a user."""
    if user_id is None:
        return false()
    shared = select(DashboardShare.dashboard_id).where(DashboardShare.user_id == user_id, *living())
    if role is not None:
        shared = shared.where(DashboardShare.role == role)
    return DashboardConfig.id.in_(shared)


class Gallery:
    """The dashboards one principal may see: the tenant's, the team's, the own, those shared with it.

    Admins see all.
    """

    def __init__(self, tx: AsyncSession, principal: Principal) -> None:
        self.tx = tx
        self.principal = principal
        self._user_id = principal.user_id
        self._is_admin = principal.allows("admin")

    def _visible(self) -> ColumnElement[bool]:
        return or_(by_right(self._user_id, is_admin=self._is_admin), by_share(self._user_id))

    async def find(self, dashboard_id: UUID, *, lock: bool = False) -> DashboardConfig | None:
        query = select(DashboardConfig).where(DashboardConfig.id == dashboard_id, self._visible())
        if lock:
            query = query.with_for_update()
        return (await self.tx.scalars(query)).one_or_none()

    async def access(self, row: DashboardConfig) -> Access:
        """What may be done with a dashboard that was found; hold its lock to rely on it."""
        query = select(
            by_right(self._user_id, is_admin=self._is_admin), by_share(self._user_id, role="editor")
        )
        is_by_right, is_editor = (
            await self.tx.execute(
                query.select_from(DashboardConfig).where(DashboardConfig.id == row.id)
            )
        ).one()
        is_owner = self._user_id is not None and row.owner_id == self._user_id
        return Access(
            may_share=self._is_admin or is_owner,
            may_publish=is_by_right,
            may_edit=is_by_right or is_editor,
        )

    async def fetch(
        self, query: DashboardQuery, *, after: Position | None, limit: int, offset: int
    ) -> list[DashboardConfig]:
        column = getattr(DashboardConfig, query.sort.lstrip("-"))
        key = tuple_(column, DashboardConfig.id)
        is_down = query.sort.startswith("-")
        statement = (
            select(DashboardConfig)
            .where(self._visible(), *self._filters(query))
            .order_by(
                *(part.desc() if is_down else part.asc() for part in (column, DashboardConfig.id))
            )
            .limit(limit)
            .offset(offset)
        )
        if after is not None:
            position = tuple_(after.value, after.id)
            statement = statement.where(key < position if is_down else key > position)
        return list((await self.tx.scalars(statement)).all())

    async def count(self, query: DashboardQuery) -> int:
        statement = select(func.count()).select_from(DashboardConfig)
        statement = statement.where(self._visible(), *self._filters(query))
        return (await self.tx.scalars(statement)).one()

    def _filters(self, query: DashboardQuery) -> list[ColumnElement[bool]]:
        wanted: list[ColumnElement[bool]] = []
        if query.tag is not None:
            wanted.append(literal(query.tag) == any_(DashboardConfig.tags))
        if query.owner_id is not None:
            wanted.append(DashboardConfig.owner_id == query.owner_id)
        if query.visibility is not None:
            wanted.append(DashboardConfig.visibility == query.visibility)
        if query.shared is not None:
            wanted.append(by_share(self._user_id) if query.shared else ~by_share(self._user_id))
        if query.q is not None:
            wanted.append(
                or_(
                    DashboardConfig.name.icontains(query.q, autoescape=True),
                    DashboardConfig.description.icontains(query.q, autoescape=True),
                )
            )
        return wanted

    async def views(self, rows: list[DashboardConfig]) -> list[DashboardView]:
        """The rows with their owners, who are fetched in one statement."""
        owners = await people(self.tx, (row.owner_id for row in rows))
        return [_view(row, owners) for row in rows]

    async def view(self, row: DashboardConfig) -> DashboardView:
        return (await self.views([row]))[0]


def living() -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """The conditions of a share that was not taken back and has not ended."""
    ends = DashboardShare.expires_at
    return DashboardShare.revoked_at.is_(None), or_(ends.is_(None), ends > func.now())


async def people(tx: AsyncSession, ids: Iterable[UUID | None]) -> dict[UUID, DashboardOwner]:
    """Those of the users who are there, by id, in one statement."""
    wanted = {user_id for user_id in ids if user_id is not None}
    if not wanted:
        return {}
    users = await tx.scalars(select(User).where(User.id == any_(literal(list(wanted)))))
    return {user.id: DashboardOwner(user.id, user.email, user.name) for user in users}


def _view(row: DashboardConfig, owners: dict[UUID, DashboardOwner]) -> DashboardView:
    return DashboardView(
        id=row.id,
        name=row.name,
        description=row.description,
        layout=row.layout,
        widgets=row.widgets,
        visibility=row.visibility,
        tags=row.tags,
        owner=owners.get(row.owner_id) if row.owner_id is not None else None,
        version=row.version,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
