"""The normalised rows to be: what every way in turns its input into.

Field names are the columns'. Times are aware datetimes, durations milliseconds, money micro-USD.
A record names its session by the client's own words (`agent`, `external_session_id`); the row ids
follow from them, so that the same fact sent twice meets itself.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from msgspec import Meta

from metrics_service.fields import (
    Count,
    Email,
    Instant,
    Metadata,
    Milliseconds,
    Name,
    ShortText,
    Summed,
    Tags,
)

ToolStatus = Literal["success", "error", "rejected", "cancelled", "timeout", "unknown"]
ModelStatus = Literal["success", "error", "cancelled"]
CostSource = Literal["reported", "estimated", "none"]


class SessionRecord(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One stretch of work, as far as its sender knows it; None leaves a stored value alone."""

    agent: Name
    external_id: Name
    started_at: Instant
    ended_at: Instant | None = None
    session_type: ShortText | None = None
    user_id: UUID | None = None
    user_email: Email | None = None
    repository: ShortText | None = None
    branch: ShortText | None = None
    team: ShortText | None = None
    tags: Tags | None = None
    productivity_score: Annotated[float, Meta(ge=0, le=100)] | None = None
    metadata: Metadata | None = None


class ToolMetricRecord(
    msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """One tool call. `id` None: the identity is its content within its session."""

    tool_name: Name
    started_at: Instant
    id: UUID | None = None
    session_id: UUID | None = None
    agent: Name | None = None
    external_session_id: Name | None = None
    user_email: Email | None = None
    tool_category: ShortText | None = None
    duration_ms: Milliseconds | None = None
    wait_ms: Milliseconds | None = None
    status: ToolStatus = "success"
    error_type: ShortText | None = None
    cpu_ms: Milliseconds | None = None
    memory_bytes: Count | None = None
    input_bytes: Count | None = None
    output_bytes: Count | None = None
    metadata: Metadata | None = None


class ModelCallRecord(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One request to a language model; a failed one has no tokens. `id` as for tool metrics."""

    started_at: Instant
    id: UUID | None = None
    session_id: UUID | None = None
    agent: Name | None = None
    external_session_id: Name | None = None
    user_email: Email | None = None
    duration_ms: Milliseconds | None = None
    ttft_ms: Milliseconds | None = None
    status: ModelStatus = "success"
    error_type: ShortText | None = None
    provider: ShortText | None = None
    request_model: ShortText | None = None
    response_model: ShortText | None = None
    input_tokens: Summed | None = None
    input_uncached_tokens: Summed | None = None
    cache_read_tokens: Summed | None = None
    cache_write_tokens: Summed | None = None
    output_tokens: Summed | None = None
    reasoning_tokens: Summed | None = None
    cost_usd_micros: Summed | None = None
    cost_source: CostSource = "none"
    attempts: Annotated[int, Meta(ge=1, le=1000)] = 1


class Receipt(msgspec.Struct, frozen=True):
    """What became of a batch: rows that are new, and rows that were there already."""

    inserted: int
    duplicates: int


def session_id_of(tenant_id: UUID, agent: str, external_id: str) -> UUID:
    """The id of the session that `agent` calls `external_id`: no look-up is needed to name it."""
    digest = hashlib.blake2b(digest_size=16, key=tenant_id.bytes)
    digest.update(agent.encode() + b"\0" + external_id.encode())
    value = int.from_bytes(digest.digest()) & ~(0xF << 76) | 8 << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)


def content_id(tenant: bytes, started_at: datetime, content: bytes) -> str:
    """An id, as 32 hex digits, that follows from the content and begins with its time.

    Random ids cost the primary key's index far more than ids in order of time do, so the first 48
    bits are the milliseconds of `started_at`, as in a UUIDv7 (RFC 9562, version 8).
    """
    # SHA-256 has instructions of its own on today's processors: half the time of a keyed BLAKE2.
    digest = sha256(tenant + content).hexdigest()
    return f"{int(started_at.timestamp() * 1000):012x}8{digest[:3]}8{digest[3:18]}"
