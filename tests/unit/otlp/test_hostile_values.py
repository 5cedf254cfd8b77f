"""Values that no client sends: they cost at most themselves, never the request that they came in."""

from __future__ import annotations

import pytest
from vectors import (
    T0,
    TRACE,
    at,
    logs,
    mapped,
    model_rows,
    record,
    span,
    span_event,
    spans,
    tool_rows,
)

from metrics_service.otlp.values import nanoseconds

SCOPE = "com.anthropic.claude_code.events"
S1 = {"session.id": "s-1"}
UNHASHABLE = ([], ["mcp"], {"a": 1})


def claude(name, attributes, **more):
    return "logs", logs("claude-code", SCOPE, record(name, {**S1, **attributes}, **more))


@pytest.mark.parametrize(
    "said", ["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "1969-12-31T23:59:59Z", "-5", 0]
)
def test_no_clock_is_before_1970(said):
    assert nanoseconds(said) is None


def test_a_record_with_such_a_time_happened_when_it_was_observed():
    given = claude(
        "tool_result",
        {"tool_use_id": "t", "duration_ms": 5, "event.timestamp": "0001-01-01T00:00:00Z"},
        time_ns=0,
        observed_ns=T0,
    )
    [row] = tool_rows(mapped(given))
    assert row["ended_at"] == at(0)


@pytest.mark.parametrize("source", UNHASHABLE)
def test_a_tool_source_that_is_no_text_is_none(source):
    given = claude(
        "tool_decision", {"tool_use_id": "t", "tool_name": "Bash", "tool_source": source}
    )
    [row] = tool_rows(mapped(given))
    assert row["tool_kind"] == "builtin"


def test_nobody_fails_without_an_attempt():
    [row] = model_rows(mapped(claude("api_error", {"request_id": "r", "attempt": 0})))
    assert row.get("attempts") is None


@pytest.mark.parametrize("name", UNHASHABLE)
def test_an_event_in_a_codex_span_whose_name_is_no_text_is_passed_over(name):
    told = span(
        "mcp.tools.call",
        {"conversation.id": "c-1", "tool.call_id": "t"},
        trace_id=TRACE,
        events=[span_event("event", {"event.name": name})],
    )
    [row] = tool_rows(mapped(("traces", spans("codex_exec", "codex", told))))
    assert row["external_call_id"] == "t"
