"""Rollups are what the facts say, after any mix of writes, and are made anew from them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from command_line import on_database
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inbox import Inbox, claude_logs, everything, log
from rolled import ROLLUPS, Rows, check_rollups, rollups_of
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection, runtime_engine
from metrics_service.db.tenancy import ContextConnection, TenantContext, tenant_connection
from metrics_service.errors import MetricsServiceError
from metrics_service.ingest.records import (
    ModelCallRecord,
    SessionRecord,
    ToolMetricRecord,
    session_id_of,
)
from metrics_service.ingest.tool_names import ToolNames
from metrics_service.ingest.write import admit_facts, write_facts, write_sessions
from metrics_service.rollups.rebuild import rebuild_rollups
from metrics_service.sessions.repository import change_session, delete_session
from metrics_service.sessions.schemas import SessionPatch
from metrics_service.tenants.initialise import initialise, target_of
from metrics_service.tenants.new_tenant import NewTenant
from metrics_service.tenants.provision import create_tenant
from metrics_service.tenants.registry import Tenant

START = datetime(2026, 3, 2, 22, 30, tzinfo=UTC)
AGENT = "claude-code"
SESSIONS = ("one", "two", "three")
TEAMS = ("web", "data", None)


@pytest.fixture(scope="module")
async def tenant(new_tenant) -> Tenant:
    return (await new_tenant()).tenant


@pytest.fixture
async def crowd_engine(addresses: Addresses) -> AsyncIterator[AsyncEngine]:
    engine = runtime_engine(addresses.runtime, pool_max=8, pool_timeout_ms=60_000)
    yield engine
    await engine.dispose()


async def write(connection: ContextConnection, tenant_id: UUID, records: list[Any]) -> None:
    for kind in (ToolMetricRecord, ModelCallRecord):
        facts = [record for record in records if isinstance(record, kind)]
        assert await admit_facts(connection, tenant_id, facts, ToolNames()) == {}
        await write_facts(connection, tenant_id, facts)


# -- any mix ----------------------------------------------------------------------------------------

moments = st.integers(0, 4 * 3600).map(lambda seconds: START + timedelta(seconds=seconds))
named = st.sampled_from([*SESSIONS, None])


@st.composite
def tools(draw: st.DrawFn) -> Any:
    session = draw(named)
    return ToolMetricRecord(
        tool_name=draw(st.sampled_from(["Bash", "Read"])),
        started_at=draw(moments),
        agent=AGENT if session else draw(st.none() | st.just("other")),
        external_session_id=session,
        user_email=draw(st.sampled_from(["ada@example.com", "bob@example.com", None])),
        tool_category=draw(st.none() | st.just("shell")),
        duration_ms=draw(st.none() | st.floats(0, 1e13)),
        wait_ms=draw(st.none() | st.floats(0, 1e6)),
        status=draw(st.sampled_from(["success", "error", "rejected", "timeout"])),
    )


@st.composite
def models(draw: st.DrawFn) -> Any:
    session = draw(named)
    return ModelCallRecord(
        started_at=draw(moments),
        agent=AGENT if session else None,
        external_session_id=session,
        provider=draw(st.none() | st.just("anthropic")),
        request_model=draw(st.none() | st.sampled_from(["sonnet", "opus"])),
        duration_ms=draw(st.none() | st.floats(0, 1e7)),
        status=draw(st.sampled_from(["success", "error"])),
        input_tokens=draw(st.none() | st.integers(0, 10**12)),
        cost_usd_micros=draw(st.none() | st.integers(0, 10**12)),
        cost_source=draw(st.sampled_from(["reported", "estimated"])),
    )


@st.composite
def stated(draw: st.DrawFn) -> Any:
    return SessionRecord(
        agent=AGENT,
        external_id=draw(st.sampled_from(SESSIONS)),
        started_at=draw(moments),
        team=draw(st.sampled_from(TEAMS)),
        repository=draw(st.sampled_from(["acme/shop", None])),
        session_type=draw(st.sampled_from(["review", None])),
        productivity_score=draw(st.none() | st.floats(0, 100)),
        user_email=draw(st.sampled_from(["ada@example.com", None])),
    )


steps = st.one_of(
    st.tuples(st.just("facts"), st.lists(st.one_of(tools(), models()), max_size=5)),
    st.tuples(st.just("again"), st.just(None)),
    st.tuples(st.just("state"), st.lists(stated(), max_size=3)),
    st.tuples(
        st.just("patch"),
        st.tuples(st.sampled_from(SESSIONS), st.sampled_from(TEAMS), st.sampled_from(TEAMS)),
    ),
    st.tuples(st.just("delete"), st.sampled_from(SESSIONS)),
)


@given(story=st.lists(steps, min_size=1, max_size=8))
@settings(
    max_examples=settings().max_examples // 5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_any_mix_of_writes_leaves_the_rollups_that_the_rows_give(engine, tenant, story):
    sent: list[Any] = []
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        savepoint = connection.transaction()
        await savepoint.start()
        for kind, what in story:
            if kind == "facts":
                sent += what
                await write(connection, tenant.id, [_copy(record) for record in what])
            elif kind == "again":
                await write(connection, tenant.id, [_copy(record) for record in sent])
            elif kind == "state":
                await write_sessions(connection, tenant.id, [_copy(record) for record in what])
            elif kind == "patch":
                session, team, repository = what
                patch = SessionPatch(team=team, repository=repository)
                await change_session(connection, _id(tenant.id, session), patch)
            else:
                await delete_session(connection, _id(tenant.id, what))
        kept = await check_rollups(connection)
        facts = await connection.fetchval("SELECT count(*) FROM tool_metrics")
        await savepoint.rollback()

    for grain in ("hourly", "daily"):
        rows = kept[f"tool_metrics_{grain}"]
        for cube in ("what", "who"):
            assert sum(sums[0] for key, sums in rows.items() if key[0] == cube) == facts


def _copy(record: Any) -> Any:
    # The write path takes its records apart.
    return type(record)(**{name: getattr(record, name) for name in record.__struct_fields__})


def _id(tenant_id: UUID, session: str) -> UUID:
    return session_id_of(tenant_id, AGENT, session)


# -- what changes hands -----------------------------------------------------------------------------


def of_cube(rows: Rows, table: str, cube: str, *columns: int) -> dict[tuple[Any, ...], int]:
    """How many facts each of these columns' values has."""
    found: dict[tuple[Any, ...], int] = {}
    for key, sums in rows[table].items():
        if key[0] == cube:
            name = tuple(key[column] for column in columns)
            found[name] = found.get(name, 0) + int(sums[0])
    return {name: count for name, count in found.items() if count}


TEAM = -2


async def test_facts_follow_their_session_to_another_team(engine, new_tenant):
    tenant_id = (await new_tenant()).id
    call = {"tool_name": "Bash", "agent": AGENT, "external_session_id": "one"}
    async with tenant_connection(engine, TenantContext(tenant_id)) as connection:
        await write(connection, tenant_id, [ToolMetricRecord(started_at=START, **call)])
        before = await check_rollups(connection)

        await change_session(connection, _id(tenant_id, "one"), SessionPatch(team="web"))

        after = await check_rollups(connection)
        assert of_cube(before, "tool_metrics_daily_all", "all", TEAM) == {(None,): 1}
        assert of_cube(after, "tool_metrics_daily_all", "all", TEAM) == {("web",): 1}
        assert of_cube(after, "sessions_hourly", "who", TEAM) == {("web",): 1}


async def test_what_was_deleted_is_in_no_rollup(engine, new_tenant):
    tenant_id = (await new_tenant()).id
    named = {"agent": AGENT, "external_session_id": "one", "started_at": START}
    calls = [ToolMetricRecord(tool_name="Bash", duration_ms=5.0, **named), ModelCallRecord(**named)]
    async with tenant_connection(engine, TenantContext(tenant_id)) as connection:
        await write(connection, tenant_id, calls)

        assert await delete_session(connection, _id(tenant_id, "one"))

        rows = await check_rollups(connection)
    assert [table for table, left in rows.items() if left] == []


async def test_a_session_whose_beginning_turns_out_to_be_earlier_stands_there(engine, new_tenant):
    tenant_id = (await new_tenant()).id
    call = {"tool_name": "Bash", "agent": AGENT, "external_session_id": "one"}
    async with tenant_connection(engine, TenantContext(tenant_id)) as connection:
        for hours in (3, 0):
            at = START + timedelta(hours=hours)
            await write(connection, tenant_id, [ToolMetricRecord(started_at=at, **call)])

        rows = await check_rollups(connection)

    hour = START.replace(minute=0)
    assert of_cube(rows, "sessions_hourly", "agent", 1) == {(hour,): 1}


async def test_telemetry_of_a_clock_that_is_wrong_stands_at_the_edge_of_time(engine, new_tenant):
    inbox = Inbox(engine, (await new_tenant()).id)
    far = (datetime(2490, 1, 1, tzinfo=UTC) - datetime(2025, 10, 9, tzinfo=UTC)).total_seconds()

    await inbox.send(
        *everything("s"),
        claude_logs(log("tool_result", "ahead", far, tool_name="Bash", tool_use_id="t-2")),
    )

    rows = await inbox.fetch("SELECT bucket FROM tool_metrics_daily WHERE cube = 'what'")
    assert len(rows) == 2
    assert max(row["bucket"] for row in rows) <= datetime.now(UTC) + timedelta(days=1)


# -- many at once -----------------------------------------------------------------------------------


async def test_writers_of_the_same_hour_deleters_and_a_rebuild_at_once_leave_what_the_rows_say(
    crowd_engine, new_tenant
):
    tenant_id = (await new_tenant()).id
    context = TenantContext(tenant_id, timeout_ms=60_000)
    chance = random.Random(11)
    refused: list[MetricsServiceError] = []

    async def writer(number: int) -> None:
        for turn in range(6):
            calls: list[Any] = [
                ToolMetricRecord(
                    tool_name=chance.choice(["Bash", "Read", "Edit"]),
                    started_at=START + timedelta(seconds=chance.randrange(3600), microseconds=at),
                    agent=AGENT,
                    external_session_id=f"s{chance.randrange(6)}",
                    user_email=f"u{chance.randrange(4)}@example.com",
                    duration_ms=float(chance.randrange(5000)),
                )
                for at in range(number * 1000 + turn * 100, number * 1000 + turn * 100 + 40)
            ]
            async with tenant_connection(crowd_engine, context) as connection:
                await write(connection, tenant_id, calls)

    async def changer() -> None:
        for turn in range(12):
            session_id = _id(tenant_id, f"s{chance.randrange(6)}")
            try:
                async with tenant_connection(crowd_engine, context) as connection:
                    if turn % 3:
                        patch = SessionPatch(team=chance.choice(["web", "data"]))
                        await change_session(connection, session_id, patch)
                    else:
                        await delete_session(connection, session_id)
            except MetricsServiceError as error:
                refused.append(error)

    async def rebuilder() -> None:
        for _ in range(5):
            await rebuild_rollups(crowd_engine, context)

    await asyncio.gather(*(writer(number) for number in range(8)), changer(), rebuilder())

    assert refused == []
    async with tenant_connection(crowd_engine, context) as connection:
        rows = await check_rollups(connection)
        facts = await connection.fetchval("SELECT count(*) FROM tool_metrics")
    assert of_cube(rows, "tool_metrics_hourly", "what") == {(): facts}
    assert facts > 0


# -- made anew --------------------------------------------------------------------------------------


async def test_a_rebuild_mends_what_is_wrong_and_says_on_how_many_days(engine, new_tenant):
    tenant_id, other_id = (await new_tenant()).id, (await new_tenant()).id
    for one in (tenant_id, other_id):
        await Inbox(engine, one).send(*everything("s"))
        async with tenant_connection(engine, TenantContext(one)) as connection:
            call = {"tool_name": "Bash", "agent": AGENT, "external_session_id": "one"}
            await write(connection, one, [ToolMetricRecord(started_at=START, **call)])
    async with tenant_connection(engine, TenantContext(tenant_id)) as connection:
        right = await rollups_of(connection)
    first = await rebuild_rollups(engine, TenantContext(tenant_id))
    async with tenant_connection(engine, TenantContext(tenant_id)) as connection:
        await connection.execute("UPDATE tool_metrics_daily SET count = count + 7")
        await connection.execute("DELETE FROM sessions_hourly WHERE bucket < '2026-01-01'")
        # A day on which nothing happened.
        await connection.execute(
            "UPDATE model_calls_daily SET bucket = '2020-05-05T00:00Z' WHERE cube = 'who'"
        )

    second = await rebuild_rollups(engine, TenantContext(tenant_id))

    async with tenant_connection(engine, TenantContext(tenant_id)) as connection:
        assert await rollups_of(connection) == right
    async with tenant_connection(engine, TenantContext(other_id)) as connection:
        await check_rollups(connection)
    assert (first.days, first.mended_days) == (2, 0)
    assert (second.days, second.mended_days) == (3, 3)


async def test_the_command_makes_rollups_anew(addresses, engine, new_tenant):
    some = await new_tenant()
    await Inbox(engine, some.id).send(*everything("s"))
    async with tenant_connection(engine, TenantContext(some.id)) as connection:
        right = await rollups_of(connection)
        for table in ROLLUPS:
            await connection.execute(f"DELETE FROM {table}")
    line = on_database(addresses)

    done = await asyncio.to_thread(line, "db", "rebuild-rollups", some.slug, "--json")

    assert done.json() == [{"slug": some.slug, "days": 1, "mended_days": 1}]
    async with tenant_connection(engine, TenantContext(some.id)) as connection:
        assert await rollups_of(connection) == right


@pytest.mark.parametrize(
    ("arguments", "code"), [((), 2), (("--all", "some"), 2), (("no-such-tenant",), 3)]
)
def test_what_the_command_cannot_do_it_says(addresses, arguments, code):
    done = on_database(addresses).here("db", "rebuild-rollups", *arguments)

    assert done.code == code
    assert "Traceback" not in done.err


async def test_an_upgrade_rolls_up_what_was_there_before(new_database, admin_url):
    # Of its own: an upgrade is of all tenants of a database.
    addresses = await asyncio.to_thread(new_database)
    await initialise(addresses, admin_url(urlsplit(addresses.runtime).path.removeprefix("/")))
    new = NewTenant.of("some", name=None, domain=None, plan="basic", base_domain="localhost")
    async with owner_connection(addresses.require_owner()) as connection:
        tenant = await create_tenant(connection, new, target_of(addresses))
    engine = runtime_engine(addresses.runtime, pool_max=1)
    inbox = Inbox(engine, tenant.id)
    await inbox.send(*everything("s"))
    await inbox.record_calls(duration_ms=12.5, user_email="ada@example.com")
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        await change_session(connection, inbox.session_id("s"), SessionPatch(team="web"))
        right = await rollups_of(connection)
    line = on_database(addresses)
    down_to = ("db", "downgrade", "--schema", tenant.schema_name, "--to", "tenant_0002")

    down = await asyncio.to_thread(line, *down_to, "--yes")
    up = await asyncio.to_thread(line, "db", "upgrade")

    assert (down.code, up.code) == (0, 0), down.err + up.err
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        assert await rollups_of(connection) == right
    await engine.dispose()
