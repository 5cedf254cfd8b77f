"""Dashboards as clients see them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from metrics_service.db.listing import ListQuery
from metrics_service.errors import FieldError
from metrics_service.fields import Name, ShortText, Tags, Text, stored_size

Visibility = Literal["private", "team", "tenant"]
DashboardSort = Literal["updated_at", "-updated_at", "created_at", "-created_at"]

MAX_WIDGETS = 100
MAX_CONFIG_BYTES = 256 * 1024


class DashboardIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: Name
    description: Text = ""
    layout: dict[str, Any] = {}
    widgets: Annotated[list[dict[str, Any]], Meta(max_length=MAX_WIDGETS)] = []
    visibility: Visibility = "tenant"
    tags: Tags = []

    def content(self) -> dict[str, Any]:
        """What a version of the dashboard keeps."""
        names = ("name", "description", "layout", "widgets", "visibility", "tags")
        return {name: getattr(self, name) for name in names}


class DashboardChange(DashboardIn, frozen=True, forbid_unknown_fields=True, kw_only=True):
    version: Annotated[int, Meta(ge=1, le=2**31 - 1, description="The version that was read.")]


class DashboardOwner(msgspec.Struct, frozen=True):
    id: UUID
    email: str | None
    name: str | None


class DashboardView(msgspec.Struct, frozen=True):
    id: UUID
    name: str
    description: str
    layout: dict[str, Any]
    widgets: list[Any]
    visibility: str
    tags: list[str]
    owner: DashboardOwner | None
    version: int
    created_at: datetime
    updated_at: datetime


class DashboardVersionView(msgspec.Struct, frozen=True):
    version: int
    name: str
    description: str
    layout: dict[str, Any]
    widgets: list[Any]
    visibility: str
    tags: list[str]
    author_id: UUID | None
    created_at: datetime


class DashboardQuery(ListQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    tag: ShortText | None = None
    sort: DashboardSort = "-updated_at"


class VersionQuery(ListQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Versions, newest first."""


def dashboard_errors(dashboard: DashboardIn, *, has_user: bool) -> list[FieldError]:
    """What the types of a dashboard cannot say."""
    errors = []
    if dashboard.visibility != "tenant" and not has_user:
        reason = "needs a key that belongs to a user; or use tenant"
        errors.append(FieldError(reason, field="visibility"))
    for field in ("layout", "widgets"):
        size = stored_size(getattr(dashboard, field))
        if size is None:
            errors.append(FieldError("has a number that is too large", field=field))
            continue
        if size > MAX_CONFIG_BYTES:
            errors.append(
                FieldError(f"must not be larger than {MAX_CONFIG_BYTES} bytes", field=field)
            )
    return errors
