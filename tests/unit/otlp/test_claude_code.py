"""What Claude Code sends, and the rows that must come of it, written out by hand."""

from __future__ import annotations

import itertools

import msgspec
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

from metrics_service.ingest.parts import RANK_SURE

SCOPE = "com.anthropic.claude_code.events"
TRACING = "com.anthropic.claude_code.tracing"
METERS = "com.anthropic.claude_code"
S1 = {"session.id": "s-1"}
TOOL = "b84a03a59354ff1e"

VECTOR = b"""
{"resourceLogs":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"claude-code"}}]},
"scopeLogs":[{"scope":{"name":"com.anthropic.claude_code.events"},"logRecords":[{"timeUnixNano":"1760000000000000000",
"body":{"stringValue":"claude_code.tool_result"},"attributes":[
{"key":"event.name","value":{"stringValue":"tool_result"}},{"key":"session.id","value":{"stringValue":"s-1"}},
{"key":"event.sequence","value":{"intValue":"7"}},{"key":"tool_name","value":{"stringValue":"Bash"}},
{"key":"tool_use_id","value":{"stringValue":"toolu_1"}},{"key":"success","value":{"stringValue":"false"}},
{"key":"duration_ms","value":{"stringValue":"1234"}},{"key":"error_type","value":{"stringValue":"ShellError"}},
{"key":"decision_type","value":{"stringValue":"accept"}},{"key":"decision_source","value":{"stringValue":"config"}}]}]}]}]}
"""


def log(name, attributes, **more):
    return "logs", logs("claude-code", SCOPE, record(name, {**S1, **attributes}, **more))


def trace(*given):
    return "traces", spans("claude-code", TRACING, *given)


def meter(*given):
    return "metrics", metrics("claude-code", METERS, *given)


def test_the_vector_of_the_reference():
    out = mapped(("logs", VECTOR))

    assert tool_rows(out) == [
        {
            "tool_name": "Bash",
            "started_at": at(-1234),
            "ended_at": at(),
            "duration_ms": 1234.0,
            "status": "error",
            "error_type": "ShellError",
            "decision": "accept",
            "decision_mode": "auto",
            "decision_raw": "accept",
            "decision_source_raw": "config",
            "external_call_id": "toolu_1",
            "tool_kind": "builtin",
            "session": "s-1",
            "signal": "logs",
            "rank": RANK_SURE,
        }
    ]
    assert list(out.sessions) == [("claude-code", "s-1")]
    assert not out.events


def test_an_mcp_call_that_a_human_allowed_with_all_details():
    given = {
        "tool_name": "mcp_tool",
        "tool_use_id": "toolu_2",
        "success": "true",
        "duration_ms": 250,
        "decision_type": "accept",
        "decision_source": "user_permanent",
        "tool_input_size_bytes": "21",
        "tool_result_size_bytes": "2048",
        "mcp_server_scope": "user",
        "tool_parameters": '{"mcp_server_name":"github","mcp_tool_name":"list_issues"}',
        "tool_input": '{"state":"open"}',
        "prompt.id": "p-1",
    }

    out = mapped(log("tool_result", given))
    allowed = mapped(log("tool_result", given), keeps_content=True)

    expected = {
        "tool_name": "mcp_tool",
        "started_at": at(-250),
        "ended_at": at(),
        "duration_ms": 250.0,
        "status": "success",
        "decision": "accept",
        "decision_mode": "user_always",
        "decision_raw": "accept",
        "decision_source_raw": "user_permanent",
        "external_call_id": "toolu_2",
        "turn_id": "p-1",
        "tool_kind": "mcp",
        "mcp_server": "github",
        "mcp_tool": "list_issues",
        "input_bytes": 21,
        "output_bytes": 2048,
        "extra": {"mcp_server_scope": "user"},
        "session": "s-1",
        "signal": "logs",
        "rank": RANK_SURE,
    }
    assert tool_rows(out) == [expected]
    assert tool_rows(allowed) == [{**expected, "arguments": '{"state":"open"}'}]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"tool_name": "Task", "tool_parameters": '{"subagent_type":"Explore"}'}, ("subagent", "Explore")),
        ({"tool_name": "Agent", "tool_parameters": '{"subagent_type":"Plan"}'}, ("subagent", "Plan")),
        ({"tool_name": "Skill", "tool_parameters": '{"skill_name":"pdf"}'}, ("skill", "pdf")),
        ({"tool_name": "mcp__github__get"}, ("mcp", None)),
        ({"tool_name": "Read", "tool_source": "sdk_host_builtin_mcp"}, ("mcp", None)),
        ({"tool_name": "Bash", "tool_parameters": '{"git_commit_id":"a1b2c3"}'}, ("builtin", "a1b2c3")),
        ({"tool_name": "Bash", "tool_parameters": "not json"}, ("builtin", None)),
        ({}, ("builtin", None)),
    ],
)  # fmt: skip
def test_kinds_of_tools(given, found):
    (row,) = tool_rows(mapped(log("tool_result", {"tool_use_id": "t", **given})))

    names = ("subagent_type", "skill_name", "git_commit_id")
    assert (row["tool_kind"], next((row[name] for name in names if name in row), None)) == found


@pytest.mark.parametrize(
    ("decision", "source", "expected"),
    [
        ("accept", "config", ("accept", "auto", None)),
        ("accept", "hook", ("accept", "hook", None)),
        ("accept", "user_temporary", ("accept", "user_once", None)),
        ("accept", "user_permanent", ("accept", "user_always", None)),
        ("reject", "user_reject", ("reject", "user_once", "rejected")),
        ("reject", "config", ("reject", "auto", "rejected")),
        ("reject", "hook", ("reject", "hook", "rejected")),
        ("reject", "user_abort", ("cancel", "user_once", "cancelled")),
    ],
)
def test_every_decision_in_our_words(decision, source, expected):
    out = mapped(
        log(
            "tool_decision",
            {"tool_name": "Edit", "tool_use_id": "t", "decision": decision, "source": source},
        )
    )

    (row,) = tool_rows(out)
    assert (row["decision"], row["decision_mode"], row.get("status")) == expected
    assert (row["decision_raw"], row["decision_source_raw"]) == (decision, source)


def test_a_rejected_call_is_complete_without_a_result():
    given = {
        "tool_name": "Bash",
        "tool_use_id": "toolu_3",
        "decision": "reject",
        "source": "user_reject",
        "tool_source": "builtin",
        "tool_parameters": '{"full_command":"rm -rf /"}',
        "prompt.id": "p-1",
        "permission_mode": "default",
    }

    out = mapped(log("tool_decision", given))
    allowed = mapped(log("tool_decision", given), keeps_content=True)

    expected = {
        "tool_name": "Bash",
        "started_at": at(),
        "status": "rejected",
        "decision": "reject",
        "decision_mode": "user_once",
        "decision_raw": "reject",
        "decision_source_raw": "user_reject",
        "external_call_id": "toolu_3",
        "turn_id": "p-1",
        "tool_kind": "builtin",
        "extra": {"permission_mode": "default"},
        "session": "s-1",
        "signal": "logs",
        "rank": RANK_SURE,
    }
    assert tool_rows(out) == [expected]
    assert tool_rows(allowed) == [{**expected, "arguments": '{"full_command":"rm -rf /"}'}]


def test_calls_without_an_id_are_told_apart_by_their_sequence():
    one = {"tool_name": "Bash", "success": "true", "event.sequence": 1}
    two = {"tool_name": "Bash", "success": "true", "event.sequence": 2}

    out = mapped(log("tool_result", one), log("tool_result", two), log("tool_result", one))

    assert len(tool_rows(out)) == 2


def test_a_result_that_says_nothing_is_a_call_of_which_nothing_is_known():
    out = mapped(log("tool_result", {}))

    assert tool_rows(out) == [
        {
            "started_at": at(),
            "ended_at": at(),
            "tool_kind": "builtin",
            "session": "s-1",
            "signal": "logs",
            "rank": RANK_SURE,
        }
    ]


CALL = (
    log(
        "tool_decision",
        {"tool_name": "Bash", "tool_use_id": "toolu_4", "decision": "accept", "source": "user_temporary"},
        time_ns=T0 + 3000 * MS,
    ),
    log(
        "tool_result",
        {"tool_name": "Bash", "tool_use_id": "toolu_4", "success": "true", "duration_ms": "42"},
        time_ns=T0 + 3100 * MS,
        trace_id=TRACE,
        span_id="c98b23882aedf31c",
    ),
    trace(
        span(
            "claude_code.tool",
            {
                **S1, "tool_name": "Bash", "tool_use_id": "toolu_4", "duration_ms": 3110,
                "result_tokens": "17", "agent_id": "a-1", "parent_agent_id": "a-0",
                "full_command": "echo hi", "bash_argv0": "echo",
            },
            start_ns=T0,
            end_ns=T0 + 3111 * MS,
            span_id=TOOL,
            parent="c98b23882aedf31c",
        )
    ),
    trace(
        span(
            "claude_code.tool.execution",
            {**S1, "tool_use_id": "toolu_4", "duration_ms": 43, "success": True},
            start_ns=T0 + 3058 * MS,
            end_ns=T0 + 3101 * MS,
            span_id="6b309bd77bf2abf5",
            parent=TOOL,
        )
    ),
    trace(
        span(
            "claude_code.tool.blocked_on_user",
            {**S1, "duration_ms": 2900, "decision": "accept", "source": "user_temporary"},
            start_ns=T0 + 10 * MS,
            end_ns=T0 + 2910 * MS,
            span_id="c066b15e9de918db",
            parent=TOOL,
        )
    ),
)  # fmt: skip


def test_logs_and_spans_of_a_call_are_one_row_in_any_order():
    expected = [
        {
            "tool_name": "Bash",
            "started_at": at(3058),
            "ended_at": at(3100),
            # The run's own measure goes before the record's.
            "duration_ms": 43.0,
            "wait_ms": 2900.0,
            "total_ms": 3110.0,
            "status": "success",
            "decision": "accept",
            "decision_mode": "user_once",
            "decision_raw": "accept",
            "decision_source_raw": "user_temporary",
            "external_call_id": "toolu_4",
            "trace_id": TRACE,
            "span_id": TOOL,
            "parent_span_id": "c98b23882aedf31c",
            "tool_kind": "builtin",
            "agent_instance_id": "a-1",
            "parent_agent_instance_id": "a-0",
            "output_tokens_approx": 17,
            "extra": {"full_command_bytes": 7, "bash_argv0": "echo"},
            "session": "s-1",
            "signal": "logs+traces",
            "rank": RANK_SURE,
        }
    ]

    for order in itertools.permutations(CALL):
        assert tool_rows(mapped(*order)) == expected


def test_spans_alone_tell_of_the_whole_call():
    given = (
        span("claude_code.tool", {**S1, "tool_name": "Bash"}, end_ns=T0 + 900 * MS, span_id=TOOL),
        span(
            "claude_code.tool.execution",
            {"error": "exit 1", "success": "false"},
            start_ns=T0 + 500 * MS,
            end_ns=T0 + 800 * MS,
            span_id="6b309bd77bf2abf5",
            parent=TOOL,
            status=2,
        ),
        span(
            "claude_code.tool.blocked_on_user",
            {},
            end_ns=T0 + 400 * MS,
            span_id="c066b15e9de918db",
            parent=TOOL,
        ),
    )
    expected = {
        "tool_name": "Bash",
        "started_at": at(500),
        "ended_at": at(800),
        "duration_ms": 300.0,
        "wait_ms": 400.0,
        "total_ms": 900.0,
        "status": "error",
        "error_message": "exit 1",
        "trace_id": TRACE,
        "span_id": TOOL,
        "tool_kind": "builtin",
        "session": "s-1",
        "signal": "traces",
        "rank": RANK_SURE,
    }

    assert tool_rows(mapped(trace(*given))) == [expected]
    assert tool_rows(mapped(*(trace(each) for each in reversed(given)))) == [expected]


def test_a_wait_that_ended_in_a_refusal():
    out = mapped(
        trace(
            span("claude_code.tool", {**S1, "tool_name": "Edit"}, span_id=TOOL),
            span(
                "claude_code.tool.blocked_on_user",
                {**S1, "duration_ms": "700", "decision": "reject", "source": "user_reject"},
                span_id="c066b15e9de918db",
                parent=TOOL,
            ),
        )
    )

    (row,) = tool_rows(out)
    assert row["status"] == "rejected"
    assert (row["decision"], row["decision_mode"], row["wait_ms"]) == ("reject", "user_once", 700.0)


REQUEST = {
    "model": "claude-sonnet-4-5",
    "cost_usd": 0.00051825,
    "cost_usd_micros": 518,
    "duration_ms": "126",
    "ttft_ms": 65,
    "input_tokens": "60",
    "output_tokens": 20,
    "cache_read_tokens": 40,
    "cache_creation_tokens": "7",
    "request_id": "req_1",
    "client_request_id": "c_1",
    "speed": "normal",
    "query_source": "repl_main_thread",
    "effort": "high",
    "agent.name": "Explore",
    "skill.name": "pdf",
    "plugin.name": "tools",
    "mcp_server.name": "github",
    "mcp_tool.name": "get",
    "prompt.id": "p-1",
    "cache_creation_5m_tokens": 7,
}
REQUEST_ROW = {
    "started_at": at(-126),
    "ended_at": at(),
    "duration_ms": 126.0,
    "ttft_ms": 65.0,
    "status": "success",
    "request_id": "req_1",
    "client_request_id": "c_1",
    "turn_id": "p-1",
    "provider": "anthropic",
    "request_model": "claude-sonnet-4-5",
    "input_tokens": 107,
    "input_uncached_tokens": 60,
    "cache_read_tokens": 40,
    "cache_write_tokens": 7,
    "output_tokens": 20,
    "cost_usd_micros": 518,
    "query_source": "repl_main_thread",
    "agent_name": "Explore",
    "skill_name": "pdf",
    "plugin_name": "tools",
    "mcp_server": "github",
    "mcp_tool": "get",
    "effort": "high",
    "speed": "normal",
    "extra": {"cache_creation_5m_tokens": 7},
    "session": "s-1",
    "signal": "logs",
    "rank": RANK_SURE,
}


def test_a_request_with_everything_it_may_say():
    assert model_rows(mapped(log("api_request", REQUEST))) == [REQUEST_ROW]


def test_a_request_whose_span_comes_too_is_one_row_in_both_orders():
    told = log("api_request", REQUEST)
    seen = trace(
        span(
            "claude_code.llm_request",
            {
                **S1, "gen_ai.response.id": "req_1", "model": "claude-sonnet-4-5", "success": "true",
                "gen_ai.system": "anthropic", "duration_ms": 133, "input_tokens": 60, "attempt": 2,
                "output_tokens": 20, "cache_read_tokens": 40, "cache_creation_tokens": 7,
                "stop_reason": "end_turn", "gen_ai.response.finish_reasons": ["end_turn"],
                "agent_id": "a-1", "parent_agent_id": "a-0",
            },
            start_ns=T0 - 133 * MS,
            end_ns=T0,
            span_id="97c020c3362e43cd",
            parent="c98b23882aedf31c",
        )
    )  # fmt: skip

    expected = {
        **REQUEST_ROW,
        "attempts": 2,
        "finish_reasons": ["end_turn"],
        "trace_id": TRACE,
        "span_id": "97c020c3362e43cd",
        "parent_span_id": "c98b23882aedf31c",
        "agent_instance_id": "a-1",
        "extra": {"cache_creation_5m_tokens": 7, "parent_agent_id": "a-0"},
        "signal": "logs+traces",
    }
    assert model_rows(mapped(told, seen)) == [expected]
    assert model_rows(mapped(seen, told)) == [expected]


def test_a_request_span_alone():
    out = mapped(
        trace(
            span(
                "claude_code.llm_request",
                {
                    **S1, "request_id": "req_2", "gen_ai.request.model": "claude-opus-4-1",
                    "gen_ai.provider.name": "anthropic", "ttft_ms": "60", "stop_reason": "end_turn",
                    "input_tokens": 5, "output_tokens": "9", "effort": "low", "query_source_safe": "sdk",
                },
                end_ns=T0 + 68 * MS,
            )
        )
    )  # fmt: skip

    assert model_rows(out) == [
        {
            "started_at": at(),
            "ended_at": at(68),
            "duration_ms": 68.0,
            "ttft_ms": 60.0,
            "status": "success",
            "finish_reasons": ["end_turn"],
            "request_id": "req_2",
            "trace_id": TRACE,
            "span_id": "00f067aa0ba902b7",
            "provider": "anthropic",
            "request_model": "claude-opus-4-1",
            "input_tokens": 5,
            "input_uncached_tokens": 5,
            "output_tokens": 9,
            "query_source": "sdk",
            "effort": "low",
            "session": "s-1",
            "signal": "traces",
            "rank": RANK_SURE,
        }
    ]


def test_a_request_span_that_failed():
    given = {
        **S1,
        "client_request_id": "c_9",
        "success": False,
        "status_code": "529",
        "error": "busy",
    }

    (row,) = model_rows(mapped(trace(span("claude_code.llm_request", given, status=2))))

    assert (row["status"], row["http_status"], row["error_message"]) == ("error", 529, "busy")
    assert (row["client_request_id"], "input_tokens" in row) == ("c_9", False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"status_code": "529", "error": "Overloaded", "attempt": 11, "request_id": "req_3"},
            {"http_status": 529, "error_type": "http_529", "error_message": "Overloaded", "attempts": 11,
             "request_id": "req_3"},
        ),
        ({"error": "ECONNRESET"}, {"error_type": "connection", "error_message": "ECONNRESET"}),
        ({}, {"error_type": "connection"}),
    ],
)  # fmt: skip
def test_a_request_that_finally_failed(given, expected):
    out = mapped(log("api_error", {"model": "claude-sonnet-4-5", "duration_ms": 1000.0, **given}))

    assert model_rows(out) == [
        {
            "started_at": at(-1000),
            "ended_at": at(),
            "duration_ms": 1000.0,
            "status": "error",
            "provider": "anthropic",
            "request_model": "claude-sonnet-4-5",
            **expected,
            "session": "s-1",
            "signal": "logs",
            "rank": RANK_SURE,
        }
    ]


def test_money_comes_from_dollars_where_no_micros_are_sent():
    (row,) = model_rows(mapped(log("api_request", {"cost_usd": "0.1234567"})))

    assert row["cost_usd_micros"] == 123457
    assert "input_tokens" not in row


def test_a_prompt_counts_and_its_text_is_kept_only_where_that_is_allowed():
    given = {
        "prompt": "Say hi",
        "prompt_text": "Say hi",
        "prompt_length": "6",
        "prompt.id": "p-1",
        "event.sequence": 5,
    }

    out = mapped(log("user_prompt", given, body="claude_code.user_prompt"))
    allowed = mapped(log("user_prompt", given, body="claude_code.user_prompt"), keeps_content=True)

    expected = {
        "kind": "prompt",
        "name": "user_prompt",
        "occurred_at": at(),
        "turn_id": "p-1",
        "signal": "logs",
        "attributes": {"prompt_bytes": 6, "prompt_text_bytes": 6, "prompt_length": "6"},
        "session": "s-1",
        "counts": "prompt_count",
    }
    assert events(out) == [expected]
    assert events(allowed) == [{**expected, "content": "Say hi"}]


def test_a_redacted_prompt_has_a_length_and_no_content():
    out = mapped(
        log("user_prompt", {"prompt": "<REDACTED>", "prompt_length": "6"}), keeps_content=True
    )

    (event,) = events(out)
    assert event["attributes"] == {"prompt_length": "6"}
    assert "content" not in event


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("assistant_response", {"response_length": 9}, {"kind": "response"}),
        ("permission_mode_changed", {"to_mode": "plan"}, {"kind": "mode"}),
        ("compaction", {"duration_ms": "80"}, {"kind": "compaction", "counts": "compactions", "duration_ms": 80.0}),
        ("subagent_completed", {"total_tokens": "900"}, {"kind": "log"}),
        ("api_retries_exhausted", {"total_attempts": 11}, {"kind": "log"}),
        ("api_refusal", {"model": "m"}, {"kind": "log"}),
        ("something_of_next_year", {"x": 1}, {"kind": "log"}),
    ],
)  # fmt: skip
def test_other_records_are_events_and_no_calls(name, given, expected):
    out = mapped(log(name, given))

    assert events(out) == [
        {
            "name": name,
            "occurred_at": at(),
            "signal": "logs",
            "attributes": given,
            "session": "s-1",
            **expected,
        }
    ]
    assert not out.tools
    assert not out.models


def test_the_last_permission_mode_is_the_sessions():
    out = mapped(
        log("permission_mode_changed", {"to_mode": "acceptEdits"}, time_ns=T0 + MS),
        log("permission_mode_changed", {"to_mode": "plan"}, time_ns=T0),
    )

    assert said(out, "s-1")["permission_mode"] == "acceptEdits"


def test_an_interaction_is_a_turn_without_its_text():
    given = {**S1, "user_prompt": "Say hi", "user_prompt_length": 6, "interaction.sequence": 1}

    out = mapped(trace(span("claude_code.interaction", given, end_ns=T0 + 447 * MS)))

    assert events(out) == [
        {
            "kind": "turn",
            "name": "interaction",
            "occurred_at": at(),
            "duration_ms": 447.0,
            "trace_id": TRACE,
            "span_id": "00f067aa0ba902b7",
            "signal": "traces",
            "attributes": {
                "user_prompt_bytes": 6,
                "user_prompt_length": 6,
                "interaction.sequence": 1,
            },
            "session": "s-1",
            "counts": "turn_count",
        }
    ]


def test_a_span_of_a_hook_is_an_event():
    (event,) = events(mapped(trace(span("claude_code.hook", {**S1, "hook": "Stop"}, status=2))))

    assert (event["kind"], event["name"]) == ("span", "hook")
    assert event["attributes"] == {"hook": "Stop", "status": "error"}


def test_who_and_where_are_said_of_the_session():
    body = logs(
        "claude-code",
        SCOPE,
        record(
            "auth",
            {
                **S1, "user.id": "u", "user.email": "ada@example.com", "user.account_uuid": "uuid",
                "organization.id": "o", "terminal.type": "vscode", "app.version": "2.1.330",
                "app.entrypoint": "cli", "workspace.host_paths": ["/home/ada/app"],
            },
        ),
        resource={"service.version": "2.1.329", "os.type": "linux", "host.arch": "amd64", "team.id": "t"},
    )  # fmt: skip

    assert said(mapped(("logs", body)), "s-1") == {
        "@user.id": "u",
        "@user.email": "ada@example.com",
        "@user.account_uuid": "uuid",
        "@organization.id": "o",
        "terminal_type": "vscode",
        "agent_version": "2.1.330",
        "entrypoint": "cli",
        "workspace_paths": ["/home/ada/app"],
        "os_type": "linux",
        "host_arch": "amd64",
        "team": "t",
    }


@pytest.mark.parametrize(
    ("metric", "unit", "given", "value", "expected"),
    [
        ("session.count", "", {"start_type": "resume"}, 1,
         {"metric": "session.count", "kind": "resume", "value": 1.0}),
        ("lines_of_code.count", "", {"type": "added", "model": "m"}, 12,
         {"metric": "code.lines", "kind": "added", "value": 12.0, "model": "m"}),
        ("lines_of_code.count", "", {"type": "removed"}, 3,
         {"metric": "code.lines", "kind": "removed", "value": 3.0}),
        ("pull_request.count", "", {}, 1, {"metric": "pull_request.count", "value": 1.0}),
        ("commit.count", "", {}, 2, {"metric": "commit.count", "value": 2.0}),
        ("cost.usage", "USD", {"model": "m", "query_source": "main"}, 0.25,
         {"metric": "cost.usage", "unit": "usd_micros", "value": 250_000.0, "model": "m",
          "attributes": {"query_source": "main"}}),
        ("token.usage", "tokens", {"type": "input", "model": "m"}, 60,
         {"metric": "token.usage", "kind": "input_uncached", "unit": "tokens", "value": 60.0, "model": "m"}),
        ("token.usage", "tokens", {"type": "output"}, 20,
         {"metric": "token.usage", "kind": "output", "unit": "tokens", "value": 20.0}),
        ("token.usage", "tokens", {"type": "cacheRead"}, 40,
         {"metric": "token.usage", "kind": "cache_read", "unit": "tokens", "value": 40.0}),
        ("token.usage", "tokens", {"type": "cacheCreation"}, 7,
         {"metric": "token.usage", "kind": "cache_write", "unit": "tokens", "value": 7.0}),
        ("code_edit_tool.decision", "",
         {"tool_name": "Edit", "decision": "reject", "source": "user_reject", "language": "Python"}, 1,
         {"metric": "edit.decision", "kind": "reject", "value": 1.0, "tool_name": "Edit",
          "language": "Python", "attributes": {"source": "user_reject"}}),
        ("active_time.total", "s", {"type": "cli"}, 0.446,
         {"metric": "active_time", "kind": "cli", "unit": "s", "value": 0.446}),
        ("next_year.count", "{thing}", {"colour": "red"}, 5,
         {"metric": "claude_code.next_year.count", "unit": "{thing}", "value": 5.0,
          "attributes": {"colour": "red"}}),
    ],
)  # fmt: skip
def test_every_metric_in_our_words(metric, unit, given, value, expected):
    out = mapped(meter(sum_metric(f"claude_code.{metric}", unit, [({**S1, **given}, value)])))

    assert points(out) == [
        {
            "agent": "claude-code",
            "session": "s-1",
            "instrument": "sum",
            "is_monotonic": True,
            "is_cumulative": False,
            "start_ns": T0,
            "time_ns": T0 + 60_000 * MS,
            **expected,
        }
    ]


def test_a_window_on_sessions_is_no_start_of_one():
    given = [({**S1, "start_type": "agents_view"}, 1), ({**S1, "start_type": "fresh"}, 1)]

    out = mapped(meter(sum_metric("claude_code.session.count", "", given)))

    assert [point["kind"] for point in points(out)] == ["fresh"]


def test_a_metric_may_come_without_a_session_and_as_a_histogram():
    out = mapped(
        meter(histogram_metric("claude_code.x", "ms", [({}, 12.5, 2)], bounds=[10], buckets=[1, 1]))
    )

    (point,) = points(out)
    assert (point["session"], point["metric"]) == (None, "claude_code.x")
    assert (point["value"], point["count"]) == (12.5, 2)
    assert (point["bounds"], point["buckets"]) == ([10.0], [1, 1])


def test_a_client_that_was_renamed_is_known_by_its_scope_and_its_prefix():
    by_scope = logs("mine", SCOPE, record("tool_result", {**S1, "tool_use_id": "t"}))
    by_prefix = spans("mine", "other", span("claude_code.tool", {**S1, "tool_use_id": "t"}))

    out = mapped(("logs", by_scope), ("traces", by_prefix))

    assert [agent for agent, _ in out.sessions] == ["claude-code"]
    assert [row["signal"] for row in tool_rows(out)] == ["logs+traces"]


def test_nothing_that_somebody_wrote_is_kept_without_leave():
    secret = "a secret of ours"
    words = {
        "tool_use_id": "t",
        "tool_input": secret,
        "tool_parameters": msgspec.json.encode({"full_command": secret}).decode(),
        "full_command": secret,
        "prompt": secret,
        "response": secret,
        "user_prompt": secret,
        "body": secret,
    }
    names = (
        "tool_result",
        "tool_decision",
        "user_prompt",
        "assistant_response",
        "api_request_body",
    )
    seen = ("claude_code.tool", "claude_code.interaction", "claude_code.llm_request")

    out = mapped(
        *(log(name, words) for name in names),
        *(
            trace(span(name, {**S1, **words}, span_id=f"{n:016x}"))
            for n, name in enumerate(seen, 1)
        ),
    )

    assert secret not in repr([tool_rows(out), model_rows(out), events(out)])
