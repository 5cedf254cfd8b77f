"""The network between service and database breaks at each moment of a transaction: what clients see.

Where it is safe, nothing: the request is done again. Where it is not they are told so, with 503. Either
way what was acknowledged is stored exactly once.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest
from acceptance.talk import check_refusal
from acknowledged import (
    NOTHING,
    Deed,
    Ledger,
    batch,
    client_of,
    keyed_dashboard,
    new_dashboard,
    new_session,
    stored,
    tagged,
    telemetry,
)
from cutting_proxy import CuttingProxy, Moment, cutting_proxy
from own_servers import OwnServer
from served import Served, Tenant, new_tenant, served
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.addresses import RUNTIME_LOGIN
from metrics_service.db.engine import runtime_engine

ALWAYS = 1000
DELAY_S = 0.1
SOON_S = 30.0


class Way(msgspec.Struct, frozen=True):
    """One way to store something."""

    make: Any
    table: str
    is_repeatable: bool
    """Whether doing it twice comes to the same as doing it once."""

    async def deed(self, client: httpx.AsyncClient, ledger: Ledger) -> Deed:
        made = self.make(client) if inspect.iscoroutinefunction(self.make) else self.make()
        return ledger.add(await made if inspect.isawaitable(made) else made)


WAYS = {
    "batch": Way(batch, "tool_metrics", is_repeatable=True),
    "otlp": Way(telemetry, "tool_metrics", is_repeatable=True),
    "session": Way(new_session, "metrics_sessions", is_repeatable=True),
    "dashboard with key": Way(keyed_dashboard, "dashboard_configs", is_repeatable=True),
    "dashboard": Way(new_dashboard, "dashboard_configs", is_repeatable=False),
    "patch": Way(tagged, "session_tags", is_repeatable=False),
}
IN_COMMIT = {Moment.COMMIT, Moment.COMMITTED}


@pytest.fixture(scope="module")
async def engine(own: OwnServer) -> AsyncIterator[AsyncEngine]:
    made = runtime_engine(own.addresses.runtime, pool_max=2)
    yield made
    await made.dispose()


@pytest.fixture(scope="module")
async def tenant(own: OwnServer) -> Tenant:
    return await new_tenant(own)


@pytest.fixture(scope="module")
async def neighbour(own: OwnServer) -> Tenant:
    return await new_tenant(own)


@pytest.fixture(scope="module")
async def proxy(own: OwnServer) -> AsyncIterator[CuttingProxy]:
    async with cutting_proxy(own.server.socket_dir / ".s.PGSQL.5432") as made:
        yield made


@pytest.fixture(scope="module")
async def service(own: OwnServer, proxy: CuttingProxy) -> AsyncIterator[Served]:
    async with served(
        own,
        DATABASE_URL=proxy.dsn_of(RUNTIME_LOGIN),
        DATABASE_DIRECT_URL=own.addresses.runtime,
        DATABASE_QUERY_TIMEOUT_MS="2000",
    ) as server:
        yield server


@pytest.fixture
async def client(service: Served, tenant: Tenant) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(service.port, tenant.headers) as opened:
        yield opened


@pytest.fixture(scope="module")
async def everything(engine: AsyncEngine, tenant: Tenant) -> AsyncIterator[Ledger]:
    """Of all tests together: what one stored stays as it is in those that follow."""
    ledger = Ledger()
    yield ledger
    await ledger.check(engine, tenant.id)


@pytest.fixture
async def ledger(engine: AsyncEngine, tenant: Tenant, everything: Ledger) -> AsyncIterator[Ledger]:
    made = Ledger()
    yield made
    others = list(everything.deeds)
    everything.deeds += made.deeds
    await made.check(engine, tenant.id, of_others=others)


@pytest.mark.parametrize("moment", Moment, ids=lambda moment: moment.name.lower())
@pytest.mark.parametrize("way", WAYS)
async def test_one_cut_is_mended_where_that_is_safe_and_told_where_it_is_not(
    proxy, client, tenant, ledger, engine, moment, way
):
    chosen = WAYS[way]
    deed = await chosen.deed(client, ledger)
    before = (await stored(engine, tenant.id)).get(deed.name, NOTHING)

    with proxy.cutting(moment, tenant.id, chosen.table) as fault:
        answer = await deed.ask(client)

    assert fault.happened == 1
    if chosen.is_repeatable or moment not in IN_COMMIT:
        assert answer.is_success, answer.text
        return
    assert "may be stored, or not" in check_refusal(answer, 503)
    # Its client looks, and sends it again where it is not there.
    there = (await stored(engine, tenant.id)).get(deed.name, NOTHING)
    assert there == (deed.stores if moment is Moment.COMMITTED else before)
    if there == deed.stores:
        deed.is_acknowledged = True
    else:
        assert (await deed.ask(client)).is_success


@pytest.mark.parametrize(
    "moment",
    [Moment.BEGIN, Moment.WRITE, Moment.COMMIT, Moment.COMMITTED],
    ids=lambda moment: moment.name.lower(),
)
@pytest.mark.parametrize("way", [name for name, way in WAYS.items() if way.is_repeatable])
async def test_what_is_cut_each_time_is_refused_and_stored_once_when_it_is_sent_again(
    proxy, client, service, tenant, neighbour, ledger, moment, way
):
    chosen = WAYS[way]
    deed = await chosen.deed(client, ledger)

    async with client_of(service.port, neighbour.headers) as other:
        with proxy.cutting(moment, tenant.id, chosen.table, times=ALWAYS) as fault:
            answer, theirs = await asyncio.gather(deed.ask(client), batch().ask(other))

    assert theirs.status_code == 200
    if chosen.make is keyed_dashboard and moment is Moment.COMMITTED:
        # The second attempt finds the answer of the first, and has nothing to write.
        assert fault.happened == 1
        assert answer.is_success
        return
    assert fault.happened >= 3
    check_refusal(answer, 503)
    await deed.deliver(client)
    assert len(deed.statuses) == 2


async def test_whoever_is_not_cut_but_slow_is_served(proxy, client, tenant, ledger):
    deeds = [await way.deed(client, ledger) for way in WAYS.values()]
    with ExitStack() as faults:
        happened = [
            faults.enter_context(
                proxy.delaying(moment, tenant.id, table, by_s=DELAY_S, times=ALWAYS)
            )
            for moment in Moment
            for table in {way.table for way in WAYS.values()}
        ]
        answers = await asyncio.gather(*(deed.ask(client) for deed in deeds))

    assert [answer.is_success for answer in answers] == [True] * len(WAYS)
    assert {fault.moment for fault in happened if fault.happened} == set(Moment)


WAIT_FOR_OTHERS = """
    SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND wait_event_type = 'Lock'
"""


async def test_a_commit_that_arrives_late_counts_once(own, proxy, service, engine):
    """The network holds COMMIT back for so long that the service gives up, and then it arrives."""
    released = asyncio.Event()
    stories = [
        _Late(way, proxy, service, await new_tenant(own), engine, released) for way in WAYS.values()
    ]
    async with asyncio.TaskGroup() as group:
        told = [group.create_task(story.tell()) for story in stories]
        admin = await asyncpg.connect(own.admin_dsn)
        async with asyncio.timeout(SOON_S):
            # Until the next attempt waits for what the first one holds, or nobody makes one.
            while sum(story.is_answered for story in stories) + await admin.fetchval(
                WAIT_FOR_OTHERS, RUNTIME_LOGIN
            ) < len(stories):
                assert not any(task.done() for task in told)
                await asyncio.sleep(0.02)
        await admin.close()
        released.set()


class _Late:
    """One client of a tenant of its own: no other transaction waits for what it holds."""

    def __init__(self, way, proxy, service, tenant, engine, released):
        self.way, self.proxy, self.service, self.tenant = way, proxy, service, tenant
        self.engine, self.released = engine, released
        self.is_answered = False

    async def tell(self):
        ledger = Ledger()
        async with client_of(self.service.port, self.tenant.headers) as client:
            deed = await self.way.deed(client, ledger)
            with self.proxy.stalling(
                Moment.COMMIT, self.tenant.id, self.way.table, self.released
            ) as fault:
                answer = await deed.ask(client)
                self.is_answered = True
                # It is not over before COMMIT has arrived, whoever has given up.
                await self.released.wait()
            assert fault.happened == 1
            await self._goes_on(client, deed, answer)
        await ledger.check(self.engine, self.tenant.id)

    async def _goes_on(self, client, deed, answer):
        if answer.is_success:
            assert self.way.is_repeatable
        elif self.way.make is keyed_dashboard:
            # The first may be running still; in the end its answer is the one that is kept.
            while answer.status_code == 409:
                answer = await deed.ask(client)
            assert answer.headers["idempotency-replayed"] == "true"
        elif self.way.is_repeatable:
            check_refusal(answer, answer.status_code)
            await deed.deliver(client)
        else:
            assert "may be stored, or not" in check_refusal(answer, 503)
            async with asyncio.timeout(SOON_S):
                while (await stored(self.engine, self.tenant.id)).get(deed.name) != deed.stores:
                    await asyncio.sleep(0.05)
            deed.is_acknowledged = True
