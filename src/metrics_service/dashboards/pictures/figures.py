"""Figures as people read them: each by its unit, short, and never in micro-dollars."""

from __future__ import annotations

from typing import Literal

import msgspec

from metrics_service.rollups.measures import MEASURES

# Between a figure and its unit no line may break.
GAP = "\xa0"

NOTHING = "\N{EN DASH}"

Direction = Literal["good", "bad", "neutral"]

_THOUSANDS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"), (1, ""))
_MEASURED = frozenset({"ms", "s", "score"})
_TIMES = ((3_600_000, "h"), (60_000, "min"), (1000, "s"), (1, "ms"))
_MICROS = 1_000_000
# Micro-dollars that are written out; of less, only that it is not nothing.
_LEAST = 100

# Of a measure whose rise means something by itself; that there are more calls does not.
_GOOD = frozenset({"cache_hit_rate", "avg_score", "success_count"})
_BAD = frozenset(
    {
        "error_count", "error_rate", "timeout_count", "rejected_count", "reject_count",
        "unknown_count", "tool_error_count", "tool_reject_count", "model_error_count", "avg_ms",
        "p50_ms", "p95_ms", "p99_ms", "avg_wait_ms", "avg_ttft_ms", "compactions",
    }
)  # fmt: skip
_FAILURES = frozenset(
    {"error_count", "error_rate", "timeout_count", "tool_error_count", "model_error_count"}
)

_WORDS = {
    "count": "calls", "error_count": "errors", "cost_usd_micros": "cost",
    "estimated_cost_usd_micros": "estimated cost", "total_ms": "total time",
    "input_uncached_tokens": "uncached input", "input_tokens": "input",
    "output_tokens": "output", "cache_read_tokens": "cache read",
    "cache_write_tokens": "cache write", "reasoning_tokens": "reasoning",
    "wait_ms": "waiting time", "avg_wait_ms": "waiting time (mean)", "cpu_ms": "CPU time",
    "avg_ttft_ms": "first token (mean)", "avg_ms": "mean", "avg_score": "score (mean)",
    "p50_ms": "p50", "p95_ms": "p95", "p99_ms": "p99", "accept_count": "accepted",
    "modify_count": "modified", "reject_count": "refused", "cancel_count": "broken off",
    "success_count": "succeeded", "rejected_count": "rejected", "cancelled_count": "cancelled",
    "timeout_count": "timed out", "unknown_count": "unknown", "tool_call_count": "tool calls",
    "tool_error_count": "failed tool calls", "tool_reject_count": "rejected tool calls",
    "model_call_count": "model calls", "model_error_count": "failed model calls",
    "prompt_count": "prompts", "turn_count": "turns", "active_seconds_user": "people active",
    "active_seconds_agent": "agents active", "tool_name": "tool", "tool_category": "category",
    "request_model": "model", "user_id": "person", "session_type": "type",
}  # fmt: skip


class Scale(msgspec.Struct, frozen=True):
    """How all figures of an axis are written: divided, with something before and behind."""

    divisor: float
    before: str
    after: str


def words(column: str, source: str = "") -> str:
    """What people call a column."""
    if column == "count" and source == "sessions":
        return "sessions"
    return _WORDS.get(column, column.replace("_", " "))


def unit_of(source: str, measure: str) -> str:
    return MEASURES[source][measure].unit


def adds_up(source: str, measure: str) -> bool:
    """Whether the whole is the sum of its parts, as of counts and unlike percentiles and means."""
    found = MEASURES[source][measure]
    return (
        found.share is None
        and found.unit not in {"share", "score"}
        and not measure.startswith("avg_")
    )


def is_of_failures(measure: str) -> bool:
    return measure in _FAILURES


def meaning_of_rise(measure: str) -> Direction:
    if measure in _GOOD:
        return "good"
    return "bad" if measure in _BAD else "neutral"


def figure(value: float | None, unit: str) -> str:
    """A figure with its unit."""
    if value is None:
        return NOTHING
    if unit == "share":
        return f"{_percent(value)}{GAP}%"
    scale = scale_for(abs(value), unit)
    sign = "\N{MINUS SIGN}" if value < 0 else ""
    if unit == "usd_micros" and 0 < abs(value) < _LEAST:
        return "<$0.0001"
    return f"{sign}{scale.before}{_written(abs(value), scale, unit)}{scale.after}"


def _percent(share: float) -> str:
    percent = share * 100
    if not percent or abs(percent) >= 0.05:
        return f"{percent:.0f}" if percent in {0, 100} else f"{percent:.1f}"
    return f"{percent:.1g}"


def _written(value: float, scale: Scale, unit: str) -> str:
    if scale.before == "$" and not scale.after:
        dollars = value / scale.divisor
        return f"{dollars:,.0f}" if dollars >= 1000 else _cents(dollars)
    there = value / scale.divisor
    # A count that is written out is exact.
    is_exact = scale.divisor == 1 and unit not in _MEASURED and there == int(there)
    return f"{there:,.0f}" if is_exact else _significant(there)


def _significant(value: float) -> str:
    """Three significant digits, also where they are zeros: 8.00 s stands beside 8.32 s."""
    if value >= 99.95:
        return f"{value:,.0f}"
    if value < 0.005:
        return "0"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def _cents(dollars: float) -> str:
    # A call may cost a hundredth of a cent, and is not free.
    return f"{dollars:.2f}" if dollars >= 0.01 or not dollars else f"{dollars:.1g}"


def _short(value: float) -> str:
    """Of a change: three significant digits at most, or all that are before the point."""
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    digits = 1 if abs(value) >= 10 else 2
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") or "0"


def scale_for(largest: float, unit: str) -> Scale:
    """The one scale for figures up to that size."""
    if unit == "usd_micros":
        dollars = largest / _MICROS
        for step, letter in _THOUSANDS[:3]:
            if dollars >= step:
                return Scale(step * _MICROS, "$", f"{GAP}{letter}")
        return Scale(_MICROS, "$", "")
    if unit in {"ms", "s"}:
        per_second = 1 if unit == "ms" else 1000
        for step, name in _TIMES:
            if largest * per_second >= step:
                return Scale(step / per_second, "", GAP + name)
        return Scale(1 / per_second, "", f"{GAP}ms")
    # Up to 9,999 a whole number is as short as a rounded one.
    for step, letter in _THOUSANDS:
        if largest >= step and (step != 1e3 or largest >= 1e4):
            return Scale(step, "", GAP + letter if letter else "")
    return Scale(1, "", "")


def change(now: float | None, before: float | None, unit: str) -> tuple[int, str] | None:
    """The sign of a change and its size in words; None when there is nothing to compare."""
    if now is None or before is None:
        return None
    if unit == "share":
        # Of the figures as they are shown, or the reader would find another difference.
        points = round(round(now * 100, 1) - round(before * 100, 1), 1)
        return _sign(points), f"{_short(abs(points))} {'point' if abs(points) == 1 else 'points'}"
    if not before:
        return None if now else (0, f"0{GAP}%")
    percent = (now - before) / before * 100
    rounded = round(percent, 1) if abs(percent) < 10 else round(percent)
    return _sign(rounded), f"{_short(abs(rounded))}{GAP}%"


def is_slight(now: float, before: float, unit: str) -> bool:
    """Whether a change is too small to be called better or worse."""
    if unit == "share":
        return abs(now - before) < 0.0025
    return abs(now - before) < 0.02 * abs(before)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
