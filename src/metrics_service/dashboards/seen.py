"""What comes before every answer of a dashboard: whether it may be seen, and of which data.

The one statement is compiled of the same conditions that the ORM asks with, because that takes five
times as long to ask, and all else may be answered from what is kept.
"""

from __future__ import annotations

from functools import cache
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Text, Uuid, bindparam, cast, literal_column, or_, select
from sqlalchemy.dialects.postgresql import asyncpg

from metrics_service.dashboards.repository import by_right, by_share
from metrics_service.db.models import DashboardConfig
from metrics_service.db.tenancy import ContextConnection
from metrics_service.errors import NotFoundError
from metrics_service.rollups.version import READ_VERSION
from metrics_service.tenants.authenticate import Principal

_DIALECT = asyncpg.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]  # not typed


class Seen(msgspec.Struct, frozen=True):
    """A dashboard that may be seen."""

    widgets: str
    """As they are stored, in JSON."""
    version: int
    """Of the tenant's data."""


class _Statement(msgspec.Struct, frozen=True):
    text: str
    names: tuple[str, ...]
    constants: dict[str, Any]


@cache
def _statement(*, is_admin: bool, has_user: bool) -> _Statement:
    viewer = bindparam("viewer", type_=Uuid()) if has_user else None
    visible = or_(by_right(viewer, is_admin=is_admin), by_share(viewer))
    compiled = (
        select(cast(DashboardConfig.widgets, Text), literal_column(f"({READ_VERSION})"))
        .where(DashboardConfig.id == bindparam("dashboard", type_=Uuid()), visible)
        .compile(dialect=_DIALECT)
    )
    return _Statement(str(compiled), tuple(compiled.positiontup or ()), dict(compiled.params))


async def get_seen(connection: ContextConnection, principal: Principal, dashboard_id: UUID) -> Seen:
    """Raises `NotFoundError`, also for one that may not be seen."""
    user_id = principal.user_id
    statement = _statement(is_admin=principal.allows("admin"), has_user=user_id is not None)
    values = {**statement.constants, "viewer": user_id, "dashboard": dashboard_id}
    row = await connection.fetchrow(statement.text, *(values[name] for name in statement.names))
    if row is None:
        raise NotFoundError("dashboard", dashboard_id)
    return Seen(row[0], row[1])
