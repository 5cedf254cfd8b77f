"""Events of a session as clients see them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from metrics_service.db.listing import ListQuery
from metrics_service.fields import ShortText


class SessionEventView(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened and is neither a tool call nor a model call.

    `kind` is ours (prompt, response, turn, compaction, mode, edit_outcome, ...; else log or span),
    `name` the client's own.
    """

    id: UUID
    session_id: UUID | None
    agent: str | None
    user_id: UUID | None
    kind: str
    name: str
    occurred_at: datetime
    signal: str
    received_at: datetime
    duration_ms: float | None = None
    turn_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    severity: int | None = None
    content: str | None = None
    attributes: msgspec.Raw | None = None


class SessionEventQuery(ListQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    kind: ShortText | None = None
    name: ShortText | None = None
    sort: Literal["occurred_at", "-occurred_at"] = "occurred_at"
