"""What Codex sends, and the rows that must come of it, written out by hand."""

from __future__ import annotations

import itertools

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
    span_event,
    spans,
    sum_metric,
    tool_rows,
)

from metrics_service.ingest.parts import RANK_SPAN, RANK_SURE

C1 = {"conversation.id": "c-1"}
COMMON = {
    **C1,
    "app.version": "0.169.0",
    "originator": "codex_exec",
    "terminal.type": "dumb",
    "model": "gpt-5",
    "slug": "gpt-5",
}
# What the tracing library puts on every span: its thread.id is a number and no session.
THREAD = {"code.file.path": "core/src/tasks.rs", "thread.id": 3, "thread.name": "tokio-rt-worker",
          "target": "codex_core::tasks", "busy_ns": 5, "idle_ns": 7}  # fmt: skip
EVENT = {"level": "INFO", "target": "codex_otel.trace_safe", **COMMON}
SPAN_ID = "00f067aa0ba902b7"

VECTOR = b"""
{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"codex_cli_rs"}}]},
"scopeLogs":[{"logRecords":[{"timeUnixNano":"0","observedTimeUnixNano":"1760000001000000000",
"eventName":"event otel/src/events/session_telemetry.rs:1035","attributes":[
{"key":"event.name","value":{"stringValue":"codex.sse_event"}},{"key":"event.kind","value":{"stringValue":"response.completed"}},
{"key":"event.timestamp","value":{"stringValue":"2025-10-09T08:53:20.500Z"}},
{"key":"conversation.id","value":{"stringValue":"c-1"}},{"key":"model","value":{"stringValue":"gpt-5"}},
{"key":"input_token_count","value":{"stringValue":"100"}},{"key":"cached_token_count","value":{"intValue":"40"}},
{"key":"output_token_count","value":{"stringValue":"20"}},{"key":"reasoning_token_count","value":{"intValue":"5"}},
{"key":"tool_token_count","value":{"stringValue":"120"}}]}]}]}]}
"""


def log(name, attributes, *, common=COMMON, ms=0, **more):
    """A record as Codex sends it: its name and its time are attributes, the field is a place."""
    when = (T0 + ms * MS) // MS
    stamp = f"2025-10-09T08:53:{20 + (when - T0 // MS) // 1000:02d}.{when % 1000:03d}Z"
    given = {**attributes, "event.timestamp": stamp, **common}
    made = record(
        f"codex.{name}",
        given,
        time_ns=0,
        observed_ns=T0 + 900 * MS,
        event_name="event otel/src/events/session_telemetry.rs:803",
        **more,
    )
    return "logs", logs("codex_exec", "codex_otel.log_only", made)


def trace(*given):
    return "traces", spans("codex_exec", "codex_exec", *given)


def meter(*given):
    return "metrics", metrics("codex_exec", "codex", *given)


def test_the_vector_of_the_reference():
    out = mapped(("logs", VECTOR))

    assert model_rows(out) == [
        {
            "started_at": at(500),
            "ended_at": at(500),
            "status": "success",
            "request_model": "gpt-5",
            "input_tokens": 100,
            "input_uncached_tokens": 60,
            "cache_read_tokens": 40,
            "output_tokens": 20,
            "reasoning_tokens": 5,
            "total_tokens_reported": 120,
            "session": "c-1",
            "signal": "logs",
            "rank": RANK_SURE,
        }
    ]
    assert list(out.sessions) == [("codex", "c-1")]
    assert not out.events


def test_a_usage_row_with_everything_it_may_say():
    out = mapped(
        log(
            "sse_event",
            {
                "event.kind": "response.completed", "duration_ms": "1500", "ttft_ms": 230,
                "input_token_count": 100, "cached_token_count": "40", "cache_write_token_count": 10,
                "output_token_count": 20, "reasoning_token_count": "5", "tool_token_count": 120,
                "service_tier": "flex", "model_reasoning_effort": "high", "auth_mode": "ApiKey",
            },
            trace_id=TRACE,
            span_id=SPAN_ID,
        )
    )  # fmt: skip

    assert model_rows(out) == [
        {
            "started_at": at(-1500),
            "ended_at": at(),
            "duration_ms": 1500.0,
            "ttft_ms": 230.0,
            "status": "success",
            "trace_id": TRACE,
            "span_id": SPAN_ID,
            "request_model": "gpt-5",
            "input_tokens": 100,
            "input_uncached_tokens": 50,
            "cache_read_tokens": 40,
            "cache_write_tokens": 10,
            "output_tokens": 20,
            "reasoning_tokens": 5,
            "total_tokens_reported": 120,
            "effort": "high",
            "service_tier": "flex",
            "extra": {"auth_mode": "ApiKey"},
            "session": "c-1",
            "signal": "logs",
            "rank": RANK_SURE,
        }
    ]


def test_no_cache_writes_may_mean_that_nobody_said():
    given = {"input_token_count": "7", "cache_write_token_count": 0, "cached_token_count": 0}

    (row,) = model_rows(mapped(log("sse_event", {"event.kind": "response.completed", **given})))

    assert "cache_write_tokens" not in row
    assert (row["input_uncached_tokens"], row["cache_read_tokens"]) == (7, 0)
    assert "output_tokens" not in row


def test_more_cached_than_there_is_input_is_flagged():
    given = {"input_token_count": "30", "cached_token_count": 40}

    (row,) = model_rows(mapped(log("sse_event", {"event.kind": "response.completed", **given})))

    assert (row["input_tokens"], row["input_uncached_tokens"]) == (70, 30)
    assert row["extra"] == {"tokens": "cache_apart"}


@pytest.mark.parametrize(
    "given",
    [
        {"event.kind": "response.completed", "duration_ms": "0"},
        {"event.kind": "response.output_text.delta", "duration_ms": "0"},
        {"event.kind": "response.created"},
        {},
    ],
)
def test_the_progress_of_a_stream_is_neither_a_call_nor_worth_keeping(given):
    out = mapped(log("sse_event", given))

    assert not model_rows(out)
    assert not events(out)
    assert list(out.sessions) == [("codex", "c-1")]


@pytest.mark.parametrize("kind", ["response.completed", "response.failed"])
def test_a_stream_that_broke_is_an_event_and_no_call(kind):
    out = mapped(log("sse_event", {"event.kind": kind, "error.message": "idle timeout"}))

    assert not model_rows(out)
    assert [(event["kind"], event["name"]) for event in events(out)] == [("error", "sse_event")]


def test_the_same_usage_twice_is_one_call_and_at_another_time_another():
    given = {"event.kind": "response.completed", "input_token_count": "7"}

    out = mapped(log("sse_event", given), log("sse_event", given), log("sse_event", given, ms=1))

    assert len(model_rows(out)) == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"error.message": "error sending request", "attempt": 1},
            {"error_type": "connection", "error_message": "error sending request", "attempts": 2},
        ),
        (
            {"http.response.status_code": 429, "attempt": "2", "auth.request_id": "req_1"},
            {"error_type": "http_429", "http_status": 429, "attempts": 3, "request_id": "req_1"},
        ),
        (
            {"http.response.status_code": "500", "error.message": "boom"},
            {"error_type": "http_500", "http_status": 500, "error_message": "boom"},
        ),
    ],
)
def test_a_request_that_failed_is_a_call(given, expected):
    out = mapped(log("api_request", {"duration_ms": "72", "endpoint": "/responses", **given}))

    assert model_rows(out) == [
        {
            "started_at": at(-72),
            "ended_at": at(),
            "duration_ms": 72.0,
            "status": "error",
            "request_model": "gpt-5",
            **expected,
            "extra": {"endpoint": "/responses"},
            "session": "c-1",
            "signal": "logs",
            "rank": RANK_SURE,
        }
    ]
    assert not out.events


def test_a_request_that_succeeded_is_told_of_by_its_usage():
    out = mapped(
        log("api_request", {"duration_ms": "72", "http.response.status_code": 200, "attempt": 0})
    )

    assert not model_rows(out)
    assert events(out) == [
        {
            "kind": "log",
            "name": "api_request",
            "occurred_at": at(),
            "duration_ms": 72.0,
            "signal": "logs",
            "attributes": {
                "duration_ms": "72",
                "http.response.status_code": 200,
                "attempt": 0,
                "model": "gpt-5",
                "slug": "gpt-5",
            },
            "session": "c-1",
        }
    ]


def test_asking_for_the_models_is_no_call_even_when_it_fails():
    given = {"endpoint": "/models", "http.response.status_code": 401, "error.message": "no"}

    out = mapped(log("api_request", given, common={}))

    assert not model_rows(out)
    assert [event["session"] for event in events(out)] == [None]


RESULT = {
    "tool_name": "exec_command",
    "tool_namespace": "functions",
    "call_id": "call_1",
    "duration_ms": "101",
    "success": "true",
    "arguments": '{"cmd": "echo hé"}',
    "output": "Chunk ID: cbd053\nWall time: 0.0001 seconds\nProcess exited with code 3\nOutput:\nhi\n",
    "mcp_server": "",
}
RESULT_ROW = {
    "tool_name": "exec_command",
    "started_at": at(-101),
    "ended_at": at(),
    "duration_ms": 101.0,
    "status": "success",
    "external_call_id": "call_1",
    "tool_kind": "builtin",
    "input_bytes": 19,
    "output_bytes": 81,
    "model": "gpt-5",
    "extra": {"tool_namespace": "functions"},
    "session": "c-1",
    "signal": "logs",
    "rank": RANK_SURE,
}


def test_a_result_keeps_sizes_and_with_leave_what_was_said():
    out = mapped(log("tool_result", RESULT))
    allowed = mapped(log("tool_result", RESULT), keeps_content=True)

    assert tool_rows(out) == [RESULT_ROW]
    assert tool_rows(allowed) == [
        {
            **RESULT_ROW,
            "arguments": RESULT["arguments"],
            "result": RESULT["output"],
            "exit_code": 3,
        }
    ]


@pytest.mark.parametrize(
    ("output", "exit_code"),
    [
        ("Exit code: 127\nWall time: 0.1 seconds\nOutput:\n", 127),
        ("Exit code: -1\n", -1),
        ("Wall time: 1 seconds\nProcess exited with code 0\n", 0),
        ("1\nls: cannot access 'x'", 1),
        ("2", 2),
        ("Plan updated", None),
        ("hi\nExit code: 1", None),
        ("3 files changed", None),
        ("4294967295999\n", None),
        ("", None),
        (17, None),
    ],
)
def test_the_exit_code_is_a_number_at_the_head_of_the_output(output, exit_code):
    out = mapped(log("tool_result", {"call_id": "t", "output": output}), keeps_content=True)

    assert tool_rows(out)[0].get("exit_code") == exit_code


def test_an_mcp_call_names_its_server_and_has_no_exit_code():
    given = {**RESULT, "mcp_server": "github", "tool_name": "mcp__github__get", "output": "42"}

    (row,) = tool_rows(mapped(log("tool_result", given), keeps_content=True))

    assert (row["tool_kind"], row["mcp_server"]) == ("mcp", "github")
    assert "exit_code" not in row


def test_a_tool_that_could_not_be_called_has_no_id():
    given = {"tool_name": "nonesuch", "duration_ms": "0", "success": "false", "output": "unknown"}

    out = mapped(log("tool_result", given), log("tool_result", given))

    assert tool_rows(out) == [
        {
            "tool_name": "nonesuch",
            "started_at": at(),
            "ended_at": at(),
            "duration_ms": 0.0,
            "status": "error",
            "tool_kind": "builtin",
            "output_bytes": 7,
            "model": "gpt-5",
            "session": "c-1",
            "signal": "logs",
            "rank": RANK_SURE,
        }
    ]


def test_a_result_that_says_nothing_is_a_call_of_which_nothing_is_known():
    assert tool_rows(mapped(log("tool_result", {}, common=C1))) == [
        {
            "started_at": at(),
            "ended_at": at(),
            "tool_kind": "builtin",
            "session": "c-1",
            "signal": "logs",
            "rank": RANK_SURE,
        }
    ]


@pytest.mark.parametrize(
    ("decision", "source", "expected"),
    [
        ("approved", "User", ("accept", "user_once", None)),
        ("approved", "Config", ("accept", "auto", None)),
        ("approved", "config", ("accept", "auto", None)),
        ("approved_for_session", "user", ("accept", "user_always", None)),
        ("approvedforsession", "user", ("accept", "user_always", None)),
        ("approved_with_amendment", "user", ("accept", "user_always", None)),
        ("approved_mcp_always", "user", ("accept", "user_always", None)),
        ("denied", "user", ("reject", "user_once", "rejected")),
        ("denied", "config", ("reject", "auto", "rejected")),
        ("denied_with_reason", "user", ("reject", "user_once", "rejected")),
        ("abort", "user", ("cancel", "user_once", "cancelled")),
        ("timed_out", "user", ("reject", "timeout", "rejected")),
        ("timedout", "user", ("reject", "timeout", "rejected")),
        ("something_new", "user", (None, None, None)),
    ],
)
def test_every_decision_in_our_words(decision, source, expected):
    given = {"tool_name": "shell", "call_id": "t", "decision": decision, "source": source}

    (row,) = tool_rows(mapped(log("tool_decision", given)))

    assert (row.get("decision"), row.get("decision_mode"), row.get("status")) == expected
    assert (row["decision_raw"], row["decision_source_raw"]) == (decision, source)


def test_a_rejected_call_is_complete_without_a_result():
    given = {"tool_name": "shell", "call_id": "call_2", "decision": "denied", "source": "user"}

    assert tool_rows(mapped(log("tool_decision", given))) == [
        {
            "tool_name": "shell",
            "started_at": at(),
            "status": "rejected",
            "decision": "reject",
            "decision_mode": "user_once",
            "decision_raw": "denied",
            "decision_source_raw": "user",
            "external_call_id": "call_2",
            "model": "gpt-5",
            "session": "c-1",
            "signal": "logs",
            "rank": RANK_SURE,
        }
    ]


DENIED = {"tool_name": "shell", "call_id": "call_2", "decision": "denied", "source": "user"}
FAILED = {
    "tool_name": "shell",
    "call_id": "call_2",
    "success": "false",
    "output": "rejected by user",
}


def test_a_denied_call_did_not_fail_although_its_result_says_so():
    given = (log("tool_decision", DENIED), log("tool_result", FAILED, ms=5))

    for order in itertools.permutations(given):
        (row,) = tool_rows(mapped(*order))
        assert (row["status"], row["decision"]) == ("rejected", "reject")
        assert (row["ended_at"], row["output_bytes"]) == (at(5), 16)


def test_an_aborted_call_is_cancelled_although_its_result_says_that_it_failed():
    aborted = {**DENIED, "decision": "abort"}

    (row,) = tool_rows(mapped(log("tool_decision", aborted), log("tool_result", FAILED, ms=5)))

    assert (row["status"], row["decision"]) == ("cancelled", "cancel")


def test_what_ran_in_spite_of_a_denial_succeeded():
    succeeded = {**FAILED, "success": "true"}

    (row,) = tool_rows(mapped(log("tool_decision", DENIED), log("tool_result", succeeded, ms=5)))

    assert (row["status"], row["decision"]) == ("success", "reject")


def test_of_two_decisions_on_a_call_the_later_one_holds():
    approved = {**DENIED, "decision": "approved", "source": "config"}
    then_denied = (log("tool_decision", approved), log("tool_decision", DENIED, ms=900))
    then_approved = (log("tool_decision", DENIED), log("tool_decision", approved, ms=900))

    for order in itertools.permutations(then_denied):
        (row,) = tool_rows(mapped(*order))
        assert (row["decision"], row["decision_mode"]) == ("reject", "user_once")
        assert (row["decision_raw"], row["status"]) == ("denied", "rejected")
    for order in itertools.permutations((*then_approved, log("tool_result", FAILED, ms=950))):
        (row,) = tool_rows(mapped(*order))
        assert (row["decision"], row["decision_mode"], row["status"]) == ("accept", "auto", "error")


REPEATED = span_event(
    "event otel/src/tool_result.rs:54",
    {
        **EVENT, "event.name": "codex.tool_result", "tool_name": "exec_command", "call_id": "call_1",
        "duration_ms": "101", "success": "true", "arguments_length": 19, "output_length": "81",
        "output_line_count": 5, "tool_origin": "builtin", "mcp_tool": False,
    },
    time_ns=T0,
)  # fmt: skip


def test_a_call_is_one_row_of_decision_result_and_repetition_in_any_order():
    given = (
        log("tool_decision",
            {"tool_name": "exec_command", "call_id": "call_1", "decision": "approved", "source": "Config"},
            ms=0),
        log("tool_result", RESULT, trace_id=TRACE, span_id=SPAN_ID),
        trace(span("dispatch_tool_call_with_state", THREAD, events=[REPEATED])),
    )  # fmt: skip

    expected = {
        **RESULT_ROW,
        "decision": "accept",
        "decision_mode": "auto",
        "decision_raw": "approved",
        "decision_source_raw": "Config",
        "trace_id": TRACE,
        "span_id": SPAN_ID,
        "extra": {"output_line_count": 5, "tool_namespace": "functions"},
        "signal": "logs+traces",
    }
    for order in itertools.permutations(given):
        assert tool_rows(mapped(*order)) == [expected]


def test_spans_alone_tell_of_the_call_by_the_event_within():
    out = mapped(trace(span("dispatch_tool_call_with_state", THREAD, events=[REPEATED])))

    assert tool_rows(out) == [
        {
            "tool_name": "exec_command",
            "started_at": at(-101),
            "ended_at": at(),
            "duration_ms": 101.0,
            "status": "success",
            "external_call_id": "call_1",
            "trace_id": TRACE,
            "span_id": SPAN_ID,
            "tool_kind": "builtin",
            "input_bytes": 19,
            "output_bytes": 81,
            "model": "gpt-5",
            "extra": {"output_line_count": 5},
            "session": "c-1",
            "signal": "traces",
            "rank": RANK_SURE,
        }
    ]
    assert out.traces[TRACE].external_id == "c-1"


def test_a_repetition_without_an_id_counts_only_without_logs():
    given = {**EVENT, "event.name": "codex.tool_result", "tool_name": "nonesuch", "success": "false",
             "error.message": "unknown"}  # fmt: skip
    event = span_event("event x", given, time_ns=T0)

    out = mapped(trace(span("dispatch", THREAD, events=[event])))

    (row,) = tool_rows(out)
    assert (row["rank"], row["status"], row["error_message"]) == (RANK_SPAN, "error", "unknown")


MCP = span(
    "mcp.tools.call",
    {
        **THREAD, **C1, "session.id": "c-1", "turn.id": "t-1", "tool.name": "get",
        "tool.call_id": "call_3", "mcp.server.name": "github", "mcp.transport": "stdio",
    },
    end_ns=T0 + 80 * MS,
    parent="453c0614d3f61881",
)  # fmt: skip


def test_an_mcp_span_is_the_run_of_its_call():
    result = log(
        "tool_result",
        {"tool_name": "mcp__github__get", "call_id": "call_3", "duration_ms": "85",
         "success": "false", "mcp_server": "github"},
        ms=85,
    )  # fmt: skip
    alone = {
        "tool_name": "get",
        "started_at": at(),
        "ended_at": at(80),
        "duration_ms": 80.0,
        "external_call_id": "call_3",
        "turn_id": "t-1",
        "trace_id": TRACE,
        "span_id": SPAN_ID,
        "parent_span_id": "453c0614d3f61881",
        "tool_kind": "mcp",
        "mcp_server": "github",
        "mcp_tool": "get",
        "extra": {"mcp.transport": "stdio"},
        "session": "c-1",
        "signal": "traces",
        "rank": RANK_SURE,
    }

    assert tool_rows(mapped(trace(MCP))) == [alone]
    for order in ((result, trace(MCP)), (trace(MCP), result)):
        assert tool_rows(mapped(*order)) == [
            {
                **alone,
                "tool_name": "mcp__github__get",
                "ended_at": at(85),
                "status": "error",
                "model": "gpt-5",
                "signal": "logs+traces",
            }
        ]


def test_the_span_around_a_call_is_the_calls_span_and_not_its_own_parent():
    given = {**EVENT, "event.name": "codex.tool_result", "call_id": "call_3", "success": "true"}
    around = span(
        "dispatch_tool_call_with_state",
        THREAD,
        span_id="453c0614d3f61881",
        parent="47c7bed67f4f3d0d",
        events=[span_event("event x", given)],
    )

    for order in itertools.permutations((trace(MCP), trace(around))):
        (row,) = tool_rows(mapped(*order))
        assert (row["span_id"], row["parent_span_id"]) == ("453c0614d3f61881", "47c7bed67f4f3d0d")
        assert row["duration_ms"] == 80.0


def test_an_mcp_span_that_failed_says_why():
    given = {**C1, "tool.name": "get", "error.type": "timeout"}

    (row,) = tool_rows(mapped(trace(span("mcp.tools.call", given, status=2))))

    assert (row["status"], row["error_type"], row["rank"]) == ("error", "timeout", RANK_SPAN)


RESPONSE = span(
    "handle_responses",
    {
        **THREAD, "codex.request.reasoning_effort": "high", "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.cache_read.input_tokens": "40", "gen_ai.usage.cache_write.input_tokens": 0,
        "gen_ai.usage.output_tokens": 20, "codex.usage.reasoning_output_tokens": 5,
        "codex.usage.total_tokens": 120,
    },
    end_ns=T0 + 2 * MS,
    span_id="557196050517287b",
    parent="47c7bed67f4f3d0d",
)  # fmt: skip
TURN = span(
    "session_task.turn",
    {
        **THREAD, "thread.id": "c-1", "turn.id": "t-1", "model": "gpt-5",
        "codex.turn.token_usage.input_tokens": 300, "codex.turn.token_usage.total_tokens": 340,
    },
    end_ns=T0 + 380 * MS,
    span_id="1df4f2aa45a59db1",
)  # fmt: skip


def test_a_response_span_is_a_call_that_counts_without_logs():
    out = mapped(trace(RESPONSE, TURN))

    assert model_rows(out) == [
        {
            "started_at": at(),
            "ended_at": at(2),
            "status": "success",
            "trace_id": TRACE,
            "span_id": "557196050517287b",
            "parent_span_id": "47c7bed67f4f3d0d",
            "input_tokens": 100,
            "input_uncached_tokens": 60,
            "cache_read_tokens": 40,
            "output_tokens": 20,
            "reasoning_tokens": 5,
            "total_tokens_reported": 120,
            "effort": "high",
            "session": f"trace:{TRACE}",
            "signal": "traces",
            "rank": RANK_SPAN,
        }
    ]
    assert out.traces[TRACE].external_id == "c-1"


def test_a_turn_is_an_event_and_its_tokens_are_no_call():
    out = mapped(trace(TURN))

    assert not model_rows(out)
    (event,) = events(out)
    assert (event["kind"], event["counts"], event["session"]) == ("turn", "turn_count", "c-1")
    assert (event["name"], event["duration_ms"]) == ("session_task.turn", 380.0)
    assert event["turn_id"] == "t-1"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("session_task.review", ("turn", "turn_count")),
        ("session_task.compact", ("compaction", "compactions")),
        ("exec_command", ("span", None)),
    ],
)
def test_other_spans_of_the_work(name, expected):
    (event,) = events(mapped(trace(span(name, {**THREAD, "thread.id": "c-1"}))))

    assert (event["kind"], event.get("counts")) == expected


def test_the_number_of_a_thread_is_no_session():
    out = mapped(
        trace(
            span("session_task.turn", {**THREAD, "turn.id": "t-1"}),
            span("fs.get_metadata", THREAD, span_id="1df4f2aa45a59db1"),
        )
    )

    assert [external_id for _, external_id in out.sessions] == [f"trace:{TRACE}"]


def test_spans_of_the_program_are_not_kept_and_make_no_session():
    out = mapped(
        trace(
            span("fs.get_metadata", THREAD),
            span("receiving", THREAD, span_id="1df4f2aa45a59db1", status=2),
            span("auth", {}, span_id="557196050517287b", events=[span_event("x", {})]),
        )
    )

    assert not out.sessions
    assert not out.events


def test_a_request_that_failed_within_a_span_counts_only_without_logs():
    given = {**EVENT, "event.name": "codex.api_request", "duration_ms": "53", "attempt": 1,
             "http.response.status_code": 503, "endpoint": "/responses"}  # fmt: skip

    out = mapped(
        trace(
            span("stream_request", THREAD, events=[
                span_event("event a", given, time_ns=T0),
                span_event("event b", {**given, "attempt": 2}, time_ns=T0 + 900 * MS),
                span_event("event c", {**given, "http.response.status_code": 200}, time_ns=T0 + 999 * MS),
            ])
        )
    )  # fmt: skip

    first, second = model_rows(out)
    assert first == {
        "started_at": at(-53),
        "ended_at": at(),
        "duration_ms": 53.0,
        "status": "error",
        "error_type": "http_503",
        "http_status": 503,
        "attempts": 2,
        "trace_id": TRACE,
        "span_id": SPAN_ID,
        "request_model": "gpt-5",
        "extra": {"endpoint": "/responses"},
        "session": "c-1",
        "signal": "traces",
        "rank": RANK_SPAN,
    }
    assert second["attempts"] == 3


START = {
    "provider_name": "OpenAI",
    "reasoning_effort": "high",
    "reasoning_summary": "auto",
    "approval_policy": "on-request",
    "sandbox_policy": "workspace-write",
    "mcp_servers": "github",
}


def test_the_start_of_a_conversation_says_how_it_is_set_up():
    who = {**COMMON, "user.email": "ada@example.com", "user.account_id": "acc"}

    out = mapped(log("conversation_starts", START, common=who))

    assert said(out, "c-1") == {
        "reasoning_effort": "high",
        "approval_policy": "on-request",
        "sandbox_policy": "workspace-write",
        "provider": "OpenAI",
        "agent_version": "0.169.0",
        "entrypoint": "codex_exec",
        "terminal_type": "dumb",
        "@user.email": "ada@example.com",
        "@user.account_id": "acc",
    }
    assert [(event["kind"], event["name"]) for event in events(out)] == [
        ("start", "conversation_starts")
    ]


def test_the_start_is_heard_within_a_span_too_and_told_once():
    event = span_event("event x", {**EVENT, **START, "event.name": "codex.conversation_starts"})

    out = mapped(trace(span("session_init", THREAD, events=[event])))

    assert said(out, "c-1")["sandbox_policy"] == "workspace-write"
    assert [event["kind"] for event in events(out)] == ["span"]


def test_a_prompt_counts_and_its_text_is_kept_only_where_that_is_allowed():
    given = {"prompt": "Say hi", "prompt_length": "6"}

    out = mapped(log("user_prompt", given, common=C1))
    allowed = mapped(log("user_prompt", given, common=C1), keeps_content=True)
    redacted = mapped(log("user_prompt", {**given, "prompt": "[REDACTED]"}), keeps_content=True)

    expected = {
        "kind": "prompt",
        "name": "user_prompt",
        "occurred_at": at(),
        "signal": "logs",
        "attributes": {"prompt_bytes": 6, "prompt_length": "6"},
        "session": "c-1",
        "counts": "prompt_count",
    }
    assert events(out) == [expected]
    assert events(allowed) == [{**expected, "content": "Say hi"}]
    assert "content" not in events(redacted)[0]


@pytest.mark.parametrize(
    "name", ["startup_phase", "turn_ttft", "websocket_request", "sandbox_outcome", "next_year"]
)
def test_other_records_are_events(name):
    out = mapped(log(name, {"duration_ms": "171"}))

    assert [(event["kind"], event["name"], event["duration_ms"]) for event in events(out)] == [
        ("log", name, 171.0)
    ]
    assert not out.tools
    assert not out.models


def test_a_line_of_the_library_itself_is_no_session():
    body = logs(
        "codex_exec",
        "codex_otel::metrics::client",
        record(None, {}, body="flushing OTEL metrics", event_name="event client.rs:324"),
    )

    (event,) = events(mapped(("logs", body)))

    assert (event["name"], event["session"]) == ("log", None)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (sum_metric("codex.thread.started", "", [({"model": "gpt-5"}, 1)]),
         {"metric": "session.count", "value": 1.0, "model": "gpt-5"}),
        (sum_metric("codex.tool.call", "", [({"tool": "exec_command", "success": "true"}, 2)]),
         {"metric": "tool.calls", "value": 2.0, "tool_name": "exec_command", "status": "success",
          "attributes": {"success": "true"}}),
        (sum_metric("codex.tool.call", "", [({"tool": "shell", "success": False}, 2)]),
         {"metric": "tool.calls", "value": 2.0, "tool_name": "shell", "status": "error",
          "attributes": {"success": False}}),
        (sum_metric("codex.plugins.startup_sync", "", [({}, 1)]),
         {"metric": "codex.plugins.startup_sync", "value": 1.0}),
    ],
)  # fmt: skip
def test_every_counter_in_our_words(metric, expected):
    assert points(mapped(meter(metric))) == [
        {
            "agent": "codex",
            "session": None,
            "instrument": "sum",
            "is_monotonic": True,
            "is_cumulative": False,
            "start_ns": T0,
            "time_ns": T0 + 60_000 * MS,
            **expected,
        }
    ]


@pytest.mark.parametrize(
    ("name", "unit", "given", "expected"),
    [
        ("tool.call.duration_ms", "ms", {"tool": "shell", "success": "false"},
         {"metric": "tool.duration", "unit": "ms", "tool_name": "shell", "status": "error",
          "attributes": {"success": "false"}}),
        ("api_request.duration_ms", "ms", {"status": "200", "success": "true"},
         {"metric": "model.duration", "unit": "ms", "status": "success",
          "attributes": {"status": "200", "success": "true"}}),
        ("turn.token_usage", "", {"token_type": "input"},
         {"metric": "token.usage", "unit": "tokens", "kind": "input"}),
        ("turn.token_usage", "", {"token_type": "cached_input"},
         {"metric": "token.usage", "unit": "tokens", "kind": "cache_read"}),
        ("turn.token_usage", "", {"token_type": "cache_write_input"},
         {"metric": "token.usage", "unit": "tokens", "kind": "cache_write"}),
        ("turn.token_usage", "", {"token_type": "output"},
         {"metric": "token.usage", "unit": "tokens", "kind": "output"}),
        ("turn.token_usage", "", {"token_type": "reasoning_output"},
         {"metric": "token.usage", "unit": "tokens", "kind": "reasoning"}),
        ("turn.ttft.duration_ms", "ms", {},
         {"metric": "codex.turn.ttft.duration_ms", "unit": "ms"}),
    ],
)  # fmt: skip
def test_every_histogram_in_our_words(name, unit, given, expected):
    metric = histogram_metric(
        f"codex.{name}", unit, [(given, 300, 2)], bounds=[100], buckets=[0, 2]
    )

    assert points(mapped(meter(metric))) == [
        {
            "agent": "codex",
            "session": None,
            "instrument": "histogram",
            "is_monotonic": True,
            "is_cumulative": False,
            "start_ns": T0,
            "time_ns": T0 + 60_000 * MS,
            "value": 300.0,
            "count": 2,
            "bounds": [100.0],
            "buckets": [0, 2],
            **expected,
        }
    ]


def test_the_total_of_tokens_is_not_counted_beside_its_parts():
    given = [({"token_type": "total"}, 340, 1), ({"token_type": "output"}, 40, 1)]

    out = mapped(meter(histogram_metric("codex.turn.token_usage", "", given)))

    assert [point["kind"] for point in points(out)] == ["output"]


@pytest.mark.parametrize(
    ("service", "scope"),
    [
        ("codex_cli_rs", None),
        ("mine", "codex_otel.log_only"),
        ("Codex Desktop", "x"),
        ("mine", "x"),
    ],
)
def test_it_is_known_by_its_scope_its_prefix_or_its_service(service, scope):
    body = logs(service, scope, record("codex.tool_result", {**C1, "call_id": "t"}))

    assert list(mapped(("logs", body)).sessions) == [("codex", "c-1")]


def test_nothing_that_somebody_wrote_is_kept_without_leave():
    secret = "a secret of ours"
    words = {"call_id": "t", "prompt": secret, "arguments": secret, "output": secret}

    out = mapped(
        *(
            log(name, words)
            for name in ("tool_result", "tool_decision", "user_prompt", "next_year")
        ),
        trace(
            span("exec_command", {**C1, **words}), span("mcp.tools.call", words, span_id="1" * 16)
        ),
    )

    assert secret not in repr([tool_rows(out), model_rows(out), events(out)])
