"""opencode on its own, with what version 1.18.33 sends, and with the plugin opencode-plugin-otel."""

from __future__ import annotations

import json

import pytest
from vectors import (
    MS,
    T0,
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

from metrics_service.ingest.parts import RANK_INNER, RANK_SPAN, RANK_SURE

SESSION = "ses_1"
OUTER, INNER = "00f067aa0ba902b7", "00f067aa0ba902b8"
RESULT = '{"title":"echo hi","metadata":{"output":"hi\\n","exit":3},"output":"hi\\n"}'


def native(*given):
    """Spans as opencode sends them: all of one scope, the AI SDK's as well."""
    return "traces", spans("opencode", "opencode", *given)


def plugin(*records):
    return "logs", logs("opencode", "com.opencode", *records)


def plugin_spans(*given):
    return "traces", spans("opencode", "com.opencode", *given)


def call_span(**changes):
    attributes = {
        "operation.name": "ai.toolCall session.llm",
        "ai.operationId": "ai.toolCall",
        "ai.toolCall.name": "bash",
        "ai.toolCall.id": "call_1",
        "ai.toolCall.args": '{"command":"echo hi"}',
        "ai.toolCall.result": RESULT,
        "session.id": SESSION,
    }
    return span("ai.toolCall", attributes, span_id=OUTER, end_ns=T0 + 260 * MS, **changes)


def execution_span(**changes):
    attributes = {
        "tool.name": "bash",
        "session.id": SESSION,
        "message.id": "msg_1",
        "tool.call_id": "call_1",
    }
    return span(
        "Tool.execute",
        attributes,
        span_id=INNER,
        parent=OUTER,
        start_ns=T0 + 5 * MS,
        end_ns=T0 + 255 * MS,
        **changes,
    )


def request_span(name="ai.streamText.doStream", span_id=OUTER, **attributes):
    common = {
        "ai.operationId": name,
        "ai.telemetry.functionId": "session.llm",
        "ai.telemetry.metadata.sessionId": SESSION,
        "ai.model.provider": "openai.responses",
        "ai.model.id": "gpt-5",
        "ai.request.headers.authorization": "Bearer secret",
        "ai.prompt.messages": "[...]",
        "gen_ai.system": "openai.responses",
        "gen_ai.request.model": "gpt-5",
        "ai.response.msToFirstChunk": 132.5,
        "ai.response.model": "gpt-5-2025-08-07",
        "gen_ai.response.id": "resp_1",
        "gen_ai.response.finish_reasons": ["stop"],
        "ai.response.text": "Done.",
        "ai.usage.inputTokens": 200,
        "ai.usage.inputTokenDetails.noCacheTokens": 150,
        "ai.usage.inputTokenDetails.cacheReadTokens": 40,
        "ai.usage.inputTokenDetails.cacheWriteTokens": 10,
        "ai.usage.outputTokens": 20,
        "ai.usage.outputTokenDetails.reasoningTokens": 5,
    }
    return span(name, {**common, **attributes}, span_id=span_id)


# -- on its own -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, -1])
def test_the_two_spans_of_a_call_are_one_call(order):
    out = mapped(*[native(call_span()), native(execution_span())][::order])

    (row,) = tool_rows(out)
    assert row == {
        "tool_name": "bash",
        "started_at": at(5),
        "ended_at": at(255),
        "duration_ms": 250.0,
        "total_ms": 260.0,
        "status": "success",
        "external_call_id": "call_1",
        "trace_id": row["trace_id"],
        "span_id": OUTER,
        "input_bytes": 21,
        "output_bytes": len(RESULT),
        "exit_code": 3,
        "extra": {"message.id": "msg_1"},
        "session": SESSION,
        "signal": "traces",
        "rank": RANK_SPAN,
    }
    assert "ai.toolCall.args" not in str(row)


def test_what_was_asked_and_answered_is_kept_where_the_tenant_allows_it():
    out = mapped(native(call_span(), execution_span()), keeps_content=True)

    (row,) = tool_rows(out)
    assert (row["arguments"], row["result"]) == ('{"command":"echo hi"}', RESULT)


def test_a_call_whose_outer_span_is_missing_is_a_call_nonetheless():
    (row,) = tool_rows(mapped(native(execution_span())))

    assert (row["tool_name"], row["external_call_id"], row["duration_ms"]) == (
        "bash",
        "call_1",
        250.0,
    )


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("ENOENT: no such file", ("error", None, None)),
        ("The user rejected permission to use this specific tool call.", ("rejected", "reject", "user_once")),
        (
            "The user has specified a rule which prevents you from using this specific tool call.",
            ("rejected", "reject", "auto"),
        ),
        ("grep found: The user rejected permission to run", ("error", None, None)),
    ],
)  # fmt: skip
def test_a_failed_call_says_whether_it_was_refused(message, expected):
    thrown = span_event("exception", {"exception.type": "Error", "exception.message": message})
    out = mapped(native(call_span(status=2, events=[thrown]), execution_span(status=2)))

    (row,) = tool_rows(out)
    assert (row["error_type"], row["error_message"]) == ("Error", message)
    assert (row["status"], row.get("decision"), row.get("decision_mode")) == expected


def test_the_leaves_are_model_calls_and_their_parents_turns():
    leaf = request_span()
    whole = request_span("ai.streamText", span_id=INNER)

    out = mapped(native(leaf, whole))

    (row,) = model_rows(out)
    assert {name: row[name] for name in row if name not in {"trace_id", "extra"}} == {
        "started_at": at(0),
        "ended_at": at(1000),
        "duration_ms": 1000.0,
        "ttft_ms": 132.5,
        "status": "success",
        "finish_reasons": ["stop"],
        "request_id": "resp_1",
        "span_id": OUTER,
        "provider": "openai.responses",
        "request_model": "gpt-5",
        "response_model": "gpt-5-2025-08-07",
        "input_tokens": 200,
        "input_uncached_tokens": 150,
        "cache_read_tokens": 40,
        "cache_write_tokens": 10,
        "output_tokens": 20,
        "reasoning_tokens": 5,
        "query_source": "session.llm",
        "session": SESSION,
        "signal": "traces",
        "rank": RANK_SPAN,
    }
    (turn,) = events(out)
    assert (turn["kind"], turn["name"], turn["counts"]) == ("turn", "ai.streamText", "turn_count")


@pytest.mark.parametrize("keeps_content", [False, True])
def test_the_headers_of_a_request_are_stored_nowhere(keeps_content):
    given = (request_span(), request_span("ai.streamText", span_id=INNER))

    out = mapped(native(*given), keeps_content=keeps_content)

    assert "secret" not in str([*model_rows(out), *events(out)])


def test_prompts_and_answers_leave_their_sizes():
    (row,) = model_rows(mapped(native(request_span())))

    assert row["extra"]["ai.prompt.messages_bytes"] == 5
    assert row["extra"]["ai.response.text_bytes"] == 5
    assert "Done." not in str(row)


def test_older_names_of_tokens_are_read_as_well():
    old = span(
        "ai.generateText.doGenerate",
        {"session.id": SESSION, "ai.usage.promptTokens": 12, "ai.usage.completionTokens": 3},
    )

    (row,) = model_rows(mapped(native(old)))

    assert (row["input_tokens"], row["input_uncached_tokens"], row["output_tokens"]) == (12, 12, 3)
    assert "cache_read_tokens" not in row


def test_a_failed_request_is_an_error_without_tokens():
    thrown = span_event("exception", {"exception.type": "AI_APICallError"})
    failed = span("ai.streamText.doStream", {"session.id": SESSION}, status=2, events=[thrown])

    (row,) = model_rows(mapped(native(failed)))

    assert (row["status"], row["error_type"]) == ("error", "AI_APICallError")
    assert "input_tokens" not in row


def test_what_it_does_inside_itself_is_no_event_and_no_session():
    plumbing = [
        span("sql.execute", {"db.query.text": "PRAGMA x"}, span_id=OUTER),
        span("Session.updatePart", {}, span_id=INNER),
    ]

    out = mapped(native(*plumbing))

    assert (events(out), list(out.sessions)) == ([], [])


def test_its_logs_are_text_that_somebody_wrote():
    body = ["loading", '{"path":"/home/ada/secret.json"}']
    request = logs("opencode", "opencode", record(None, {"fiberId": 8216}, body=body))

    (quiet,) = events(mapped(("logs", request)))
    (kept,) = events(mapped(("logs", request), keeps_content=True))

    assert (quiet["kind"], quiet["name"]) == ("log", "log")
    assert quiet["attributes"] == {"fiberId": 8216, "body_bytes": len(json.dumps(body)) - 1}
    assert "content" not in quiet
    assert "/home/ada" in kept["content"]


def test_other_programs_of_the_same_sdk_are_not_opencode():
    out = mapped(("traces", spans("shop", "ai", request_span())))

    assert [session.agent for session in out.sessions.values()] != ["opencode"]


# -- the plugin -------------------------------------------------------------------------------------


def tool_result(**changes):
    attributes = {
        "session.id": SESSION,
        "project.id": "p-1",
        "tool_name": "bash",
        "agent": "build",
        "agent.name": "build",
        "agent.type": "primary",
        "success": True,
        "duration_ms": 250,
        "tool_result_size_bytes": 3,
        **changes,
    }
    attributes = {name: value for name, value in attributes.items() if value is not None}
    return record("tool_result", attributes, body="tool_result")


def test_a_result_bears_the_time_of_the_beginning():
    out = mapped(plugin(tool_result()))

    (row,) = tool_rows(out)
    assert row == {
        "tool_name": "bash",
        "started_at": at(0),
        "ended_at": at(250),
        "duration_ms": 250.0,
        "status": "success",
        "output_bytes": 3,
        "extra": {"agent.type": "primary"},
        "session": SESSION,
        "signal": "logs",
        "rank": RANK_SURE,
    }
    assert said(out, SESSION)["project"] == "p-1"


def test_the_same_result_sent_again_is_the_same_call():
    assert len(tool_rows(mapped(plugin(tool_result()), plugin(tool_result())))) == 1


def test_a_refused_result_is_refused():
    error = "PermissionRejectedError: The user rejected permission to use this specific tool call."

    (row,) = tool_rows(mapped(plugin(tool_result(success=False, error=error))))

    assert (row["status"], row["decision"], row["error_message"]) == ("rejected", "reject", error)


def test_spans_do_not_count_where_logs_tell_of_the_calls():
    out = mapped(plugin(tool_result()), native(call_span(), execution_span()))

    assert sorted(row["rank"] for row in tool_rows(out)) == [RANK_SPAN, RANK_SURE]


@pytest.mark.parametrize(
    ("decision", "source", "expected"),
    [
        ("accept", "allow", ("unknown", "accept", "user_once")),
        ("accept", "allowAlways", ("unknown", "accept", "user_always")),
        ("reject", "deny", ("rejected", "reject", "user_once")),
        ("reject", "reject", ("rejected", "reject", "user_once")),
    ],
)
def test_a_decision_counts_only_where_no_result_tells_more(decision, source, expected):
    asked = {
        "session.id": SESSION,
        "tool_name": "rm -rf build",
        "tool_type": "bash",
        "decision": decision,
        "source": source,
    }

    out = mapped(plugin(record("tool_decision", asked)))

    (row,) = tool_rows(out)
    found = (row.get("status", "unknown"), row["decision"], row["decision_mode"])
    assert found == expected
    assert (row["tool_name"], row["rank"]) == ("bash", RANK_INNER)
    # The title is what was asked for.
    assert "rm -rf" not in str(row)


def api_request(**changes):
    attributes = {
        "session.id": SESSION,
        "model": "claude-sonnet-4-5",
        "provider": "anthropic",
        "gen_ai.provider.name": "anthropic",
        "agent": "build",
        "agent.name": "build",
        "cost_usd": 0.0123,
        "duration_ms": 2000,
        "input_tokens": 100,
        "output_tokens": 20,
        "reasoning_tokens": 5,
        "cache_read_tokens": 40,
        "cache_creation_tokens": 10,
        **changes,
    }
    return record("api_request", {k: v for k, v in attributes.items() if v is not None})


def test_a_request_has_tokens_without_cache_and_money():
    (row,) = model_rows(mapped(plugin(api_request())))

    assert row == {
        "started_at": at(0),
        "ended_at": at(2000),
        "duration_ms": 2000.0,
        "status": "success",
        "provider": "anthropic",
        "request_model": "claude-sonnet-4-5",
        "input_tokens": 150,
        "input_uncached_tokens": 100,
        "cache_read_tokens": 40,
        "cache_write_tokens": 10,
        "output_tokens": 20,
        "reasoning_tokens": 5,
        "cost_usd_micros": 12300,
        "query_source": "build",
        "agent_name": "build",
        "session": SESSION,
        "signal": "logs",
        "rank": RANK_SURE,
    }


def test_a_request_without_a_duration_has_none():
    (row,) = model_rows(mapped(plugin(api_request(duration_ms=None))))

    assert "duration_ms" not in row
    assert row["ended_at"] == row["started_at"]


def test_a_failed_request_says_how():
    failed = {"session.id": SESSION, "model": "gpt-5", "provider": "openai", "duration_ms": 10,
              "error": "ProviderError: overloaded"}  # fmt: skip

    (row,) = model_rows(mapped(plugin(record("api_error", failed))))

    assert (row["status"], row["error_type"], row["error_message"]) == (
        "error", "ProviderError", "ProviderError: overloaded",
    )  # fmt: skip


def test_a_session_knows_whether_it_is_a_subagents():
    created = {"session.id": SESSION, "is_subagent": True, "agent": "explore"}
    main = {"session.id": "ses_2", "is_subagent": False}
    idle = {"session.id": SESSION, "total_tokens": 100, "total_cost_usd": 0.1}

    out = mapped(
        plugin(record("session.created", created), record("session.created", main)),
        plugin(record("session.idle", idle, time_ns=T0 + MS)),
    )

    assert said(out, SESSION)["is_subagent"] is True
    assert "is_subagent" not in said(out, "ses_2")
    assert [(event["kind"], event["session"]) for event in events(out)] == [
        ("start", SESSION), ("start", "ses_2"), ("idle", SESSION),
    ]  # fmt: skip


def test_a_prompt_counts_and_is_content():
    prompt = {"session.id": SESSION, "prompt_length": 5, "prompt": "do it"}

    (quiet,) = events(mapped(plugin(record("user_prompt", prompt))))
    (kept,) = events(mapped(plugin(record("user_prompt", prompt)), keeps_content=True))

    assert (quiet["kind"], quiet["counts"]) == ("prompt", "prompt_count")
    assert "do it" not in str(quiet)
    assert kept["content"] == "do it"


def test_the_plugins_spans_meet_opencodes_own_by_the_calls_id():
    told = {
        "openinference.span.kind": "TOOL",
        "session.id": SESSION,
        "tool.id": "call_1",
        "tool.name": "bash",
        "input.value": '{"command":"echo hi"}',
        "output.value": "hi\n",
        "tool.success": True,
        "tool.result_size_bytes": 3,
    }

    alone = mapped(plugin_spans(span("opencode.tool.bash", told)))
    both = mapped(plugin_spans(span("opencode.tool.bash", told)), native(execution_span()))

    (row,) = tool_rows(alone)
    assert (row["tool_name"], row["external_call_id"], row["status"]) == (
        "bash",
        "call_1",
        "success",
    )
    assert (row["input_bytes"], row["output_bytes"]) == (21, 3)
    assert "echo" not in str(row)
    assert len(tool_rows(both)) == 1


def test_the_plugins_span_of_a_request_gives_way_to_the_sdks():
    told = {
        "openinference.span.kind": "LLM",
        "session.id": SESSION,
        "llm.model_name": "gpt-5",
        "llm.provider": "openai",
        "llm.token_count.prompt": 100,
        "llm.token_count.completion": 20,
        "llm.token_count.prompt_details.cache_read": 40,
        "cost_usd": 0.5,
    }

    out = mapped(plugin_spans(span("opencode.llm", told)), native(request_span(span_id=INNER)))

    theirs, sdk = model_rows(out)
    assert (theirs["rank"], sdk["rank"]) == (RANK_INNER, RANK_SPAN)
    assert (theirs["input_tokens"], theirs["input_uncached_tokens"]) == (140, 100)
    assert theirs["cost_usd_micros"] == 500_000


@pytest.mark.parametrize("prefix", ["opencode.", "claude_code.", ""])
def test_the_plugins_metrics_are_known_whatever_prefix_the_user_chose(prefix):
    common = {"session.id": SESSION, "model": "gpt-5"}
    request = metrics(
        "opencode",
        "com.opencode",
        sum_metric(
            f"{prefix}token.usage",
            "tokens",
            [
                ({**common, "type": "input"}, 100),
                ({**common, "type": "cacheRead"}, 40),
                ({**common, "type": "cacheCreation"}, 10),
                ({**common, "type": "reasoning"}, 5),
            ],
            temporality=2,
        ),
        sum_metric(f"{prefix}cost.usage", "USD", [(common, 0.25)], temporality=2),
        histogram_metric(
            f"{prefix}tool.duration",
            "ms",
            [({"session.id": SESSION, "tool_name": "bash", "success": False}, 250.0, 1)],
            bounds=[100.0],
            buckets=[0, 1],
        ),
        sum_metric(f"{prefix}cache.count", "{request}", [(common, 1)]),
    )

    found = points(mapped(("metrics", request)))

    assert [(it["agent"], it["metric"], it.get("kind"), it["value"]) for it in found] == [
        ("opencode", "token.usage", "input_uncached", 100.0),
        ("opencode", "token.usage", "cache_read", 40.0),
        ("opencode", "token.usage", "cache_write", 10.0),
        ("opencode", "token.usage", "reasoning", 5.0),
        ("opencode", "cost.usage", None, 250_000.0),
        ("opencode", "tool.duration", None, 250.0),
        ("opencode", f"{prefix}cache.count", None, 1.0),
    ]
    assert found[0]["is_cumulative"]
    assert (found[5]["tool_name"], found[5]["status"]) == ("bash", "error")
