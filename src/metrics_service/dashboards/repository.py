"""Dashboards and their versions, of those that the caller may see."""

from __future__ import annotations

from uuid import UUID

from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from sqlalchemy import ColumnElement, any_, func, literal, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from metrics_service.dashboards.schemas import (
    DashboardOwner,
    DashboardQuery,
    DashboardVersionView,
    DashboardView,
)
from metrics_service.db.models import DashboardConfig, DashboardVersion, User
from metrics_service.db.pages import Position


class DashboardRepository(SQLAlchemyAsyncRepository[DashboardConfig]):
    model_type = DashboardConfig


class DashboardVersionRepository(SQLAlchemyAsyncRepository[DashboardVersion]):
    model_type = DashboardVersion


class Gallery:
    """The dashboards one principal may see: the tenant's, the team's, the own; admins see all."""

    def __init__(self, tx: AsyncSession, *, user_id: UUID | None, is_admin: bool) -> None:
        self.tx = tx
        self._user_id = user_id
        self._is_admin = is_admin

    def _visible(self) -> list[ColumnElement[bool]]:
        if self._is_admin:
            return []
        own = DashboardConfig.visibility == "tenant"
        if self._user_id is None:
            return [own]
        team = select(User.team).where(User.id == self._user_id, User.team.is_not(None))
        mates = select(User.id).where(User.team.in_(team))
        return [
            or_(
                own,
                DashboardConfig.owner_id == self._user_id,
                (DashboardConfig.visibility == "team") & DashboardConfig.owner_id.in_(mates),
            )
        ]

    async def find(self, dashboard_id: UUID, *, lock: bool = False) -> DashboardConfig | None:
        query = select(DashboardConfig).where(DashboardConfig.id == dashboard_id, *self._visible())
        if lock:
            query = query.with_for_update()
        return (await self.tx.scalars(query)).one_or_none()

    async def fetch(
        self, query: DashboardQuery, *, after: Position | None, limit: int, offset: int
    ) -> list[DashboardConfig]:
        column = getattr(DashboardConfig, query.sort.lstrip("-"))
        key = tuple_(column, DashboardConfig.id)
        is_down = query.sort.startswith("-")
        statement = (
            select(DashboardConfig)
            .where(*self._visible(), *self._filters(query))
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
        statement = statement.where(*self._visible(), *self._filters(query))
        return (await self.tx.scalars(statement)).one()

    def _filters(self, query: DashboardQuery) -> list[ColumnElement[bool]]:
        return [literal(query.tag) == any_(DashboardConfig.tags)] if query.tag is not None else []

    async def views(self, rows: list[DashboardConfig]) -> list[DashboardView]:
        """The rows with their owners, who are fetched in one statement."""
        ids = {row.owner_id for row in rows if row.owner_id is not None}
        users = await self.tx.scalars(select(User).where(User.id.in_(ids)))
        owners = {user.id: DashboardOwner(user.id, user.email, user.name) for user in users}
        return [_view(row, owners) for row in rows]

    async def view(self, row: DashboardConfig) -> DashboardView:
        return (await self.views([row]))[0]


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


async def fetch_versions(
    tx: AsyncSession, dashboard_id: UUID, *, before: int | None, limit: int, offset: int
) -> list[DashboardVersion]:
    """Versions, newest first."""
    statement = (
        select(DashboardVersion)
        .where(DashboardVersion.dashboard_id == dashboard_id)
        .order_by(DashboardVersion.version.desc())
        .limit(limit)
        .offset(offset)
    )
    if before is not None:
        statement = statement.where(DashboardVersion.version < before)
    return list((await tx.scalars(statement)).all())


async def count_versions(tx: AsyncSession, dashboard_id: UUID) -> int:
    statement = select(func.count()).select_from(DashboardVersion)
    return (await tx.scalars(statement.where(DashboardVersion.dashboard_id == dashboard_id))).one()


async def find_version(
    tx: AsyncSession, dashboard_id: UUID, version: int
) -> DashboardVersion | None:
    return (
        await tx.scalars(
            select(DashboardVersion).where(
                DashboardVersion.dashboard_id == dashboard_id, DashboardVersion.version == version
            )
        )
    ).one_or_none()


def version_view(row: DashboardVersion) -> DashboardVersionView:
    return DashboardVersionView(
        version=row.version,
        name=row.name,
        description=row.description,
        layout=row.layout,
        widgets=row.widgets,
        visibility=row.visibility,
        tags=row.tags,
        author_id=row.author_id,
        created_at=row.created_at,
    )
