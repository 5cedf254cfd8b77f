"""Identities and the rules about them, as administrators see and change them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from metrics_service.db.listing import ListQuery
from metrics_service.fields import Email, ShortText
from metrics_service.ingest.known_people import RuleKind

DOMAIN = r"^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,63}$(?!\n)"
Domain = Annotated[str, Meta(max_length=253, pattern=DOMAIN, examples=["example.com"])]


class Person(msgspec.Struct, frozen=True):
    id: UUID
    email: str | None
    name: str | None


class IdentityView(msgspec.Struct, frozen=True):
    """What telemetry claims, by which a session's user is sought."""

    id: UUID
    kind: str
    """`email`, or the attribute that claims it."""
    value: str
    user: Person | None
    """Whose sessions with this claim are, unless the key that sent them proves otherwise."""
    user_source: Literal["assigned", "rule", "claim"] | None
    rule_id: UUID | None
    sessions: int
    first_session_at: datetime | None
    last_session_at: datetime | None
    created_at: datetime
    assigned_at: datetime | None
    assigned_by: UUID | None


class IdentityQuery(ListQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    kind: (
        Annotated[
            ShortText,
            Meta(
                description="`email`, or the attribute that claims it: `user.id`, `installation.id`."
            ),
        ]
        | None
    ) = None
    value: Annotated[ShortText, Meta(description="The claim's very words.")] | None = None
    user_id: Annotated[UUID, Meta(description="Assigned to, or made for, this user.")] | None = None
    is_assigned: Annotated[bool, Meta(description="Whether somebody said whose it is.")] | None = (
        None
    )
    sort: Literal["created_at", "-created_at"] = "-created_at"


class Chosen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A user, named by id or by email; an email that nobody has becomes a user."""

    user_id: UUID | None | UnsetType = UNSET
    user_email: Email | UnsetType = UNSET


class Assignment(Chosen, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whose an identity is; `user_id: null` takes back what was assigned."""


class Followed(msgspec.Struct, frozen=True):
    """How far past sessions have followed a change."""

    moved_sessions: int
    is_complete: bool
    """If not, the server goes on; what was cut off goes on when the same is asked again."""


class AssignedIdentity(msgspec.Struct, frozen=True):
    identity: IdentityView
    past: Followed


class RuleIn(Chosen, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whose sessions are whose claims fit; of several rules the most exact decides."""

    kind: RuleKind
    value: Annotated[
        ShortText, Meta(description="An account's id, a domain of emails, or the id of a key.")
    ]
    to_domain: (
        Annotated[
            Domain, Meta(description="The same name at this domain; for `email_domain` alone.")
        ]
        | None
    ) = None


class RuleView(msgspec.Struct, frozen=True):
    id: UUID
    kind: RuleKind
    value: str
    user: Person | None
    to_domain: str | None
    created_by: UUID | None
    created_at: datetime


class MadeRule(msgspec.Struct, frozen=True):
    rule: RuleView
    past: Followed


class Unclaimed(msgspec.Struct, frozen=True):
    """Sessions of telemetry that claim nobody, by the key that sent them."""

    key_id: str | None
    sessions: int
    first_session_at: datetime
    last_session_at: datetime
    user_source: str | None


class UnclaimedList(msgspec.Struct, frozen=True):
    data: list[Unclaimed]
