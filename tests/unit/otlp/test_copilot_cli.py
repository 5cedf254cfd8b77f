"""GitHub Copilot CLI; spans and metrics as version 1.0.102 sends them."""

from __future__ import annotations

from vectors import (
    MS,
    T0,
    TRACE,
    at,
    events,
    histogram_metric,
    mapped,
    metrics,
    model_rows,
    points,
    span,
    spans,
    sum_metric,
    tool_rows,
)

from metrics_service.ingest.parts import RANK_SPAN

SERVICE, SCOPE = "github-copilot", "github.copilot"
CONVERSATION = {"gen_ai.conversation.id": "c-1", "gen_ai.provider.name": "openai"}
TOOL = {
    "gen_ai.operation.name": "execute_tool",
    "gen_ai.tool.name": "bash",
    "gen_ai.tool.call.id": "call_1",
    "gen_ai.tool.type": "function",
    "process.executable.name": "bash",
    "process.exit.code": 3,
    **CONVERSATION,
}
CHAT = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "gpt-5",
    "gen_ai.response.model": "gpt-5",
    "gen_ai.response.id": "chatcmpl-1",
    "gen_ai.request.reasoning.level": "medium",
    "gen_ai.response.finish_reasons": ["tool_calls"],
    "gen_ai.response.time_to_first_chunk": 0.096,
    "gen_ai.usage.input_tokens": 100,
    "gen_ai.usage.output_tokens": 20,
    "gen_ai.usage.cache_read.input_tokens": 40,
    "gen_ai.usage.reasoning.output_tokens": 5,
    "github.copilot.cost": 1.0,
    "github.copilot.nano_aiu": 750_000_000,
    "github.copilot.turn_id": "0",
    **CONVERSATION,
}


def traces(*given):
    return "traces", spans(SERVICE, SCOPE, *given)


def test_a_command_that_exits_non_zero_keeps_the_clients_word_and_its_code():
    call = span("execute_tool bash bash", TOOL, parent="b" * 16, end_ns=T0 + 64 * MS)

    assert tool_rows(mapped(traces(call))) == [
        {
            "session": "c-1",
            "signal": "traces",
            "rank": RANK_SPAN,
            "tool_name": "bash",
            "started_at": at(),
            "ended_at": at(64),
            "duration_ms": 64.0,
            "status": "success",
            "external_call_id": "call_1",
            "trace_id": TRACE,
            "span_id": "00f067aa0ba902b7",
            "parent_span_id": "b" * 16,
            "tool_kind": "function",
            "exit_code": 3,
            "extra": {"gen_ai.provider.name": "openai", "process.executable.name": "bash"},
        }
    ]


def test_a_failed_tool_has_its_class_and_message():
    call = span("execute_tool nothing", {**TOOL, "error.type": "ToolError"}, status=2)
    call["status"]["message"] = "Tool failed"

    (row,) = tool_rows(mapped(traces(call)))

    assert (row["status"], row["error_type"]) == ("error", "ToolError")
    assert row["error_message"] == "Tool failed"


def test_a_request_has_units_and_a_multiplier_that_is_no_money():
    request = span("chat gpt-5", CHAT, parent="b" * 16, end_ns=T0 + 96 * MS)

    assert model_rows(mapped(traces(request))) == [
        {
            "session": "c-1",
            "signal": "traces",
            "rank": RANK_SPAN,
            "started_at": at(),
            "ended_at": at(96),
            "duration_ms": 96.0,
            "ttft_ms": 96.0,
            "status": "success",
            "finish_reasons": ["tool_calls"],
            "request_id": "chatcmpl-1",
            "turn_id": "0",
            "trace_id": TRACE,
            "span_id": "00f067aa0ba902b7",
            "parent_span_id": "b" * 16,
            "provider": "openai",
            "request_model": "gpt-5",
            "response_model": "gpt-5",
            "operation": "chat",
            "input_tokens": 100,
            "input_uncached_tokens": 60,
            "cache_read_tokens": 40,
            "output_tokens": 20,
            "reasoning_tokens": 5,
            "billing_units": 750_000_000.0,
            "billing_unit_kind": "nano_aiu",
            "effort": "medium",
            "extra": {"github.copilot.cost": 1.0},
        }
    ]


def test_only_the_outermost_agent_keeps_the_units_of_all():
    units = {"gen_ai.operation.name": "invoke_agent", "github.copilot.nano_aiu": 10, **CONVERSATION}
    root = span("invoke_agent", {**units, "gen_ai.usage.input_tokens": 300}, span_id="b" * 16)
    inner = span("invoke_agent task", units, span_id="c" * 16, parent="b" * 16)

    out = mapped(traces(inner, root))

    assert [
        (event["kind"], event["attributes"].get("github.copilot.nano_aiu")) for event in events(out)
    ] == [("turn", None), ("turn", 10)]
    assert not model_rows(out)


def test_metrics_count_each_thing_once():
    model = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "gpt-5"}
    tool = {"gen_ai.tool.name": "bash"}
    body = metrics(
        SERVICE,
        SCOPE,
        histogram_metric(
            "gen_ai.client.operation.duration",
            "s",
            [({"gen_ai.operation.name": "execute_tool"}, 0.064, 1)],
        ),
        histogram_metric("gen_ai.client.inference.duration", "s", [(model, 0.25, 2)]),
        sum_metric("gen_ai.client.inference.usage.input_tokens", "{token}", [(model, 300)]),
        histogram_metric("gen_ai.execute_tool.duration", "s", [(tool, 0.064, 1)]),
        histogram_metric("github.copilot.tool.call.duration", "s", [(tool, 0.064, 1)]),
        sum_metric("github.copilot.tool.call.count", "{call}", [({**tool, "success": True}, 1)]),
        sum_metric("github.copilot.code.lines_added", "{line}", [({}, 12)]),
        sum_metric("github.copilot.code.lines_removed", "{line}", [({}, 3)]),
    )

    rows = points(mapped(("metrics", body)))

    names = ("metric", "unit", "kind", "status", "tool_name", "model", "value")
    assert [tuple(row.get(name) for name in names) for row in rows] == [
        ("model.duration", "ms", "chat", None, None, "gpt-5", 250.0),
        ("token.usage", "{token}", "input", None, None, "gpt-5", 300),
        ("tool.duration", "ms", None, None, "bash", None, 64.0),
        ("tool.calls", "{call}", None, "success", "bash", None, 1),
        ("code.lines", "{line}", "added", None, None, None, 12),
        ("code.lines", "{line}", "removed", None, None, None, 3),
    ]
    assert {row["agent"] for row in rows} == {"copilot-cli"}
