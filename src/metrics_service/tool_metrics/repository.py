"""All reading SQL of tool metrics. No `tenant_id` in sight: row security filters by it."""

from __future__ import annotations

from typing import Any

from asyncpg import Record

from metrics_service.db.facts import CLOCK, FactTable
from metrics_service.db.listing import as_raw
from metrics_service.db.tenancy import ContextConnection
from metrics_service.rollups.series import read_series
from metrics_service.rollups.summaries import SummaryMeta
from metrics_service.tool_metrics.schemas import (
    ToolMetricView,
    ToolSummary,
    ToolSummaryQuery,
    ToolSummaryRow,
)

COLUMNS = f"""
    f.id, f.session_id, s.external_id AS external_session_id, f.agent, f.user_id,
    u.email AS user_email, f.tool_name, f.tool_category, f.started_at, f.duration_ms, f.wait_ms,
    f.status, f.error_type, f.cpu_ms, f.memory_bytes, f.input_bytes, f.output_bytes,
    coalesce(f.metadata::text, '{{}}') AS metadata, f.received_at, f.signal,
    {CLOCK}, f.ended_at, f.total_ms,
    f.error_message, f.exit_code, f.decision, f.decision_mode, f.decision_raw,
    f.decision_source_raw, f.tool_kind, f.mcp_server, f.mcp_tool, f.skill_name, f.subagent_type,
    f.agent_instance_id, f.parent_agent_instance_id, f.external_call_id, f.turn_id, f.trace_id,
    f.span_id, f.parent_span_id, f.output_tokens_approx, f.lines_added, f.lines_removed,
    f.language, f.git_commit_id, f.model, f.arguments, f.result, f.extra::text AS extra
"""
JOINS = """
    LEFT JOIN users u ON u.tenant_id = f.tenant_id AND u.id = f.user_id
    LEFT JOIN metrics_sessions s ON s.tenant_id = f.tenant_id AND s.id = f.session_id
"""
TOOL_METRICS = FactTable("tool_metrics", COLUMNS, JOINS)

METADATA = ToolMetricView.__struct_fields__.index("metadata")


def tool_metric_view(row: Record) -> ToolMetricView:
    columns: list[Any] = list(row)
    columns[METADATA] = as_raw(columns[METADATA])
    columns[-1] = as_raw(columns[-1])
    return ToolMetricView(*columns)


async def summarise_tool_metrics(
    connection: ContextConnection, query: ToolSummaryQuery
) -> ToolSummary:
    """Raises `InvalidQueryError` for what is on no allow-list, and for more than can be read."""
    series = await read_series(connection, query.series("tool_metrics", ToolSummaryRow))
    # Of no calls none failed.
    rows = [
        ToolSummaryRow(**{**row, "error_rate": row["error_rate"] or 0.0}) for row in series.rows
    ]
    return ToolSummary(rows, SummaryMeta.of(query, series))
