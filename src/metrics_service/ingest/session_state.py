"""What the write path remembers of a session, and the figures that people see of it.

One fact often arrives as log, span and metric. The figures of the calls and those of the metrics are
kept apart, and what is shown is a function of both: so any order of arrival shows the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from metrics_service.ingest.claims import OWNER
from metrics_service.ingest.known_people import Known
from metrics_service.ingest.parts import IMPORT, ModelPart, ToolPart
from metrics_service.ingest.telemetry import COUNT_OF, Point

FAILED = frozenset({"error", "timeout"})
TOOLS = ("tool_call_count", "tool_error_count", "tool_reject_count")
SUMS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost_usd_micros",
)
MODELS = ("model_call_count", "model_error_count", *SUMS)
LINES = ("lines_added", "lines_removed")
METERED = ("commits", "pull_requests", "active_seconds_user", "active_seconds_agent")
COUNTED = tuple(COUNT_OF.values())
FIGURES = TOOLS + MODELS + LINES + METERED

PROVEN = f"@{OWNER}"
MAX_RESOURCE = 64
# More than anybody has; sums of them fit into 64 bits.
MAX_FIGURE = 10**15
TOKENS = frozenset(
    {"input", "input_uncached", "output", "cache_read", "cache_write", "reasoning", "tool"}
)

Figures = dict[str, float]


class State(msgspec.Struct, omit_defaults=True):
    """Stored with the session, as JSON in its column `telemetry`."""

    said: dict[str, tuple[int, Any]] = {}
    calls: Figures = {}
    """Of the tool calls and model calls that count."""
    meters: Figures = {}
    """Of metrics."""
    named: Figures = {}
    """Prompts, turns and compactions told live by a name that a transcript has for them too."""
    recorded: Figures = {}
    """Prompts, turns and compactions that only a transcript told of."""
    shown: Figures = {}
    """What of the session's columns is ours."""
    tool_rank: int = 0
    """The best that tells of the session's tool calls: what ranks below does not count."""
    model_rank: int = 0
    known: Known | None = None

    def hear(self, said: Mapping[str, tuple[int, Any]]) -> None:
        """Take what was said last; a tie falls the same way whoever comes first."""
        for name, (time_ns, value) in said.items():
            before = self.said.get(name)
            if name == PROVEN and before is not None:
                # What a key has proved another key cannot take away.
                continue
            if before is None or (time_ns, str(value)) > (before[0], str(before[1])):
                self.said[name] = (time_ns, value)
        resource = sorted(name for name in self.said if name.startswith("#"))
        for name in resource[MAX_RESOURCE:]:
            # The same ones whatever came first.
            del self.said[name]


class Tally(msgspec.Struct):
    """What events add to the counts of one session."""

    all: Figures = {}
    named: Figures = {}
    recorded: Figures = {}

    def count(
        self, name: str, signal: str, *, has_common_name: bool = False, sign: int = 1
    ) -> None:
        """Count one event, in `named` or `recorded` too if it belongs there."""
        add(self.all, {name: 1}, sign)
        if signal == IMPORT:
            add(self.recorded, {name: 1}, sign)
        elif has_common_name:
            add(self.named, {name: 1}, sign)


def add(figures: Figures, others: Mapping[str, float], sign: int = 1) -> None:
    for name, value in others.items():
        figures[name] = figures.get(name, 0) + sign * value


def figures_of_tool(part: ToolPart) -> Figures:
    """What one tool call adds to its session."""
    figures: Figures = {"tool_call_count": 1}
    if part.status in FAILED:
        figures["tool_error_count"] = 1
    elif part.status == "rejected":
        figures["tool_reject_count"] = 1
    if part.lines_added:
        figures["lines_added"] = part.lines_added
    if part.lines_removed:
        figures["lines_removed"] = part.lines_removed
    return figures


def figures_of_model(part: ModelPart) -> Figures:
    """What one model call adds to its session."""
    figures: Figures = {"model_call_count": 1}
    if part.status == "error":
        figures["model_error_count"] = 1
    for name in SUMS:
        if value := getattr(part, name):
            figures[name] = value
    return figures


_METERS: Mapping[tuple[str, str | None], str] = {
    ("code.lines", "added"): "lines_added",
    ("code.lines", "removed"): "lines_removed",
    ("commit.count", None): "commits",
    ("pull_request.count", None): "pull_requests",
    ("active_time", "user"): "active_seconds_user",
    ("active_time", None): "active_seconds_agent",
    ("cost.usage", None): "cost_usd_micros",
    ("tool.calls", None): "tool_call_count",
}


def figures_of_point(point: Point, value: float) -> Figures:
    """What one delta adds to its session's meters."""
    if abs(value) > MAX_FIGURE:
        return {}
    name = _METERS.get((point.metric, point.kind)) or _METERS.get((point.metric, None))
    if name is not None:
        figures = {name: value}
    elif point.metric == "token.usage" and point.kind in TOKENS:
        figures = {f"tokens.{point.kind}": value}
    else:
        figures = {}
    if name == "tool_call_count" and point.status in FAILED:
        figures["tool_error_count"] = value
    return figures


def figures_of(state: State, native: Mapping[str, float]) -> Figures:
    """The session's figures: of its calls, and of metrics where no call tells.

    `native` counts the calls that came by the JSON API, which are shown beside these.
    """
    calls, meters = state.calls, state.meters
    figures: Figures = {name: calls.get(name, 0) for name in (*TOOLS, *MODELS, *LINES)}
    if not calls.get("tool_call_count") and not native.get("tool_call_count"):
        figures |= {name: meters.get(name, 0) for name in TOOLS}
    if not calls.get("model_call_count") and not native.get("model_call_count"):
        figures |= _metered_tokens(meters)
    if any(name in meters for name in LINES):
        figures |= {name: meters.get(name, 0) for name in LINES}
    return figures | {name: meters.get(name, 0) for name in METERED}


def _metered_tokens(meters: Figures) -> Figures:
    read, write = meters.get("tokens.cache_read", 0), meters.get("tokens.cache_write", 0)
    total = meters.get("tokens.input", 0) + meters.get("tokens.tool", 0)
    if "tokens.input_uncached" in meters:
        total += meters["tokens.input_uncached"] + read + write
    return {
        "input_tokens": total,
        "output_tokens": meters.get("tokens.output", 0),
        "cache_read_tokens": read,
        "cache_write_tokens": write,
        "reasoning_tokens": meters.get("tokens.reasoning", 0),
        "cost_usd_micros": meters.get("cost_usd_micros", 0),
    }
