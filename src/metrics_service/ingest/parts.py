"""What one signal says about a call, and the one row that follows from what all of them say.

A tool call may be told of by a decision, a result, a span and the spans inside it, a model call by a
log record and a span; in any order, twice, in several requests. Each teller has a `part` of its own.
Parts are joined by name, a row is a pure function of its parts: so any order gives the same row.

Field names are the columns' of `tool_metrics` and `model_calls`. Durations are milliseconds, money
micro-USD, times aware datetimes in UTC; None means not reported, never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

import msgspec

LOGS = "logs"
TRACES = "traces"
METRICS = "metrics"
IMPORT = "import"
"""What a client wrote down on a laptop, and somebody brought in later."""

RANK_SERVER = 1
"""The span of the server that was asked to run a tool, inside that of the client."""
RANK_RECORDED = 1
"""What a transcript tells of a call without a name that live telemetry has too.

It shares its number with `RANK_SERVER`: no client whose transcripts are brought in has such spans, so
the two never meet in one session, and anything live outdoes either.
"""
RANK_INNER = 2
"""A span inside the span of the same call: counts where nothing better tells of the session's calls."""
RANK_SPAN = 3
"""A span that shares no name with the log record of the same call."""
RANK_SURE = 4
"""A log record, or a span that meets its log record in one row: always counts."""


class ToolPart(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """What one signal says about a tool call."""

    tool_name: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration_ms: float | None = None
    """The run alone, without the human's waiting time."""
    wait_ms: float | None = None
    """The human's waiting time."""
    total_ms: float | None = None
    status: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    decision: str | None = None
    decision_mode: str | None = None
    decision_raw: str | None = None
    decision_source_raw: str | None = None
    external_call_id: str | None = None
    turn_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    tool_kind: str | None = None
    mcp_server: str | None = None
    mcp_tool: str | None = None
    skill_name: str | None = None
    subagent_type: str | None = None
    agent_instance_id: str | None = None
    parent_agent_instance_id: str | None = None
    input_bytes: int | None = None
    output_bytes: int | None = None
    output_tokens_approx: int | None = None
    arguments: str | None = None
    result: str | None = None
    lines_added: int | None = None
    lines_removed: int | None = None
    language: str | None = None
    git_commit_id: str | None = None
    model: str | None = None
    exit_code: int | None = None
    extra: dict[str, Any] | None = None
    """Attributes that have no column."""


class ModelPart(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """What one signal says about a request to a language model.

    `input_tokens` is the total with cache, `output_tokens` the total with reasoning.
    """

    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration_ms: float | None = None
    ttft_ms: float | None = None
    status: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    http_status: int | None = None
    attempts: int | None = None
    finish_reasons: list[str] | None = None
    request_id: str | None = None
    client_request_id: str | None = None
    turn_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    provider: str | None = None
    request_model: str | None = None
    response_model: str | None = None
    operation: str | None = None
    input_tokens: int | None = None
    input_uncached_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    tool_prompt_tokens: int | None = None
    total_tokens_reported: int | None = None
    cost_usd_micros: int | None = None
    """As the client reported it; an estimate is made of the whole row."""
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
    extra: dict[str, Any] | None = None


Part = ToolPart | ModelPart
PartT = TypeVar("PartT", ToolPart, ModelPart)

# The parts of a call, the most trusted first.
RESULT, EXECUTION, SPAN, DECISION, WAIT = "result", "execution", "span", "decision", "wait"
DETAILS = "details"
"""A log record that knows less than the span does."""
RECORDED = "recorded"
"""A transcript that was brought in: whatever was said live is better."""
ORDER = (RESULT, EXECUTION, SPAN, DETAILS, DECISION, WAIT, RECORDED)
LOG_PARTS = frozenset({RESULT, DETAILS, DECISION})

UNDONE = {"reject": "rejected", "cancel": "cancelled"}
"""What becomes of a call that was not allowed to run."""

_BY_DECISION = (DECISION, RESULT, WAIT, EXECUTION, SPAN, RECORDED)
_BY_SPAN = (SPAN, EXECUTION, RESULT, DETAILS, DECISION, WAIT, RECORDED)
_BY_RUN = (EXECUTION, RESULT, SPAN, DETAILS, DECISION, WAIT, RECORDED)
_OTHER_ORDER: Mapping[str, tuple[str, ...]] = {
    "decision": _BY_DECISION,
    "decision_mode": _BY_DECISION,
    "decision_raw": _BY_DECISION,
    "decision_source_raw": _BY_DECISION,
    # Some clients' result says how long the call took, with the wait.
    "duration_ms": _BY_RUN,
    # A log record names the span that was open, which may be one around the call.
    "span_id": _BY_SPAN,
    "parent_span_id": _BY_SPAN,
    "trace_id": _BY_SPAN,
}
_PLACES: dict[type[Part], list[tuple[str, tuple[str, ...]]]] = {
    kind: [(name, _OTHER_ORDER.get(name, ORDER)) for name in kind.__struct_fields__]
    for kind in (ToolPart, ModelPart)
}

_encode = msgspec.json.Encoder(order="deterministic").encode


def join_parts(mine: dict[str, PartT], others: Mapping[str, PartT]) -> bool:
    """Add `others` to `mine`; say whether that changed anything.

    When one teller said two different things, the same one wins whichever comes first.
    """
    has_changed = False
    for name, part in others.items():
        known = mine.get(name)
        if known is None or (known != part and _outdoes(name, part, known)):
            mine[name] = part
            has_changed = True
    return has_changed


def _outdoes(name: str, part: Part, known: Part) -> bool:
    # Of decisions the last one holds: what a rule allowed, a person may still deny. Of a transcript
    # too: it was read while it was written, and what it says of an answer grows.
    is_earlier = _standing(part) < _standing(known)
    return not is_earlier if name in (DECISION, RECORDED) else is_earlier


def _standing(part: Part) -> tuple[float, bytes]:
    at = part.started_at or part.ended_at
    return (at.timestamp() if at is not None else 0.0, _encode(part))


def resolve(parts: Mapping[str, PartT]) -> PartT:
    """The row that follows from the parts: each value from the most trusted that has it."""
    row = next(iter(parts.values())) if len(parts) == 1 else _joined(parts)
    if isinstance(row, ToolPart) and row.status != "success" and row.decision in UNDONE:
        # What was not allowed to run did not fail.
        status = UNDONE[row.decision]
        return row if row.status == status else msgspec.structs.replace(row, status=status)
    return row


def _joined(parts: Mapping[str, PartT]) -> PartT:
    kind = type(next(iter(parts.values())))
    values: dict[str, Any] = {}
    for name, order in _PLACES[kind]:
        for teller in order:
            part = parts.get(teller)
            if part is not None and (value := getattr(part, name)) is not None:
                values[name] = value
                break
    extras = [parts[name].extra for name in reversed(ORDER) if name in parts]
    if extra := {name: value for given in extras if given for name, value in given.items()}:
        values["extra"] = extra
    return kind(**values)


def is_told(row: PartT, parts: Mapping[str, PartT]) -> bool:
    """Whether the row is what its only part said, but for an estimate of money."""
    if len(parts) != 1:
        return False
    part = next(iter(parts.values()))
    if row is part:
        return True
    return isinstance(part, ModelPart) and part == msgspec.structs.replace(
        row, cost_usd_micros=part.cost_usd_micros
    )


def signal_of(parts: Mapping[str, Part]) -> str:
    """The signals that told of a call, joined by `+`, always in this order: logs, traces, import."""
    told = {LOGS if name in LOG_PARTS else IMPORT if name == RECORDED else TRACES for name in parts}
    return "+".join(signal for signal in (LOGS, TRACES, IMPORT) if signal in told)
