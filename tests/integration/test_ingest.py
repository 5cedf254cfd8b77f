"""The write path: the same items, however they come, leave the same rows and the same totals."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rolled import check_rollups
from sqlalchemy.ext.asyncio import AsyncEngine
from wire import wire_to

from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import runtime_engine
from metrics_service.db.tenancy import ContextConnection, TenantContext, tenant_connection
from metrics_service.ingest.records import (
    ModelCallRecord,
    Receipt,
    ToolMetricRecord,
    session_id_of,
)
from metrics_service.ingest.rows import ROWS_A_STATEMENT
from metrics_service.ingest.tool_names import MAX_TOOL_NAMES, ToolNames
from metrics_service.ingest.write import admit_facts, write_facts
from metrics_service.tenants.registry import Tenant

START = datetime(2026, 3, 2, 9, tzinfo=UTC)
AGENTS = ("claude-code", "codex")
SESSIONS = ("one", "two", "three")
# One for each session: whose session it is says the first item that has a user.
USERS = {
    "one": "ada@example.com",
    "two": "grace@example.com",
    "three": None,
    None: "ada@example.com",
}

Item = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
async def tenant(new_tenant) -> Tenant:
    return (await new_tenant()).tenant


@pytest.fixture
async def crowd_engine(addresses: Addresses) -> AsyncIterator[AsyncEngine]:
    """A pool that fifty writers share."""
    engine = runtime_engine(addresses.runtime, pool_max=10, pool_timeout_ms=60_000)
    yield engine
    await engine.dispose()


# -- items, and ways to send them -------------------------------------------------------------------


def _common(draw: st.DrawFn, number: int) -> dict[str, Any]:
    external_id = draw(st.sampled_from([*SESSIONS, None]))
    item: dict[str, Any] = {
        "started_at": START + timedelta(milliseconds=draw(st.integers(0, 10**7)), seconds=number),
        "duration_ms": draw(st.none() | st.sampled_from([0.0, 0.1, 1.5, 1234.5678, 1e7])),
        "user_email": USERS[external_id],
    }
    if external_id is not None:
        item |= {"agent": draw(st.sampled_from(AGENTS)), "external_session_id": external_id}
    if draw(st.booleans()):
        item["id"] = UUID(int=(0x1234 << 112) | (7 << 76) | (2 << 62) | number)
    return item


@st.composite
def tool_items(draw: st.DrawFn, number: int) -> Item:
    status = draw(st.sampled_from(["success", "error", "timeout", "rejected", "unknown"]))
    metadata = draw(st.none() | st.dictionaries(st.sampled_from("abc"), st.integers(0, 2)))
    return "tool", _common(draw, number) | {
        "tool_name": draw(st.sampled_from(["Bash", "Edit", "Größe ☃"])),
        "status": status,
        "error_type": "it failed" if status == "error" else None,
        "metadata": metadata,
        "input_bytes": draw(st.none() | st.integers(0, 2**40)),
    }


@st.composite
def model_items(draw: st.DrawFn, number: int) -> Item:
    return "model", _common(draw, number) | {
        "status": draw(st.sampled_from(["success", "error"])),
        "input_tokens": draw(st.none() | st.integers(0, 10**12)),
        "cache_read_tokens": draw(st.none() | st.integers(0, 10**6)),
        "output_tokens": draw(st.none() | st.integers(0, 10**6)),
        "cost_usd_micros": draw(st.none() | st.integers(0, 10**9)),
        "request_model": draw(st.sampled_from(["sonnet", None])),
    }


class Batch(msgspec.Struct):
    """Items by their place, and how they say what they say."""

    places: list[int]
    names_sessions_by_id: bool
    in_another_zone: bool
    turns_metadata: bool


class Plan(msgspec.Struct):
    """The same items, and a way to send them: split, shuffled, repeated, said in other words."""

    items: list[Item]
    batches: list[Batch]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    count = draw(st.integers(1, 12))
    items = [draw(st.one_of(tool_items(number), model_items(number))) for number in range(count)]
    places = draw(st.lists(st.integers(0, count - 1), max_size=20))
    places += draw(st.permutations(range(count)))
    batches = []
    while places:
        size = draw(st.integers(1, len(places)))
        flags = [draw(st.booleans()) for _ in range(3)]
        batches.append(Batch(places[:size], *flags))
        places = places[size:]
    return Plan(items, batches)


def record_of(
    tenant_id: UUID, item: Item, batch: Batch | None, known: set[UUID]
) -> ToolMetricRecord | ModelCallRecord:
    kind, values = item[0], dict(item[1])
    if batch is not None:
        agent, external_id = values.get("agent"), values.get("external_session_id")
        if batch.names_sessions_by_id and external_id is not None:
            session_id = session_id_of(tenant_id, agent, external_id)
            if session_id in known:
                del values["agent"], values["external_session_id"]
                values["session_id"] = session_id
        if batch.in_another_zone:
            zone = timezone(timedelta(hours=-7))
            values["started_at"] = values["started_at"].astimezone(zone)
        if batch.turns_metadata and values.get("metadata"):
            values["metadata"] = dict(reversed(values["metadata"].items()))
        if batch.turns_metadata and values["user_email"] is not None:
            values["user_email"] = values["user_email"].upper()
    return (ToolMetricRecord if kind == "tool" else ModelCallRecord)(**values)


async def write(connection: ContextConnection, tenant_id: UUID, records: Sequence[Any]) -> Receipt:
    """What a request does with each kind of its items."""
    inserted = duplicates = 0
    for kind in (ToolMetricRecord, ModelCallRecord):
        facts = [record for record in records if isinstance(record, kind)]
        refused = await admit_facts(connection, tenant_id, facts, ToolNames())
        assert refused == {}
        receipt = await write_facts(connection, tenant_id, facts)
        inserted += receipt.inserted
        duplicates += receipt.duplicates
    return Receipt(inserted, duplicates)


SNAPSHOTS = (
    """
    SELECT s.id, s.agent, s.external_id, s.session_type, s.started_at, s.ended_at, s.last_event_at,
           u.email, s.tool_call_count, s.tool_error_count, s.model_call_count, s.input_tokens,
           s.output_tokens, s.cost_usd_micros
    FROM metrics_sessions s LEFT JOIN users u ON u.id = s.user_id ORDER BY s.id
    """,
    """
    SELECT f.id, f.session_id, f.agent, u.email, f.tool_name, f.tool_category, f.started_at,
           f.duration_ms, f.wait_ms, f.status, f.error_type, f.cpu_ms, f.memory_bytes,
           f.input_bytes, f.output_bytes, f.metadata
    FROM tool_metrics f LEFT JOIN users u ON u.id = f.user_id ORDER BY f.id
    """,
    """
    SELECT f.id, f.session_id, f.agent, u.email, f.started_at, f.duration_ms, f.ttft_ms, f.status,
           f.request_model, f.input_tokens, f.output_tokens, f.cost_usd_micros, f.attempts
    FROM model_calls f LEFT JOIN users u ON u.id = f.user_id ORDER BY f.id
    """,
    "SELECT email, name, role FROM users ORDER BY email",
    "SELECT name FROM tool_names ORDER BY name",
)


async def snapshot(connection: ContextConnection) -> list[list[tuple[Any, ...]]]:
    """Everything that is stored, but for the moment at which it was."""
    return [[tuple(row) for row in await connection.fetch(query)] for query in SNAPSHOTS]


MISCOUNTED = """
WITH tools AS (
    SELECT session_id, count(*) AS calls,
           count(*) FILTER (WHERE status IN ('error', 'timeout')) AS errors,
           count(*) FILTER (WHERE status = 'rejected') AS rejected, min(started_at) AS first,
           max(started_at + coalesce(duration_ms, 0) * interval '1 millisecond') AS last
    FROM tool_metrics GROUP BY session_id
), models AS (
    SELECT session_id, count(*) AS calls, count(*) FILTER (WHERE status = 'error') AS errors,
           coalesce(sum(cache_read_tokens), 0) AS cached, coalesce(sum(input_tokens), 0) AS input,
           coalesce(sum(output_tokens), 0) AS output, coalesce(sum(cost_usd_micros), 0) AS cost,
           min(started_at) AS first,
           max(started_at + coalesce(duration_ms, 0) * interval '1 millisecond') AS last
    FROM model_calls GROUP BY session_id
)
SELECT s.external_id FROM metrics_sessions s
LEFT JOIN tools t ON t.session_id = s.id LEFT JOIN models m ON m.session_id = s.id
WHERE (s.tool_call_count, s.tool_error_count, s.tool_reject_count, s.model_call_count,
       s.model_error_count, s.cache_read_tokens, s.input_tokens, s.output_tokens,
       s.cost_usd_micros, s.started_at, s.last_event_at)
   IS DISTINCT FROM
      (coalesce(t.calls, 0), coalesce(t.errors, 0), coalesce(t.rejected, 0), coalesce(m.calls, 0),
       coalesce(m.errors, 0), coalesce(m.cached, 0), coalesce(m.input, 0),
       coalesce(m.output, 0), coalesce(m.cost, 0), least(t.first, m.first),
       greatest(t.last, m.last))
"""


@given(plan=plans())
@settings(
    max_examples=settings().max_examples // 5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_any_split_order_and_repetition_leaves_the_same_rows_and_totals(engine, tenant, plan):
    context = TenantContext(tenant.id)

    async with tenant_connection(engine, context) as connection:
        savepoint = connection.transaction()
        await savepoint.start()
        at_once = await write(
            connection, tenant.id, [record_of(tenant.id, item, None, set()) for item in plan.items]
        )
        expected = await snapshot(connection)
        miscounted = await connection.fetch(MISCOUNTED)
        await savepoint.rollback()

        savepoint = connection.transaction()
        await savepoint.start()
        receipts = []
        for batch in plan.batches:
            known = {row["id"] for row in await connection.fetch("SELECT id FROM metrics_sessions")}
            records = [
                record_of(tenant.id, plan.items[place], batch, known) for place in batch.places
            ]
            receipts.append(await write(connection, tenant.id, records))
        found = await snapshot(connection)
        miscounted += await connection.fetch(MISCOUNTED)
        await check_rollups(connection)
        await savepoint.rollback()

    assert found == expected
    assert miscounted == []
    assert at_once.inserted == len(expected[1]) + len(expected[2])
    assert sum(receipt.inserted for receipt in receipts) == at_once.inserted
    assert sum(receipt.inserted + receipt.duplicates for receipt in receipts) == sum(
        len(batch.places) for batch in plan.batches
    )


# -- many at once -----------------------------------------------------------------------------------


def tool_calls(count: int, *, sessions: int, users: int, names: int) -> list[dict[str, Any]]:
    return [
        {
            "tool_name": f"tool-{number % names}",
            "started_at": START + timedelta(seconds=number % 3600, microseconds=number),
            "agent": "claude-code",
            "external_session_id": f"session-{number % sessions}",
            "user_email": f"user-{number % users}@example.com",
            "duration_ms": float(number % 97),
            "status": "error" if number % 11 == 0 else "success",
        }
        for number in range(count)
    ]


async def store(engine: AsyncEngine, tenant_id: UUID, items: list[dict[str, Any]]) -> Receipt:
    context = TenantContext(tenant_id, timeout_ms=60_000)
    async with tenant_connection(engine, context) as connection:
        return await write(connection, tenant_id, [ToolMetricRecord(**item) for item in items])


async def test_fifty_writers_of_the_same_items_leave_exactly_one_row_each(crowd_engine, new_tenant):
    tenant_id = (await new_tenant()).id
    items = tool_calls(600, sessions=12, users=6, names=9)
    chance = random.Random(50)
    splits = []
    for writer in range(50):
        some = chance.sample(items, chance.randint(100, 400))
        if writer < 3:
            # Together these have all of them.
            some = items[writer::3]
            chance.shuffle(some)
        splits.append(some)

    receipts = await asyncio.gather(*(store(crowd_engine, tenant_id, split) for split in splits))

    assert sum(receipt.inserted for receipt in receipts) == len(items)
    for split, receipt in zip(splits, receipts, strict=True):
        assert receipt.inserted + receipt.duplicates == len(split)
    async with tenant_connection(crowd_engine, TenantContext(tenant_id)) as connection:
        counts = await connection.fetchrow(
            """
            SELECT (SELECT count(*) FROM tool_metrics) AS facts,
                   (SELECT count(*) FROM metrics_sessions) AS sessions,
                   (SELECT count(*) FROM users) AS users,
                   (SELECT count(*) FROM tool_names) AS names
            """
        )
        assert tuple(counts) == (600, 12, 6, 9)
        assert await connection.fetch(MISCOUNTED) == []
        await check_rollups(connection)


async def test_fifty_writers_of_different_kinds_in_the_same_sessions_do_not_block_each_other(
    crowd_engine, new_tenant
):
    tenant_id = (await new_tenant()).id
    tools = tool_calls(200, sessions=5, users=3, names=4)
    models = [
        {
            "started_at": item["started_at"],
            "agent": item["agent"],
            "external_session_id": item["external_session_id"],
            "user_email": item["user_email"],
            "input_tokens": place,
            "cost_usd_micros": place * 3,
        }
        for place, item in enumerate(tools)
    ]
    chance = random.Random(51)

    async def writer() -> Receipt:
        kind, items = chance.choice([(ToolMetricRecord, tools), (ModelCallRecord, models)])
        records = [kind(**item) for item in chance.sample(items, 80)]
        async with tenant_connection(crowd_engine, TenantContext(tenant_id)) as connection:
            return await write(connection, tenant_id, records)

    receipts = await asyncio.gather(*(writer() for _ in range(50)))

    async with tenant_connection(crowd_engine, TenantContext(tenant_id)) as connection:
        stored = await connection.fetchval(
            "SELECT (SELECT count(*) FROM tool_metrics) + (SELECT count(*) FROM model_calls)"
        )
        assert stored == sum(receipt.inserted for receipt in receipts)
        assert await connection.fetch(MISCOUNTED) == []
        await check_rollups(connection)


async def test_the_limit_of_tool_names_holds_for_many_at_once(crowd_engine, new_tenant):
    tenant_id = (await new_tenant()).id
    room, tool_names = 7, ToolNames()
    first = [f"name-{number}" for number in range(MAX_TOOL_NAMES - room)]
    async with tenant_connection(crowd_engine, TenantContext(tenant_id)) as connection:
        assert await tool_names.admit(connection, tenant_id, first) == set()

    async def newcomer(number: int) -> tuple[int, int]:
        names = [f"new-{number}-{place}" for place in range(3)] + ["name-1"]
        async with tenant_connection(crowd_engine, TenantContext(tenant_id)) as connection:
            refused = await ToolNames().admit(connection, tenant_id, names)
        return len(names) - 1 - len(refused), int("name-1" in refused)

    answers = await asyncio.gather(*(newcomer(number) for number in range(20)))

    async with tenant_connection(crowd_engine, TenantContext(tenant_id)) as connection:
        assert await connection.fetchval("SELECT count(*) FROM tool_names") == MAX_TOOL_NAMES
    assert sum(admitted for admitted, _ in answers) == room
    assert sum(known_refused for _, known_refused in answers) == 0


async def test_names_over_the_limit_are_refused_with_their_items_and_the_others_stay(
    engine, new_tenant, monkeypatch
):
    monkeypatch.setattr("metrics_service.ingest.tool_names.MAX_TOOL_NAMES", 3)
    tenant_id = (await new_tenant()).id
    facts = [ToolMetricRecord(tool_name=name, started_at=START) for name in "badcb"]

    async with tenant_connection(engine, TenantContext(tenant_id)) as connection:
        refused = await admit_facts(connection, tenant_id, facts, ToolNames())

    assert {place: error.field for place, error in refused.items()} == {2: "tool_name"}


async def test_a_batch_of_ten_thousand_is_a_handful_of_statements(addresses, new_tenant):
    tenant_id = (await new_tenant()).id
    items = tool_calls(20_000, sessions=300, users=20, names=40)
    async with wire_to(addresses.runtime) as wire:
        engine = runtime_engine(wire.dsn, pool_max=1)
        first = await store(engine, tenant_id, items[:10_000])
        wire.clear()

        second = await store(engine, tenant_id, items[10_000:])

        await engine.dispose()
    pieces = 10_000 // ROWS_A_STATEMENT
    assert (first.inserted, second.inserted) == (10_000, 10_000)
    # BEGIN, lock, tool names, users, pieces, sessions, rollups, COMMIT, and what finds nothing to do.
    assert pieces < wire.answers <= pieces + 14


async def test_the_number_of_statements_does_not_grow_with_items_sessions_or_users(
    addresses, new_tenant
):
    tenant_id = (await new_tenant()).id
    items = tool_calls(2_000, sessions=500, users=300, names=50)
    counted = []
    async with wire_to(addresses.runtime) as wire:
        engine = runtime_engine(wire.dsn, pool_max=1)
        await store(engine, tenant_id, tool_calls(1, sessions=1, users=1, names=1))
        for batch in (items[1:2], items[2:]):
            wire.clear()
            await store(engine, tenant_id, batch)
            counted.append(wire.answers)
        await engine.dispose()

    few, many = counted
    # New users are added in one statement, and then looked up in another one.
    assert many <= few + 4


async def test_what_one_tenant_sends_is_another_row_for_another_tenant(engine, new_tenant):
    a, b = (await new_tenant()).id, (await new_tenant()).id
    items = tool_calls(20, sessions=2, users=2, names=2)

    receipts = [await store(engine, tenant_id, items) for tenant_id in (a, b)]

    assert [receipt.inserted for receipt in receipts] == [20, 20]
    ids = []
    for tenant_id in (a, b):
        async with tenant_connection(engine, TenantContext(tenant_id)) as connection:
            rows = await connection.fetch("SELECT id, session_id, user_id FROM tool_metrics")
            ids.append({value for row in rows for value in row})
    assert ids[0] & ids[1] == set()


async def test_an_id_of_the_client_may_be_the_same_for_two_tenants(engine, new_tenant):
    a, b, row_id = (await new_tenant()).id, (await new_tenant()).id, uuid4()
    item = {"tool_name": "Bash", "started_at": START, "id": row_id}

    receipts = [await store(engine, tenant_id, [item]) for tenant_id in (a, b, a)]

    assert [receipt.inserted for receipt in receipts] == [1, 1, 0]
