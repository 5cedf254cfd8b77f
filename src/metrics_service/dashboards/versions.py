"""The versions of a dashboard, and what changed between two of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import msgspec
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from metrics_service.dashboards.repository import people
from metrics_service.dashboards.schemas import CONTENT, DashboardVersionView
from metrics_service.db.models import DashboardVersion
from metrics_service.errors import NotFoundError


class DashboardVersionRepository(SQLAlchemyAsyncRepository[DashboardVersion]):
    model_type = DashboardVersion


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


async def get_version(
    tx: AsyncSession, dashboard_id: UUID, version: int, *, newest: int
) -> DashboardVersion:
    """Raises `NotFoundError`."""
    # A number that no version can have is not one that the database could look for.
    row = (
        await tx.scalars(
            select(DashboardVersion).where(
                DashboardVersion.dashboard_id == dashboard_id,
                DashboardVersion.version == (version if 1 <= version <= newest else 0),
            )
        )
    ).one_or_none()
    if row is None:
        raise NotFoundError("version", version)
    return row


async def version_views(
    tx: AsyncSession, rows: Sequence[DashboardVersion]
) -> list[DashboardVersionView]:
    """The rows with their authors, who are fetched in one statement."""
    authors = await people(tx, (row.author_id for row in rows))
    return [
        DashboardVersionView(
            **{name: getattr(row, name) for name in CONTENT},
            version=row.version,
            author_id=row.author_id,
            author=authors.get(row.author_id) if row.author_id is not None else None,
            note=row.note,
            created_at=row.created_at,
        )
        for row in rows
    ]


# -- what changed -----------------------------------------------------------------------------------


class Difference(msgspec.Struct, frozen=True):
    """One value that is another now; null stands for none."""

    path: str
    before: Any
    after: Any


class VersionDiff(msgspec.Struct, frozen=True):
    from_version: int
    to_version: int
    changes: list[Difference]


def differences(before: DashboardVersion, after: DashboardVersion) -> list[Difference]:
    """What changed from one to the other: widgets and places are matched by the widget's id."""
    found: list[Difference] = []
    for name in CONTENT:
        old, new = getattr(before, name), getattr(after, name)
        if name == "widgets" and _have_ids(old) and _have_ids(new):
            found += _of_widgets(old, new)
        else:
            found += _of(name, old, new)
    return found


def _have_ids(widgets: list[Any]) -> bool:
    # Those of before widgets were checked may have none, or one twice.
    ids = [one.get("id") if isinstance(one, dict) else None for one in widgets]
    return all(isinstance(one, str) for one in ids) and len(set(ids)) == len(ids)


def _of_widgets(before: list[Any], after: list[Any]) -> Iterator[Difference]:
    old, new = {one["id"]: one for one in before}, {one["id"]: one for one in after}
    yield from _of("widgets", old, new)
    kept = [name for name in old if name in new]
    order = [name for name in new if name in old]
    if kept != order:
        yield Difference("widgets", kept, order)


def _of(path: str, before: Any, after: Any) -> Iterator[Difference]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in {**before, **after}:
            yield from _of(f"{path}.{name}", before.get(name), after.get(name))
    elif _told(before) != _told(after):
        yield Difference(path, before, after)


def _told(value: Any) -> bytes:
    # As JSON: to Python true is 1.
    return msgspec.json.encode(value, order="deterministic")
