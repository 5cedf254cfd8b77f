"""API keys as the tenant's own administrators see them."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from metrics_service.fields import Name

Scope = Literal["ingest", "read", "write", "admin"]


class KeyIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: Name
    scopes: Annotated[list[Scope], Meta(min_length=1, max_length=4)]
    expires_in_days: Annotated[int, Meta(ge=1, le=3650)] | None = None
    user_id: UUID | None = None
