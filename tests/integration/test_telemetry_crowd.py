"""Telemetry of many at once leaves what one after the other would, and no tenant sees another's."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import product
from typing import Any, NamedTuple

import asyncpg
import pytest
from inbox import (
    CLAUDE,
    TABLES,
    Inbox,
    Request,
    figures,
    log,
    ns,
    spanned,
)
from vectors import Json, logs, metrics, spans, sum_metric

from metrics_service.db.addresses import Addresses
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.errors import UnavailableError
from metrics_service.sessions.repository import delete_session

SESSIONS = ("one", "two", "three")
WRITERS = 8
NO_PRIVILEGE = "42501"
NO_TABLE = "42P01"


class Item(NamedTuple):
    signal: str
    service: str
    given: Json


BUILDERS = {"logs": logs, "traces": spans, "metrics": metrics}


def requests_of(items: Sequence[Item]) -> list[Request]:
    """The items as requests: one for each signal and service."""
    groups: dict[tuple[str, str], list[Json]] = {}
    for item in items:
        groups.setdefault((item.signal, item.service), []).append(item.given)
    return [
        (signal, BUILDERS[signal](service, None, *given))
        for (signal, service), given in groups.items()
    ]


def items_of(place: int) -> Iterator[Item]:
    """One hundred items of one session: calls by all that tell of them, events, deltas."""
    session = SESSIONS[place]
    who: dict[str, Any] = {"user__email": f"{session}@example.com", "repository": f"r-{session}"}
    for number in range(12):
        yield from call_items(session, 10 * place + 1, number, who)
    for number in range(12):
        at_s = 200 + number
        request = {"request_id": f"r-{number}", "model": "some-model", **who}
        yield Item(
            "logs", CLAUDE,
            log("api_request", session, at_s, input_tokens=10, output_tokens=number,
                cost_usd_micros=100 + number, duration_ms=500, **request),
        )  # fmt: skip
        if number % 2:
            yield Item(
                "traces", CLAUDE,
                spanned("claude_code.llm_request", session, 1000 + number, trace=10 * place + 1,
                        at_s=at_s - 0.5, lasts_s=0.5, ttft_ms=40, **request),
            )  # fmt: skip
    for number in range(10):
        yield Item(
            "logs", CLAUDE,
            log("user_prompt", session, 300 + number, event__sequence=number, prompt_length=4,
                **who),
        )  # fmt: skip
        yield Item(
            "metrics", CLAUDE,
            sum_metric(
                "claude_code.commit.count", "1",
                [({"session.id": session, "user.email": who["user__email"]}, 1)],
                start_ns=ns(60 * number), time_ns=ns(60 * number + 60),
            ),
        )  # fmt: skip
    # Of a client whose spans name their session late.
    for number in range(1, 3):
        yield Item("traces", "some-agent", gen_ai_span(place, number, "execute_tool"))
    yield Item(
        "traces", "some-agent",
        gen_ai_span(place, 3, "invoke_agent", gen_ai__conversation__id=session),
    )  # fmt: skip


def call_items(session: str, trace: int, number: int, who: dict[str, Any]) -> Iterator[Item]:
    at_s = 10 * number
    tool = {"tool_name": f"tool-{number % 4}", "tool_use_id": f"t-{number}", **who}
    fails = number % 5 == 0
    yield Item(
        "logs", CLAUDE,
        log("tool_decision", session, at_s + 3, decision="accept", source="user_temporary", **tool),
    )  # fmt: skip
    yield Item(
        "logs", CLAUDE,
        log("tool_result", session, at_s + 5, success="false" if fails else "true",
            duration_ms=1000, **tool),
    )  # fmt: skip
    yield Item(
        "traces", CLAUDE,
        spanned("claude_code.tool", session, 10 * number + 1, trace=trace, at_s=at_s, lasts_s=5,
                **tool),
    )  # fmt: skip
    for place, (name, said) in enumerate(
        [
            ("blocked_on_user", {"decision": "accept", "source": "user_temporary"}),
            ("execution", {"success": "false" if fails else "true"}),
        ]
    ):
        yield Item(
            "traces", CLAUDE,
            spanned(f"claude_code.tool.{name}", session, 10 * number + 2 + place, trace=trace,
                    parent=10 * number + 1, at_s=at_s + 1 + place, duration_ms=700 + place,
                    **said, **who),
        )  # fmt: skip


def gen_ai_span(place: int, number: int, operation: str, **more: Any) -> Json:
    return spanned(
        f"{operation} x", None, number, trace=10 * place + 2, at_s=500 + number,
        gen_ai__operation__name=operation, **more,
    )  # fmt: skip


ITEMS = [item for place in range(3) for item in items_of(place)]


@pytest.fixture
async def inbox(engine, new_tenant) -> Inbox:
    return Inbox(engine, (await new_tenant()).id, is_alone=False)


@pytest.fixture
async def other(engine, new_tenant) -> Inbox:
    return Inbox(engine, (await new_tenant()).id, is_alone=False)


async def send_until_taken(inbox: Inbox, request: Request) -> int:
    """Send as clients do: what was refused for a moment is sent again. Say how many deadlocks it met."""
    deadlocks = 0
    for attempt in range(100):
        try:
            await inbox.send(request)
        except UnavailableError as error:
            deadlocks += isinstance(error.__cause__, asyncpg.DeadlockDetectedError)
            await asyncio.sleep(0.01 * attempt)
        else:
            return deadlocks
    raise AssertionError("never taken")


IS_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


async def in_words(inbox: Inbox) -> dict[str, list[str]]:
    """All that is stored, with names in the place of ids that each tenant has of its own."""
    stored = await inbox.stored()
    names = {str(inbox.tenant_id): "tenant"}
    for row in stored["metrics_sessions"]:
        names[str(row["id"])] = f"{row['agent']}/{row['external_id']}"
        # What is zero may be there or not, and a whole number may have been a float.
        row["telemetry"] = {
            name: _not_zero(value) if isinstance(value, dict) else value
            for name, value in row["telemetry"].items()
        }
    for row in stored["user_identities"]:
        names[str(row["id"])] = f"{row['kind']}/{row['value']}"
    for row in stored["users"]:
        names[str(row["id"])] = row["email"]
    for table in ("tool_metrics", "model_calls", "session_events", "counter_deltas"):
        for row in stored[table]:
            of = names[str(row["session_id"])]
            parts = [str(row.get(name)) for name in IDENTITY]
            names[str(row["id"])] = "/".join([table, of, *parts])
    return {
        table: sorted(
            IS_ID.sub(lambda found: names.get(found[0], found[0]), _line(row)) for row in rows
        )
        for table, rows in stored.items()
    }


IDENTITY = ("external_call_id", "request_id", "span_id", "name", "metric", "window_end",
            "occurred_at")  # fmt: skip


def _not_zero(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value + 0.0 if isinstance(value, int) else value
        for name, value in sorted(figures.items())
        if value
    }


def _line(row: dict[str, Any]) -> str:
    # JSON objects have no order.
    return str(
        {
            name: sorted(map(str, value.items())) if isinstance(value, dict) else str(value)
            for name, value in row.items()
        }
    )


# -- many at once -----------------------------------------------------------------------------------


async def test_many_writers_of_the_same_items_leave_what_one_would(inbox, other):
    chance = random.Random(8)
    assert len(ITEMS) >= 300

    async def write(writer: int) -> int:
        mine = chance.sample(ITEMS, 120)
        if writer < 3:
            # Together these have all of them.
            mine = ITEMS[writer::3]
        chance.shuffle(mine)
        deadlocks = 0
        for place in range(0, len(mine), 12):
            for request in requests_of(mine[place : place + 12]):
                deadlocks += await send_until_taken(inbox, request)
        return deadlocks

    deadlocks = await asyncio.gather(*(write(writer) for writer in range(WRITERS)))
    for place in range(0, len(ITEMS), 50):
        await other.send(*requests_of(ITEMS[place : place + 50]))

    assert await in_words(inbox) == await in_words(other)
    # Everything is locked in one order.
    assert sum(deadlocks) == 0
    for session in SESSIONS:
        names = ("tool_call_count", "tool_error_count", "model_call_count", "output_tokens",
                 "commits", "prompt_count")  # fmt: skip
        assert figures(await inbox.session(session), *names) == (12, 3, 12, 66, 10, 10)
        assert (await inbox.session(session, "some-agent")).tool_call_count == 2


async def test_all_items_in_one_request_leave_what_one_by_one_would(inbox, other):
    await inbox.send_together(*requests_of(ITEMS))
    chance = random.Random(9)
    for item in chance.sample(ITEMS, len(ITEMS)):
        await other.send(*requests_of([item]))

    assert await in_words(inbox) == await in_words(other)


async def test_sessions_that_are_deleted_while_they_are_written_leave_nothing_half(inbox, other):
    chance = random.Random(10)

    async def write() -> None:
        mine = chance.sample(ITEMS, 100)
        for place in range(0, len(mine), 10):
            for request in requests_of(mine[place : place + 10]):
                await send_until_taken(inbox, request)

    async def delete() -> None:
        for _ in range(15):
            session = inbox.session_id(chance.choice(SESSIONS))
            try:
                context = TenantContext(inbox.tenant_id)
                async with tenant_connection(inbox.engine, context) as connection:
                    await delete_session(connection, session)
            except UnavailableError:
                await asyncio.sleep(0.01)

    await asyncio.gather(*(write() for _ in range(4)), delete(), delete())

    for row in await inbox.fetch("SELECT id FROM metrics_sessions"):
        async with tenant_connection(inbox.engine, TenantContext(inbox.tenant_id)) as connection:
            assert await delete_session(connection, row["id"])
    for table in ("metrics_sessions", "tool_metrics", "model_calls", "session_events"):
        assert await inbox.fetch(f"SELECT * FROM {table}") == []
    for writer in (inbox, other):
        await writer.send(*requests_of(ITEMS))
    assert await in_words(inbox) == await in_words(other)


# -- apart ------------------------------------------------------------------------------------------


async def test_the_same_telemetry_of_two_tenants_is_twice_there(inbox, other):
    await other.send(*requests_of(ITEMS))
    before = await other.stored()

    await inbox.send(*requests_of(ITEMS))
    await inbox.send(*requests_of(ITEMS))

    assert await other.stored() == before
    assert await in_words(inbox) == await in_words(other)


async def test_what_one_tenant_deletes_another_keeps(inbox, other):
    for one in (inbox, other):
        await one.send(*requests_of(ITEMS))
    before = await other.stored()

    for session in SESSIONS:
        async with tenant_connection(inbox.engine, TenantContext(inbox.tenant_id)) as connection:
            assert await delete_session(connection, inbox.session_id(session))
            assert not await delete_session(connection, other.session_id(session))

    assert await other.stored() == before


async def test_waiting_names_of_one_tenant_find_nothing_of_another(inbox, other):
    nameless = requests_of([Item("traces", "some-agent", gen_ai_span(0, 1, "execute_tool"))])
    late = gen_ai_span(0, 3, "invoke_agent", gen_ai__conversation__id="one")
    inside, around = ITEMS[3], ITEMS[2]

    await inbox.send(*nameless, *requests_of([inside]))
    await other.send(*requests_of([Item("traces", "some-agent", late), around]))

    assert await inbox.session_names() == ["one", f"trace:{2:032x}"]
    assert [row["tool_name"] for row in await inbox.tools()] == ["x"]
    (call,) = await other.tools()
    assert (call["wait_ms"], call["external_call_id"]) == (None, "t-0")


class World(NamedTuple):
    a: Inbox
    b: Inbox
    schemas: dict[str, str]


@pytest.fixture
async def world(engine, new_tenant) -> World:
    made = {name: await new_tenant() for name in ("A", "B")}
    inboxes = {name: Inbox(engine, tenant.id, is_alone=False) for name, tenant in made.items()}
    trace = requests_of([Item("traces", "some-agent", gen_ai_span(0, 1, "execute_tool"))])
    cumulative = sum_metric("claude_code.commit.count", "1", [({"session.id": "one"}, 5)],
                            temporality=2)  # fmt: skip
    for one in inboxes.values():
        claimed = log("user_prompt", "another", 1, user__account_id="a-1")
        await one.send(
            *trace,
            *requests_of(ITEMS[:100]),
            *requests_of([Item("logs", CLAUDE, claimed), Item("metrics", CLAUDE, cumulative)]),
        )
        session = one.session_id("one")
        await one.execute("INSERT INTO session_tags (session_id, tag) VALUES ($1, 't')", session)
        await one.execute("INSERT INTO tenant_settings (name, value) VALUES ('x', 'true')")
    schemas = {name: tenant.tenant.schema_name for name, tenant in made.items()}
    return World(inboxes["A"], inboxes["B"], schemas)


@pytest.fixture
async def raw(addresses: Addresses) -> AsyncIterator[asyncpg.Connection[Any]]:
    """The runtime login on a plain connection, fresh and without our door."""
    connection = await asyncpg.connect(addresses.runtime)
    yield connection
    await connection.close()


async def tried(connection: asyncpg.Connection[Any], query: str) -> int | str:
    """How many rows a statement sees or changes, undone at once, or the SQLSTATE that refused it."""
    savepoint = connection.transaction()
    await savepoint.start()
    try:
        if query.startswith("SELECT"):
            return len(await connection.fetch(query))
        return int((await connection.execute(query)).rpartition(" ")[2])
    except asyncpg.PostgresError as error:
        return str(error.sqlstate)
    finally:
        await savepoint.rollback()


async def test_every_table_of_telemetry_is_closed_where_any_layer_is_wrong(raw, world):
    ids = {"A": world.a.tenant_id, "B": world.b.tenant_id}
    statements = ("SELECT FROM {}", "UPDATE {} SET tenant_id = tenant_id", "DELETE FROM {}")

    for role, path, variable in product(["none", "A", "B"], ["none", "A", "B"], ["none", "A", "B"]):
        for table, statement in product([*TABLES, "tenant_settings"], statements):
            async with raw.transaction():
                if path != "none":
                    schema = world.schemas[path]
                    await raw.execute(f"SET LOCAL search_path = {schema}, shared, pg_temp")
                if variable != "none":
                    await raw.execute(
                        "SELECT set_config('app.tenant_id', $1, true)", str(ids[variable])
                    )
                if role != "none":
                    await raw.execute(f"SET LOCAL ROLE {world.schemas[role]}")
                found = await tried(raw, statement.format(table))
                elsewhere = await tried(raw, statement.format(f"{world.schemas['B']}.{table}"))

            where = (role, path, variable, table, statement)
            if role == "none" or path != role:
                assert found == NO_TABLE, where
            elif variable != role:
                assert found == 0, where
            else:
                assert isinstance(found, int) and found > 0, where
            if role != "B":
                assert elsewhere == NO_PRIVILEGE, where
            elif variable != "B":
                assert elsewhere == 0, where
