"""Sessions in sum; the figures of a session stand at the time at which it began."""

from __future__ import annotations

import msgspec

from metrics_service.db.tenancy import ContextConnection
from metrics_service.fields import ShortText
from metrics_service.rollups.series import read_series
from metrics_service.rollups.summaries import SummaryMeta, SummaryQuery, SummaryRow


class SessionSummaryQuery(SummaryQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    session_type: ShortText | None = None


class SessionSummaryRow(SummaryRow, frozen=True, omit_defaults=True, kw_only=True):
    """Sessions of one group."""

    session_type: str | None | msgspec.UnsetType = msgspec.UNSET
    count: int
    tool_call_count: int
    tool_error_count: int
    tool_reject_count: int
    model_call_count: int
    model_error_count: int
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    cost_usd_micros: int
    lines_added: int
    lines_removed: int
    commits: int
    pull_requests: int
    prompt_count: int
    turn_count: int
    compactions: int
    active_seconds_user: float
    active_seconds_agent: float
    avg_score: float | None


class SessionSummary(msgspec.Struct, frozen=True):
    data: list[SessionSummaryRow]
    meta: SummaryMeta


async def summarise_sessions(
    connection: ContextConnection, query: SessionSummaryQuery
) -> SessionSummary:
    """Raises `InvalidQueryError` for what is on no allow-list, and for more than can be read."""
    series = await read_series(connection, query.series("sessions", SessionSummaryRow))
    rows = [SessionSummaryRow(**row) for row in series.rows]
    return SessionSummary(rows, SummaryMeta.of(query, series))
