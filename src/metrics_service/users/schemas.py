"""People of a tenant, how they sign in, and what they change about that themselves."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

# Those of people; `service` is for machines, which have keys and no password.
Role = Literal["owner", "admin", "editor", "viewer"]

# Longer than any password, so that what is wrong with one is said in its own words.
Password = Annotated[str, Meta(max_length=1000)]


class PasswordIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    current: Password
    new: Password


class NewUser(msgspec.Struct, frozen=True, kw_only=True):
    """A person to be; None leaves what is known of somebody already as it is."""

    email: str
    role: Role | None = None
    name: str | None = None
    team: str | None = None


class Account(msgspec.Struct, frozen=True):
    """Somebody's password as it is kept; None where there is none."""

    user_id: UUID
    email: str | None
    password_hash: str | None


class UserRow(msgspec.Struct, frozen=True):
    """A user as operators see them."""

    id: UUID
    email: str | None
    name: str | None
    role: str
    team: str | None
    can_sign_in: bool
    last_seen_at: datetime | None
