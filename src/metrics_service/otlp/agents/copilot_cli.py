"""GitHub Copilot CLI: spans and metrics by the GenAI conventions, no logs.

Source: GitHub documentation, "OpenTelemetry in Copilot CLI"; seen on the wire with 1.0.102.
"""

from __future__ import annotations

import msgspec

from metrics_service.ingest.parts import RANK_SPAN, SPAN
from metrics_service.ingest.telemetry import SessionPart, Telemetry
from metrics_service.otlp.agents import genai
from metrics_service.otlp.agents.agent import Agent, Metric
from metrics_service.otlp.agents.events import keep_span
from metrics_service.otlp.items import SpanItem
from metrics_service.otlp.values import number, text

CODE = "copilot-cli"

_UNITS = "github.copilot.nano_aiu"
_TURN = "github.copilot.turn_id"
_CHAT_KEYS = frozenset({_UNITS, _TURN})


def chat_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    a = item.attributes
    part = genai.request_of(item, _CHAT_KEYS)
    part.turn_id = text(a.get(_TURN))
    # `github.copilot.cost` beside it multiplies premium requests: no money, so it has no column.
    part.billing_units = number(a.get(_UNITS))
    part.billing_unit_kind = "nano_aiu" if part.billing_units is not None else None
    out.model(session, CODE, item.key, SPAN, part, rank=RANK_SPAN)


def tool_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    part = genai.tool_of(item, out)
    out.tool(session, CODE, item.key, SPAN, part, rank=RANK_SPAN, span=item.key)


def agent_span(item: SpanItem, session: SessionPart | None, out: Telemetry) -> None:
    if item.parent_span_id is not None and _UNITS in item.attributes:
        # The outermost has the units of all that it called: those inside must not add to them.
        left = {name: value for name, value in item.attributes.items() if name != _UNITS}
        item = msgspec.structs.replace(item, attributes=left)
    keep_span(item, session, out, AGENT, kind="turn")


AGENT = Agent(
    code=CODE,
    scopes=frozenset({"github.copilot"}),
    prefixes=("github.copilot.",),
    services=frozenset({"github-copilot"}),
    spans={
        **dict.fromkeys(genai.REQUESTS, chat_span),
        "execute_tool": tool_span,
        "invoke_agent": agent_span,
    },
    span_kind=genai.span_kind,
    metrics=genai.METRICS
    | {
        # The CLI's own histogram measures the same.
        "gen_ai.execute_tool.duration": None,
        "tool.call.duration": Metric(
            name="tool.duration", unit="ms", factor=1000, tool="gen_ai.tool.name"
        ),
        "tool.call.count": Metric(
            name="tool.calls", tool="gen_ai.tool.name", status=genai.call_status
        ),
        "code.lines_added": Metric(name="code.lines", fixed_kind="added"),
        "code.lines_removed": Metric(name="code.lines", fixed_kind="removed"),
    },
    content=genai.CONTENT,
)
