"""What several signals tell of is joined, and counted once."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from inbox import (
    Inbox,
    Request,
    claude_logs,
    claude_metrics,
    claude_spans,
    figures,
    gen_ai_spans,
    log,
    spanned,
    trace_id,
)
from vectors import Json, logs, metrics, spans, sum_metric

from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.tool_metrics.repository import TOOL_METRICS
from metrics_service.tool_metrics.schemas import ToolMetricQuery

GEMINI = "gemini-cli"
AGENT = "some-agent"


@pytest.fixture(scope="module")
async def kept_inbox(engine, new_tenant) -> Inbox:
    return Inbox(engine, (await new_tenant()).id)


@pytest.fixture
async def inbox(kept_inbox) -> Inbox:
    await kept_inbox.clear()
    return kept_inbox


# -- counting once ----------------------------------------------------------------------------------


def gemini_logs(*records: Json) -> Request:
    return "logs", logs(GEMINI, GEMINI, *records)


def gemini_spans(*given: Json) -> Request:
    return "traces", spans(GEMINI, GEMINI, *given)


def gemini_metrics(*given: Json) -> Request:
    return "metrics", metrics(GEMINI, GEMINI, *given)


def tool_told_by_log(at_s: float, *, fails: bool = False, **attributes: Any) -> Json:
    return log(
        "gemini_cli.tool_call",
        "s",
        at_s,
        function_name="read_file",
        duration_ms=100,
        success=not fails,
        **attributes,
    )


def tool_told_by_span(number: int, at_s: float) -> Json:
    return spanned("tool_call", "s", number, at_s=at_s, gen_ai__tool__name="read_file")


MODEL_LOG = log(
    "gemini_cli.api_response",
    "s",
    3,
    model="gemini-pro",
    duration_ms=500,
    input_token_count=100,
    cached_content_token_count=40,
    output_token_count=20,
    thoughts_token_count=5,
    response_id="r-1",
)
MODEL_SPAN = spanned(
    "llm_call",
    "s",
    9,
    at_s=2.5,
    gen_ai__request__model="gemini-pro",
    gen_ai__usage__input_tokens=90,
    gen_ai__usage__output_tokens=10,
)
SPANS = gemini_spans(tool_told_by_span(1, 1), tool_told_by_span(2, 2), MODEL_SPAN)
LOGS = gemini_logs(tool_told_by_log(1), tool_told_by_log(2, fails=True), MODEL_LOG)


async def counted(inbox: Inbox, table: str) -> list[tuple[str, bool]]:
    rows = await inbox.fetch(f"SELECT signal, is_counted FROM {table}")
    return sorted((row["signal"], row["is_counted"]) for row in rows)


async def listed(inbox: Inbox, session: str, agent: str) -> int:
    """How many tool calls people get to see of the session."""
    async with tenant_connection(inbox.engine, TenantContext(inbox.tenant_id)) as connection:
        return await TOOL_METRICS.count(
            connection, ToolMetricQuery(), session_id=inbox.session_id(session, agent)
        )


TOTALS = (
    "tool_call_count",
    "tool_error_count",
    "model_call_count",
    "input_tokens",
    "cache_read_tokens",
    "output_tokens",
    "reasoning_tokens",
)


async def test_spans_count_as_long_as_nothing_better_tells_of_a_sessions_calls(inbox):
    await inbox.send(SPANS)

    assert await counted(inbox, "tool_metrics") == [("traces", True)] * 2
    assert await counted(inbox, "model_calls") == [("traces", True)]
    assert figures(await inbox.session("s", GEMINI), *TOTALS) == (2, 0, 1, 90, 0, 10, 0)
    assert await listed(inbox, "s", GEMINI) == 2


@pytest.mark.parametrize(
    "requests",
    [(SPANS, LOGS), (LOGS, SPANS), (SPANS, LOGS, SPANS, LOGS)],
    ids=["spans first", "logs first", "twice"],
)
async def test_log_records_of_the_same_calls_count_instead_whatever_comes_first(inbox, requests):
    await inbox.send(*requests)

    assert await counted(inbox, "tool_metrics") == [("logs", True)] * 2 + [("traces", False)] * 2
    assert await counted(inbox, "model_calls") == [("logs", True), ("traces", False)]
    assert figures(await inbox.session("s", GEMINI), *TOTALS) == (2, 1, 1, 100, 40, 25, 5)
    assert await listed(inbox, "s", GEMINI) == 2


async def test_log_records_and_spans_in_one_request_count_once(inbox):
    await inbox.send_together(SPANS, LOGS)

    assert await counted(inbox, "tool_metrics") == [("logs", True)] * 2 + [("traces", False)] * 2
    assert figures(await inbox.session("s", GEMINI), *TOTALS) == (2, 1, 1, 100, 40, 25, 5)


async def test_what_tells_of_tools_says_nothing_about_what_tells_of_models(inbox):
    await inbox.send(SPANS, gemini_logs(tool_told_by_log(1), tool_told_by_log(2)))

    assert await counted(inbox, "tool_metrics") == [("logs", True)] * 2 + [("traces", False)] * 2
    assert await counted(inbox, "model_calls") == [("traces", True)]
    assert figures(await inbox.session("s", GEMINI), *TOTALS) == (2, 0, 1, 90, 0, 10, 0)


async def test_one_sessions_log_records_leave_anothers_spans_counted(inbox):
    other = spanned("tool_call", "other", 5, trace=2, gen_ai__tool__name="read_file")

    await inbox.send(gemini_spans(other), SPANS, LOGS)

    assert (await inbox.session("other", GEMINI)).tool_call_count == 1
    assert (await inbox.session("s", GEMINI)).tool_call_count == 2


def mcp_call(number: int, *, parent: int | None, kind: int = 3) -> Json:
    return spanned(
        "tools/call search",
        None,
        number,
        parent=parent,
        kind=kind,
        at_s=1.2,
        lasts_s=0.5,
        gen_ai__conversation__id="s",
        mcp__method__name="tools/call",
        gen_ai__tool__name="search",
    )


EXECUTE_TOOL = spanned(
    "execute_tool search",
    None,
    1,
    at_s=1,
    gen_ai__conversation__id="s",
    gen_ai__operation__name="execute_tool",
    gen_ai__tool__name="search",
)


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
async def test_an_mcp_call_inside_a_tool_call_is_the_same_call(inbox, order):
    requests = [
        gen_ai_spans(EXECUTE_TOOL),
        gen_ai_spans(mcp_call(2, parent=1)),
        gen_ai_spans(mcp_call(3, parent=2, kind=2), service=AGENT),
    ]

    await inbox.send(*(requests[place] for place in order))

    assert await counted(inbox, "tool_metrics") == [
        ("traces", False),
        ("traces", False),
        ("traces", True),
    ]
    assert (await inbox.session("s", AGENT)).tool_call_count == 1


async def test_an_mcp_call_without_a_tool_call_around_it_counts(inbox):
    await inbox.send(gen_ai_spans(mcp_call(2, parent=None)))

    assert (await inbox.session("s", AGENT)).tool_call_count == 1


DECISION = log(
    "tool_decision", "s", 1, tool_name="Bash", tool_use_id="t-1", decision="accept",
    source="user_temporary", event__sequence=1,
)  # fmt: skip
RESULT = log(
    "tool_result", "s", 4, tool_name="Bash", tool_use_id="t-1", success="true", duration_ms="1000",
    decision_type="accept", decision_source="user_temporary", event__sequence=2,
)  # fmt: skip
TOOL_SPAN = spanned(
    "claude_code.tool", "s", 1, at_s=0.5, lasts_s=3.5, tool_name="Bash", tool_use_id="t-1",
    duration_ms=3500,
)  # fmt: skip
WAIT_SPAN = spanned(
    "claude_code.tool.blocked_on_user", "s", 2, parent=1, at_s=0.6, lasts_s=2.3, duration_ms=2300,
    decision="accept", source="user_temporary",
)  # fmt: skip
RUN_SPAN = spanned(
    "claude_code.tool.execution", "s", 3, parent=1, at_s=3, lasts_s=0.9, duration_ms=900,
    success="true",
)  # fmt: skip
TELLERS: dict[str, Request] = {
    "decision": claude_logs(DECISION),
    "result": claude_logs(RESULT),
    "tool": claude_spans(TOOL_SPAN),
    "wait": claude_spans(WAIT_SPAN),
    "run": claude_spans(RUN_SPAN),
}
JOINED = {
    "tool_name": "Bash",
    "external_call_id": "t-1",
    "signal": "logs+traces",
    "status": "success",
    "decision": "accept",
    "decision_mode": "user_once",
    "duration_ms": 900,
    "wait_ms": 2300,
    "total_ms": 3500,
    "trace_id": trace_id(1),
    "span_id": f"{1:016x}",
    "is_counted": True,
}


@pytest.mark.parametrize("order", list(permutations(TELLERS))[::7], ids="-".join)
async def test_all_that_tell_of_a_call_are_joined_into_one_row_in_any_order(inbox, order):
    await inbox.send(*(TELLERS[name] for name in order))

    (row,) = await inbox.tools()
    assert {name: row[name] for name in JOINED} == JOINED
    assert (await inbox.session("s")).tool_call_count == 1


async def test_all_that_tell_of_a_call_in_one_request_make_the_same_row(inbox):
    await inbox.send_together(*TELLERS.values())

    (row,) = await inbox.tools()
    assert {name: row[name] for name in JOINED} == JOINED


async def test_a_call_that_turns_out_to_have_failed_is_counted_as_failed(inbox):
    failed = log(
        "tool_result", "s", 4, tool_name="Bash", tool_use_id="t-1", success="false",
        duration_ms="1000", error_type="ShellError", event__sequence=2,
    )  # fmt: skip

    await inbox.send(TELLERS["decision"])
    before = figures(await inbox.session("s"), "tool_call_count", "tool_error_count")
    await inbox.send(claude_logs(failed))

    assert before == (1, 0)
    assert figures(await inbox.session("s"), "tool_call_count", "tool_error_count") == (1, 1)


async def test_a_decision_against_a_call_is_a_rejected_call(inbox):
    rejected = log(
        "tool_decision", "s", 1, tool_name="Bash", tool_use_id="t-1", decision="reject",
        source="user_reject",
    )  # fmt: skip

    await inbox.send(claude_logs(rejected), claude_logs(rejected))

    (row,) = await inbox.tools()
    assert (row["status"], row["decision"]) == ("rejected", "reject")
    names = ("tool_call_count", "tool_error_count", "tool_reject_count")
    assert figures(await inbox.session("s"), *names) == (1, 0, 1)


MODEL_TELLERS = [
    claude_logs(
        log(
            "api_request", "s", 2, model="claude-opus", request_id="r-1", input_tokens=10,
            output_tokens=5, cache_read_tokens=100, cache_creation_tokens=7,
            cost_usd_micros=1234, duration_ms=800,
        )
    ),
    claude_spans(
        spanned(
            "claude_code.llm_request", "s", 7, at_s=1.2, lasts_s=0.8, model="claude-opus",
            request_id="r-1", input_tokens=10, output_tokens=5, cache_read_tokens=100,
            cache_creation_tokens=7, ttft_ms=250, success="true",
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("requests", [MODEL_TELLERS, MODEL_TELLERS[::-1]], ids=["logs", "spans"])
async def test_a_model_call_that_log_record_and_span_tell_of_is_one(inbox, requests):
    await inbox.send(*requests, *requests)

    (row,) = await inbox.models()
    names = ("signal", "cost_usd_micros", "cost_source", "ttft_ms", "input_tokens", "is_counted")
    assert [row[name] for name in names] == ["logs+traces", 1234, "reported", 250, 117, True]
    names = ("model_call_count", "input_tokens", "output_tokens", "cost_usd_micros")
    assert figures(await inbox.session("s"), *names) == (1, 117, 5, 1234)


METERED = claude_metrics(
    sum_metric(
        "claude_code.token.usage",
        "tokens",
        [
            ({"session.id": "s", "type": "input"}, 30),
            ({"session.id": "s", "type": "output"}, 8),
            ({"session.id": "s", "type": "cacheRead"}, 200),
            ({"session.id": "s", "type": "cacheCreation"}, 11),
        ],
    ),
    sum_metric("claude_code.cost.usage", "USD", [({"session.id": "s"}, 0.004321)]),
)
SPENT = ("model_call_count", "input_tokens", "output_tokens", "cache_read_tokens",
         "cache_write_tokens", "cost_usd_micros")  # fmt: skip


async def test_tokens_and_cost_of_metrics_are_shown_where_no_call_tells_of_them(inbox):
    await inbox.send(METERED, METERED)

    assert figures(await inbox.session("s"), *SPENT) == (0, 241, 8, 200, 11, 4321)


@pytest.mark.parametrize(
    "requests",
    [(METERED, MODEL_TELLERS[0]), (MODEL_TELLERS[0], METERED), (METERED, MODEL_TELLERS[1])],
    ids=["metrics first", "logs first", "metrics and spans"],
)
async def test_tokens_of_calls_take_the_place_of_those_of_metrics(inbox, requests):
    await inbox.send(*requests)

    reported = 1234 if MODEL_TELLERS[0] in requests else None
    *shown, cost = figures(await inbox.session("s"), *SPENT)
    assert shown == [1, 117, 5, 100, 7]
    # A span says nothing of money: what the model's price makes of its tokens, nothing where unknown.
    (row,) = await inbox.models()
    assert cost == (reported if reported is not None else row["cost_usd_micros"] or 0)


TOOL_COUNTER = gemini_metrics(
    sum_metric(
        "gemini_cli.tool.call.count",
        "1",
        [
            ({"session.id": "s", "function_name": "read_file", "success": True}, 3),
            ({"session.id": "s", "function_name": "read_file", "success": False}, 2),
        ],
    )
)


async def test_tool_calls_of_metrics_are_given_up_when_calls_arrive(inbox):
    await inbox.send(TOOL_COUNTER)
    before = figures(await inbox.session("s", GEMINI), *TOTALS[:2])
    await inbox.send(SPANS)
    with_spans = figures(await inbox.session("s", GEMINI), *TOTALS[:2])
    await inbox.send(LOGS, TOOL_COUNTER)

    assert (before, with_spans) == ((5, 2), (2, 0))
    assert figures(await inbox.session("s", GEMINI), *TOTALS[:2]) == (2, 1)


LINES_OF_TOOL = gemini_logs(
    tool_told_by_log(1, metadata='{"model_added_lines": 7, "model_removed_lines": 4}')
)
LINES_OF_METRIC = gemini_metrics(
    sum_metric(
        "gemini_cli.lines.changed",
        "1",
        [({"session.id": "s", "type": "added"}, 12), ({"session.id": "s", "type": "removed"}, 3)],
    )
)


async def test_lines_of_tool_calls_are_shown_where_no_metric_tells_of_them(inbox):
    await inbox.send(LINES_OF_TOOL)

    found = await inbox.session("s", GEMINI)
    assert figures(found, "lines_added", "lines_removed") == (7, 4)


@pytest.mark.parametrize(
    "requests",
    [(LINES_OF_TOOL, LINES_OF_METRIC), (LINES_OF_METRIC, LINES_OF_TOOL)],
    ids=["calls first", "metrics first"],
)
async def test_lines_of_metrics_take_the_place_of_those_of_tool_calls(inbox, requests):
    await inbox.send(*requests)

    found = await inbox.session("s", GEMINI)
    assert figures(found, "lines_added", "lines_removed") == (12, 3)
