"""Whoever follows the GenAI and MCP conventions; rows as the specification has them, by hand."""

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

from metrics_service.ingest.parts import RANK_INNER, RANK_SERVER, RANK_SPAN, RANK_SURE

SCOPE = "pydantic-ai"
OTHER_TRACE = "1" * 32
CHAT = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-5",
    "gen_ai.response.model": "gpt-5-2026-08-01",
    "gen_ai.response.id": "resp_1",
    "gen_ai.response.finish_reasons": ["stop"],
    "gen_ai.conversation.id": "c-1",
    "gen_ai.response.time_to_first_chunk": 0.25,
    "gen_ai.usage.input_tokens": 100,
    "gen_ai.usage.cache_read.input_tokens": 40,
    "gen_ai.usage.cache_creation.input_tokens": 10,
    "gen_ai.usage.output_tokens": 20,
    "gen_ai.usage.reasoning.output_tokens": 5,
}
CHAT_SPAN = span("chat gpt-5", CHAT, span_id="a" * 16, parent="b" * 16)
DETAILS = record(
    None,
    {key: value for key, value in CHAT.items() if "time_to_first" not in key},
    event_name="gen_ai.client.inference.operation.details",
    time_ns=T0 + 990 * MS,
    trace_id=TRACE,
    span_id="a" * 16,
)


def test_a_chat_span_is_a_model_call_whose_input_includes_its_cache():
    out = mapped(("traces", spans("my-agent", SCOPE, CHAT_SPAN)))

    assert model_rows(out) == [
        {
            "session": "c-1",
            "signal": "traces",
            "rank": RANK_SPAN,
            "started_at": at(),
            "ended_at": at(1000),
            "duration_ms": 1000.0,
            "ttft_ms": 250.0,
            "status": "success",
            "finish_reasons": ["stop"],
            "request_id": "resp_1",
            "trace_id": TRACE,
            "span_id": "a" * 16,
            "parent_span_id": "b" * 16,
            "provider": "openai",
            "request_model": "gpt-5",
            "response_model": "gpt-5-2026-08-01",
            "operation": "chat",
            "input_tokens": 100,
            "input_uncached_tokens": 50,
            "cache_read_tokens": 40,
            "cache_write_tokens": 10,
            "output_tokens": 20,
            "reasoning_tokens": 5,
        }
    ]
    assert [session.agent for session in out.sessions.values()] == ["my-agent"]


@pytest.mark.parametrize("operation", ["generate_content", "text_completion", "embeddings"])
def test_the_other_operations_of_models_are_model_calls_as_well(operation):
    request = span(f"{operation} m", {"gen_ai.operation.name": operation})

    (row,) = model_rows(mapped(("traces", spans("my-agent", SCOPE, request))))

    assert row["operation"] == operation
    assert row["session"] == f"trace:{TRACE}"


def test_the_old_names_of_provider_and_tokens_are_read():
    attributes = {
        "gen_ai.system": "anthropic",
        "gen_ai.request.model": "claude",
        "gen_ai.usage.prompt_tokens": 7,
        "gen_ai.usage.completion_tokens": 3,
    }

    (row,) = model_rows(mapped(("traces", spans("old", None, span("chat claude", attributes)))))

    assert row["provider"] == "anthropic"
    assert row["operation"] == "chat"
    assert (row["input_tokens"], row["input_uncached_tokens"], row["output_tokens"]) == (7, 7, 3)
    assert "cache_read_tokens" not in row
    assert "extra" not in row


def test_a_library_that_reports_the_cache_apart_is_flagged():
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.cache_read.input_tokens": 90,
    }

    (row,) = model_rows(mapped(("traces", spans("old", None, span("chat", attributes)))))

    assert (row["input_tokens"], row["input_uncached_tokens"]) == (100, 10)
    assert row["extra"] == {"tokens": "cache_apart"}


def test_a_tool_span_is_a_tool_call_without_its_content():
    call = span(
        "execute_tool get_weather",
        {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": "get_weather",
            "gen_ai.tool.call.id": "call_1",
            "gen_ai.tool.type": "function",
            "gen_ai.conversation.id": "c-1",
            "gen_ai.agent.id": "agent-7",
            "gen_ai.tool.call.arguments": '{"city":"Bern"}',
            "gen_ai.tool.call.result": "kühl",
            "process.exit.code": -9,
            "app.custom": "kept",
        },
        end_ns=T0 + 1500 * MS,
    )

    assert tool_rows(mapped(("traces", spans("my-agent", SCOPE, call)))) == [
        {
            "session": "c-1",
            "signal": "traces",
            "rank": RANK_SPAN,
            "tool_name": "get_weather",
            "started_at": at(),
            "ended_at": at(1500),
            "duration_ms": 1500.0,
            "status": "success",
            "external_call_id": "call_1",
            "trace_id": TRACE,
            "span_id": "00f067aa0ba902b7",
            "tool_kind": "function",
            "agent_instance_id": "agent-7",
            "input_bytes": 15,
            "output_bytes": 5,
            "exit_code": -9,
            "extra": {"app.custom": "kept"},
        }
    ]


def test_content_of_a_tool_call_is_kept_where_the_tenant_allows_it():
    call = span(
        "execute_tool get_weather",
        {"gen_ai.tool.call.arguments": '{"city":"Bern"}', "gen_ai.tool.call.result": "cool"},
    )

    out = mapped(("traces", spans("my-agent", SCOPE, call)), keeps_content=True)

    (row,) = tool_rows(out)
    assert (row["tool_name"], row["arguments"]) == ("get_weather", '{"city":"Bern"}')
    assert row["result"] == "cool"


@pytest.mark.parametrize(
    ("attributes", "status", "error_type"),
    [({"error.type": "timeout"}, 0, "timeout"), ({}, 2, None)],
)
def test_a_tool_span_with_an_error_failed(attributes, status, error_type):
    call = span("execute_tool x", {"gen_ai.tool.name": "x", **attributes}, status=status)

    (row,) = tool_rows(mapped(("traces", spans("my-agent", SCOPE, call))))

    assert (row["status"], row.get("error_type")) == ("error", error_type)


def test_an_mcp_clients_span_counts_only_where_no_tool_call_is_told_of():
    outer = span("execute_tool search", {"gen_ai.tool.name": "search"}, span_id="a" * 16)
    inner = span(
        "tools/call search",
        {
            "mcp.method.name": "tools/call",
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": "search",
            "mcp.session.id": "transport-1",
            "error.type": "tool_error",
        },
        span_id="b" * 16,
        parent="a" * 16,
    )

    first, second = tool_rows(mapped(("traces", spans("my-agent", SCOPE, outer, inner))))

    assert (first["rank"], first["status"]) == (RANK_SPAN, "success")
    assert (second["rank"], second["status"]) == (RANK_INNER, "error")
    assert (second["tool_kind"], second["mcp_tool"]) == ("mcp", "search")
    assert (second["error_type"], second["session"]) == ("tool_error", f"trace:{TRACE}")


@pytest.mark.parametrize("is_server_first", [True, False])
def test_an_mcp_servers_span_gives_way_to_its_clients(is_server_first):
    told = {"mcp.method.name": "tools/call", "gen_ai.tool.name": "search"}
    client = span("tools/call search", told, span_id="b" * 16, kind=3)
    server = span("tools/call search", told, span_id="c" * 16, parent="b" * 16, kind=2)
    given = [server, client] if is_server_first else [client, server]

    rows = tool_rows(mapped(("traces", spans("my-agent", SCOPE, *given))))

    # Of one session the best rank counts.
    assert {row["span_id"]: row["rank"] for row in rows} == {
        "b" * 16: RANK_INNER,
        "c" * 16: RANK_SERVER,
    }
    assert {row["session"] for row in rows} == {f"trace:{TRACE}"}


def test_an_mcp_servers_span_alone_is_a_call():
    given = {"mcp.method.name": "tools/call", "gen_ai.operation.name": "execute_tool"}
    server = span("tools/call search", given, kind=2)

    (row,) = tool_rows(mapped(("traces", spans("my-server", SCOPE, server))))

    assert (row["tool_name"], row["tool_kind"], row["rank"]) == ("search", "mcp", RANK_SERVER)


def test_an_mcp_span_without_an_operation_is_known_by_its_method():
    call = span("tools/call search", {"mcp.method.name": "tools/call"}, span_id="a" * 16)
    listing = span("tools/list", {"mcp.method.name": "tools/list"}, span_id="b" * 16)

    out = mapped(("traces", spans("my-agent", SCOPE, call, listing)))

    assert [row["tool_name"] for row in tool_rows(out)] == ["search"]
    assert [(event["name"], event["session"]) for event in events(out)] == [("tools/list", None)]


@pytest.mark.parametrize(
    ("attributes", "session"),
    [
        ({"session.id": "browser-1"}, None),
        ({"thread.id": "pool-1"}, None),
        ({"gen_ai.conversation.id": "c-1", "session.id": "browser-1"}, "c-1"),
    ],
)
def test_what_is_no_agents_item_has_only_a_conversation_for_a_session(attributes, session):
    out = mapped(
        ("traces", spans("my-shop", SCOPE, span("GET /", attributes))),
        ("logs", logs("my-shop", SCOPE, record("paid", attributes, trace_id=TRACE))),
        ("metrics", metrics("my-shop", SCOPE, sum_metric("hits", "1", [(attributes, 1)]))),
    )

    assert [event["session"] for event in events(out)] == [session, session]
    assert [point["session"] for point in points(out)] == [session]


def test_an_agents_span_is_a_turn_and_its_totals_are_added_to_nothing():
    agent = span(
        "invoke_agent reviewer",
        {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.conversation.id": "c-1",
            "gen_ai.usage.input_tokens": 300,
        },
    )

    out = mapped(("traces", spans("my-agent", SCOPE, agent)))

    assert (model_rows(out), tool_rows(out)) == ([], [])
    (event,) = events(out)
    assert (event["kind"], event["counts"], event["duration_ms"]) == ("turn", "turn_count", 1000)
    assert event["attributes"]["gen_ai.usage.input_tokens"] == 300
    assert event["session"] == "c-1"


@pytest.mark.parametrize("order", [("logs", "traces"), ("traces", "logs")])
def test_the_details_of_a_request_and_its_span_are_one_call_in_any_order(order):
    given = {
        "logs": logs("my-agent", SCOPE, DETAILS),
        "traces": spans("my-agent", SCOPE, CHAT_SPAN),
    }

    (row,) = model_rows(mapped(*((signal, given[signal]) for signal in order)))

    assert (row["signal"], row["rank"]) == ("logs+traces", RANK_SURE)
    assert (row["started_at"], row["duration_ms"], row["ttft_ms"]) == (at(), 1000.0, 250.0)
    assert (row["input_tokens"], row["input_uncached_tokens"]) == (100, 50)


def test_details_alone_are_a_model_call():
    (row,) = model_rows(mapped(("logs", logs("my-agent", SCOPE, DETAILS))))

    assert (row["session"], row["signal"], row["rank"]) == ("c-1", "logs", RANK_SURE)
    assert (row["started_at"], row["request_id"]) == (at(990), "resp_1")
    assert (row["input_tokens"], row["output_tokens"]) == (100, 20)
    assert "duration_ms" not in row


def test_details_written_outside_the_span_take_its_place():
    outside = {**DETAILS, "spanId": "b" * 16}

    out = mapped(
        ("traces", spans("my-agent", SCOPE, CHAT_SPAN)),
        ("logs", logs("my-agent", SCOPE, outside)),
    )

    # Of one session the best rank counts.
    assert [(row["rank"], row["session"]) for row in model_rows(out)] == [
        (RANK_SPAN, "c-1"),
        (RANK_SURE, "c-1"),
    ]


def test_a_server_that_answers_with_one_id_for_all_does_not_merge_its_requests():
    second = span("chat gpt-5", CHAT, span_id="c" * 16)

    out = mapped(("traces", spans("my-agent", SCOPE, CHAT_SPAN, second)))

    assert len(model_rows(out)) == 2


def test_failed_requests_count_beside_those_with_an_answer():
    failed = span(
        "chat gpt-5",
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.conversation.id": "c-1",
            "error.type": "RateLimitError",
        },
        span_id="c" * 16,
        status=2,
    )

    answered, row = model_rows(mapped(("traces", spans("my-agent", SCOPE, CHAT_SPAN, failed))))

    assert (row["status"], row["error_type"]) == ("error", "RateLimitError")
    assert answered["rank"] == row["rank"]


def test_messages_of_an_instrumented_library_are_events_of_their_trace_without_content():
    scope = "opentelemetry.instrumentation.openai_v2"
    asked = record(
        None,
        {"gen_ai.system": "openai"},
        event_name="gen_ai.user.message",
        body={"content": "secret"},
        trace_id=TRACE,
        span_id="a" * 16,
    )
    answered = record(
        None,
        {"gen_ai.system": "openai"},
        event_name="gen_ai.choice",
        body={"index": 0, "message": {"content": "secret"}},
        trace_id=TRACE,
        span_id="a" * 16,
    )

    out = mapped(("logs", logs("app", scope, asked, answered)))

    assert [(event["kind"], event["name"]) for event in events(out)] == [
        ("message", "gen_ai.user.message"),
        ("message", "gen_ai.choice"),
    ]
    assert {event["session"] for event in events(out)} == {f"trace:{TRACE}"}
    assert "secret" not in str(events(out))


def test_what_is_no_agents_is_kept_as_events_without_a_session():
    request = span("GET /chat", {"http.request.method": "GET"}, span_id="a" * 16)
    word = span("chat", {"http.route": "/chat"}, span_id="b" * 16)
    line = record(None, {}, body="Listening on port 80", trace_id=TRACE)

    out = mapped(
        ("traces", spans("shop", "http", request, word)), ("logs", logs("shop", "app", line))
    )

    assert not out.sessions
    assert (model_rows(out), tool_rows(out)) == ([], [])
    assert [(it["kind"], it["name"], it["session"]) for it in events(out)] == [
        ("span", "GET /chat", None),
        ("span", "chat", None),
        ("log", "log", None),
    ]


def test_a_trace_that_names_its_session_once_is_known_by_it():
    tool = span("execute_tool x", {"gen_ai.tool.name": "x"}, span_id="a" * 16, parent="b" * 16)
    agent = span(
        "invoke_agent",
        {"gen_ai.operation.name": "invoke_agent", "gen_ai.conversation.id": "c-1"},
        span_id="b" * 16,
    )
    elsewhere = span("execute_tool y", {"gen_ai.tool.name": "y"}, trace_id=OTHER_TRACE)

    out = mapped(("traces", spans("my-agent", SCOPE, tool, agent, elsewhere)))

    assert out.traces[TRACE].external_id == "c-1"
    assert OTHER_TRACE not in out.traces
    assert said(out, f"trace:{OTHER_TRACE}") == {}


def test_metrics_in_seconds_become_milliseconds_and_tokens_keep_their_kind():
    about = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5",
    }
    body = metrics(
        "my-agent",
        SCOPE,
        histogram_metric(
            "gen_ai.client.operation.duration",
            "s",
            [(about, 3.5, 2), ({**about, "gen_ai.operation.name": "invoke_agent"}, 9.0, 1)],
            bounds=[1.0, 2.5],
            buckets=[1, 0, 1],
        ),
        histogram_metric(
            "gen_ai.client.token.usage",
            "{token}",
            [({**about, "gen_ai.token.type": "input"}, 300, 2)],
        ),
        sum_metric(
            "gen_ai.client.inference.usage.cache_read.input_tokens", "{token}", [(about, 80)]
        ),
        histogram_metric(
            "gen_ai.execute_tool.duration", "s", [({"gen_ai.tool.name": "search"}, 0.5, 1)]
        ),
    )

    duration, tokens, cached, tool = points(mapped(("metrics", body)))

    assert (duration["metric"], duration["unit"], duration["kind"]) == (
        "model.duration",
        "ms",
        "chat",
    )
    assert (duration["value"], duration["count"], duration["model"]) == (3500.0, 2, "gpt-5")
    assert (duration["bounds"], duration["buckets"]) == ([1000.0, 2500.0], [1, 0, 1])
    assert (tokens["metric"], tokens["kind"], tokens["value"]) == ("token.usage", "input", 300.0)
    assert (cached["metric"], cached["kind"], cached["value"]) == ("token.usage", "cache_read", 80)
    assert (tool["metric"], tool["value"], tool["tool_name"]) == ("tool.duration", 500.0, "search")
    assert {point["session"] for point in (duration, tokens, cached, tool)} == {None}
    assert duration["agent"] == "my-agent"
