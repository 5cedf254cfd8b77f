"""GitHub Copilot in VS Code; the attributes are those that its source sets."""

from __future__ import annotations

import pytest
from vectors import (
    MS,
    T0,
    TRACE,
    at,
    events,
    histogram_metric,
    logs,
    mapped,
    metrics,
    model_rows,
    points,
    record,
    said,
    span,
    spans,
    sum_metric,
    tool_rows,
)

from metrics_service.ingest.parts import RANK_SPAN, RANK_SURE

NAME = "copilot-chat"
WINDOW = {"service.version": "0.40.0", "session.id": "window-1"}
AGENT_SPAN = span(
    "invoke_agent copilot",
    {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.conversation.id": "chat-1",
        "gen_ai.usage.input_tokens": 900,
        "github.copilot.git.repository": "acme/shop",
        "github.copilot.git.branch": "main",
        "copilot_chat.user_request": "secret",
    },
    span_id="b" * 16,
    end_ns=T0 + 5000 * MS,
)
CHAT_SPAN = span(
    "chat gpt-5",
    {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "github",
        "gen_ai.request.model": "gpt-5",
        "gen_ai.response.id": "req-1",
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.cache_read.input_tokens": 40,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.reasoning_tokens": 5,
        "copilot_chat.time_to_first_token": 250,
        "copilot_chat.reasoning_content": "secret",
    },
    span_id="a" * 16,
    parent="b" * 16,
)
DETAILS = record(
    "gen_ai.client.inference.operation.details",
    {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-5",
        "gen_ai.response.id": "req-1",
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
    },
    body="GenAI inference: gpt-5",
    time_ns=T0 + 1000 * MS,
    trace_id=TRACE,
    span_id="b" * 16,
)
TOOL_SPAN = span(
    "execute_tool readFile",
    {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "readFile",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": "call_1",
    },
    span_id="c" * 16,
    parent="b" * 16,
)
TOOL_LOG = record(
    "copilot_chat.tool.call",
    {"gen_ai.tool.name": "readFile", "duration_ms": 1000, "success": False, "error.type": "Error"},
    body="copilot_chat.tool.call: readFile",
    time_ns=T0 + 1000 * MS,
    trace_id=TRACE,
    span_id="b" * 16,
)


def traces(*given, service=NAME):
    return "traces", spans(service, NAME, *given, resource=WINDOW)


def said_in_logs(*given):
    return "logs", logs(NAME, NAME, *given, resource=WINDOW)


def test_the_editors_window_is_no_session():
    out = mapped(traces(CHAT_SPAN, AGENT_SPAN))

    assert [session.external_id for session in out.sessions.values()] == [
        f"trace:{TRACE}",
        "chat-1",
    ]
    assert out.traces[TRACE].external_id == "chat-1"
    assert said(out, "chat-1") == {
        "agent_version": "0.40.0",
        "repository": "acme/shop",
        "branch": "main",
    }


def test_a_chat_span_has_its_first_token_in_milliseconds():
    assert model_rows(mapped(traces(CHAT_SPAN))) == [
        {
            "session": f"trace:{TRACE}",
            "signal": "traces",
            "rank": RANK_SPAN,
            "started_at": at(),
            "ended_at": at(1000),
            "duration_ms": 1000.0,
            "ttft_ms": 250.0,
            "status": "success",
            "request_id": "req-1",
            "trace_id": TRACE,
            "span_id": "a" * 16,
            "parent_span_id": "b" * 16,
            "provider": "github",
            "request_model": "gpt-5",
            "operation": "chat",
            "input_tokens": 100,
            "input_uncached_tokens": 60,
            "cache_read_tokens": 40,
            "output_tokens": 20,
            "reasoning_tokens": 5,
        }
    ]


def test_an_agents_span_is_a_turn_whose_totals_are_added_to_nothing():
    out = mapped(traces(AGENT_SPAN))

    (event,) = events(out)
    assert (event["kind"], event["counts"], event["session"]) == ("turn", "turn_count", "chat-1")
    assert event["attributes"]["copilot_chat.user_request_bytes"] == 6
    assert "secret" not in str(event)
    assert not model_rows(out)


@pytest.mark.parametrize("is_log_first", [True, False])
def test_the_details_of_a_request_join_its_span_although_written_outside_it(is_log_first):
    given = [said_in_logs(DETAILS), traces(CHAT_SPAN)]

    (row,) = model_rows(mapped(*(given if is_log_first else reversed(given))))

    assert (row["signal"], row["rank"]) == ("logs+traces", RANK_SURE)
    # The span knows of the cache and of time.
    assert (row["input_uncached_tokens"], row["cache_read_tokens"]) == (60, 40)
    assert (row["started_at"], row["duration_ms"]) == (at(), 1000.0)
    assert row["span_id"] == "a" * 16


def test_a_canceled_request_is_no_success():
    canceled = span("chat gpt-5", {"gen_ai.operation.name": "chat", "copilot_chat.canceled": True})

    assert [row["status"] for row in model_rows(mapped(traces(canceled)))] == ["cancelled"]


def test_a_logged_tool_call_takes_the_place_of_its_span():
    out = mapped(traces(TOOL_SPAN), said_in_logs(TOOL_LOG))

    by_span, logged = tool_rows(out)

    assert logged == {
        "session": f"trace:{TRACE}",
        "signal": "logs",
        "rank": RANK_SURE,
        "tool_name": "readFile",
        "started_at": at(),
        "ended_at": at(1000),
        "duration_ms": 1000.0,
        "status": "error",
        "error_type": "Error",
        "trace_id": TRACE,
        "parent_span_id": "b" * 16,
    }
    # Of one session the best rank counts.
    assert (by_span["session"], by_span["rank"]) == (logged["session"], RANK_SPAN)
    assert (by_span["external_call_id"], by_span["tool_kind"]) == ("call_1", "function")


def test_calls_logged_in_one_span_are_several():
    later = {**TOOL_LOG, "timeUnixNano": str(T0 + 2000 * MS)}

    assert len(tool_rows(mapped(said_in_logs(TOOL_LOG, later)))) == 2


def test_what_is_logged_outside_every_trace_leaves_the_counting_to_the_spans():
    nowhere = [
        {key: value for key, value in it.items() if key not in ("traceId", "spanId")}
        for it in (TOOL_LOG, DETAILS)
    ]

    out = mapped(said_in_logs(*nowhere))

    assert (tool_rows(out), model_rows(out)) == ([], [])
    assert [(event["name"], event["session"]) for event in events(out)] == [
        ("tool.call", None),
        ("gen_ai.client.inference.operation.details", None),
    ]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"skill_name": "review"}, {"tool_kind": "skill", "skill_name": "review"}),
        (
            {"mcp_server_name_hash": "5e8", "mcp_tool_name": "search"},
            {"tool_kind": "mcp", "mcp_server": "5e8", "mcp_tool": "search"},
        ),
        (
            {"edit_type": "insert"},
            {"extra": {"github.copilot.tool.parameters.edit_type": "insert"}},
        ),
    ],
)
def test_the_parameters_of_a_tool_say_its_kind(parameters, expected):
    attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "t",
        **{f"github.copilot.tool.parameters.{name}": it for name, it in parameters.items()},
    }

    (row,) = tool_rows(mapped(traces(span("execute_tool t", attributes))))

    assert expected.items() <= row.items()


def test_a_chat_begins_with_an_event_that_names_it():
    start = record("copilot_chat.session.start", {"session.id": "chat-1"})

    (event,) = events(mapped(said_in_logs(start)))

    assert (event["kind"], event["session"]) == ("session", "chat-1")


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("edit.feedback", {"outcome": "accepted", "language_id": "go"}),
        ("edit.hunk.action", {"outcome": "rejected", "lines_added": 3, "lines_removed": 1}),
        ("inline.done", {"accepted": True}),
    ],
)
def test_what_became_of_an_edit_is_an_event_and_no_decision(name, attributes):
    out = mapped(said_in_logs(record(f"copilot_chat.{name}", attributes, trace_id=TRACE)))

    (event,) = events(out)
    assert (event["kind"], event["name"]) == ("edit_outcome", name)
    assert event["attributes"].items() >= attributes.items()
    assert event["session"] == f"trace:{TRACE}"
    assert not tool_rows(out)


def test_metrics_without_units_get_ours():
    body = metrics(
        NAME,
        NAME,
        sum_metric(
            "copilot_chat.tool.call.count",
            "",
            [
                ({"gen_ai.tool.name": "readFile", "success": True}, 4),
                ({"gen_ai.tool.name": "readFile", "success": False}, 1),
            ],
            temporality=2,
        ),
        histogram_metric(
            "copilot_chat.tool.call.duration", "", [({"gen_ai.tool.name": "readFile"}, 70.0, 5)]
        ),
        sum_metric(
            "copilot_chat.lines_of_code.count",
            "",
            [({"type": "added", "copilot_chat.language_id": "go"}, 12)],
        ),
        histogram_metric(
            "gen_ai.client.operation.duration",
            "",
            [({"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-5"}, 1.5, 1)],
        ),
        histogram_metric("copilot_chat.agent.invocation.duration", "", [({}, 9.5, 1)]),
        sum_metric(
            "copilot_chat.edit.acceptance.count",
            "",
            [({"copilot_chat.edit.outcome": "accepted"}, 2)],
        ),
        resource=WINDOW,
    )

    rows = points(mapped(("metrics", body)))

    names = ("metric", "unit", "kind", "status", "tool_name", "language", "value")
    assert [tuple(row.get(name) for name in names) for row in rows] == [
        ("tool.calls", "{call}", None, "success", "readFile", None, 4),
        ("tool.calls", "{call}", None, "error", "readFile", None, 1),
        ("tool.duration", "ms", None, None, "readFile", None, 70.0),
        ("code.lines", "{line}", "added", None, None, "go", 12),
        ("model.duration", "ms", "chat", None, None, None, 1500.0),
        ("copilot_chat.agent.invocation.duration", "s", None, None, None, None, 9.5),
        ("edit.outcome", "{edit}", "accepted", None, None, None, 2),
    ]
    assert [row["is_cumulative"] for row in rows[:3]] == [True, True, False]
    assert {row["session"] for row in rows} == {None}
