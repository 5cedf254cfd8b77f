"""What arrived is mapped again: by the same mapper or by a mended one, whoever comes meanwhile."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial

import msgspec
import pytest
import zstandard
from command_line import on_database
from inbox import CLAUDE, claude_logs, claude_metrics, claude_spans, log, ns, prompt, spanned
from raw_inbox import RawInbox, nothing_changes
from rolled import check_rollups
from stories import all_stories, request_of
from test_telemetry_order import _anonymous, assert_same, groups_of, in_order, shuffled, tables
from vectors import logs, sum_metric

from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.errors import ConflictError, MalformedRequestError
from metrics_service.http.foundation import lay_foundation
from metrics_service.ingest.recorded import IMPORT_SCOPE
from metrics_service.ingest.telemetry import Telemetry
from metrics_service.ingest.write_telemetry import TelemetryWriter
from metrics_service.otlp.agents import claude_code, codex
from metrics_service.otlp.agents.events import keep_log
from metrics_service.otlp.replay import Changes, Replay, alone
from metrics_service.sessions.repository import delete_session

NOTHING = Changes(0, 0, 0)
LOGS, SPANS = claude_code.AGENT.logs, claude_code.AGENT.spans
SSE_EVENT = codex.AGENT.logs["sse_event"]


@pytest.fixture(scope="session")
async def database(settings, addresses):
    made = lay_foundation(settings, runtime_dsn=addresses.runtime, direct_dsn=addresses.direct)
    yield made.database
    await made.engine.dispose()


@pytest.fixture
async def inbox(database, new_tenant) -> RawInbox:
    made = RawInbox(database, (await new_tenant()).id)
    await made.set("raw_hours", 24)
    return made


@pytest.fixture
async def other(database, new_tenant) -> RawInbox:
    made = RawInbox(database, (await new_tenant()).id)
    await made.set("raw_hours", 24)
    return made


def changes(done):
    return {
        name: getattr(done, name)
        for name in ("metrics_sessions", "tool_metrics", "model_calls", "session_events")
    }


def result(session="s", call="t-1", at_s=2.0, **more):
    given = {"tool_name": "Bash", "success": "true", "duration_ms": 100, **more}
    return log("tool_result", session, at_s, tool_use_id=call, **given)


def request(session="s", name="r-1", at_s=3.0, **more):
    given = {"model": "some-model", "input_tokens": 10, "output_tokens": 5, **more}
    return log("api_request", session, at_s, request_id=name, **given)


# -- with the same mapper ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
async def test_mapped_again_by_the_same_mapper_nothing_changes(inbox, other, seed):
    requests = shuffled(all_stories(), seed)
    await inbox.send(requests)
    await other.send(in_order(all_stories()))

    async with nothing_changes(inbox, other):
        done = await inbox.replay()
        again = await inbox.replay()

    assert done.requests == again.requests == len(requests)
    assert done.items > 50
    assert set(changes(again).values()) == {NOTHING}
    assert (done.failures, done.left_out) == ([], 0)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 2, 1)])
async def test_what_a_transcript_told_gives_way_again_as_it_did(inbox, order):
    def told(*records):
        return "logs", logs(CLAUDE, IMPORT_SCOPE, *records)

    prompts = [
        log("user_prompt", "s", second, message__uuid=f"m-{second}", prompt_length=second)
        for second in (1, 2)
    ]
    requests = [
        claude_logs(prompts[0], result(), request()),
        told(*prompts, result(at_s=2.5), request(at_s=3.5)),
        claude_logs(log("user_prompt", "s", 9)),
    ]
    await inbox.send([requests[place] for place in order])

    async with nothing_changes(inbox):
        done = await inbox.replay()
        again = await inbox.replay()

    assert done.failures == []
    assert set(changes(again).values()) == {NOTHING}


async def test_counters_of_a_deleted_session_stay_deleted(inbox):
    def commits(at_s):
        given = [({"session.id": "s"}, 2)]
        return claude_metrics(
            sum_metric(
                "claude_code.commit.count", "", given, start_ns=ns(at_s), time_ns=ns(at_s + 1)
            )
        )

    await inbox.send([commits(1)])
    await inbox.age(timedelta(minutes=5))
    (row,) = await inbox.fetch("SELECT id FROM metrics_sessions")
    async with tenant_connection(inbox.engine, TenantContext(inbox.tenant_id)) as connection:
        await delete_session(connection, row["id"])
    await inbox.send([commits(5)])

    async with nothing_changes(inbox):
        done = await inbox.replay()

    (row,) = await inbox.fetch("SELECT commits FROM metrics_sessions")
    assert (row["commits"], done.left_out) == (2, 1)


async def test_what_was_deleted_stays_deleted(inbox):
    spans = [
        spanned("claude_code.tool", None, 3, at_s=5, tool_name="Bash", tool_use_id="t-9"),
        spanned("claude_code.tool.execution", None, 4, parent=3, at_s=5, success="false"),
    ]
    deleted = claude_spans(spanned("claude_code.interaction", "gone", 1, at_s=4), *spans)
    await inbox.send(
        [
            claude_logs(result("gone"), request("gone"), log("user_prompt", "gone", 1)),
            deleted,
            claude_metrics(
                sum_metric("claude_code.commit.count", "", [({"session.id": "gone"}, 2)])
            ),
            prompt("stays"),
        ]
    )
    (gone,) = await inbox.fetch("SELECT id FROM metrics_sessions WHERE external_id = 'gone'")
    async with tenant_connection(inbox.engine, TenantContext(inbox.tenant_id)) as connection:
        assert await delete_session(connection, gone["id"])

    async with nothing_changes(inbox):
        done = await inbox.replay()

    assert done.left_out == 6
    assert done.session_events == NOTHING


async def test_a_session_that_goes_on_after_it_was_deleted_does_not_get_its_past_back(inbox):
    await inbox.send([prompt("s", 1), claude_logs(result())])
    (row,) = await inbox.fetch("SELECT id FROM metrics_sessions")
    async with tenant_connection(inbox.engine, TenantContext(inbox.tenant_id)) as connection:
        await delete_session(connection, row["id"])
    await inbox.send([prompt("s", 60)])

    async with nothing_changes(inbox):
        done = await inbox.replay()

    assert done.left_out == 2


# -- with a mended mapper ---------------------------------------------------------------------------


def renamed(item, session, out):
    """Calls the tool something else, and says that it took longer."""
    a = {**item.attributes, "tool_name": "Mended", "duration_ms": 4321, "extra": "word"}
    claude_code.tool_result(msgspec.structs.replace(item, attributes=a), session, out)


def as_event(item, session, out):
    keep_log(item, session, out, claude_code.AGENT, kind="note")


def as_prompt(item, session, out):
    session.say("permission_mode", item.attributes["to_mode"], item.time_ns)
    keep_log(item, session, out, claude_code.AGENT, kind="prompt")


def as_tool(item, session, out):
    a = {"tool_name": "Heard", "tool_use_id": "never", "success": "true", "duration_ms": 7}
    claude_code.tool_result(msgspec.structs.replace(item, attributes=a), session, out)


def with_another_key(mapper):
    def mended(item, session, out):
        if "tool_use_id" in item.attributes:
            a = {**item.attributes, "tool_use_id": f"mended {item.attributes['tool_use_id']}"}
            item = msgspec.structs.replace(item, attributes=a)
        mapper(item, session, out)

    return mended


def doubled(item, session, out):
    a = {**item.attributes}
    for name in ("input_token_count", "output_token_count"):
        if name in a:
            a[name] = int(a[name]) * 2
    SSE_EVENT(msgspec.structs.replace(item, attributes=a), session, out)


MENDED = {
    "other values": [(LOGS, "tool_result", renamed)],
    "calls that are events": [
        (codex.AGENT.logs, "tool_result", as_event),
        (codex.AGENT.logs, "tool_decision", as_event),
    ],
    "an event that is a call": [(LOGS, "never_heard_of", as_tool)],
    "a call with another key": [
        (LOGS, "tool_result", with_another_key(claude_code.tool_result)),
        (LOGS, "tool_decision", with_another_key(claude_code.tool_decision)),
        (SPANS, "tool", with_another_key(claude_code.tool_span)),
    ],
    "a prompt that is none": [(LOGS, "user_prompt", as_event)],
    "a prompt that was none": [(LOGS, "permission_mode_changed", as_prompt)],
    "other tokens": [(codex.AGENT.logs, "sse_event", doubled)],
    "a request that is an event": [(LOGS, "api_error", as_event)],
}


def mend(monkeypatch, what):
    for mappers, name, mapper in MENDED[what]:
        monkeypatch.setitem(mappers, name, mapper)


@pytest.mark.parametrize("what", MENDED)
async def test_mapped_again_by_a_mended_mapper_it_is_as_if_it_always_had_been(
    inbox, other, monkeypatch, what
):
    requests = in_order(all_stories())
    await inbox.send(requests)
    before = await inbox.everything()
    mend(monkeypatch, what)
    await other.send(requests)

    done = await inbox.replay()

    assert before != await inbox.everything()
    assert set(changes(done).values()) != {NOTHING}
    assert_same(
        _comparable(await tables(inbox.engine, inbox.tenant_id)),
        _comparable(await tables(other.engine, other.tenant_id)),
    )
    async with nothing_changes(inbox):
        assert set(changes(await inbox.replay()).values()) == {NOTHING}


def _comparable(found):
    """Without the best that told of a session, which stays the best, and without figures of nothing."""
    for row in found["metrics_sessions"]:
        state = row["telemetry"]
        for name in ("tool_rank", "model_rank"):
            state.pop(name, None)
        for name in ("calls", "named", "recorded"):
            figures = {key: value for key, value in state.pop(name, {}).items() if value}
            state |= {name: figures} if figures else {}
    return _anonymous(found)


async def test_what_it_reports_is_what_it_did(inbox, monkeypatch):
    await inbox.send(
        [
            claude_logs(result(call="t-1"), result(call="t-2"), request()),
            prompt(),
            claude_logs(log("never_heard_of", "s", 9)),
        ]
    )
    mend(monkeypatch, "an event that is a call")
    monkeypatch.setitem(LOGS, "tool_result", renamed)

    dry = await inbox.replay(is_dry=True)
    done = await inbox.replay()

    assert changes(done) == {
        "metrics_sessions": NOTHING,
        "tool_metrics": Changes(1, 2, 0),
        "model_calls": NOTHING,
        "session_events": Changes(0, 0, 1),
    }
    assert (done.requests, done.items, done.refused_items) == (3, 5, 0)
    assert msgspec.structs.replace(dry, seconds=0) == msgspec.structs.replace(done, seconds=0)


async def test_a_dry_run_changes_nothing(inbox, monkeypatch):
    await inbox.send(in_order(all_stories()))
    mend(monkeypatch, "a call with another key")

    async with nothing_changes(inbox):
        done = await inbox.replay(is_dry=True)

    assert done.tool_metrics.added
    assert done.tool_metrics.removed


async def test_what_a_session_said_is_what_it_says_now_at_the_same_time(inbox, monkeypatch):
    await inbox.send([claude_logs(log("permission_mode_changed", "s", 1, to_mode="zeta"))])

    def mended(item, session, out):
        session.say("permission_mode", "alpha", item.time_ns)
        as_event(item, session, out)

    monkeypatch.setitem(LOGS, "permission_mode_changed", mended)
    await inbox.replay()

    (row,) = await inbox.fetch("SELECT permission_mode FROM metrics_sessions")
    assert row["permission_mode"] == "alpha"


@pytest.mark.parametrize("ids_a_step", [1, 500])
async def test_a_session_of_which_nothing_is_left_goes(inbox, monkeypatch, ids_a_step):
    monkeypatch.setattr("metrics_service.otlp.replay.IDS_A_STEP", ids_a_step)
    await inbox.send([claude_logs(result("s"), request("s"))])

    def elsewhere(mapper):
        def mended(item, session, out):
            session = out.session("claude-code", "right", item.time_ns, "logs")
            out.sessions.pop(("claude-code", "s"), None)
            mapper(item, session, out)

        return mended

    for name in ("tool_result", "api_request"):
        monkeypatch.setitem(LOGS, name, elsewhere(LOGS[name]))
    done = await inbox.replay()

    (row,) = await inbox.fetch(
        "SELECT external_id, tool_call_count, model_call_count, input_tokens FROM metrics_sessions"
    )
    assert tuple(row.values()) == ("right", 1, 1, 10)
    assert done.metrics_sessions == Changes(1, 0, 1)
    async with tenant_connection(inbox.engine, TenantContext(inbox.tenant_id)) as connection:
        await check_rollups(connection)


async def test_rows_that_requests_no_longer_kept_may_have_told_of_stay(inbox, monkeypatch):
    await inbox.send([claude_logs(result(call="old"))])
    await inbox.execute("DELETE FROM raw_requests")
    await inbox.send([claude_logs(result(call="old"), result(call="new"))])
    monkeypatch.setitem(LOGS, "tool_result", as_event)

    done = await inbox.replay()

    rows = await inbox.fetch("SELECT external_call_id FROM tool_metrics")
    assert [row["external_call_id"] for row in rows] == ["old"]
    assert done.tool_metrics == Changes(0, 0, 1)


async def test_part_of_the_time_takes_nothing_from_the_rest(inbox, monkeypatch):
    await inbox.send([claude_logs(result(call="both")), claude_logs(result(call="both"))])
    first, second = await inbox.kept()
    monkeypatch.setitem(LOGS, "tool_result", as_event)

    partly = await inbox.replay(until=second["received_at"])
    rows = await inbox.fetch("SELECT external_call_id FROM tool_metrics")
    wholly = await inbox.replay()

    assert (partly.requests, len(rows), partly.tool_metrics.removed) == (1, 1, 0)
    assert (wholly.requests, wholly.tool_metrics.removed) == (2, 1)
    assert first["received_at"] < second["received_at"]


async def test_killed_half_way_and_run_again_it_ends_the_same(inbox, other, monkeypatch):
    requests = in_order(all_stories())
    await inbox.send(requests)
    mend(monkeypatch, "a call with another key")
    await other.send(requests)
    write, written = TelemetryWriter.write, []

    async def dies(self, connection, out: Telemetry, **more):
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(out)
        return await write(self, connection, out, **more)

    with monkeypatch.context() as patch:
        patch.setattr(TelemetryWriter, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            await inbox.replay()
    done = await inbox.replay()

    assert len(written) == 5
    assert done.tool_metrics.removed
    assert_same(
        _comparable(await tables(inbox.engine, inbox.tenant_id)),
        _comparable(await tables(other.engine, other.tenant_id)),
    )


async def test_only_one_replay_of_a_tenant_runs_at_a_time(inbox, other, monkeypatch):
    await inbox.send([prompt()])
    inside, go_on = asyncio.Event(), asyncio.Event()
    run = Replay.run

    async def waits(self, *args):
        inside.set()
        await go_on.wait()
        return await run(self, *args)

    monkeypatch.setattr(Replay, "run", waits)
    first = asyncio.create_task(inbox.replay())
    await inside.wait()
    with pytest.raises(ConflictError, match="another replay"):
        await inbox.replay()
    go_on.set()

    assert (await first).requests == 1
    assert (await other.replay()).requests == 0


async def test_data_comes_in_meanwhile(inbox, other, monkeypatch):
    stories = all_stories()
    await inbox.send(in_order(stories))
    mend(monkeypatch, "other values")

    async def live():
        for seed in range(3):
            await inbox.send(shuffled(stories, seed))

    done, *_ = await asyncio.gather(inbox.replay(), live(), live())

    await other.send(in_order(stories))
    assert done.failed_requests == 0
    assert_same(
        _comparable(await tables(inbox.engine, inbox.tenant_id)),
        _comparable(await tables(other.engine, other.tenant_id)),
    )


async def test_a_request_that_cannot_be_stored_any_more_is_told_of_and_changes_nothing(
    inbox, monkeypatch
):
    await inbox.send([claude_logs(result(call="t-1")), prompt("s", 5), prompt("s", 6)])

    def broken(item, session, out):
        a = {**item.attributes, "tool_name": "Mended", "duration_ms": -1}
        claude_code.tool_result(msgspec.structs.replace(item, attributes=a), session, out)
        next(iter(out.tools.values())).parts["result"].duration_ms = -5.0

    monkeypatch.setitem(LOGS, "tool_result", broken)
    async with nothing_changes(inbox):
        done = await inbox.replay()

    (failure,) = done.failures
    assert "cannot be stored" in failure
    assert (done.requests, done.failed_requests) == (3, 1)


async def test_content_is_stored_if_the_tenant_allows_it_now(inbox):
    await inbox.send([prompt("s", 1, prompt="secret words")])

    await inbox.set("keep_content", value=True)
    done = await inbox.replay()
    (kept,) = await inbox.fetch("SELECT content FROM session_events")
    await inbox.set("keep_content", value=False)
    await inbox.replay()
    (dropped,) = await inbox.fetch("SELECT content FROM session_events")

    assert done.session_events == Changes(0, 1, 0)
    assert kept["content"] == "secret words"
    assert dropped["content"] is None


async def test_metrics_are_not_counted_again(inbox):
    def commits(value, at_s):
        point = [({"session.id": "s"}, value)]
        return claude_metrics(
            sum_metric("claude_code.commit.count", "", point, temporality=2, time_ns=at_s)
        )

    await inbox.send([commits(2, 1_760_000_060_000_000_000), commits(5, 1_760_000_120_000_000_000)])

    async with nothing_changes(inbox):
        await inbox.replay()

    (row,) = await inbox.fetch("SELECT commits FROM metrics_sessions")
    assert row["commits"] == 5


# -- what is kept -----------------------------------------------------------------------------------


async def test_nothing_is_kept_unless_the_tenant_says_so(database, new_tenant, inbox):
    silent = RawInbox(database, (await new_tenant()).id)

    for one in (silent, inbox):
        await one.send([prompt()])

    assert await silent.kept() == []
    assert len(await inbox.kept()) == 1


@pytest.mark.parametrize("is_json", [True, False])
async def test_what_is_kept_is_what_was_read(inbox, other, is_json):
    (items,) = [group for group in groups_of(all_stories()) if group[0].signal == "logs"][:1]
    sent = request_of(items, is_json=is_json)
    inbox.user_id = (await inbox.fetch("INSERT INTO users (name) VALUES ('x') RETURNING id"))[0][
        "id"
    ]

    await inbox.send([sent])

    (row,) = await inbox.kept()
    assert (row["signal"], row["is_json"], row["owner_id"]) == ("logs", is_json, inbox.user_id)
    assert row["body_bytes"] == len(sent.body)
    assert len(row["body"]) < len(sent.body)
    stored = {
        found["id"]
        for table in ("metrics_sessions", "tool_metrics", "model_calls", "session_events")
        for found in await inbox.fetch(f"SELECT id FROM {table}")
    }
    assert set(row["row_ids"]) == stored
    assert await other.kept() == []
    async with nothing_changes(inbox):
        await inbox.replay()


async def test_a_request_of_which_every_item_was_refused_is_kept_and_one_that_cannot_be_read_is_not(
    inbox,
):
    nothing = b'{"resourceSpans":[]}'

    await inbox.send([("traces", nothing)])
    with pytest.raises(MalformedRequestError):
        await inbox.send([("logs", b"\xff\xff no request")])

    (row,) = await inbox.kept()
    assert (row["signal"], row["row_ids"]) == ("traces", [])


async def test_what_fails_to_be_stored_is_not_kept(inbox, monkeypatch):
    async def fails(*_args, **_more):
        raise ConflictError("no")

    monkeypatch.setattr(TelemetryWriter, "write", fails)
    with pytest.raises(ConflictError):
        await inbox.send([prompt()])

    assert await inbox.kept() == []


async def test_what_is_too_old_is_deleted_as_requests_come_a_step_at_a_time(
    inbox, other, monkeypatch
):
    monkeypatch.setattr("metrics_service.ingest.raw_requests.ROWS_A_STEP", 3)
    for one in (inbox, other):
        await one.send([prompt("s", second) for second in range(1, 8)])
        await one.age(timedelta(hours=25))
    inbox.database.raw_sweeper._due.clear()

    left = []
    for second in range(3):
        await inbox.send([prompt("s", 50 + second)])
        left.append(len(await inbox.kept()))
    await inbox.age(timedelta(hours=25))
    await inbox.send([prompt("s", 60)])

    # Seven old ones; the third time finds the last, and then it is not yet time again.
    assert left == [5, 3, 3]
    assert len(await inbox.kept()) == 4
    assert len(await other.kept()) == 7


async def test_a_setting_that_was_switched_off_holds_for_those_who_remember_another(inbox):
    await inbox.send([prompt()])
    await inbox.execute("DELETE FROM raw_requests")
    await inbox.execute("UPDATE tenant_settings SET value = '0' WHERE name = 'raw_hours'")

    # Within the two seconds for which the process believes that it is on.
    await inbox.send([prompt("s", 2)])

    assert await inbox.kept() == []
    assert len(await inbox.fetch("SELECT id FROM session_events")) == 2


# -- the command ------------------------------------------------------------------------------------


async def test_the_command_maps_again_and_says_what_it_did(inbox, other, addresses):
    line = on_database(addresses)
    for one in (inbox, other):
        await one.send([claude_logs(result(), request()), prompt("s", 1, prompt="secret words")])
        await one.set("keep_content", value=True)
    name = str(inbox.tenant_id)

    async with nothing_changes(inbox, other):
        dry = await asyncio.to_thread(line, "otlp", "replay", name, "--dry-run", "--json")
    async with nothing_changes(other):
        done = await asyncio.to_thread(line, "otlp", "replay", name)

    assert dry.json()["session_events"] == {"added": 0, "changed": 1, "removed": 0}
    assert done.code == 0, done.err
    assert "2 requests with 3 items" in done.out
    assert ["session_events", "0", "1", "0"] in [row.split() for row in done.out.splitlines()]
    (row,) = await inbox.fetch("SELECT content FROM session_events")
    assert row["content"] == "secret words"


async def test_the_command_takes_a_part_of_the_time(inbox, addresses):
    line = on_database(addresses)
    await inbox.send([prompt("s", 1), prompt("s", 2)])
    _, second = await inbox.kept()
    name, at = str(inbox.tenant_id), second["received_at"]

    found = [
        await asyncio.to_thread(line, "otlp", "replay", name, option, value, "--json")
        for option, value in (
            ("--until", at.isoformat()),
            ("--since", at.isoformat()),
            ("--since", at.replace(tzinfo=None).isoformat()),
            ("--until", "2020-01-01"),
        )
    ]

    assert [ended.json()["requests"] for ended in found] == [1, 1, 1, 0]


def test_the_command_in_a_process_of_its_own_says_what_is_wrong(addresses):
    line = on_database(addresses)

    unknown = line("otlp", "replay", "nobody-at-all")
    wrong = line.here("otlp", "replay", "x", "--since", "yesterday")
    twisted = line.here("otlp", "replay", "x", "--since", "2026-01-02", "--until", "2026-01-01")

    assert (unknown.code, unknown.err.count("\n")) == (3, 1)
    assert (wrong.code, twisted.code) == (2, 2)
    assert "2026-11-20T09:30:00Z" in wrong.err


async def test_the_command_refuses_while_another_replay_runs(inbox, addresses):
    line = on_database(addresses)
    async with alone(
        partial(tenant_connection, inbox.engine, TenantContext(inbox.tenant_id)), inbox.tenant_id
    ):
        ended = await asyncio.to_thread(line, "otlp", "replay", str(inbox.tenant_id))

    assert ended.code == 4
    assert "another replay" in ended.err


async def test_the_command_fails_where_a_request_could_not_be_mapped(inbox, addresses):
    line = on_database(addresses)
    await inbox.send([prompt("s", 1), prompt("s", 2)])
    first, _ = await inbox.kept()
    body = zstandard.ZstdCompressor().compress(b"\xff no request")
    await inbox.execute("UPDATE raw_requests SET body = $2 WHERE id = $1", first["id"], body)

    ended = await asyncio.to_thread(line, "otlp", "replay", str(inbox.tenant_id))

    assert ended.code == 1
    assert "1 of 2 requests could not be mapped" in ended.err
