"""Long reads go to a replica, and nobody can tell: not by what is shown, and not by an error."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from acceptance.conftest import client_of
from acceptance.talk import (
    at,
    check_problem,
    stored_batch,
    stored_dashboard,
    stored_session,
    tool_metric,
    widget,
)
from own_servers import OwnServer, Standby, frozen
from served import new_tenant, served
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.app import create_app
from metrics_service.db.addresses import RUNTIME_LOGIN, SUPERUSER
from metrics_service.db.engine import owner_connection, runtime_engine
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.http.cookies import NAME
from metrics_service.observability import catalog
from metrics_service.settings import Settings
from metrics_service.tenants import lifecycle
from metrics_service.tenants.sign_ins import begin_sign_in

SUMMARY = "/api/v1/tool-metrics/summary"
BATCH = "/api/v1/tool-metrics/batch"
DAY = {"from": "2026-03-02T00:00:00Z", "to": "2026-03-03T00:00:00Z"}
TOTAL = widget(id="sum", kind="number", query={"source": "tool_metrics", "measures": ["count"]})
CAUGHT_UP_S = 15.0
LOAD_S = 6.0
READERS, WRITERS = 6, 2
SECONDS = itertools.count()


@pytest.fixture
def standby(own: OwnServer) -> Iterator[Standby]:
    with own.standby() as made:
        yield made


@pytest.fixture(scope="module")
async def engine(own: OwnServer) -> AsyncIterator[AsyncEngine]:
    made = runtime_engine(own.addresses.runtime, pool_max=2)
    yield made
    await made.dispose()


@pytest.fixture
async def app(own: OwnServer, standby: Standby) -> AsyncIterator[httpx.AsyncClient]:
    async with opened(own, standby.dsn(RUNTIME_LOGIN)) as client:
        yield client


@pytest.fixture
async def tenant(own: OwnServer):
    return await new_tenant(own)


def reads() -> Counter[str]:
    """How many long reads each kind of server was asked, and why no replica was."""
    found: Counter[str] = Counter()
    for instrument in (catalog.LONG_READS, catalog.REPLICA_FALLBACKS):
        for point in instrument.points():
            found[str(point.values[0])] += int(point.value)
    return found


async def ask(standby: Standby, query: str):
    connection = await asyncpg.connect(standby.dsn(SUPERUSER))
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


@asynccontextmanager
async def paused(standby: Standby) -> AsyncIterator[None]:
    """It receives all, and shows nothing of it."""
    await ask(standby, "SELECT pg_wal_replay_pause()")
    while await ask(standby, "SELECT pg_get_wal_replay_pause_state()") != "paused":
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        await ask(standby, "SELECT pg_wal_replay_resume()")


@asynccontextmanager
async def opened(
    own: OwnServer, replica_urls: str | None, **changes: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """An application in this process, which reads of these."""
    settings = Settings(
        metrics_secret_key="a secret key that only tests ever use",
        metrics_requests_per_second=0,
        database_replica_urls=replica_urls,
        **changes,
    )
    dsn = own.addresses.runtime
    app = create_app(settings, runtime_dsn=dsn, direct_dsn=dsn)
    async with client_of(app) as client:
        yield client


def another() -> dict[str, Any]:
    """A call that no other is taken for."""
    return tool_metric(started_at=at(next(SECONDS)))


async def count(client, tenant) -> int:
    """How many calls a summary finds."""
    asked = {**DAY, "group_by": "day"}
    answer = await client.get(SUMMARY, params=asked, headers=tenant.headers)
    assert answer.status_code == 200, answer.text
    return sum(row["count"] for row in answer.json()["data"])


async def shown(client, tenant, board) -> int:
    """How many calls a dashboard shows."""
    path = f"/api/v1/dashboards/{board['id']}/data"
    answer = await client.post(path, json=DAY, headers=tenant.headers)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["data"][0]["totals"]["count"])


async def until_read_there(client, tenant) -> None:
    """Until the replica has caught up, and is tried again."""
    give_up_at = time.monotonic() + CAUGHT_UP_S
    while True:
        before = reads()
        await count(client, tenant)
        if (reads() - before)["replica"] == 1:
            return
        assert time.monotonic() < give_up_at, reads() - before
        await asyncio.sleep(0.02)


async def board_of(client, tenant):
    return await stored_dashboard(client, tenant, layout={}, widgets=[TOTAL], visibility="tenant")


# -- where they go ----------------------------------------------------------------------------------


async def test_a_long_read_goes_to_the_replica_and_a_short_one_does_not(app, tenant, standby):
    await stored_batch(app, tenant, [another()])
    await until_read_there(app, tenant)
    before = reads()

    assert await count(app, tenant) == 1
    rows = await app.get("/api/v1/tool-metrics", headers=tenant.headers)

    assert len(rows.json()["data"]) == 1
    assert reads() - before == {"replica": 1}
    name = await ask(
        standby,
        "SELECT string_agg(DISTINCT usename, ',') FROM pg_stat_activity"
        " WHERE application_name = 'metrics-service'",
    )
    assert name == RUNTIME_LOGIN
    pools = {point.values[0] for point in catalog.DB_CONNECTION_MAX.points()}
    assert pools == {"runtime", "replica-1"}


async def test_every_long_read_is_answered_there_as_it_is_by_the_primary(app, own, engine, tenant):
    session = await stored_session(app, tenant, user_email="ada@example.com")
    await stored_batch(
        app,
        tenant,
        [
            tool_metric(session_id=session["id"], user_email="ada@example.com"),
            tool_metric(session_id=session["id"], status="error", error_type="timeout"),
        ],
    )
    board = await board_of(app, tenant)
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        user_id = await connection.fetchval(
            "INSERT INTO users (email, name, role) VALUES ('o@example.com', 'O', 'owner')"
            " RETURNING id"
        )
        made = await begin_sign_in(connection, UUID(str(user_id)), user_agent="a test")
    person = {
        "Host": tenant.headers["Host"],
        "Cookie": f"{NAME}={made.token}",
        "Sec-Fetch-Site": "same-origin",
    }
    days = "from=2026-03-02&to=2026-03-02"
    period = f"from={DAY['from']}&to={DAY['to']}"
    asked = [
        ("GET", f"/api/v1/sessions/summary?group_by=day&{period}", None),
        ("GET", f"{SUMMARY}?group_by=day&{period}", None),
        ("GET", f"/api/v1/model-calls/summary?group_by=day&{period}", None),
        ("GET", "/api/v1/identities", None),
        ("GET", "/api/v1/identities/unclaimed", None),
        (
            "POST",
            f"/api/v1/dashboards/{board['id']}/origin",
            {**DAY, "widget": "sum", "measure": "count"},
        ),
        ("POST", f"/api/v1/dashboards/{board['id']}/data", DAY),
        ("GET", f"/?{days}", None),
        ("GET", f"/tools?{days}", None),
        ("GET", f"/models?{days}", None),
        ("GET", f"/people?{days}", None),
        ("GET", f"/sessions?q=Bash&{days}", None),
        ("GET", f"/sessions/{session['id']}?failed=true", None),
        ("GET", f"/sessions/{session['id']}/timeline?failed=true", None),
        ("GET", f"/dashboards/{board['id']}?{days}", None),
        ("GET", f"/dashboards/{board['id']}/versions/1?{days}", None),
    ]
    await until_read_there(app, tenant)

    async with opened(own, None) as plain:
        for method, path, body in asked:
            headers = tenant.headers if path.startswith("/api/") else person
            before = reads()
            here = await app.request(method, path, json=body, headers=headers)
            assert reads() - before == {"replica": 1}, (path, here.text, reads() - before)
            there = await plain.request(method, path, json=body, headers=headers)
            assert reads() - before == {"replica": 1}, path
            assert here.status_code == there.status_code == 200, (path, here.text)
            if "/data" in path:
                assert here.json()["data"] == there.json()["data"]
            elif path.startswith("/api/"):
                assert here.json() == there.json(), path


async def test_another_tenant_sees_its_own_there(app, own, tenant):
    other = await new_tenant(own)
    await stored_batch(app, tenant, [another() for _ in range(3)])
    await stored_batch(app, other, [another()])
    await until_read_there(app, tenant)
    await until_read_there(app, other)
    board = await board_of(app, tenant)
    before = reads()

    counts = await asyncio.gather(*(count(app, who) for who in [tenant, other] * 4))

    assert counts == [3, 1] * 4
    assert (reads() - before)["replica"] > 0
    answer = await app.post(
        f"/api/v1/dashboards/{board['id']}/data", json=DAY, headers=other.headers
    )
    check_problem(answer, 404)


# -- never old --------------------------------------------------------------------------------------


async def test_who_wrote_reads_it_although_the_replica_has_it_not_yet(app, own, standby, tenant):
    board = await board_of(app, tenant)
    await stored_batch(app, tenant, [another()])
    await until_read_there(app, tenant)
    async with served(own, DATABASE_REPLICA_URLS=standby.dsn(RUNTIME_LOGIN)) as server:
        address = f"http://127.0.0.1:{server.port}"
        async with httpx.AsyncClient(base_url=address, trust_env=False) as elsewhere:
            assert await count(elsewhere, tenant) == 1
            before = reads()
            async with paused(standby):
                for stored in range(2, 12):
                    writer = (app, elsewhere)[stored % 2]
                    await stored_batch(writer, tenant, [another()])

                    for client in (app, elsewhere):
                        assert await count(client, tenant) == stored
                        assert await shown(client, tenant, board) == stored
                assert await ask(standby, "SELECT pg_is_wal_replay_paused()")
            there = reads() - before

    assert there["replica"] == 0
    # It is tried now and then, but not each time.
    assert 1 <= there["differs"] < 20
    assert there["resting"] > there["differs"]
    await until_read_there(app, tenant)
    assert await count(app, tenant) == 11


async def test_a_tenant_of_which_nothing_was_changed_is_served_by_a_replica_that_stands_still(
    app, own, standby, tenant
):
    quiet = await new_tenant(own)
    await stored_batch(app, quiet, [another()])
    await until_read_there(app, quiet)

    async with paused(standby):
        await stored_batch(app, tenant, [another()])
        before = reads()
        assert await count(app, quiet) == 1
        assert await count(app, tenant) == 1

        assert reads() - before == {"replica": 1, "primary": 1, "differs": 1}


async def test_a_tenant_that_the_replica_does_not_know_yet_is_served(app, own, standby):
    async with paused(standby):
        new = await new_tenant(own)
        before = reads()
        await stored_batch(app, new, [another()])

        assert await count(app, new) == 1

        assert reads() - before == {"primary": 1, "failed": 1}


async def test_who_is_suspended_is_refused_although_the_replica_knows_nothing_of_it(
    app, own, standby, tenant
):
    await stored_batch(app, tenant, [another()])
    await until_read_there(app, tenant)

    async with paused(standby):
        async with owner_connection(own.addresses.require_owner()) as owner:
            await lifecycle.suspend(owner, tenant.slug)

        check_problem(await app.get(SUMMARY, params=DAY, headers=tenant.headers), 403)


class Load:
    """Writers and readers of two tenants at once; each reader knows what was acknowledged before it asked."""

    def __init__(self, client, tenants) -> None:
        self._client = client
        self._tenants = tenants
        self._stored = {tenant.id: 0 for tenant in tenants}
        self._boards = {}
        self.answered = 0
        self.slowest_s = 0.0
        self.is_over = False

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """While this is open; raises what any of them met."""
        for tenant in self._tenants:
            self._boards[tenant.id] = await board_of(self._client, tenant)
        async with asyncio.TaskGroup() as group:
            for number in range(READERS):
                group.create_task(self._read(self._tenants[number % 2]))
            for number in range(WRITERS):
                group.create_task(self._write(self._tenants[number % 2]))
            try:
                yield
            finally:
                self.is_over = True

    async def _write(self, tenant) -> None:
        while not self.is_over:
            await stored_batch(self._client, tenant, [another()])
            self._stored[tenant.id] += 1
            await asyncio.sleep(0.1)

    async def _read(self, tenant) -> None:
        while not self.is_over:
            for read in (self._count, self._shown):
                known, begun = self._stored[tenant.id], time.perf_counter()
                found = await read(tenant)
                assert known <= found <= self._stored[tenant.id] + 1
                self.slowest_s = max(self.slowest_s, time.perf_counter() - begun)
                self.answered += 1
            await asyncio.sleep(0.02)

    async def _count(self, tenant) -> int:
        return await count(self._client, tenant)

    async def _shown(self, tenant) -> int:
        return await shown(self._client, tenant, self._boards[tenant.id])


@pytest.fixture
async def tenants(own):
    return [await new_tenant(own) for _ in range(2)]


async def test_no_read_misses_what_was_stored_before_it(app, standby, tenants):
    load = Load(app, tenants)
    before = reads()

    async with load.kept():
        await asyncio.sleep(LOAD_S / 3)
        async with paused(standby):
            await asyncio.sleep(LOAD_S / 3)
        await asyncio.sleep(LOAD_S / 3)

    found = reads() - before
    assert found["replica"] > 20
    assert found["primary"] > 20


# -- a replica that goes ----------------------------------------------------------------------------


async def test_a_replica_that_is_stopped_and_comes_back_is_felt_by_nobody(app, standby, tenants):
    load = Load(app, tenants)
    async with load.kept():
        await asyncio.sleep(1)
        assert reads()["replica"] > 0
        await asyncio.to_thread(standby.control, "stop", "-m", "immediate")
        before = reads()
        await asyncio.sleep(2)
        away = reads() - before
        await asyncio.to_thread(standby.control, "start")
        before = reads()
        await asyncio.sleep(4)
    back = reads() - before

    assert away["replica"] == 0
    assert away["primary"] > 10
    assert back["replica"] > 10


async def test_a_replica_that_freezes_is_felt_as_a_pause_by_few(app, standby, tenants):
    load = Load(app, tenants)
    async with load.kept():
        await asyncio.sleep(1)
        with frozen(standby.data_dir):
            await asyncio.sleep(4)
            before = reads()
            await asyncio.sleep(1)
            away = reads() - before
        before = reads()
        await asyncio.sleep(4)
    back = reads() - before

    assert away["replica"] == 0
    assert away["primary"] > 10
    assert back["replica"] > 10
    assert load.slowest_s < 5


async def test_a_replica_that_is_promoted_is_read_of_no_more(app, standby, tenants):
    load = Load(app, tenants)
    async with load.kept():
        await asyncio.sleep(1)
        assert reads()["replica"] > 0
        await asyncio.to_thread(standby.promote)
        before = reads()
        await asyncio.sleep(3)
    found = reads() - before

    assert found["replica"] == 0
    assert found["promoted"] >= 1
    assert found["primary"] > 10


async def test_a_replica_that_was_never_there_is_felt_by_nobody(own, tenant):
    nowhere = f"postgresql://{RUNTIME_LOGIN}@127.0.0.1:1/metrics"
    async with opened(own, nowhere) as client:
        await stored_batch(client, tenant, [another()])
        before = reads()

        assert [await count(client, tenant) for _ in range(5)] == [1] * 5

        found = reads() - before
    assert found["primary"] == 5
    assert found["replica"] == 0


async def test_the_second_replica_answers_where_the_first_is_away(own, standby, tenant):
    nowhere = f"postgresql://{RUNTIME_LOGIN}@127.0.0.1:1/metrics"
    both = f"{nowhere},{standby.dsn(RUNTIME_LOGIN)}"
    async with opened(own, both) as client:
        await stored_batch(client, tenant, [another()])
        await until_read_there(client, tenant)
        before = reads()

        assert [await count(client, tenant) for _ in range(6)] == [1] * 6

        assert (reads() - before)["replica"] >= 5


async def test_a_replica_that_is_found_late_is_not_tried(own, standby, tenant):
    late = {"metrics_health_interval_ms": 100, "metrics_health_replica_lag_ms": 300}
    async with opened(own, standby.dsn(RUNTIME_LOGIN), **late) as client:
        await stored_batch(client, tenant, [another()])
        await until_read_there(client, tenant)
        async with paused(standby):
            give_up_at = time.monotonic() + CAUGHT_UP_S
            while not (found := reads())["unhealthy"]:
                assert time.monotonic() < give_up_at, found
                await stored_batch(client, tenant, [another()])
                await count(client, tenant)
                await asyncio.sleep(0.05)
            before = reads()
            await count(client, tenant)
            assert reads() - before == {"primary": 1, "unhealthy": 1}

        await until_read_there(client, tenant)


async def test_what_a_replica_cancels_is_read_of_the_primary(app, standby, tenant):
    """As it does when what it has to replay removes rows that a long read still sees."""
    await stored_batch(app, tenant, [another()])
    await until_read_there(app, tenant)
    before = reads()
    killed = 0
    async with asyncio.timeout(CAUGHT_UP_S):
        while not (reads() - before)["lost"]:
            _, number, found = await asyncio.gather(
                asyncio.sleep(0), terminated(standby), count(app, tenant)
            )
            killed += number
            assert found == 1

    assert killed


async def terminated(standby: Standby) -> int:
    await asyncio.sleep(0.003)
    return int(
        await ask(
            standby,
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE application_name = 'metrics-service' AND state <> 'idle'",
        )
    )
