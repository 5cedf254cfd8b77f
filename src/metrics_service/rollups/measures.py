"""What can be asked of the rollups: each measure, what it is made of, and its unit.

A measure's SQL is over the sums of a group, each under the name of its column; null means that there
is nothing to say, as of the mean of no durations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

Unit = Literal[
    "calls", "sessions", "share", "ms", "s", "tokens", "usd_micros", "lines", "score", "times"
]

MOST = 2**63 - 1


class Measure(msgspec.Struct, frozen=True):
    """One figure of a group."""

    unit: Unit
    columns: tuple[str, ...]
    """The stored sums that it is made of."""
    sql: str
    """Its value; of a percentile the whole histogram."""
    share: float | None = None
    """Of a percentile: which."""


def _sum(unit: Unit, *columns: str) -> Measure:
    total = " + ".join(columns)
    # Sums are numeric, and clients read 64 bits at most.
    return Measure(unit, columns, f"least({total}, {MOST})::bigint")


def _share(of: str, *columns: str) -> Measure:
    part = " + ".join(columns)
    return Measure("share", (*columns, of), f"({part})::float8 / nullif({of}, 0)::float8")


def _mean(unit: Unit, column: str, of: str) -> Measure:
    """The mean of what is stored in thousandths."""
    return Measure(unit, (column, of), f"{column}::float8 / nullif({of}, 0)::float8 / 1000")


def _thousandth(unit: Unit, column: str) -> Measure:
    return Measure(unit, (column,), f"{column}::float8 / 1000")


def _percentile(share: float) -> Measure:
    return Measure("ms", ("durations",), "numeric_send(durations)", share)


DURATIONS: Mapping[str, Measure] = {
    "avg_ms": _mean("ms", "duration_us", "duration_count"),
    "p50_ms": _percentile(0.5),
    "p95_ms": _percentile(0.95),
    "p99_ms": _percentile(0.99),
    "total_ms": _thousandth("ms", "duration_us"),
}

TOKENS: Mapping[str, Measure] = {
    name: _sum("tokens", name)
    for name in (
        "input_tokens",
        "output_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "reasoning_tokens",
    )
}

MEASURES: Mapping[str, Mapping[str, Measure]] = {
    "tool_metrics": {
        "count": _sum("calls", "count"),
        "error_count": _sum("calls", "status_error", "status_timeout"),
        "error_rate": _share("count", "status_error", "status_timeout"),
        "success_count": _sum("calls", "status_success"),
        "rejected_count": _sum("calls", "status_rejected"),
        "cancelled_count": _sum("calls", "status_cancelled"),
        "timeout_count": _sum("calls", "status_timeout"),
        "unknown_count": _sum("calls", "status_unknown"),
        "accept_count": _sum("calls", "decision_accept"),
        "modify_count": _sum("calls", "decision_modify"),
        "reject_count": _sum("calls", "decision_reject"),
        "cancel_count": _sum("calls", "decision_cancel"),
        **DURATIONS,
        "avg_wait_ms": _mean("ms", "wait_us", "wait_count"),
        "wait_ms": _thousandth("ms", "wait_us"),
        "cpu_ms": _thousandth("ms", "cpu_us"),
    },
    "model_calls": {
        "count": _sum("calls", "count"),
        "error_count": _sum("calls", "status_error"),
        "error_rate": _share("count", "status_error"),
        "success_count": _sum("calls", "status_success"),
        "cancelled_count": _sum("calls", "status_cancelled"),
        **TOKENS,
        "input_uncached_tokens": _sum("tokens", "input_uncached_tokens"),
        "cache_hit_rate": _share("input_tokens", "cache_read_tokens"),
        "cost_usd_micros": _sum("usd_micros", "cost_usd_micros"),
        "estimated_cost_usd_micros": _sum("usd_micros", "estimated_cost_usd_micros"),
        **DURATIONS,
        "avg_ttft_ms": _mean("ms", "ttft_us", "ttft_count"),
    },
    "sessions": {
        "count": _sum("sessions", "count"),
        "tool_call_count": _sum("calls", "tool_call_count"),
        "tool_error_count": _sum("calls", "tool_error_count"),
        "tool_reject_count": _sum("calls", "tool_reject_count"),
        "model_call_count": _sum("calls", "model_call_count"),
        "model_error_count": _sum("calls", "model_error_count"),
        **TOKENS,
        "cost_usd_micros": _sum("usd_micros", "cost_usd_micros"),
        "lines_added": _sum("lines", "lines_added"),
        "lines_removed": _sum("lines", "lines_removed"),
        "commits": _sum("times", "commits"),
        "pull_requests": _sum("times", "pull_requests"),
        "prompt_count": _sum("times", "prompt_count"),
        "turn_count": _sum("times", "turn_count"),
        "compactions": _sum("times", "compactions"),
        "active_seconds_user": _thousandth("s", "active_ms_user"),
        "active_seconds_agent": _thousandth("s", "active_ms_agent"),
        "avg_score": _mean("score", "score_milli", "score_count"),
    },
}
"""Of each source, by the names that clients use."""
