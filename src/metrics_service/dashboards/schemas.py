"""Dashboards as clients see them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from metrics_service.dashboards.widgets import widget_errors
from metrics_service.db.listing import ListQuery
from metrics_service.errors import FieldError
from metrics_service.fields import Name, ShortText, Tags, Text, stored_size

Visibility = Literal["private", "team", "tenant"]
DashboardSort = Literal["updated_at", "-updated_at", "created_at", "-created_at"]
VersionNumber = Annotated[int, Meta(ge=1, le=2**31 - 1)]

MAX_WIDGETS = 100
MAX_CONFIG_BYTES = 256 * 1024

CONTENT = ("name", "description", "layout", "widgets", "visibility", "tags")
"""What a version of a dashboard keeps."""

Note = Annotated[str, Meta(max_length=1000, description="What this version is for.")]
Layout = Annotated[
    dict[str, Any],
    Meta(description="Id of a widget to its place: x, y, w and h on a grid of 12 columns."),
]
Widgets = Annotated[
    list[dict[str, Any]],
    Meta(
        max_length=MAX_WIDGETS,
        description="Each has id, title, kind (chart, number, table) and query; charts mark and "
        "encoding.",
        # What is sent is kept as it is; the description tells of what it is read as.
        extra_json_schema={"extra": {"items": {"$ref": "#/components/schemas/Widget"}}},
    ),
]


class DashboardParts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a dashboard is made of, however it is sent."""

    name: Name
    description: Text = ""
    layout: Layout = {}
    widgets: Widgets = []
    tags: Tags = []
    note: Note = ""


class DashboardIn(DashboardParts, frozen=True, forbid_unknown_fields=True, kw_only=True):
    visibility: Visibility = "tenant"

    def content(self) -> dict[str, Any]:
        """What a version of the dashboard keeps."""
        return {name: getattr(self, name) for name in CONTENT}


class DashboardChange(DashboardParts, frozen=True, forbid_unknown_fields=True, kw_only=True):
    visibility: Visibility | msgspec.UnsetType = msgspec.UNSET
    version: Annotated[VersionNumber, Meta(description="The version that was read.")]

    def dashboard(self, visibility: Visibility) -> DashboardIn:
        """What it is changed to; nobody else comes to see it because nothing was said of that."""
        parts = {name: getattr(self, name) for name in DashboardParts.__struct_fields__}
        said = visibility if self.visibility is msgspec.UNSET else self.visibility
        return DashboardIn(**parts, visibility=said)


class DashboardCopy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: Name | None = None
    visibility: Visibility | None = None


class RestoreIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    note: Note = ""
    version: Annotated[VersionNumber, Meta(description="The version that was read.")] | None = None


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
    author: DashboardOwner | None
    """None for a key of nobody, and for a user who is gone; `author_id` tells the two apart."""
    note: str
    created_at: datetime


class DashboardQuery(ListQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    tag: ShortText | None = None
    owner_id: UUID | None = None
    visibility: Visibility | None = None
    shared: Annotated[bool, Meta(description="Whether they were shared with one.")] | None = None
    q: (
        Annotated[
            str,
            Meta(min_length=1, max_length=255, description="Part of the name or description."),
        ]
        | None
    ) = None
    sort: DashboardSort = "-updated_at"


class DiffQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    to: (
        Annotated[VersionNumber, Meta(description="The version to compare with; the newest.")]
        | None
    ) = None


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
    # What is too large is not worth a closer look.
    return errors or widget_errors(dashboard.widgets, dashboard.layout)
