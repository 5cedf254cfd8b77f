"""What was told of before its name was known comes to belong where it turns out to belong."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from inbox import (
    Inbox,
    claude_spans,
    figures,
    gen_ai_logs,
    gen_ai_spans,
    log,
    spanned,
    trace_id,
)
from vectors import Json, logs, spans

AGENT = "some-agent"
GEMINI = "gemini-cli"
TELLERS = {
    "tool": claude_spans(
        spanned(
            "claude_code.tool", "s", 1, at_s=0.5, lasts_s=3.5, tool_name="Bash",
            tool_use_id="t-1", duration_ms=3500,
        )
    ),
    "wait": claude_spans(
        spanned(
            "claude_code.tool.blocked_on_user", "s", 2, parent=1, at_s=0.6, lasts_s=2.3,
            duration_ms=2300, decision="accept", source="user_temporary",
        )
    ),
    "run": claude_spans(
        spanned(
            "claude_code.tool.execution", "s", 3, parent=1, at_s=3, lasts_s=0.9, duration_ms=900,
            success="true",
        )
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
async def kept_inbox(engine, new_tenant) -> Inbox:
    return Inbox(engine, (await new_tenant()).id)


@pytest.fixture
async def inbox(kept_inbox) -> Inbox:
    await kept_inbox.clear()
    return kept_inbox


# -- sessions of traces -----------------------------------------------------------------------------


def gen_ai_tool(number: int, *, session: str | None = None, **more: Any) -> Json:
    named = {} if session is None else {"gen_ai__conversation__id": session}
    return spanned(
        "execute_tool search",
        None,
        number,
        at_s=number,
        gen_ai__operation__name="execute_tool",
        gen_ai__tool__name="search",
        **named,
        **more,
    )


def gen_ai_chat(number: int, *, session: str | None = None, **more: Any) -> Json:
    named = {} if session is None else {"gen_ai__conversation__id": session}
    return spanned(
        "chat some-model",
        None,
        number,
        at_s=number,
        gen_ai__operation__name="chat",
        gen_ai__request__model="some-model",
        gen_ai__usage__input_tokens=10 * number,
        gen_ai__usage__output_tokens=number,
        **named,
        **more,
    )


def gen_ai_turn(number: int, *, session: str | None = None, **more: Any) -> Json:
    named = {} if session is None else {"gen_ai__conversation__id": session}
    return spanned(
        "invoke_agent",
        None,
        number,
        at_s=0,
        lasts_s=20,
        gen_ai__operation__name="invoke_agent",
        **named,
        **more,
    )


WORK = ("tool_call_count", "model_call_count", "input_tokens", "output_tokens", "turn_count")


async def test_spans_of_a_trace_that_names_no_session_are_a_session_of_their_own(inbox):
    await inbox.send(gen_ai_spans(gen_ai_tool(1)), gen_ai_spans(gen_ai_chat(2), gen_ai_turn(3)))

    assert await inbox.session_names() == [f"trace:{trace_id(1)}"]
    found = await inbox.session(f"trace:{trace_id(1)}", AGENT)
    assert figures(found, *WORK) == (1, 1, 20, 2, 1)


NAMED_LATE = [
    gen_ai_spans(gen_ai_tool(1), gen_ai_chat(2)),
    gen_ai_spans(gen_ai_tool(4), gen_ai_chat(5), gen_ai_turn(6)),
    gen_ai_spans(gen_ai_turn(3, session="s")),
    gen_ai_spans(gen_ai_tool(7)),
]


@pytest.mark.parametrize("order", list(permutations(range(4))), ids=str)
async def test_the_session_that_is_named_later_adopts_what_its_trace_had(inbox, order):
    await inbox.send(*(NAMED_LATE[place] for place in order))

    assert await inbox.session_names() == ["s"]
    found = await inbox.session("s", AGENT)
    assert figures(found, *WORK) == (3, 2, 70, 7, 2)
    # From the beginning of the turn to the end of its last span, whoever told of them.
    assert found.duration_ms == 20_000
    for table in ("tool_metrics", "model_calls", "session_events"):
        rows = await inbox.fetch(f"SELECT DISTINCT session_id, agent FROM {table}")
        assert rows == [{"session_id": found.id, "agent": AGENT}]


async def test_sending_what_was_adopted_again_changes_nothing(inbox):
    await inbox.send(*NAMED_LATE)
    before = await inbox.stored()

    await inbox.send(*NAMED_LATE)

    assert await inbox.stored() == before


async def test_two_agents_in_one_trace_are_adopted_by_the_session_that_is_named(inbox):
    requests = [
        gen_ai_spans(gen_ai_tool(1)),
        gen_ai_spans(gen_ai_tool(2), gen_ai_turn(5), service="its-reviewer"),
        gen_ai_spans(gen_ai_turn(3, session="s")),
        gen_ai_spans(gen_ai_tool(4), service="its-reviewer"),
    ]

    await inbox.send(*requests)

    assert await inbox.session_names() == ["s"]
    found = await inbox.session("s", AGENT)
    assert figures(found, "tool_call_count", "turn_count") == (3, 2)
    # As in one request: rows belong to the session's agent, whoever came first.
    agents = await inbox.fetch(
        "SELECT agent FROM tool_metrics UNION SELECT agent FROM session_events"
    )
    assert [row["agent"] for row in agents] == [AGENT]


async def test_the_session_that_adopts_has_the_signals_of_what_it_adopted(inbox):
    answered = log(
        "gen_ai.client.inference.operation.details",
        None,
        2,
        gen_ai__request__model="some-model",
        gen_ai__usage__input_tokens=5,
    )
    answered |= {"traceId": trace_id(1), "spanId": f"{2:016x}"}

    await inbox.send(gen_ai_logs(answered), gen_ai_spans(gen_ai_turn(3, session="s")))

    assert await inbox.session_names() == ["s"]
    found = await inbox.session("s", AGENT)
    assert found.signals == ["logs", "traces"]
    assert figures(found, "model_call_count", "input_tokens") == (1, 5)


async def test_what_people_noted_of_a_traces_session_goes_with_it(inbox):
    await inbox.send(gen_ai_spans(gen_ai_tool(1)))
    old_id = inbox.session_id(f"trace:{trace_id(1)}", AGENT)
    await inbox.execute("INSERT INTO session_tags (session_id, tag) VALUES ($1, 'odd')", old_id)

    await inbox.send(gen_ai_spans(gen_ai_turn(3, session="s")))

    tags = await inbox.fetch("SELECT session_id, tag FROM session_tags")
    assert tags == [{"session_id": inbox.session_id("s", AGENT), "tag": "odd"}]


async def test_traces_of_one_session_are_adopted_one_by_one(inbox):
    def tool(number: int, trace: int, **more: Any) -> Json:
        given = gen_ai_tool(number, **more)
        return {**given, "traceId": trace_id(trace)}

    await inbox.send(
        gen_ai_spans(tool(1, 1), tool(2, 2), tool(3, 3)),
        gen_ai_spans(tool(4, 2, session="s")),
        gen_ai_spans(tool(5, 1, session="s")),
    )

    assert await inbox.session_names() == ["s", f"trace:{trace_id(3)}"]
    assert (await inbox.session("s", AGENT)).tool_call_count == 4
    assert (await inbox.session(f"trace:{trace_id(3)}", AGENT)).tool_call_count == 1


async def test_better_tellers_win_over_what_a_session_adopts(inbox):
    weak = spanned("tool_call", None, 1, at_s=1, gen_ai__tool__name="read_file")
    naming = spanned("user_prompt", "s", 2, at_s=0, lasts_s=9)

    better = log("gemini_cli.tool_call", "s", 1, function_name="read_file", duration_ms=100)
    told = ("logs", logs(GEMINI, GEMINI, better))

    await inbox.send(told, *(("traces", spans(GEMINI, GEMINI, one)) for one in (weak, naming)))

    assert await inbox.session_names() == ["s"]
    rows = await inbox.fetch("SELECT signal, is_counted FROM tool_metrics ORDER BY signal")
    assert [tuple(row.values()) for row in rows] == [("logs", True), ("traces", False)]
    assert (await inbox.session("s", GEMINI)).tool_call_count == 1


# -- spans inside a call ----------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(permutations(TELLERS)), ids="-".join)
async def test_spans_inside_a_call_that_only_name_its_span_find_it_in_any_order(inbox, order):
    await inbox.send(*(TELLERS[name] for name in order))

    (row,) = await inbox.tools()
    names = ("wait_ms", "duration_ms", "total_ms", "decision", "status", "signal")
    assert [row[name] for name in names] == [2300, 900, 3500, "accept", "success", "traces"]
    waiting = await inbox.fetch("SELECT FROM tool_spans WHERE parts IS NOT NULL")
    assert waiting == []


async def test_spans_inside_a_call_that_never_comes_are_no_call(inbox):
    await inbox.send(TELLERS["wait"], TELLERS["run"], TELLERS["wait"])

    assert await inbox.tools() == []
    assert (await inbox.session("s")).tool_call_count == 0


async def test_a_span_inside_a_call_changes_what_its_session_shows(inbox):
    failed = spanned(
        "claude_code.tool.execution", None, 3, parent=1, at_s=3, duration_ms=900, success="false"
    )

    await inbox.send(TELLERS["tool"])
    before = (await inbox.session("s")).tool_error_count
    # It names neither session nor call.
    await inbox.send(claude_spans(failed))

    found = await inbox.session("s")
    assert before == 0
    assert figures(found, "tool_call_count", "tool_error_count") == (1, 1)
