"""The tables that are reached through the ORM: rare reads and writes of configuration.

Hot tables have their SQL in the repositories. What these models say is held against the migrations
by a test.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from advanced_alchemy.base import DefaultBase
from sqlalchemy import ARRAY, DateTime, FetchedValue, ForeignKeyConstraint, Integer, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column


class User(DefaultBase):
    __tablename__ = "users"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True, server_default=FetchedValue())
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=FetchedValue())
    email: Mapped[str | None] = mapped_column(Text)
    name: Mapped[str | None] = mapped_column(Text)
    role: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    team: Mapped[str | None] = mapped_column(Text)
    last_seen_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=FetchedValue()
    )
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=FetchedValue()
    )


class DashboardConfig(DefaultBase):
    __tablename__ = "dashboard_configs"

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True, server_default=FetchedValue())
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=FetchedValue())
    name: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    layout: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=FetchedValue())
    widgets: Mapped[list[Any]] = mapped_column(JSONB, server_default=FetchedValue())
    visibility: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=FetchedValue())
    owner_id: Mapped[UUID | None]
    version: Mapped[int] = mapped_column(Integer, server_default=FetchedValue())
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=FetchedValue()
    )
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=FetchedValue()
    )


class DashboardVersion(DefaultBase):
    __tablename__ = "dashboard_versions"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "dashboard_id"],
            ["dashboard_configs.tenant_id", "dashboard_configs.id"],
            name="dashboard_versions_config_fk",
            ondelete="CASCADE",
        ),
    )

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True, server_default=FetchedValue())
    dashboard_id: Mapped[UUID] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    description: Mapped[str] = mapped_column(Text)
    layout: Mapped[dict[str, Any]] = mapped_column(JSONB)
    widgets: Mapped[list[Any]] = mapped_column(JSONB)
    visibility: Mapped[str] = mapped_column(Text)
    tags: Mapped[list[str]] = mapped_column(ARRAY(Text))
    author_id: Mapped[UUID | None]
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=FetchedValue()
    )
    note: Mapped[str] = mapped_column(Text, server_default=FetchedValue())


class DashboardShare(DefaultBase):
    __tablename__ = "dashboard_shares"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "dashboard_id"],
            ["dashboard_configs.tenant_id", "dashboard_configs.id"],
            name="dashboard_shares_config_fk",
            ondelete="CASCADE",
        ),
    )

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True, server_default=FetchedValue())
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=FetchedValue())
    dashboard_id: Mapped[UUID]
    kind: Mapped[str] = mapped_column(Text)
    user_id: Mapped[UUID | None]
    role: Mapped[str] = mapped_column(Text, server_default=FetchedValue())
    expires_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    created_by: Mapped[UUID | None]
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=FetchedValue()
    )
    revoked_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
