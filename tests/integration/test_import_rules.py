"""What a transcript adds to what was told live: nothing that was told already, and nothing better."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import msgspec
import pytest
from inbox import CLAUDE, Inbox, Request, claude_logs, claude_spans, log, ns, spanned
from vectors import logs, record

from metrics_service.ingest.recorded import IMPORT_SCOPE

CODEX = "codex"


@pytest.fixture
async def inbox(engine, new_tenant):
    return Inbox(engine, (await new_tenant()).id)


def imported(*records: Any, service: str = CLAUDE) -> Request:
    return "logs", logs(service, IMPORT_SCOPE, *records)


def typed(at_s: float, uuid: str | None, **more: Any) -> Any:
    given = {} if uuid is None else {"message__uuid": uuid}
    return log("claude_code.user_prompt", "s", at_s, **given, **more)


async def events(inbox: Inbox, kind: str) -> list[tuple[str, str]]:
    rows = await inbox.fetch(
        "SELECT name, signal FROM session_events WHERE kind = $1 ORDER BY occurred_at, id", kind
    )
    return [(row["name"], row["signal"]) for row in rows]


async def prompts(inbox: Inbox) -> int:
    return (await inbox.session("s")).prompt_count


async def test_a_prompt_that_both_tell_of_is_one_and_what_was_said_live_stays(inbox):
    await inbox.send(imported(typed(1, "u-1")), claude_logs(typed(1.001, "u-1", event__sequence=1)))

    assert await events(inbox, "prompt") == [("user_prompt", "logs")]
    assert await prompts(inbox) == 1


async def test_prompts_of_before_there_was_telemetry_are_added(inbox):
    await inbox.send(
        claude_logs(typed(2, "u-2", event__sequence=1)),
        imported(typed(1, "u-1"), typed(2, "u-2")),
    )

    assert await events(inbox, "prompt") == [("user_prompt", "import"), ("user_prompt", "logs")]
    assert await prompts(inbox) == 2


@pytest.mark.parametrize("is_live_first", [True, False])
async def test_prompts_of_clients_that_do_not_name_them_are_those_in_the_transcript(
    inbox, is_live_first
):
    # As earlier releases stored them all: without a name, and without a word on who told of them.
    live = claude_logs(typed(1, None, event__sequence=1), typed(2, None, event__sequence=2))
    brought = imported(typed(1, "u-1"), typed(2, "u-2"))

    await inbox.send(*((live, brought) if is_live_first else (brought, live)), brought)

    assert await events(inbox, "prompt") == [("user_prompt", "logs")] * 2
    assert await prompts(inbox) == 2


async def test_prompts_that_an_earlier_release_stored_are_not_doubled(inbox):
    await inbox.send(claude_logs(typed(1, "u-1", event__sequence=1)))
    # It knew nothing of names, and kept its rows by another.
    await inbox.execute("UPDATE metrics_sessions SET telemetry = telemetry - 'named'")
    await inbox.execute("UPDATE session_events SET id = gen_random_uuid()")

    await inbox.send(imported(typed(1, "u-1"), typed(2, "u-2")))

    assert await events(inbox, "prompt") == [("user_prompt", "logs")]
    assert await prompts(inbox) == 1


async def test_a_command_meets_by_its_turn(inbox):
    await inbox.send(
        claude_logs(typed(1, None, command_name="compact", prompt__id="p-1", event__sequence=1)),
        imported(typed(1, "u-1", command_name="compact", prompt__id="p-1")),
    )

    assert await prompts(inbox) == 1


@pytest.mark.parametrize("is_live_first", [True, False])
async def test_a_compaction_counts_once(inbox, is_live_first):
    live = claude_logs(log("claude_code.compaction", "s", 5, event__sequence=4, trigger="auto"))
    brought = imported(
        log("claude_code.compaction", "s", 5.1, event__sequence="u-9", trigger="auto")
    )

    await inbox.send(*((live, brought) if is_live_first else (brought, live)))

    assert await events(inbox, "compaction") == [("compaction", "logs")]
    assert (await inbox.session("s")).compactions == 1


async def test_a_transcript_alone_counts_all_that_it_tells(inbox):
    await inbox.send(
        imported(
            typed(1, "u-1"),
            log("claude_code.compaction", "s", 5, event__sequence="u-9"),
            log("claude_code.api_request", "s", 3, request_id="r", model="m", input_tokens=5),
            log("claude_code.tool_result", "s", 4, tool_use_id="t", tool_name="Bash", success="true", total_ms=500),
        )
    )  # fmt: skip

    session = await inbox.session("s")
    (tool,) = await inbox.tools()
    (model,) = await inbox.models()
    assert (session.prompt_count, session.compactions, session.signals) == (1, 1, ["import"])
    assert (tool["signal"], tool["part"], tool["is_counted"]) == ("import", "recorded", True)
    # With the human's wait in it: so it says nothing of how long the tool ran.
    assert (tool["total_ms"], tool["duration_ms"]) == (500, None)
    assert (model["signal"], model["cost_source"], model["is_counted"]) == ("import", "none", True)


async def test_what_was_measured_live_is_better_than_what_was_written_down(inbox):
    live = log(
        "claude_code.tool_result", "s", 4, tool_use_id="t", tool_name="Bash", success="true",
        duration_ms=120,
    )  # fmt: skip
    brought = log(
        "claude_code.tool_result", "s", 4.2, tool_use_id="t", tool_name="Bash", success="false",
        total_ms=900, decision_type="reject", decision_source="user_reject",
    )  # fmt: skip
    decision = log(
        "claude_code.tool_decision", "s", 3.9, tool_use_id="t", tool_name="Bash", decision="accept",
        source="config",
    )  # fmt: skip
    await inbox.send(imported(brought), claude_logs(live), claude_logs(decision))

    (tool,) = await inbox.tools()

    assert (tool["signal"], tool["status"], tool["decision"]) == (
        "logs+import",
        "success",
        "accept",
    )
    assert (tool["duration_ms"], tool["total_ms"]) == (120, 900)


async def test_of_an_answer_that_grew_the_last_word_counts(inbox):
    def told(at_s: float, output: int) -> Request:
        return imported(
            log(
                "claude_code.api_request",
                "s",
                at_s,
                request_id="r",
                model="m",
                output_tokens=output,
            )
        )

    await inbox.send(told(2, 50), told(1, 7))

    assert [model["output_tokens"] for model in await inbox.models()] == [50]


def codex_usage(at_s: float, scope: str, **more: Any) -> Request:
    attributes = {
        "conversation.id": "c", "event.kind": "response.completed", "input_token_count": 10,
        "output_token_count": 2, "model": "m", **more,
    }  # fmt: skip
    return "logs", logs(
        "codex_cli_rs", scope, record("codex.sse_event", attributes, time_ns=ns(at_s))
    )


@pytest.mark.parametrize("is_live_first", [True, False])
async def test_model_calls_without_a_common_name_count_once(inbox, is_live_first):
    live = codex_usage(1, "codex_otel.log_only")
    brought = codex_usage(1.1, IMPORT_SCOPE, **{"event.sequence": 99})

    await inbox.send(*((live, brought) if is_live_first else (brought, live)), brought)

    session = await inbox.session("c", CODEX)
    assert (session.model_call_count, session.input_tokens) == (1, 10)
    counted = {(row["signal"], row["is_counted"]) for row in await inbox.models()}
    assert counted == {("logs", True), ("import", False)}


async def test_spans_of_a_subagent_belong_to_the_session(inbox):
    # There `gen_ai.conversation.id` is the subagent's.
    await inbox.send(
        claude_spans(
            spanned(
                "claude_code.llm_request", "s", 1, request_id="r",
                gen_ai__conversation__id="agent-1",
            )
        )
    )  # fmt: skip

    assert await inbox.session_names() == ["s"]


@pytest.mark.parametrize("is_live_first", [True, False])
async def test_who_and_where_stay_as_they_were_said_live(inbox, is_live_first):
    live = typed(1, "u-1", user__email="ada@example.com", vcs__ref__head__name="main")
    later = typed(2, "u-2", user__email="eve@example.com", vcs__ref__head__name="other")
    by_key = uuid4(), uuid4()
    requests = [(claude_logs(live), by_key[0]), (imported(later), by_key[1])]

    for request, key_id in requests if is_live_first else reversed(requests):
        await inbox.send(request, key_id=key_id)

    session = await inbox.session("s")
    assert session.user_email == "ada@example.com"
    assert session.branch == "main"
    assert msgspec.json.decode(session.claims) == {
        "ingest.key": str(by_key[0]),
        "user.email": "ada@example.com",
    }


async def test_of_two_transcripts_the_later_says_who(inbox):
    await inbox.send(imported(typed(2, "u-2", user__email="ada@example.com")))
    await inbox.send(imported(typed(1, "u-1", user__email="eve@example.com")))

    assert (await inbox.session("s")).user_email == "ada@example.com"


async def test_another_tenants_session_is_not_touched(engine, new_tenant):
    one, other = [Inbox(engine, (await new_tenant()).id) for _ in range(2)]
    await other.send(claude_logs(typed(1, None, event__sequence=1)))

    await one.send(imported(typed(1, "u-1"), typed(2, "u-2")))

    assert (await prompts(one), await prompts(other)) == (2, 1)
