"""The receiver's diary as those see it who look for what does not arrive."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from metrics_service.db.listing import ListQuery
from metrics_service.db.pages import PageMeta

Signal = Literal["logs", "metrics", "traces", "sessions", "tool_metrics", "unknown"]
Encoding = Literal["protobuf", "json", "grpc", "other"]


class IngestLogQuery(ListQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    signal: Annotated[Signal, Meta(description="What was sent, or was meant to be.")] | None = None
    key_id: Annotated[UUID, Meta(description="Lines of this key.")] | None = None
    status: (
        Annotated[
            Literal["accepted", "refused"], Meta(description="Lines where anything ever was.")
        ]
        | None
    ) = None
    sort: Annotated[
        Literal["last_at", "-last_at"], Meta(description="A minus sorts downwards.")
    ] = "-last_at"


class LoggedKey(msgspec.Struct, frozen=True):
    """The key that requests came with."""

    id: UUID
    name: str | None
    prefix: str | None
    is_active: bool
    """Neither expired nor revoked."""


class Refusal(msgspec.Struct, frozen=True):
    """What was refused for one reason."""

    status: int
    """As over HTTP; 200 where items were refused within a request that was accepted."""
    reason: str
    """What the client was told; `other` for those that were not heard for longest."""
    count: int
    """Requests, or with status 200 items."""
    first_at: datetime
    last_at: datetime


class Reason(Refusal, frozen=True):
    """Why something was refused."""

    advice: str
    """What to change."""


class IngestLine(msgspec.Struct, frozen=True):
    """What one client sent with one key, of one signal and in one encoding."""

    id: UUID
    key: LoggedKey | None
    """Null: the credential was nobody's, or missing."""
    signal: str
    encoding: str
    """`other`: a media type that is not taken."""
    client: str
    """As its User-Agent says; `other` where there are more than are told apart."""
    client_version: str | None
    agent: str | None
    """Whose telemetry it was, where it was recognised last."""
    agent_version: str | None
    accepted_requests: int
    accepted_items: int
    refused_requests: int
    refused_items: int
    """Within accepted requests."""
    first_at: datetime
    last_at: datetime
    last_accepted_at: datetime | None
    last_accepted_items: int | None
    last_refused_at: datetime | None
    reasons: list[Reason]
    """Newest first."""


class IngestLogMeta(PageMeta, frozen=True, kw_only=True, omit_defaults=True):
    """Of the page, and how old what other processes know may be."""

    written_every_s: float


class IngestLogPage(msgspec.Struct, frozen=True):
    data: list[IngestLine]
    meta: IngestLogMeta
