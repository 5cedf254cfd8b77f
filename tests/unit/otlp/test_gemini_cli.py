"""Gemini CLI: calls without ids, tokens counted its own way, and everything said twice."""

from __future__ import annotations

import pytest
from vectors import (
    MS,
    T0,
    TRACE,
    Json,
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

COMMON = {
    "session.id": "s-1",
    "installation.id": "i-1",
    "interactive": False,
    "auth_type": "gemini-api-key",
}
CALL = {
    **COMMON,
    "function_name": "run_shell_command",
    "function_args": '{"command": "echo hi"}',
    "duration_ms": 59,
    "success": True,
    "decision": "auto_accept",
    "prompt_id": "p-1",
    "tool_type": "native",
    "content_length": 77,
}
CALL_ROW = {
    "tool_name": "run_shell_command",
    "started_at": at(-59),
    "ended_at": at(),
    "duration_ms": 59.0,
    "status": "success",
    "decision": "accept",
    "decision_mode": "auto",
    "decision_raw": "auto_accept",
    "turn_id": "p-1",
    "tool_kind": "builtin",
    "input_bytes": 22,
    "output_bytes": 77,
    "session": "s-1",
    "signal": "logs",
    "rank": RANK_SURE,
}
ANSWER = {
    **COMMON,
    "model": "gemini-2.5-flash",
    "duration_ms": 167,
    "input_token_count": 100,
    "output_token_count": 20,
    "cached_content_token_count": 40,
    "thoughts_token_count": 5,
    "tool_token_count": 3,
    "total_token_count": 128,
    "prompt_id": "p-1",
    "status_code": 200,
    "http.status_code": 200,
    "finish_reasons": ["stop"],
    "role": "main",
}
ANSWER_ROW = {
    "started_at": at(-167),
    "ended_at": at(),
    "duration_ms": 167.0,
    "status": "success",
    "http_status": 200,
    "finish_reasons": ["stop"],
    "turn_id": "p-1",
    "provider": "gcp.gen_ai",
    "request_model": "gemini-2.5-flash",
    "input_tokens": 103,
    "input_uncached_tokens": 63,
    "cache_read_tokens": 40,
    "output_tokens": 25,
    "reasoning_tokens": 5,
    "tool_prompt_tokens": 3,
    "total_tokens_reported": 128,
    "query_source": "main",
    "extra": {"auth_type": "gemini-api-key"},
    "session": "s-1",
    "signal": "logs",
    "rank": RANK_SURE,
}
SPAN = {"gen_ai.conversation.id": "s-1", "gen_ai.agent.name": "gemini-cli"}
TOOL_SPAN = span(
    "tool_call",
    {
        **SPAN,
        "gen_ai.operation.name": "tool_call",
        "gen_ai.tool.name": "run_shell_command",
        "gen_ai.tool.call_id": "run_shell_command__1",
        "gen_ai.input.messages": '{"name":"run_shell_command"}',
    },
    end_ns=T0 + 36 * MS,
    parent="9b4f9fec86fecad6",
    status=1,
)


def log(name, attributes, **record_of):
    return "logs", logs("gemini-cli", "gemini-cli", record(name, attributes, **record_of))


def trace(*given, scope="gemini-cli"):
    return "traces", spans("gemini-cli", scope, *given)


def test_a_tool_call_is_a_row():
    out = mapped(log("gemini_cli.tool_call", CALL))

    assert tool_rows(out) == [CALL_ROW]
    assert said(out, "s-1") == {"@installation.id": "i-1"}


def test_arguments_are_stored_only_where_content_is_allowed():
    out = mapped(log("gemini_cli.tool_call", CALL), keeps_content=True)

    assert tool_rows(out) == [{**CALL_ROW, "arguments": '{"command": "echo hi"}'}]


def test_the_call_says_itself_when_it_was():
    times = {
        "start_time": (T0 - 500 * MS) // MS,
        "end_time": (T0 - 100 * MS) // MS,
    }

    out = mapped(log("gemini_cli.tool_call", {**CALL, **times}))

    assert tool_rows(out) == [{**CALL_ROW, "started_at": at(-500), "ended_at": at(-100)}]


@pytest.mark.parametrize("start_time", [None, T0 // MS - 59])
def test_a_call_that_is_sent_again_is_one_row(start_time):
    call = CALL if start_time is None else {**CALL, "start_time": start_time}

    out = mapped(log("gemini_cli.tool_call", call), log("gemini_cli.tool_call", call))

    assert len(tool_rows(out)) == 1


@pytest.mark.parametrize("start_time", [None, T0 // MS - 59])
def test_two_calls_of_one_tool_in_the_same_millisecond_are_two(start_time):
    call = CALL if start_time is None else {**CALL, "start_time": start_time}
    other = {**call, "function_args": '{"command": "ls"}'}

    out = mapped(log("gemini_cli.tool_call", call), log("gemini_cli.tool_call", other))

    assert len(tool_rows(out)) == 2


def test_changed_lines_and_exit_code_come_from_the_metadata_in_a_text():
    metadata = (
        '{"model_added_lines": 7, "model_removed_lines": 2, "user_added_lines": 1,'
        ' "exitCode": 3, "stdout": "a secret"}'
    )

    out = mapped(log("gemini_cli.tool_call", {**CALL, "metadata": metadata}))

    numbers = {
        "model_added_lines": 7,
        "model_removed_lines": 2,
        "user_added_lines": 1,
        "exitCode": 3,
    }
    more = {"lines_added": 7, "lines_removed": 2, "exit_code": 3, "extra": {"metadata": numbers}}
    assert tool_rows(out) == [{**CALL_ROW, **more}]


def test_changed_lines_come_from_a_nested_object_too():
    metadata = {"diffStat": {"model_added_lines": 7, "model_removed_lines": 0}}

    out = mapped(log("gemini_cli.tool_call", {**CALL, "metadata": metadata}))

    assert tool_rows(out) == [{**CALL_ROW, "lines_added": 7, "lines_removed": 0}]


def test_a_tool_that_does_not_exist_fails_undecided():
    failure = {
        **COMMON,
        "function_name": "no_such_tool",
        "duration_ms": 0,
        "success": False,
        "tool_type": "native",
        "error": 'Tool "no_such_tool" not found.',
        "error.message": 'Tool "no_such_tool" not found.',
        "error_type": "tool_not_registered",
        "error.type": "tool_not_registered",
    }

    out = mapped(log("gemini_cli.tool_call", failure))

    assert tool_rows(out) == [
        {
            "tool_name": "no_such_tool",
            "started_at": at(),
            "ended_at": at(),
            "duration_ms": 0.0,
            "status": "error",
            "error_type": "tool_not_registered",
            "error_message": 'Tool "no_such_tool" not found.',
            "tool_kind": "builtin",
            "session": "s-1",
            "signal": "logs",
            "rank": RANK_SURE,
        }
    ]


def test_a_call_that_was_declined_is_rejected():
    out = mapped(log("gemini_cli.tool_call", {**CALL, "success": False, "decision": "reject"}))

    decided = {"decision": "reject", "decision_mode": "user_once", "decision_raw": "reject"}
    assert tool_rows(out) == [{**CALL_ROW, **decided, "status": "rejected"}]


def test_a_tool_of_an_mcp_server_is_known_by_both_names():
    call = {
        **CALL,
        "function_name": "mcp_github_create_issue",
        "tool_type": "mcp",
        "mcp_server_name": "github",
    }

    out = mapped(log("gemini_cli.tool_call", call))

    named = {"mcp_server": "github", "mcp_tool": "create_issue", "tool_kind": "mcp"}
    assert tool_rows(out) == [{**CALL_ROW, **named, "tool_name": "mcp_github_create_issue"}]


def test_an_answer_counts_thoughts_as_output_and_tools_as_input():
    out = mapped(log("gemini_cli.api_response", ANSWER))

    assert model_rows(out) == [ANSWER_ROW]


def test_what_is_said_a_second_time_by_convention_is_not_counted():
    details = {
        **COMMON,
        "gen_ai.response.id": "gem_1",
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.output.messages": "[]",
    }

    out = mapped(
        log("gemini_cli.api_response", ANSWER),
        log("gen_ai.client.inference.operation.details", details),
    )

    assert model_rows(out) == [ANSWER_ROW]
    assert events(out) == []


def test_a_failed_request_has_no_tokens():
    failure = {
        **COMMON,
        "auth_type": "vertex-ai",
        "model_name": "gemini-2.5-flash",
        "duration": 20,
        "error.message": "The model is broken today",
        "error": "The model is broken today",
        "error.type": "ApiError",
        "status_code": 500,
        "http.status_code": 500,
        "prompt_id": "p-1",
        "role": "utility_router",
    }

    out = mapped(log("gemini_cli.api_error", failure))

    assert model_rows(out) == [
        {
            "started_at": at(-20),
            "ended_at": at(),
            "duration_ms": 20.0,
            "status": "error",
            "error_type": "ApiError",
            "error_message": "The model is broken today",
            "http_status": 500,
            "turn_id": "p-1",
            "provider": "gcp.vertex_ai",
            "request_model": "gemini-2.5-flash",
            "query_source": "utility_router",
            "extra": {"auth_type": "vertex-ai"},
            "session": "s-1",
            "signal": "logs",
            "rank": RANK_SURE,
        }
    ]


def test_spans_stand_below_logs_that_tell_of_the_same():
    llm = span(
        "llm_call",
        {
            **SPAN,
            "gen_ai.request.model": "gemini-2.5-flash",
            "gen_ai.prompt.name": "p-1",
            "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.output_tokens": 20,
        },
        end_ns=T0 + 172 * MS,
        span_id="9cb93b94a2a29343",
    )

    out = mapped(trace(TOOL_SPAN, llm))

    assert tool_rows(out) == [
        {
            "tool_name": "run_shell_command",
            "started_at": at(),
            "ended_at": at(36),
            "duration_ms": 36.0,
            "status": "success",
            "external_call_id": "run_shell_command__1",
            "trace_id": TRACE,
            "span_id": "00f067aa0ba902b7",
            "parent_span_id": "9b4f9fec86fecad6",
            "session": "s-1",
            "signal": "traces",
            "rank": RANK_SPAN,
        }
    ]
    assert model_rows(out) == [
        {
            "started_at": at(),
            "ended_at": at(172),
            "duration_ms": 172.0,
            "status": "success",
            "turn_id": "p-1",
            "trace_id": TRACE,
            "span_id": "9cb93b94a2a29343",
            "request_model": "gemini-2.5-flash",
            "input_tokens": 100,
            "input_uncached_tokens": 100,
            "output_tokens": 20,
            "session": "s-1",
            "signal": "traces",
            "rank": RANK_SPAN,
        }
    ]


def test_requests_that_a_library_saw_are_dropped():
    request = {"http.request.method": "POST", "url.full": "https://example.com/v1/models"}

    out = mapped(
        trace(span("POST", request, status=2), scope="@opentelemetry/instrumentation-undici")
    )

    assert tool_rows(out) == model_rows(out) == events(out) == []


def test_the_rest_is_kept_as_events_and_some_of_it_counts():
    prompt = {**COMMON, "prompt_length": 21, "prompt_id": "p-1", "prompt": "Say hi with the shell"}

    out = mapped(
        log("gemini_cli.user_prompt", prompt),
        log("gemini_cli.chat_compression", {**COMMON, "tokens_before": 9, "tokens_after": 4}),
        log("gemini_cli.agent.start", {**COMMON, "agent_id": "a-1", "agent_name": "explore"}),
        trace(span("user_prompt", SPAN)),
    )

    kept = [(event["kind"], event["name"], event.get("counts")) for event in events(out)]
    assert kept == [
        ("prompt", "user_prompt", "prompt_count"),
        ("compaction", "chat_compression", "compactions"),
        ("subagent", "agent.start", None),
        ("turn", "user_prompt", "turn_count"),
    ]
    assert "content" not in events(out)[0]
    assert events(out)[0]["attributes"]["prompt_bytes"] == 21


def test_a_prompt_is_content():
    prompt = {**COMMON, "prompt_length": 6, "prompt": "Say hi"}

    out = mapped(log("gemini_cli.user_prompt", prompt), keeps_content=True)

    assert events(out)[0]["content"] == "Say hi"


@pytest.mark.parametrize(
    ("name", "attribute"),
    [
        ("gemini_cli.config", "approval_mode"),
        ("gemini_cli.plan.approval_mode_switch", "to_mode"),
        ("gemini_cli.approval_mode_switch", "to_mode"),
        ("gemini_cli.conversation_finished", "approvalMode"),
    ],
)
def test_the_approval_mode_is_the_sessions_permission_mode(name, attribute):
    out = mapped(
        log("gemini_cli.config", {**COMMON, "approval_mode": "default"}),
        log(name, {**COMMON, attribute: "yolo"}, time_ns=T0 + MS),
    )

    assert said(out, "s-1")["permission_mode"] == "yolo"


@pytest.mark.parametrize("name", ["end_session", "gemini_cli.end_session"])
def test_the_client_says_when_a_session_ends(name):
    out = mapped(log(name, COMMON))

    ended = {"ended_at": T0, "end_reason": "end_session", "@installation.id": "i-1"}
    assert said(out, "s-1") == ended


def test_metrics_are_named_in_our_words():
    point = {"session.id": "s-1", "installation.id": "i-1"}
    model = {**point, "model": "gemini-2.5-flash"}
    call = {**point, "function_name": "replace"}

    out = mapped(
        (
            "metrics",
            metrics(
                "gemini-cli",
                "gemini-cli",
                sum_metric("gemini_cli.session.count", "", [(point, 1)]),
                sum_metric(
                    "gemini_cli.tool.call.count",
                    "",
                    [
                        ({**call, "success": True, "decision": "accept"}, 3),
                        ({**call, "success": False, "decision": "reject"}, 1),
                        ({**call, "success": False}, 2),
                    ],
                ),
                sum_metric(
                    "gemini_cli.token.usage",
                    "",
                    [
                        ({**model, "type": "input"}, 300),
                        ({**model, "type": "output"}, 40),
                        ({**model, "type": "cache"}, 80),
                        ({**model, "type": "thought"}, 10),
                        ({**model, "type": "tool"}, 6),
                    ],
                ),
                sum_metric(
                    "gemini_cli.lines.changed",
                    "",
                    [({**call, "type": "added"}, 7), ({**call, "type": "removed"}, 2)],
                ),
                sum_metric(
                    "gemini_cli.api.request.count",
                    "",
                    [
                        ({**model, "status_code": 200}, 2),
                        ({**model, "status_code": 500, "error_type": "ApiError"}, 1),
                    ],
                ),
            ),
        )
    )

    found = [
        (it["metric"], it.get("tool_name") or it.get("model"), it.get("kind"), it.get("status"))
        for it in points(out)
    ]
    assert found == [
        ("session.count", None, None, None),
        ("tool.calls", "replace", None, "success"),
        ("tool.calls", "replace", None, "rejected"),
        ("tool.calls", "replace", None, "error"),
        ("token.usage", "gemini-2.5-flash", "input", None),
        ("token.usage", "gemini-2.5-flash", "output", None),
        ("token.usage", "gemini-2.5-flash", "cache_read", None),
        ("token.usage", "gemini-2.5-flash", "reasoning", None),
        ("token.usage", "gemini-2.5-flash", "tool", None),
        ("code.lines", "replace", "added", None),
        ("code.lines", "replace", "removed", None),
        ("model.calls", "gemini-2.5-flash", None, "success"),
        ("model.calls", "gemini-2.5-flash", None, "error"),
    ]
    assert [it["value"] for it in points(out)] == [1, 3, 1, 2, 300, 40, 80, 10, 6, 7, 2, 2, 1]


def test_latencies_are_durations_and_the_conventions_repeat_them():
    latency: Json = {"bounds": [100.0, 500.0], "buckets": [1, 1, 0]}

    out = mapped(
        (
            "metrics",
            metrics(
                "gemini-cli",
                "gemini-cli",
                histogram_metric(
                    "gemini_cli.tool.call.latency",
                    "ms",
                    [({"session.id": "s-1", "function_name": "replace"}, 424.0, 2)],
                    **latency,
                ),
                histogram_metric(
                    "gemini_cli.api.request.latency",
                    "ms",
                    [({"session.id": "s-1", "model": "gemini-2.5-flash"}, 227.0, 2)],
                    **latency,
                ),
                histogram_metric("gen_ai.client.operation.duration", "s", [({}, 0.227, 2)]),
                histogram_metric("gen_ai.client.token.usage", "token", [({}, 300.0, 2)]),
            ),
        )
    )

    common = {
        "session": "s-1",
        "agent": "gemini-cli",
        "instrument": "histogram",
        "is_monotonic": True,
        "is_cumulative": False,
        "start_ns": T0,
        "time_ns": T0 + 60_000 * MS,
        "count": 2,
        "bounds": [100.0, 500.0],
        "buckets": [1, 1, 0],
        "unit": "ms",
    }
    assert points(out) == [
        {**common, "metric": "tool.duration", "tool_name": "replace", "value": 424.0},
        {**common, "metric": "model.duration", "model": "gemini-2.5-flash", "value": 227.0},
    ]


def test_the_version_of_node_is_not_the_clients():
    resource = {"service.version": "v20.20.2", "session.id": "s-1"}

    out = mapped(
        (
            "logs",
            logs(
                "gemini-cli",
                "gemini-cli",
                record("gemini_cli.tool_call", CALL),
                resource=resource,
            ),
        )
    )

    assert said(out, "s-1") == {"@installation.id": "i-1", "#service.version": "v20.20.2"}


@pytest.mark.parametrize(
    "value",
    ["", "abc", "1e300", -1, {"a": 1}, [1], True, 10**18],
    ids=repr,
)
def test_nonsense_in_any_place_leaves_a_row(value):
    names = CALL.keys() - {"session.id"} | {"start_time", "end_time", "metadata", "error.message"}

    for name in names:
        out = mapped(log("gemini_cli.tool_call", {**CALL, name: value}), keeps_content=True)
        assert len(tool_rows(out)) == 1
    for name in ANSWER.keys() - {"session.id"}:
        out = mapped(log("gemini_cli.api_response", {**ANSWER, name: value}))
        assert len(model_rows(out)) == 1
