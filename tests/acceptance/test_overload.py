"""Too much at once, too slow, or no database: said with the right status, and over when it is over."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import text

from acceptance.export import JSON, SIGNALS, export, good
from acceptance.talk import (
    check_problem,
    check_status,
    dashboard,
    post_batch,
    rows_of,
    session,
    stored_batch,
    tool_metric,
)
from metrics_service.db.engine import owner_connection
from metrics_service.db.roles import OWNER
from metrics_service.http import limits

ME = "/api/v1/me"
SESSIONS = "/api/v1/sessions"
DASHBOARDS = "/api/v1/dashboards"
TOOL_BATCH = "/api/v1/tool-metrics/batch"
IN_FLIGHT = 64
AT_ONCE_S = 3
"""What does not wait for what is stuck takes less, also on a machine that has much else to do."""


class Slow:
    """A body that has begun and is not finished before it is told to."""

    def __init__(self, beginning=b"["):
        self._beginning = beginning
        self.begun = 0
        self.may_end = asyncio.Event()

    async def body(self) -> AsyncIterator[bytes]:
        self.begun += 1
        yield self._beginning
        await self.may_end.wait()
        yield b"]"

    async def all_begun(self, count):
        async with asyncio.timeout(10):
            while self.begun < count:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def locked(addresses, schema, table):
    """Hold a table so that nobody can even read it."""
    async with owner_connection(addresses.require_owner()) as connection, connection.begin():
        await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
        await connection.execute(text(f"LOCK TABLE {schema}.{table} IN ACCESS EXCLUSIVE MODE"))
        yield


class Line:
    """A line to the database that can be cut and mended."""

    def __init__(self, dsn):
        self._parts = urlsplit(dsn)
        self._open = set()
        self._server = None
        self.is_cut = False

    async def _reach(self):
        options = parse_qs(self._parts.query)
        port = int(options.get("port", [str(self._parts.port or 5432)])[0])
        host = options.get("host", [self._parts.hostname or "localhost"])[0]
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _serve(self, reader, writer):
        if self.is_cut:
            writer.transport.abort()
            return
        far_reader, far_writer = await self._reach()
        self._open |= {writer, far_writer}
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        self._open -= {writer, far_writer}

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_):
        self.cut()
        self._server.close()
        await asyncio.sleep(0.05)

    @property
    def dsn(self):
        port = self._server.sockets[0].getsockname()[1]
        login = self._parts.netloc.rpartition("@")[0]
        return f"postgresql://{login}@127.0.0.1:{port}{self._parts.path}"

    def cut(self):
        self.is_cut = True
        for writer in self._open:
            writer.transport.abort()

    def mend(self):
        self.is_cut = False


async def _pump(reader, writer):
    try:
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


# -- too many at once -------------------------------------------------------------------------------


async def test_the_sixty_fifth_request_of_a_tenant_is_429_and_other_tenants_are_served(
    client, new_tenant
):
    tenant, other = await new_tenant(), await new_tenant()
    slow = Slow()
    headers = {**tenant.headers, "Content-Type": "application/json"}
    held = [
        asyncio.create_task(client.post(TOOL_BATCH, content=slow.body(), headers=headers))
        for _ in range(IN_FLIGHT)
    ]
    await slow.all_begun(IN_FLIGHT)

    refused = await client.get(ME, headers=tenant.headers)
    stranger = await client.get(ME, headers={**tenant.headers, "Authorization": "Bearer x"})
    served = await client.get(SESSIONS, headers=other.headers)
    slow.may_end.set()
    answers = await asyncio.gather(*held)
    afterwards = await client.get(ME, headers=tenant.headers)

    check_problem(refused, 429)
    assert int(refused.headers["retry-after"]) >= 1
    check_problem(stranger, 401)
    assert served.status_code == 200
    assert {answer.status_code for answer in answers} == {200}
    assert afterwards.status_code == 200


async def test_a_refused_request_gives_its_place_back(client, new_tenant):
    tenant = await new_tenant()

    for _ in range(IN_FLIGHT + 10):
        await client.get(f"{SESSIONS}?limit=x", headers=tenant.headers)
        await client.get("/api/v1/nothing", headers=tenant.headers)

    assert (await client.get(ME, headers=tenant.headers)).status_code == 200


async def test_strangers_cannot_use_up_a_tenants_places(client, new_tenant):
    tenant = await new_tenant()
    slow = Slow()
    wrong = {**tenant.headers, "Authorization": "Bearer x", "Content-Type": "application/json"}
    tasks = [
        asyncio.create_task(client.post(TOOL_BATCH, content=slow.body(), headers=wrong))
        for _ in range(IN_FLIGHT + 1)
    ]
    answers = await asyncio.gather(*tasks)

    assert {answer.status_code for answer in answers} == {401}
    assert slow.begun == 0
    assert (await client.get(ME, headers=tenant.headers)).status_code == 200


# -- too much at once -------------------------------------------------------------------------------

HELD = limits.MIB
LARGE = HELD * 5 // 8


def large(packed=False):
    """A request of logs with much white space: plain, or small until it is inflated."""
    body = json.dumps(good("logs")).encode() + b" " * LARGE
    return gzip.compress(body) if packed else body


@pytest.mark.parametrize("headers", [{}, {"Content_Encoding": "gzip"}])
async def test_a_tenants_bodies_are_held_up_to_a_limit_and_other_tenants_are_served(
    open_app, new_tenant, monkeypatch, headers
):
    tenant, other = await new_tenant(), await new_tenant()
    monkeypatch.setattr(limits, "MAX_HELD_BYTES", HELD)
    slow, body = Slow(b"[" + b" " * LARGE), large(packed=bool(headers))
    held_headers = {**tenant.headers, "Content-Type": JSON}
    async with open_app() as client:
        held = asyncio.create_task(
            client.post(TOOL_BATCH, content=slow.body(), headers=held_headers)
        )
        await slow.all_begun(1)
        refused = await export(client, tenant.headers, "logs", body, JSON, **headers)
        small = await export(client, tenant.headers, "logs", good("logs"))
        served = await export(client, other.headers, "logs", body, JSON, **headers)
        slow.may_end.set()
        first = await held
        again = [
            await export(client, tenant.headers, "logs", body, JSON, **headers) for _ in range(3)
        ]

    check_status(refused, 429)
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["connection"] == "close"
    assert (small.status_code, served.status_code, first.status_code) == (200, 200, 200)
    assert [answer.status_code for answer in again] == [200] * 3


async def test_strangers_cannot_use_up_a_tenants_bytes(open_app, new_tenant, monkeypatch):
    tenant = await new_tenant()
    monkeypatch.setattr(limits, "MAX_HELD_BYTES", HELD)
    slow = Slow(b" " * LARGE)
    async with open_app() as client:
        host = {"Host": tenant.headers["Host"]}
        held = asyncio.create_task(client.post("/page", content=slow.body(), headers=host))
        await slow.all_begun(1)
        response = await export(client, tenant.headers, "logs", large(), JSON)
        slow.may_end.set()
        stranger = await held

    assert response.status_code == 200
    check_problem(stranger, 404)


# -- guessing keys ----------------------------------------------------------------------------------


async def test_failing_attempts_are_throttled_while_a_valid_key_is_served(open_app, new_tenant):
    tenant, other = await new_tenant(), await new_tenant()
    wrong = {"Authorization": "Bearer x"}
    async with open_app(metrics_auth_failures_per_minute=3) as client:
        first = [await client.get(ME, headers={**tenant.headers, **wrong}) for _ in range(3)]
        fourth = await client.get(ME, headers={**tenant.headers, **wrong})
        without = await client.get(ME, headers={"Host": tenant.headers["Host"]})
        disguised = await client.get(
            ME, headers={**tenant.headers, **wrong, "X-Forwarded-For": "198.51.100.1"}
        )
        valid = [await client.get(ME, headers=tenant.headers) for _ in range(5)]
        elsewhere = await client.get(ME, headers={**other.headers, **wrong})

    assert [answer.status_code for answer in first] == [401, 401, 401]
    for answer in (fourth, without, disguised):
        check_problem(answer, 429)
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert {answer.status_code for answer in valid} == {200}
    assert elsewhere.status_code == 401


async def test_behind_a_trusted_proxy_every_client_is_counted_for_itself(open_app, new_tenant):
    tenant = await new_tenant()
    async with open_app(
        metrics_auth_failures_per_minute=3, metrics_trusted_proxies="192.0.2.0/24"
    ) as client:

        async def fail(address):
            wrong = {"Authorization": "Bearer x", "X-Forwarded-For": address}
            return (await client.get(ME, headers={**tenant.headers, **wrong})).status_code

        one = [await fail("198.51.100.1") for _ in range(4)]
        other = await fail("198.51.100.2")
        # What a client claims stands left of what the proxy saw.
        liar = await fail("203.0.113.9, 198.51.100.1")

    assert one == [401, 401, 401, 429]
    assert other == 401
    assert liar == 429


# -- a slow database --------------------------------------------------------------------------------


async def test_without_a_free_connection_it_is_503_and_then_it_is_over(
    open_app, new_tenant, addresses
):
    tenant = await new_tenant()
    changes = {"database_pool_max": 1, "database_pool_min": 1, "database_pool_timeout_ms": 200}
    async with open_app(**changes) as client:
        await client.get(SESSIONS, headers=tenant.headers)
        async with locked(addresses, tenant.tenant.schema_name, "metrics_sessions"):
            blocked = asyncio.create_task(client.get(SESSIONS, headers=tenant.headers))
            await asyncio.sleep(0.1)
            refused = await asyncio.gather(
                client.get(SESSIONS, headers=tenant.headers),
                client.get(DASHBOARDS, headers=tenant.headers),
                post_batch(client, tenant, [tool_metric()]),
            )
        first = await blocked
        afterwards = await client.get(SESSIONS, headers=tenant.headers)

    for answer in refused:
        check_problem(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
    assert (first.status_code, afterwards.status_code) == (200, 200)


async def test_a_tenant_whose_writes_are_stuck_leaves_connections_to_the_others(
    open_app, new_tenant, addresses
):
    tenant, other = await new_tenant(), await new_tenant()
    async with open_app(database_pool_max=4) as client:
        async with locked(addresses, tenant.tenant.schema_name, "metrics_sessions"):
            stuck = [
                asyncio.create_task(export(client, tenant.headers, "logs", good("logs")))
                for _ in range(8)
            ]
            await asyncio.sleep(0.5)
            async with asyncio.timeout(AT_ONCE_S):
                served = await asyncio.gather(
                    export(client, other.headers, "logs", good("logs")),
                    client.get(SESSIONS, headers=other.headers),
                    client.get(DASHBOARDS, headers=tenant.headers),
                )
            is_stuck = not any(task.done() for task in stuck)
        answers = await asyncio.gather(*stuck)

    assert [answer.status_code for answer in served] == [200] * 3
    assert is_stuck
    assert [answer.status_code for answer in answers] == [200] * 8


async def test_a_tenant_whose_dashboards_are_stuck_leaves_connections_to_the_others(
    open_app, new_tenant, addresses
):
    tenant, other = await new_tenant(), await new_tenant()
    number = {
        "id": "n",
        "kind": "number",
        "query": {"source": "tool_metrics", "measures": ["count"]},
    }
    async with open_app(database_pool_max=3) as client:
        made = await client.post(
            DASHBOARDS, json=dashboard(layout={}, widgets=[number]), headers=tenant.headers
        )
        path = f"{DASHBOARDS}/{made.json()['id']}/data"
        async with locked(addresses, tenant.tenant.schema_name, "tool_metrics_daily"):
            stuck = [
                asyncio.create_task(client.post(path, json={}, headers=tenant.headers))
                for _ in range(8)
            ]
            await asyncio.sleep(0.5)
            async with asyncio.timeout(AT_ONCE_S):
                served = await asyncio.gather(
                    client.get(SESSIONS, headers=other.headers),
                    client.get(DASHBOARDS, headers=tenant.headers),
                )
        answers = await asyncio.gather(*stuck)

    assert [answer.status_code for answer in served] == [200] * 2
    assert [answer.status_code for answer in answers] == [200] * 8


@pytest.mark.parametrize("signal", SIGNALS)
async def test_an_export_that_has_no_turn_in_time_is_503_and_then_it_is_over(
    open_app, new_tenant, addresses, signal
):
    tenant = await new_tenant()
    async with open_app(database_pool_max=2, database_pool_timeout_ms=200) as client:
        async with locked(addresses, tenant.tenant.schema_name, "metrics_sessions"):
            first = asyncio.create_task(export(client, tenant.headers, "logs", good("logs")))
            await asyncio.sleep(0.5)
            refused = await export(client, tenant.headers, signal, good(signal))
        stored = await first
        afterwards = await export(client, tenant.headers, signal, good(signal))

    check_status(refused, 503)
    assert refused.headers["retry-after"] == "1"
    assert (stored.status_code, afterwards.status_code) == (200, 200)


@pytest.mark.parametrize("how", ["read", "batch", "session", "dashboards", "new dashboard"])
async def test_a_statement_over_the_tenants_limit_is_504_and_leaves_nothing(
    client, new_tenant, addresses, as_owner, count_rows, how
):
    tenant = await new_tenant()
    await as_owner(
        "UPDATE public.tenants SET metadata = '{\"statement_timeout_ms\": 150}' WHERE id = :id",
        id=tenant.id,
    )
    table = "dashboard_configs" if "dashboard" in how else "metrics_sessions"
    in_session = {"agent": "codex", "external_session_id": "s", "user_email": "a@example.com"}

    async with locked(addresses, tenant.tenant.schema_name, table):
        if how == "read":
            response = await client.get(SESSIONS, headers=tenant.headers)
        elif how == "batch":
            response = await post_batch(client, tenant, [tool_metric(**in_session)])
        elif how == "session":
            body = session(user_email="a@example.com", tags=["a"])
            response = await client.post(SESSIONS, json=body, headers=tenant.headers)
        elif how == "dashboards":
            response = await client.get(DASHBOARDS, headers=tenant.headers)
        else:
            headers = {**tenant.headers, "Idempotency-Key": "k"}
            response = await client.post(DASHBOARDS, json=dashboard(), headers=headers)

    check_problem(response, 504)
    assert set((await count_rows(tenant)).values()) == {0}
    assert (await client.get(SESSIONS, headers=tenant.headers)).status_code == 200


# -- no database ------------------------------------------------------------------------------------


async def test_while_the_database_is_away_it_is_503_and_afterwards_all_is_well(
    open_app, new_tenant, addresses
):
    tenant = await new_tenant()
    async with Line(addresses.runtime) as line, open_app(line.dsn) as client:
        before = await stored_batch(client, tenant, [tool_metric()])
        line.cut()
        away = [
            await client.get(SESSIONS, headers=tenant.headers),
            await client.get(DASHBOARDS, headers=tenant.headers),
            await post_batch(client, tenant, [tool_metric(duration_ms=1)]),
            await client.get(ME, headers={"Host": "somebody.localhost"}),
            await client.get(ME, headers={**tenant.headers, "Authorization": "Bearer x"}),
        ]
        live = await client.get("/health/live")
        async with asyncio.timeout(5):
            # Probes are answered by what was found within the last second.
            while (await client.get("/health/ready")).status_code != 503:
                await asyncio.sleep(0.05)
        line.mend()
        async with asyncio.timeout(10):
            while (await client.get("/health/ready")).status_code != 200:
                await asyncio.sleep(0.05)
            while (await client.get(SESSIONS, headers=tenant.headers)).status_code != 200:
                await asyncio.sleep(0.05)
        after = await stored_batch(client, tenant, [tool_metric(), tool_metric(duration_ms=1)])

    assert before["inserted"] == 1
    for answer in away:
        check_problem(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
    assert live.status_code == 200
    assert after == {"inserted": 1, "duplicates": 1}


async def test_a_connection_that_breaks_in_the_middle_is_503_and_half_of_nothing(
    open_app, new_tenant, addresses, count_rows
):
    tenant = await new_tenant()
    in_session = {"agent": "codex", "external_session_id": "s", "user_email": "a@example.com"}
    async with Line(addresses.runtime) as line, open_app(line.dsn) as client:
        await client.get(SESSIONS, headers=tenant.headers)
        async with (
            locked(addresses, tenant.tenant.schema_name, "metrics_sessions"),
            locked(addresses, tenant.tenant.schema_name, "dashboard_configs"),
        ):
            under_way = [
                asyncio.create_task(request)
                for request in (
                    post_batch(client, tenant, [tool_metric(**in_session)]),
                    client.get(SESSIONS, headers=tenant.headers),
                    client.get(DASHBOARDS, headers=tenant.headers),
                    client.post(DASHBOARDS, json=dashboard(), headers=tenant.headers),
                )
            ]
            await asyncio.sleep(0.2)
            line.cut()
            answers = await asyncio.gather(*under_way)
        line.mend()
        await asyncio.sleep(1.2)
        rows = await rows_of(client, SESSIONS, tenant)

    for answer in answers:
        check_problem(answer, 503)
    assert rows == []
    assert set((await count_rows(tenant)).values()) == {0}


async def test_a_client_that_leaves_gives_its_connection_back(open_app, new_tenant, addresses):
    tenant = await new_tenant()
    async with open_app(database_pool_max=1, database_pool_min=1) as client:
        await client.get(SESSIONS, headers=tenant.headers)
        async with locked(addresses, tenant.tenant.schema_name, "metrics_sessions"):
            for _ in range(3):
                left = asyncio.create_task(client.get(SESSIONS, headers=tenant.headers))
                await asyncio.sleep(0.1)
                left.cancel()
                await asyncio.gather(left, return_exceptions=True)
            response = await client.get(DASHBOARDS, headers=tenant.headers)

    assert response.status_code == 200
