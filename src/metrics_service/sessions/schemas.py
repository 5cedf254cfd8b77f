"""Sessions as clients see them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from metrics_service.db.listing import After, Before, ListQuery
from metrics_service.errors import FieldError
from metrics_service.fields import (
    Instant,
    Metadata,
    ShortText,
    Tags,
    metadata_error,
    now,
    window_error,
)
from metrics_service.ingest.records import SessionRecord

SessionSort = Literal[
    "started_at",
    "-started_at",
    "updated_at",
    "-updated_at",
    "cost_usd_micros",
    "-cost_usd_micros",
    "tool_call_count",
    "-tool_call_count",
]

SEARCHED = """Text that is found, in any case, in the external id, the repository, the branch, a tag, or
the person's name or email. Reads every session in question: give a time."""


class SessionUser(msgspec.Struct, frozen=True):
    """The person a session belongs to; without an email where only telemetry knows them."""

    id: UUID
    email: str | None
    name: str | None


class SessionView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A session with its running totals; what only telemetry can say is left out where unknown."""

    id: UUID
    agent: str
    external_id: str
    session_type: str | None
    started_at: datetime
    ended_at: datetime | None
    user_id: UUID | None
    user_email: str | None
    user: SessionUser | None
    repository: str | None
    branch: str | None
    team: str | None
    tags: list[str]
    productivity_score: float | None
    metadata: msgspec.Raw
    status: Literal["open", "closed"]
    duration_ms: float
    tool_call_count: int
    tool_error_count: int
    model_call_count: int
    input_tokens: int
    output_tokens: int
    cost_usd_micros: int
    lines_added: int
    lines_removed: int
    created_at: datetime
    updated_at: datetime
    tool_reject_count: int
    model_error_count: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    prompt_count: int
    turn_count: int
    compactions: int
    commits: int
    pull_requests: int
    active_seconds_user: float
    active_seconds_agent: float
    signals: list[str]
    is_subagent: bool = False
    parent_session_id: UUID | None = None
    start_type: str | None = None
    end_reason: str | None = None
    project: str | None = None
    environment: str | None = None
    commit_sha: str | None = None
    cost_center: str | None = None
    workspace_paths: list[str] | None = None
    agent_version: str | None = None
    entrypoint: str | None = None
    terminal_type: str | None = None
    os_type: str | None = None
    os_version: str | None = None
    host_arch: str | None = None
    surface: str | None = None
    permission_mode: str | None = None
    sandbox_policy: str | None = None
    approval_policy: str | None = None
    reasoning_effort: str | None = None
    user_key: str | None = None
    user_key_kind: str | None = None
    user_source: Literal["key", "assigned", "rule", "claim", "stated"] | None = None
    """How the user is known: by the key that sent it, because somebody assigned what telemetry
    claims or made a rule, by the claim itself, or because a client or a person stated it."""
    claims: msgspec.Raw | None = None
    resource: msgspec.Raw | None = None
    """Of one session alone; lists leave it out."""


class SessionQuery(ListQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    started_after: After | None = None
    started_before: Before | None = None
    user_id: UUID | None = None
    agent: ShortText | None = None
    external_id: ShortText | None = None
    session_type: ShortText | None = None
    tag: ShortText | None = None
    status: Literal["open", "closed"] | None = None
    repository: ShortText | None = None
    branch: ShortText | None = None
    team: ShortText | None = None
    project: ShortText | None = None
    environment: ShortText | None = None
    parent_session_id: UUID | None = None
    has_errors: Annotated[bool, Meta(description="Whether a call of theirs failed.")] | None = None
    q: Annotated[ShortText, Meta(description=SEARCHED)] | None = None
    sort: Annotated[SessionSort, Meta(description="A minus sorts downwards.")] = "-started_at"


class SessionPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What may be changed by hand; a field left out stays, null empties it."""

    session_type: ShortText | None | UnsetType = UNSET
    ended_at: Instant | None | UnsetType = UNSET
    repository: ShortText | None | UnsetType = UNSET
    branch: ShortText | None | UnsetType = UNSET
    team: ShortText | None | UnsetType = UNSET
    productivity_score: Annotated[float, Meta(ge=0, le=100)] | None | UnsetType = UNSET
    started_at: Instant | UnsetType = UNSET
    user_id: UUID | None | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET

    def given(self) -> dict[str, Any]:
        """The fields that were sent."""
        return {
            name: value
            for name in self.__struct_fields__
            if (value := getattr(self, name)) is not UNSET
        }


def session_error(record: SessionRecord, moment: datetime) -> FieldError | None:
    """What the types of a session cannot say."""
    if record.user_id is not None and record.user_email is not None:
        return FieldError("give user_id or user_email, not both", field="user_id")
    return (
        window_error("started_at", record.started_at, moment)
        or window_error("ended_at", record.ended_at, moment)
        or _order_error(record.started_at, record.ended_at)
        or metadata_error(record.metadata)
    )


def _order_error(started_at: datetime, ended_at: datetime | None) -> FieldError | None:
    if ended_at is not None and ended_at < started_at:
        return FieldError("is before started_at", field="ended_at")
    return None


def patch_errors(patch: SessionPatch) -> list[FieldError]:
    """As `session_error`, for a change."""
    given = patch.given()
    moment = now()
    found = [
        window_error("started_at", given.get("started_at"), moment),
        window_error("ended_at", given.get("ended_at"), moment),
        metadata_error(given.get("metadata")),
    ]
    return [error for error in found if error is not None]
