"""What telemetry may not do: fill a tenant with names of tools, or with what people wrote."""

from __future__ import annotations

import pytest
from inbox import (
    CLAUDE,
    SECOND,
    Inbox,
    Request,
    claude_logs,
    claude_spans,
    gen_ai_logs,
    gen_ai_spans,
    log,
    spanned,
)
from vectors import T0, metrics, span, spans, sum_metric

from metrics_service.ingest.tool_names import MAX_TOOL_NAMES


@pytest.fixture(scope="module")
async def kept_inbox(engine, new_tenant) -> Inbox:
    return Inbox(engine, (await new_tenant()).id)


@pytest.fixture
async def inbox(kept_inbox) -> Inbox:
    await kept_inbox.clear()
    return kept_inbox


# -- tool names -------------------------------------------------------------------------------------


def results(*names: str, call: str = "t") -> Request:
    return claude_logs(
        *(
            log("tool_result", "s", number, tool_name=name, tool_use_id=f"{call}-{name}",
                success="true", duration_ms=5)
            for number, name in enumerate(names)
        )
    )  # fmt: skip


async def test_the_first_name_too_many_is_counted_as_other_and_kept_beside(inbox):
    names = [f"tool-{number:04}" for number in range(MAX_TOOL_NAMES)]

    await inbox.send(results(*names))
    await inbox.send(results("one-too-many", names[17], call="u"))

    rows = await inbox.fetch(
        "SELECT tool_name, extra FROM tool_metrics WHERE external_call_id LIKE 'u-%' ORDER BY 1"
    )
    assert [(row["tool_name"], row["extra"]) for row in rows] == [
        ("other", {"tool_name": "one-too-many"}),
        (names[17], None),
    ]
    (known,) = await inbox.fetch("SELECT count(*) AS names FROM tool_names")
    assert known["names"] == MAX_TOOL_NAMES
    assert (await inbox.session("s")).tool_call_count == MAX_TOOL_NAMES + 2


async def test_a_name_that_only_a_span_inside_a_call_says_is_limited_too(inbox, monkeypatch):
    monkeypatch.setattr("metrics_service.ingest.tool_names.MAX_TOOL_NAMES", 1)
    around = claude_spans(spanned("claude_code.tool", "s", 1, tool_name="Bash", tool_use_id="t-1"))
    inside = spanned(
        "claude_code.tool.execution", "s", 3, parent=1, at_s=3, duration_ms=900, success="true",
        tool_name="Another",
    )  # fmt: skip

    await inbox.send(results("Known"), around, claude_spans(inside))

    rows = await inbox.fetch("SELECT tool_name FROM tool_metrics ORDER BY 1")
    assert [row["tool_name"] for row in rows] == ["Known", "other"]
    assert await inbox.fetch("SELECT name FROM tool_names") == [{"name": "Known"}]


# -- content ----------------------------------------------------------------------------------------

SECRET = "what nobody else may read"
WITH_CONTENT = [
    claude_logs(
        log("user_prompt", "s", 1, prompt=SECRET, prompt_length=len(SECRET)),
        log("tool_result", "s", 2, tool_name="Bash", tool_use_id="t-1", success="true",
            tool_input=f'{{"command": "{SECRET}"}}'),
        log("assistant_response", "s", 3, response=SECRET, response_length=len(SECRET)),
    ),
    claude_spans(
        spanned("claude_code.tool.execution", "s", 3, parent=1, at_s=3, tool_output=SECRET),
        spanned("claude_code.hook", "s", 4, parent=1, at_s=3, prompt=SECRET),
    ),
    gen_ai_spans(
        spanned("execute_tool search", None, 1, gen_ai__operation__name="execute_tool",
                gen_ai__conversation__id="s", gen_ai__tool__call__arguments=SECRET,
                gen_ai__tool__call__result=SECRET),
        spanned("chat some-model", None, 2, gen_ai__operation__name="chat",
                gen_ai__conversation__id="s", gen_ai__input__messages=SECRET,
                gen_ai__prompt__0=SECRET),
    ),
    gen_ai_logs(log("gen_ai.user.message", None, 4, gen_ai__conversation__id="s", content=SECRET)),
]  # fmt: skip


async def test_content_is_dropped_and_its_size_is_kept(inbox):
    await inbox.send(*WITH_CONTENT)

    stored = await inbox.stored()
    assert SECRET not in str(stored)
    tools = {row["tool_name"]: row for row in stored["tool_metrics"]}
    assert (tools["search"]["input_bytes"], tools["search"]["output_bytes"]) == (25, 25)
    assert (tools["Bash"]["arguments"], tools["search"]["result"]) == (None, None)
    prompt = next(row for row in stored["session_events"] if row["kind"] == "prompt")
    assert prompt["content"] is None
    assert prompt["attributes"]["prompt_bytes"] == len(SECRET)


async def test_content_is_kept_where_the_tenant_wants_it(inbox):
    await inbox.send(*WITH_CONTENT, keeps_content=True)

    tools = {row["tool_name"]: row for row in await inbox.tools()}
    assert SECRET in tools["Bash"]["arguments"]
    assert (tools["search"]["arguments"], tools["search"]["result"]) == (SECRET, SECRET)
    events = await inbox.fetch("SELECT kind, content FROM session_events")
    contents = {row["kind"]: row["content"] for row in events}
    assert contents["prompt"] == contents["response"] == SECRET


async def test_what_was_stored_without_content_gets_none_when_it_is_sent_again(inbox):
    await inbox.send(*WITH_CONTENT)
    await inbox.send(*WITH_CONTENT, keeps_content=True)

    events = await inbox.fetch("SELECT content FROM session_events WHERE content IS NOT NULL")
    assert events == []


async def test_values_beyond_measure_do_not_spoil_a_session(inbox):
    huge = sum_metric("claude_code.token.usage", "", [({"session.id": "s", "type": "input"}, 9e18)])
    odd = sum_metric("claude_code.token.usage", "", [({"session.id": "s", "type": "foo"}, 5)])

    for start_ns in (T0, T0 + SECOND, T0 + 2 * SECOND):
        for metric in (huge, odd):
            point = {**metric, "sum": {**metric["sum"], "dataPoints": [
                {**metric["sum"]["dataPoints"][0], "startTimeUnixNano": str(start_ns)}]}}  # fmt: skip
            await inbox.send(("metrics", metrics(CLAUDE, "com.anthropic.claude_code", point)))

    session = await inbox.session("s")
    assert session.input_tokens == 0
    (row,) = await inbox.fetch("SELECT count(*) AS points FROM counter_deltas")
    assert row["points"] == 6


async def test_a_session_called_like_a_trace_does_not_adopt_itself(inbox):
    trace = "0" * 31 + "7"
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "x"}
    orphan = span("execute_tool x", tool, trace_id=trace, span_id="00000000000000a1")
    named = span("execute_tool x", {**tool, "session.id": f"trace:{trace}"}, trace_id=trace,
                 span_id="00000000000000a2")  # fmt: skip

    for one in (orphan, named, orphan):
        await inbox.send(("traces", spans("any", None, one)))

    session = await inbox.session(f"trace:{trace}", "any")
    assert session.tool_call_count == 2


async def test_a_row_of_another_session_is_left_alone(inbox):
    tool = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "x"}
    mine = span("execute_tool x", {**tool, "gen_ai.conversation.id": "mine"})
    theirs = span("execute_tool x", {**tool, "gen_ai.conversation.id": "theirs"}, status=2)

    await inbox.send(("traces", spans("any", None, mine)), ("traces", spans("any", None, theirs)))

    rows = await inbox.fetch("SELECT session_id, status FROM tool_metrics")
    assert [row["session_id"] for row in rows] == [inbox.session_id("mine", "any")]
    session = await inbox.session("mine", "any")
    failed = sum(row["status"] == "error" for row in rows)
    assert (session.tool_call_count, session.tool_error_count) == (1, failed)
