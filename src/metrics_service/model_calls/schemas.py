"""Model calls as clients see them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from metrics_service.db.facts import FactQuery
from metrics_service.fields import ShortText
from metrics_service.ingest.records import CostSource, ModelStatus
from metrics_service.rollups.summaries import SummaryMeta, SummaryQuery, SummaryRow


class ModelCallView(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request to a language model. `input_tokens` counts cached ones, `output_tokens` reasoning.

    What only telemetry can say is left out where unknown.
    """

    id: UUID
    session_id: UUID | None
    agent: str | None
    user_id: UUID | None
    started_at: datetime
    duration_ms: float | None
    ttft_ms: float | None
    status: ModelStatus
    error_type: str | None
    provider: str | None
    request_model: str | None
    response_model: str | None
    input_tokens: int | None
    input_uncached_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    cost_usd_micros: int | None
    cost_source: CostSource
    attempts: int
    signal: str
    clock: Literal["ahead", "behind"] | None = None
    """Where the client's clock was wrong."""
    ended_at: datetime | None = None
    operation: str | None = None
    error_message: str | None = None
    http_status: int | None = None
    finish_reasons: list[str] | None = None
    tool_prompt_tokens: int | None = None
    total_tokens_reported: int | None = None
    price_version: str | None = None
    billing_units: float | None = None
    billing_unit_kind: str | None = None
    query_source: str | None = None
    agent_name: str | None = None
    agent_instance_id: str | None = None
    skill_name: str | None = None
    plugin_name: str | None = None
    mcp_server: str | None = None
    mcp_tool: str | None = None
    effort: str | None = None
    speed: str | None = None
    service_tier: str | None = None
    request_id: str | None = None
    client_request_id: str | None = None
    turn_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    extra: msgspec.Raw | None = None


class ModelCallQuery(FactQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    request_model: ShortText | None = None
    status: ModelStatus | None = None


class SessionModelCallQuery(ModelCallQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Within a session, what happened first comes first."""

    sort: Literal["started_at", "-started_at"] = "started_at"


class ModelSummaryQuery(SummaryQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    provider: ShortText | None = None
    request_model: ShortText | None = None


class ModelSummaryRow(SummaryRow, frozen=True, omit_defaults=True, kw_only=True):
    """Model calls of one group; tokens and money are sums over what was reported."""

    provider: str | None | msgspec.UnsetType = msgspec.UNSET
    request_model: str | None | msgspec.UnsetType = msgspec.UNSET
    count: int
    error_count: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    cost_usd_micros: int


class ModelSummary(msgspec.Struct, frozen=True):
    data: list[ModelSummaryRow]
    meta: SummaryMeta
