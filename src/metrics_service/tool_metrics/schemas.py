"""Tool metrics as clients see them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from metrics_service.db.facts import FactQuery
from metrics_service.errors import FieldError
from metrics_service.fields import ShortText, metadata_error, window_error
from metrics_service.ingest.records import ToolMetricRecord, ToolStatus
from metrics_service.rollups.summaries import SummaryMeta, SummaryQuery, SummaryRow


class ToolMetricView(msgspec.Struct, frozen=True, omit_defaults=True):
    """One tool call; what only telemetry can say is left out where unknown."""

    id: UUID
    session_id: UUID | None
    external_session_id: str | None
    agent: str | None
    user_id: UUID | None
    user_email: str | None
    tool_name: str
    tool_category: str | None
    started_at: datetime
    duration_ms: float | None
    wait_ms: float | None
    status: ToolStatus
    error_type: str | None
    cpu_ms: float | None
    memory_bytes: int | None
    input_bytes: int | None
    output_bytes: int | None
    metadata: msgspec.Raw
    received_at: datetime
    signal: str
    clock: Literal["ahead", "behind"] | None = None
    """Where the client's clock was wrong."""
    ended_at: datetime | None = None
    total_ms: float | None = None
    error_message: str | None = None
    exit_code: int | None = None
    decision: str | None = None
    decision_mode: str | None = None
    decision_raw: str | None = None
    decision_source_raw: str | None = None
    tool_kind: str | None = None
    mcp_server: str | None = None
    mcp_tool: str | None = None
    skill_name: str | None = None
    subagent_type: str | None = None
    agent_instance_id: str | None = None
    parent_agent_instance_id: str | None = None
    external_call_id: str | None = None
    turn_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    output_tokens_approx: int | None = None
    lines_added: int | None = None
    lines_removed: int | None = None
    language: str | None = None
    git_commit_id: str | None = None
    model: str | None = None
    arguments: str | None = None
    result: str | None = None
    extra: msgspec.Raw | None = None


class ToolMetricQuery(FactQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    tool_name: ShortText | None = None
    status: ToolStatus | None = None
    decision: Literal["accept", "modify", "reject", "cancel"] | None = None


class SessionToolMetricQuery(
    ToolMetricQuery, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """Within a session, what happened first comes first."""

    sort: Literal["started_at", "-started_at"] = "started_at"


class ToolSummaryQuery(SummaryQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    tool_name: ShortText | None = None
    tool_category: ShortText | None = None


class ToolSummaryRow(SummaryRow, frozen=True, omit_defaults=True, kw_only=True):
    """Tool calls of one group; percentiles are nearest rank, over the calls that have a duration.

    A percentile is within 2 % of that call's duration.
    """

    tool_name: str | msgspec.UnsetType = msgspec.UNSET
    tool_category: str | None | msgspec.UnsetType = msgspec.UNSET
    count: int
    error_count: int
    error_rate: float
    avg_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class ToolSummary(msgspec.Struct, frozen=True):
    data: list[ToolSummaryRow]
    meta: SummaryMeta


def tool_metric_error(record: ToolMetricRecord, moment: datetime) -> FieldError | None:
    """What the types of a tool metric cannot say."""
    if record.session_id is not None:
        if record.external_session_id is not None or record.agent is not None:
            return FieldError(
                "give session_id, or agent with external_session_id", field="session_id"
            )
    elif record.external_session_id is not None and record.agent is None:
        return FieldError("is required with external_session_id", field="agent")
    return window_error("started_at", record.started_at, moment) or (
        metadata_error(record.metadata) if record.metadata is not None else None
    )
