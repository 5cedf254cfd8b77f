"""Qwen Code: logs and spans that meet by the ids of calls and answers, and spans that mean nothing."""

from __future__ import annotations

from itertools import permutations

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

SESSION = {"session.id": "q-1"}
INTERACTION, TOOL, EXECUTION, WAIT, LLM = (f"{number:016x}" for number in range(1, 6))
CALL = {
    **SESSION,
    "call_id": "call_1",
    "function_name": "run_shell_command",
    "function_args": '{"command": "echo hi"}',
    "duration_ms": 94,
    "status": "success",
    "execution_status": "success",
    "success": True,
    "decision": "auto_accept",
    "prompt_id": "q-1########0",
    "response_id": "chatcmpl-1",
    "tool_type": "native",
    "content_length": 114,
}
CALL_ROW = {
    "tool_name": "run_shell_command",
    "started_at": at(-94),
    "ended_at": at(),
    "duration_ms": 94.0,
    "status": "success",
    "decision": "accept",
    "decision_mode": "auto",
    "decision_raw": "auto_accept",
    "external_call_id": "call_1",
    "turn_id": "q-1########0",
    "tool_kind": "builtin",
    "input_bytes": 22,
    "output_bytes": 114,
    "extra": {"execution_status": "success", "response_id": "chatcmpl-1"},
    "session": "q-1",
    "signal": "logs",
    "rank": RANK_SURE,
}
TOOL_SPAN = span(
    "qwen-code.tool",
    {
        **SESSION,
        "tool.call_id": "call_1",
        "gen_ai.tool.call.id": "call_1",
        "call_id": "call_1",
        "tool_name": "run_shell_command",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "run_shell_command",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.description": "Executes a given shell command",
        "success": True,
        "duration_ms": 96,
    },
    end_ns=T0 + 96 * MS,
    span_id=TOOL,
    parent=INTERACTION,
)
EXECUTION_SPAN = span(
    "qwen-code.tool.execution",
    {**SESSION, "duration_ms": 17, "success": True, "execution_status": "success"},
    start_ns=T0 + 50 * MS,
    end_ns=T0 + 67 * MS,
    span_id=EXECUTION,
    parent=TOOL,
)
WAIT_SPAN = span(
    "qwen-code.tool.blocked_on_user",
    {
        **SESSION,
        "tool.name": "run_shell_command",
        "duration_ms": 40,
        "decision": "proceed_always",
        "source": "cli",
    },
    start_ns=T0 + 5 * MS,
    end_ns=T0 + 45 * MS,
    span_id=WAIT,
    parent=TOOL,
)
ANSWER = {
    **SESSION,
    "response_id": "chatcmpl-1",
    "model": "qwen3-coder",
    "status_code": 200,
    "duration_ms": 338,
    "input_token_count": 100,
    "output_token_count": 20,
    "cached_content_token_count": 40,
    "thoughts_token_count": 5,
    "total_token_count": 120,
    "prompt_id": "q-1########0",
    "auth_type": "openai",
    "ttft_ms": 335,
    "http.status_code": 200,
}
ANSWER_ROW = {
    "started_at": at(-338),
    "ended_at": at(),
    "duration_ms": 338.0,
    "ttft_ms": 335.0,
    "status": "success",
    "http_status": 200,
    "request_id": "chatcmpl-1",
    "turn_id": "q-1########0",
    "request_model": "qwen3-coder",
    "input_tokens": 100,
    "input_uncached_tokens": 60,
    "cache_read_tokens": 40,
    "output_tokens": 20,
    "reasoning_tokens": 5,
    "total_tokens_reported": 120,
    "extra": {"auth_type": "openai"},
    "session": "q-1",
    "signal": "logs",
    "rank": RANK_SURE,
}
LLM_ATTRIBUTES = {
    **SESSION,
    "gen_ai.conversation.id": "q-1",
    "qwen-code.prompt_id": "q-1########0",
    "gen_ai.request.model": "qwen3-coder",
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "dashscope",
    "duration_ms": 341,
    "attempt": 2,
}
LLM_SPAN = span(
    "qwen-code.llm_request",
    {
        **LLM_ATTRIBUTES,
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 40,
        "thoughts_token_count": 5,
        "ttft_ms": 335,
        "success": True,
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "qwen3-coder-plus",
        "finish_reason": "tool_calls",
        "gen_ai.response.finish_reasons": ["tool_calls"],
    },
    end_ns=T0 + 342 * MS,
    span_id=LLM,
    parent=INTERACTION,
)


def log(name, attributes, **record_of):
    return "logs", logs("qwen-code", "qwen-code", record(name, attributes, **record_of))


def trace(*given, scope="qwen-code"):
    return "traces", spans("qwen-code", scope, *given)


def test_a_tool_call_is_a_row():
    out = mapped(log("qwen-code.tool_call", CALL))

    assert tool_rows(out) == [CALL_ROW]


def test_log_and_spans_are_one_call_in_any_order():
    given = [
        log("qwen-code.tool_call", CALL),
        trace(TOOL_SPAN),
        trace(EXECUTION_SPAN),
        trace(WAIT_SPAN),
    ]
    # What decided is the record of the result, whose time is with the wait; the spans add the run
    # alone, the wait, the total and their ids.
    row = {
        **CALL_ROW,
        "duration_ms": 17.0,
        "wait_ms": 40.0,
        "total_ms": 96.0,
        "decision_source_raw": "cli",
        "trace_id": TRACE,
        "span_id": TOOL,
        "parent_span_id": INTERACTION,
        "signal": "logs+traces",
    }

    for order in permutations(given):
        assert tool_rows(mapped(*order)) == [row]


def test_spans_alone_tell_of_the_call():
    out = mapped(trace(EXECUTION_SPAN, WAIT_SPAN, TOOL_SPAN))

    assert tool_rows(out) == [
        {
            "tool_name": "run_shell_command",
            "started_at": at(50),
            "ended_at": at(67),
            "duration_ms": 17.0,
            "wait_ms": 40.0,
            "total_ms": 96.0,
            "status": "success",
            "decision": "accept",
            "decision_mode": "user_always",
            "decision_raw": "proceed_always",
            "decision_source_raw": "cli",
            "external_call_id": "call_1",
            "trace_id": TRACE,
            "span_id": TOOL,
            "parent_span_id": INTERACTION,
            "session": "q-1",
            "signal": "traces",
            "rank": RANK_SURE,
        }
    ]


def test_inner_spans_that_know_the_call_need_no_span_around_them():
    execution = span(
        "qwen-code.tool.execution",
        {
            **SESSION,
            "gen_ai.tool.name": "run_shell_command",
            "tool.call_id": "call_1",
            "duration_ms": 12,
            "success": False,
            "execution_status": "error",
            "error.type": "shell_execute_error",
        },
        span_id=EXECUTION,
        parent=TOOL,
        status=2,
    )
    wait = span(
        "qwen-code.tool.blocked_on_user",
        {**SESSION, "tool.call_id": "call_2", "decision": "aborted", "source": "system"},
        end_ns=T0 + 40 * MS,
        span_id=WAIT,
        parent=TOOL,
    )

    out = mapped(trace(execution, wait))

    assert tool_rows(out) == [
        {
            "tool_name": "run_shell_command",
            "started_at": at(),
            "ended_at": at(1000),
            "duration_ms": 12.0,
            "status": "error",
            "error_type": "shell_execute_error",
            "external_call_id": "call_1",
            "session": "q-1",
            "signal": "traces",
            "rank": RANK_SURE,
        },
        {
            "started_at": at(),
            "wait_ms": 40.0,
            "status": "cancelled",
            "decision": "cancel",
            "decision_mode": "user_once",
            "decision_raw": "aborted",
            "decision_source_raw": "system",
            "external_call_id": "call_2",
            "session": "q-1",
            "signal": "traces",
            "rank": RANK_SURE,
        },
    ]


@pytest.mark.parametrize(
    ("status", "decision", "expected"),
    [
        ("cancelled", "accept", "cancelled"),
        ("cancelled", None, "cancelled"),
        ("cancelled", "reject", "rejected"),
        ("error", "auto_accept", "error"),
    ],
)
def test_a_call_ends_as_its_status_says_unless_somebody_declined_it(status, decision, expected):
    call = {**CALL, "status": status, "success": False}
    call = {**call, "decision": decision} if decision else call

    (row,) = tool_rows(mapped(log("qwen-code.tool_call", call)))

    assert row["status"] == expected


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        ("tool_error", "error"),
        ("permission_denied", "rejected"),
        ("cancelled", "cancelled"),
        ("timeout", "timeout"),
    ],
)
def test_the_span_says_why_a_tool_failed(failure, expected):
    failed = span(
        "qwen-code.tool",
        {**SESSION, "tool.call_id": "call_1", "success": False, "tool.failure_kind": failure},
    )

    (row,) = tool_rows(mapped(trace(failed)))

    assert (row["status"], row["extra"]) == (expected, {"tool.failure_kind": failure})


@pytest.mark.parametrize("keeps_content", [False, True])
def test_what_a_failed_command_printed_is_content_and_its_exit_code_is_not(keeps_content):
    report = (
        "Command: echo one; exit 3\nDirectory: (root)\nOutput: one\nExit Code: 3\nSignal: (none)"
    )
    failure = {
        "status": "error",
        "success": False,
        "error": report,
        "error.message": report,
        "error_type": "shell_execute_error",
    }

    (row,) = tool_rows(
        mapped(log("qwen-code.tool_call", {**CALL, **failure}), keeps_content=keeps_content)
    )

    assert (row["status"], row["exit_code"]) == ("error", 3)
    assert row["error_type"] == "shell_execute_error"
    assert row["error_message"] == (report if keeps_content else "Exit Code: 3")
    assert ("arguments" in row) is keeps_content


def test_a_tool_of_an_mcp_server_and_a_subagent_are_kinds_of_their_own():
    remote = {"function_name": "mcp__github__get_issue", "mcp_server_name": "github"}

    out = mapped(
        log("qwen-code.tool_call", {**CALL, **remote, "tool_type": "mcp"}),
        log("qwen-code.tool_call", {**CALL, "call_id": "call_2", "function_name": "task"}),
    )

    first, second = tool_rows(out)
    assert (first["tool_kind"], first["mcp_server"], first["mcp_tool"]) == (
        "mcp",
        "github",
        "get_issue",
    )
    assert second["tool_kind"] == "subagent"


def test_an_answer_of_an_openai_compatible_provider_has_its_thoughts_in_the_output():
    out = mapped(log("qwen-code.api_response", ANSWER))

    assert model_rows(out) == [ANSWER_ROW]


def test_an_answer_of_google_has_its_thoughts_beside_the_output():
    out = mapped(log("qwen-code.api_response", {**ANSWER, "auth_type": "gemini"}))

    (row,) = model_rows(out)
    assert (row["provider"], row["output_tokens"], row["reasoning_tokens"]) == (
        "gcp.gemini",
        25,
        5,
    )


def test_log_and_span_of_an_answer_are_one_call():
    row = {
        **ANSWER_ROW,
        "attempts": 2,
        "finish_reasons": ["tool_calls"],
        "trace_id": TRACE,
        "span_id": LLM,
        "parent_span_id": INTERACTION,
        "provider": "dashscope",
        "response_model": "qwen3-coder-plus",
        "operation": "chat",
        "signal": "logs+traces",
    }

    for order in permutations([log("qwen-code.api_response", ANSWER), trace(LLM_SPAN)]):
        assert model_rows(mapped(*order)) == [row]


def test_a_failed_request_has_no_id_and_its_span_stands_below_its_log():
    failure = {
        **SESSION,
        "model": "qwen3-coder",
        "model_name": "qwen3-coder",
        "duration_ms": 20,
        "duration": 20,
        "error_message": "429 too many requests",
        "error.message": "429 too many requests",
        "error_type": "RateLimitError",
        "error.type": "RateLimitError",
        "status_code": 429,
        "subagent_name": "Explore",
    }
    failed = span(
        "qwen-code.llm_request",
        {
            **LLM_ATTRIBUTES,
            "success": False,
            "error": "429 too many requests",
            "error.type": "RateLimitError",
            "error_status_code": 429,
        },
        end_ns=T0 + 342 * MS,
        span_id=LLM,
        status=2,
    )

    out = mapped(log("qwen-code.api_error", failure), trace(failed))

    assert model_rows(out) == [
        {
            "started_at": at(-20),
            "ended_at": at(),
            "duration_ms": 20.0,
            "status": "error",
            "error_type": "RateLimitError",
            "error_message": "429 too many requests",
            "http_status": 429,
            "request_model": "qwen3-coder",
            "agent_name": "Explore",
            "session": "q-1",
            "signal": "logs",
            "rank": RANK_SURE,
        },
        {
            "started_at": at(),
            "ended_at": at(342),
            "duration_ms": 341.0,
            "status": "error",
            "error_type": "RateLimitError",
            "error_message": "429 too many requests",
            "http_status": 429,
            "attempts": 2,
            "turn_id": "q-1########0",
            "trace_id": TRACE,
            "span_id": LLM,
            "provider": "dashscope",
            "request_model": "qwen3-coder",
            "operation": "chat",
            "session": "q-1",
            "signal": "traces",
            "rank": RANK_SPAN,
        },
    ]


def test_a_request_that_somebody_stopped_is_cancelled():
    stopped = span("qwen-code.llm_request", {**LLM_ATTRIBUTES, "success": False})

    (row,) = model_rows(mapped(trace(stopped)))

    assert row["status"] == "cancelled"


def test_a_hook_that_says_error_is_no_failure_of_anything():
    hook = span(
        "qwen-code.hook",
        {
            **SESSION,
            "hook_event": "PreToolUse",
            "tool.name": "run_shell_command",
            "error.type": "hook_error",
        },
        span_id=WAIT,
        parent=TOOL,
        status=2,
    )

    out = mapped(trace(hook))

    assert tool_rows(out) == []
    (event,) = events(out)
    assert (event["kind"], event["name"]) == ("hook", "hook")
    assert event["attributes"] == {
        "hook_event": "PreToolUse",
        "tool.name": "run_shell_command",
    }


def test_requests_that_a_library_saw_are_dropped():
    request = {**SESSION, "http.request.method": "POST"}

    out = mapped(
        trace(span("POST", request, status=2), scope="@opentelemetry/instrumentation-undici"),
        (
            "metrics",
            metrics(
                "qwen-code",
                "@opentelemetry/instrumentation-undici",
                histogram_metric("http.client.request.duration", "s", [({}, 0.1, 2)]),
            ),
        ),
    )

    assert tool_rows(out) == model_rows(out) == events(out) == points(out) == []


def test_a_record_that_came_as_a_span_too_is_counted_once():
    bridged = {"log.bridge": True, "log.severity_number": 9}

    out = mapped(
        log("qwen-code.tool_call", CALL),
        log("qwen-code.api_response", ANSWER),
        log("qwen-code.user_prompt", {**SESSION, "prompt_length": 6}),
        trace(
            span("qwen-code.tool_call", {**CALL, **bridged}, span_id=TOOL),
            span("qwen-code.api_response", {**ANSWER, **bridged}, span_id=LLM),
            span("qwen-code.user_prompt", {**SESSION, **bridged}, span_id=WAIT),
        ),
    )

    assert [row["external_call_id"] for row in tool_rows(out)] == ["call_1"]
    assert [row["request_id"] for row in model_rows(out)] == ["chatcmpl-1"]
    assert [event["counts"] for event in events(out)] == ["prompt_count"]


def test_a_record_that_came_only_as_a_span_tells_of_its_call():
    bridged = {**CALL, "log.bridge": True, "log.severity_number": 9}

    out = mapped(trace(span("qwen-code.tool_call", bridged, span_id=TOOL)))

    assert tool_rows(out) == [{**CALL_ROW, "trace_id": TRACE}]


def test_a_session_follows_another_and_ends():
    out = mapped(
        log("session.start", {**SESSION, "session.previous_id": "q-0"}),
        log("qwen-code.config", {**SESSION, "approval_mode": "plan"}),
        trace(
            span(
                "qwen-code.interaction",
                {**SESSION, "qwen-code.approval_mode": "yolo"},
                start_ns=T0 + MS,
            )
        ),
        log("session.end", SESSION, time_ns=T0 + 900 * MS),
    )

    assert said(out, "q-1") == {
        "parent_external_id": "q-0",
        "start_type": "resume",
        "permission_mode": "yolo",
        "ended_at": T0 + 900 * MS,
        "end_reason": "session.end",
    }
    kept = [(event["kind"], event["name"], event.get("counts")) for event in events(out)]
    assert kept == [
        ("log", "session.start", None),
        ("log", "config", None),
        ("turn", "interaction", "turn_count"),
        ("log", "session.end", None),
    ]


def test_a_session_that_follows_none_has_no_parent():
    out = mapped(log("session.start", SESSION))

    assert said(out, "q-1") == {}


def test_the_rest_is_kept_as_events_and_some_of_it_counts():
    out = mapped(
        log("qwen-code.user_prompt", {**SESSION, "prompt": "Say hi", "prompt_id": "p-1"}),
        log("qwen-code.chat_compression", {**SESSION, "tokens_before": 9, "tokens_after": 4}),
        log("qwen-code.subagent_execution", {**SESSION, "subagent_name": "Explore"}),
        log("qwen-code.api_retry", {**SESSION, "attempt_number": 1}),
        keeps_content=True,
    )

    kept = [(event["kind"], event["name"], event.get("counts")) for event in events(out)]
    assert kept == [
        ("prompt", "user_prompt", "prompt_count"),
        ("compaction", "chat_compression", "compactions"),
        ("subagent", "subagent_execution", None),
        ("log", "api_retry", None),
    ]
    assert events(out)[0]["content"] == "Say hi"


def test_the_clients_version_is_its_own():
    start = logs(
        "qwen-code",
        "qwen-code",
        record("session.start", SESSION),
        resource={"service.version": "0.24.4"},
    )

    out = mapped(("logs", start))

    assert said(out, "q-1") == {"agent_version": "0.24.4"}


def test_metrics_without_a_session_are_named_in_our_words():
    call = {"function_name": "edit", "tool_type": "native"}
    tokens = {"model": "qwen3-coder"}

    out = mapped(
        (
            "metrics",
            metrics(
                "qwen-code",
                "qwen-code",
                sum_metric(
                    "qwen-code.tool.call.count",
                    "",
                    [
                        ({**call, "status": "success", "success": True}, 3),
                        ({**call, "status": "cancelled", "success": False}, 1),
                    ],
                ),
                sum_metric(
                    "qwen-code.token.usage",
                    "",
                    [({**tokens, "type": "input"}, 300), ({**tokens, "type": "thought"}, 10)],
                ),
                histogram_metric("qwen-code.tool.call.latency", "ms", [(call, 400.0, 2)]),
                histogram_metric("qwen-code.api.request.latency", "ms", [(tokens, 429.0, 4)]),
            ),
        )
    )

    assert {it["session"] for it in points(out)} == {None}
    found = [
        (it["metric"], it.get("kind"), it.get("status"), it.get("tool_name"), it["value"])
        for it in points(out)
    ]
    assert found == [
        ("tool.calls", None, "success", "edit", 3),
        ("tool.calls", None, "cancelled", "edit", 1),
        ("token.usage", "input", None, None, 300),
        ("token.usage", "reasoning", None, None, 10),
        ("tool.duration", None, None, "edit", 400),
        ("model.duration", None, None, None, 429),
    ]
