"""What people and the JSON API say of a session stays beside telemetry; what is deleted is gone."""

from __future__ import annotations

from datetime import timedelta
from itertools import permutations
from typing import Any
from uuid import UUID

import pytest
from inbox import (
    CLAUDE,
    TABLES,
    Inbox,
    Request,
    claude_metrics,
    claude_spans,
    everything,
    figures,
    log,
    prompt,
    spanned,
)
from vectors import logs, spans, sum_metric

from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.ingest.records import SessionRecord
from metrics_service.ingest.write import write_sessions
from metrics_service.sessions.repository import (
    change_session,
    delete_session,
    fetch_sessions,
    session_view,
)
from metrics_service.sessions.schemas import SessionPatch, SessionQuery

GEMINI = "gemini-cli"
ADA = "ada@example.com"


@pytest.fixture(scope="module")
async def kept_inbox(engine, new_tenant) -> Inbox:
    return Inbox(engine, (await new_tenant()).id)


@pytest.fixture
async def inbox(kept_inbox) -> Inbox:
    await kept_inbox.clear()
    return kept_inbox


# -- edited by people -------------------------------------------------------------------------------


async def patch(inbox: Inbox, session_id: UUID, **changes: Any) -> None:
    async with tenant_connection(inbox.engine, TenantContext(inbox.tenant_id)) as connection:
        assert await change_session(connection, session_id, SessionPatch(**changes))


def placed(at_s: float, **said: str) -> Request:
    return prompt("s", at_s, **said)


async def test_what_telemetry_says_last_is_what_a_session_shows(inbox):
    await inbox.send(placed(5, repository="new", team="core"), placed(2, repository="old"))

    assert figures(await inbox.session("s"), "repository", "team") == ("new", "core")


async def test_what_people_edited_of_a_session_stays(inbox):
    await inbox.send(placed(1, repository="r-1", team="t-1", branch="b-1"))
    await patch(inbox, inbox.session_id("s"), repository="mine", team=None, session_type="review")

    await inbox.send(placed(1, repository="r-1", team="t-1", branch="b-1"))
    await inbox.send(placed(2, repository="r-2", team="t-2", branch="b-2", session__type="chat"))
    await inbox.send(placed(3, repository="r-3", team="t-3", branch="b-3"))

    names = ("repository", "team", "branch", "session_type")
    assert figures(await inbox.session("s"), *names) == ("mine", None, "b-3", "review")


async def test_a_user_whom_people_gave_a_session_stays(inbox):
    await inbox.send(placed(1, user__id="installation"))
    mine = await inbox.add_user("mine@example.com")
    await patch(inbox, inbox.session_id("s"), user_id=mine)

    await inbox.send(placed(2, user__email=ADA), placed(3, user__email=ADA))

    assert (await inbox.session("s")).user_id == mine


async def test_a_user_whom_people_took_from_a_session_stays_away(inbox):
    await inbox.send(placed(1, user__email=ADA))
    await patch(inbox, inbox.session_id("s"), user_id=None)

    await inbox.send(placed(2, user__email=ADA), placed(3, user__email=ADA))

    assert (await inbox.session("s")).user_id is None


def gemini(name: str, at_s: float, **said: Any) -> Request:
    return "logs", logs(GEMINI, GEMINI, log(f"gemini_cli.{name}", "s", at_s, **said))


async def ended_at(inbox: Inbox) -> float | None:
    """Seconds after its start, as it is stored: readers also see it end when it is idle."""
    (found,) = await inbox.fetch("SELECT started_at, ended_at FROM metrics_sessions")
    if found["ended_at"] is None:
        return None
    return (found["ended_at"] - found["started_at"]).total_seconds()


async def test_a_session_that_says_so_has_ended(inbox):
    await inbox.send(gemini("user_prompt", 0), gemini("end_session", 60))
    first = await ended_at(inbox)
    # Exporters flush for a while.
    await inbox.send(gemini("tool_call", 65, function_name="ls", duration_ms=1))

    assert (first, await ended_at(inbox)) == (60, 60)
    assert (await inbox.session("s", GEMINI)).status == "closed"


ENDED_TWICE = [
    gemini("user_prompt", 0),
    gemini("end_session", 60),
    gemini("user_prompt", 300),
    gemini("end_session", 400),
]


async def test_a_session_goes_on_when_something_happens_after_its_end(inbox):
    await inbox.send(*ENDED_TWICE[:3])
    in_between = await ended_at(inbox)
    await inbox.send(ENDED_TWICE[3])

    assert (in_between, await ended_at(inbox)) == (None, 400)


@pytest.mark.parametrize("order", list(permutations(range(4)))[::3], ids=str)
async def test_a_sessions_end_is_the_same_in_any_order(inbox, order):
    await inbox.send(*(ENDED_TWICE[place] for place in order))

    assert await ended_at(inbox) == 400


async def test_an_end_that_people_emptied_stays_empty(inbox):
    await inbox.send(gemini("user_prompt", 0), gemini("end_session", 60))
    await patch(inbox, inbox.session_id("s", GEMINI), ended_at=None)

    await inbox.send(gemini("end_session", 60), gemini("tool_call", 65, function_name="ls"))

    assert await ended_at(inbox) is None


async def test_an_end_that_people_set_stays(inbox):
    await inbox.send(gemini("user_prompt", 0))
    found = await inbox.session("s", GEMINI)
    await patch(inbox, found.id, ended_at=found.started_at + timedelta(seconds=30))

    await inbox.send(gemini("end_session", 60), gemini("user_prompt", 300))

    assert await ended_at(inbox) == 30


async def test_a_session_is_over_when_nothing_happened_for_half_an_hour(inbox):
    await inbox.send(gemini("user_prompt", 0), gemini("user_prompt", 40))
    idle = await inbox.session("s", GEMINI)
    await inbox.execute("UPDATE metrics_sessions SET last_event_at = now() - interval '20 minutes'")
    working = await inbox.session("s", GEMINI)

    assert (idle.status, idle.end_reason) == ("closed", "idle")
    assert idle.ended_at - idle.started_at == timedelta(seconds=40)
    assert (working.status, working.end_reason, working.ended_at) == ("open", None, None)


@pytest.mark.parametrize("status", ["open", "closed"])
async def test_the_filter_by_status_agrees_with_what_is_shown(inbox, status):
    await inbox.send(gemini("user_prompt", 0))
    if status == "open":
        await inbox.execute("UPDATE metrics_sessions SET last_event_at = now()")

    async with tenant_connection(inbox.engine, TenantContext(inbox.tenant_id)) as connection:
        query = SessionQuery(status=status)
        rows = await fetch_sessions(connection, query, after=None, limit=5, offset=0)

    assert [session_view(row).status for row in rows] == [status]


# -- beside the JSON API ----------------------------------------------------------------------------


async def _state(inbox: Inbox, **more: Any) -> None:
    at = (await inbox.fetch("SELECT '2025-10-09T08:53:20Z'::timestamptz AS at"))[0]["at"]
    async with tenant_connection(inbox.engine, TenantContext(inbox.tenant_id)) as connection:
        record = SessionRecord(agent=CLAUDE, external_id="s", started_at=at, **more)
        await write_sessions(connection, inbox.tenant_id, [record])


TOTALS = (
    "tool_call_count", "tool_error_count", "model_call_count", "input_tokens", "output_tokens",
    "cost_usd_micros", "commits", "prompt_count",
)  # fmt: skip


@pytest.mark.parametrize("is_native_first", [True, False])
async def test_figures_of_telemetry_and_of_the_json_api_add_up(inbox, is_native_first):
    if is_native_first:
        await inbox.record_calls()
        await inbox.send(*everything())
    else:
        await inbox.send(*everything())
        await inbox.record_calls()
    await inbox.send(*everything())
    await inbox.record_calls()

    assert figures(await inbox.session("s"), *TOTALS) == (2, 1, 2, 1010, 105, 86, 2, 1)


async def test_what_the_json_api_states_of_a_session_stays(inbox):
    await _state(inbox, repository="stated", user_email=ADA)

    await inbox.send(*everything(repository="told", branch="told", user__email="x@example.com"))
    await _state(inbox, team="stated")
    await inbox.send(prompt(at_s=90, repository="told", branch="again", team="told"))

    names = ("repository", "branch", "team", "user_email")
    assert figures(await inbox.session("s"), *names) == ("stated", "again", "stated", ADA)
    assert figures(await inbox.session("s"), *TOTALS) == (1, 0, 1, 10, 5, 77, 2, 2)


async def test_metrics_are_given_up_where_the_json_api_tells_of_the_calls(inbox):
    metered = claude_metrics(
        sum_metric(
            "claude_code.token.usage", "tokens", [({"session.id": "s", "type": "output"}, 8)]
        )
    )

    await inbox.record_calls()
    await inbox.send(metered)

    assert figures(await inbox.session("s"), "output_tokens", "cost_usd_micros") == (100, 9)


# -- deleted ----------------------------------------------------------------------------------------


def whole(session: str) -> list[Request]:
    """A session that is in every table, its inner spans first."""
    trace = {"s": 1, "other": 2}[session]
    tool = {"tool_name": "Bash", "tool_use_id": "t-7"}
    return [
        claude_spans(
            spanned("claude_code.tool.blocked_on_user", session, 2, trace=trace, parent=1,
                    duration_ms=2300, decision="accept", source="config")
        ),
        claude_spans(spanned("claude_code.tool", session, 1, trace=trace, duration_ms=3500, **tool)),
        claude_spans(
            spanned("claude_code.tool.execution", session, 3, trace=trace, parent=1,
                    duration_ms=900, success="true")
        ),
        *everything(session, user__email=ADA, repository="r"),
    ]  # fmt: skip


async def delete(inbox: Inbox, session_id: UUID) -> None:
    async with tenant_connection(inbox.engine, TenantContext(inbox.tenant_id)) as connection:
        assert await delete_session(connection, session_id)


STAYS = frozenset({"users", "user_identities", "tool_names", "metric_streams"})
"""What belongs to the tenant, not to one of its sessions."""


async def test_deleting_a_session_takes_all_that_is_its_own_and_nothing_else(inbox):
    await inbox.send(*whole("other"))
    before = await inbox.stored()
    await inbox.send(*whole("s"))

    await delete(inbox, inbox.session_id("s"))

    after = await inbox.stored()
    own = TABLES.keys() - STAYS
    assert {name: after[name] for name in own} == {name: before[name] for name in own}


async def test_a_deleted_session_that_is_sent_again_is_whole_again(inbox):
    requests = whole("s")
    await inbox.send(*requests)
    before = await inbox.stored()

    await delete(inbox, inbox.session_id("s"))
    await inbox.send(*requests)

    assert await inbox.stored() == before


async def test_a_trace_whose_session_was_deleted_finds_the_next_one(inbox):
    nameless = spanned("execute_tool x", None, 1, gen_ai__operation__name="execute_tool")
    naming = spanned(
        "invoke_agent", None, 2, gen_ai__operation__name="invoke_agent",
        gen_ai__conversation__id="s",
    )  # fmt: skip

    def request(given: Any) -> Request:
        return "traces", spans("some-agent", None, given)

    await inbox.send(request(nameless), request(naming))
    await delete(inbox, inbox.session_id("s", "some-agent"))
    await inbox.send(request(nameless))
    alone = await inbox.session_names()
    await inbox.send(request(naming))

    assert alone == [f"trace:{1:032x}"]
    assert await inbox.session_names() == ["s"]
    assert (await inbox.session("s", "some-agent")).tool_call_count == 1
