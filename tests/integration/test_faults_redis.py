"""Redis goes, freezes, is full and lies, in front of two servers: answers stay right, and nobody waits for it.

All the while each of two tenants sees itself and its own figures, those of this moment, at both servers;
a key that was revoked is refused by both; and nobody is told anything but what was asked for.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import httpx
import msgspec
import pytest
import redis
from acceptance.talk import stored_dashboard, widget
from acknowledged import DASHBOARDS, Load, batch, client_of, say
from own_servers import OwnServer
from redis_servers import RedisServer, redis_server
from served import Served, Tenant, new_tenant, served
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.engine import runtime_engine

HOLDS_S = 2.0
"""Within which a revoked key is refused everywhere."""
TROUBLE_S = 1.5
PATIENCE_S = 5.0
"""Far beyond what anybody waits; for a machine that is busy."""
DAY = {"from": "2026-03-02T00:00:00Z", "to": "2026-03-03T00:00:00Z"}
TILE = widget(kind="number", query={"source": "tool_metrics", "measures": ["count"]})


@pytest.fixture(scope="module")
def second_level() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(scope="module")
async def engine(own: OwnServer) -> AsyncIterator[AsyncEngine]:
    made = runtime_engine(own.addresses.runtime, pool_max=2)
    yield made
    await made.dispose()


@pytest.fixture(scope="module")
async def both(own: OwnServer, second_level: RedisServer) -> AsyncIterator[tuple[Served, ...]]:
    """Two servers; what they count together by Redis is counted, and refuses nobody."""
    limits = {"METRICS_REQUESTS_PER_SECOND": "100000", "METRICS_AUTH_FAILURES_PER_MINUTE": "100000"}
    async with AsyncExitStack() as stack:
        starting = [served(own, REDIS_URL=second_level.url, **limits) for _ in range(2)]
        yield tuple(
            await asyncio.gather(*(stack.enter_async_context(server) for server in starting))
        )


class Viewer:
    """Whoever looks at one tenant at all servers, and knows what there must be to see."""

    def __init__(self, tenant: Tenant, clients: list[httpx.AsyncClient], board: str) -> None:
        self.tenant, self._clients, self._board = tenant, clients, board
        self._calls = 0
        self.took_s: list[float] = []
        self.held_s: list[float] = []
        self._revoked: list[dict[str, str]] = []

    async def round(self) -> None:
        """One batch at a server, and what all of them show then; a key, and its end."""
        writer = random.choice(self._clients)
        answer = await self._ask(writer, batch().path, batch().body)
        assert answer.status_code == 200, answer.text
        self._calls += answer.json()["inserted"]
        await asyncio.gather(*(self._look(client) for client in self._clients))
        await self._revoke()

    async def _look(self, client: httpx.AsyncClient) -> None:
        who = await self._ask(client, "/api/v1/me")
        assert who.json()["tenant"]["slug"] == self.tenant.slug
        shown = await self._ask(
            client, f"{DASHBOARDS}/{self._board}/data", msgspec.json.encode(DAY)
        )
        assert shown.json()["data"][0]["totals"]["count"] == self._calls

    async def _revoke(self) -> None:
        admin = random.choice(self._clients)
        body = msgspec.json.encode({"name": "short", "scopes": ["read"]})
        made = (await self._ask(admin, "/api/v1/keys", body)).json()
        key = {"Authorization": f"Bearer {made['key']}"}
        for client in self._clients:
            for _ in range(2):
                assert (await self._ask(client, "/api/v1/me", headers=key)).status_code == 200

        gone = await self._ask(admin, f"/api/v1/keys/{made['id']}", method="DELETE")
        assert gone.status_code == 204
        begun = time.monotonic()
        await asyncio.gather(*(self._is_refused(client, key, begun) for client in self._clients))
        self._revoked.append(key)
        # Nor does one come back, whatever stood in Redis while it was valid.
        for client in self._clients:
            answer = await self._ask(client, "/api/v1/me", headers=random.choice(self._revoked))
            assert answer.status_code == 401

    async def _is_refused(
        self, client: httpx.AsyncClient, key: dict[str, str], revoked_at: float
    ) -> None:
        while True:
            asked_at = time.monotonic()
            answer = await self._ask(client, "/api/v1/me", headers=key)
            if answer.status_code == 401:
                self.held_s.append(asked_at - revoked_at)
                return
            assert asked_at - revoked_at < HOLDS_S, "a revoked key is let in"
            await asyncio.sleep(0.02)

    async def _ask(
        self,
        client: httpx.AsyncClient,
        path: str,
        body: bytes | None = None,
        *,
        method: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        begun = time.perf_counter()
        answer = await client.request(
            method or ("GET" if body is None else "POST"),
            path,
            content=body,
            headers={**({"Content-Type": "application/json"} if body else {}), **(headers or {})},
        )
        self.took_s.append(time.perf_counter() - begun)
        return answer


@pytest.fixture
async def viewers(own: OwnServer, both: tuple[Served, ...]) -> AsyncIterator[list[Viewer]]:
    """One of each of two tenants."""
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(2):
            tenant = await new_tenant(own)
            clients = [
                await stack.enter_async_context(client_of(server.port, tenant.headers))
                for server in both
            ]
            board = await stored_dashboard(
                clients[0], tenant, layout={}, widgets=[TILE], visibility="tenant"
            )
            made.append(Viewer(tenant, clients, board["id"]))
        yield made


# -- what happens to Redis ----------------------------------------------------------------------------


@asynccontextmanager
async def killed_and_empty_again(server: RedisServer) -> AsyncIterator[None]:
    server.kill()
    try:
        yield
    finally:
        await asyncio.to_thread(server.start)


@asynccontextmanager
async def stalled(server: RedisServer) -> AsyncIterator[None]:
    with server.frozen():
        yield


@asynccontextmanager
async def stalled_again_and_again(server: RedisServer) -> AsyncIterator[None]:
    async def stall() -> None:
        while True:
            with server.frozen():
                await asyncio.sleep(0.2)
            await asyncio.sleep(0.2)

    async with _meanwhile(stall()):
        yield


@asynccontextmanager
async def full(server: RedisServer) -> AsyncIterator[None]:
    server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    server.ask("CONFIG", "SET", "maxmemory", "1mb")
    try:
        with pytest.raises(redis.OutOfMemoryError):
            server.ask("SET", "another", "x")
        yield
    finally:
        server.ask("CONFIG", "SET", "maxmemory", "0")


@asynccontextmanager
async def lying(server: RedisServer) -> AsyncIterator[None]:
    """What stands under a name is that of another name, or of before, or nothing of ours."""
    chance = random.Random(20261122)
    seen: dict[bytes, set[bytes]] = {}

    def lie() -> None:
        with redis.Redis(port=server.port, protocol=2) as there:
            for name in there.keys("metrics:*"):
                with suppress(redis.ResponseError):
                    value = there.get(name)
                    seen.setdefault(name, set()).update({value} - {None})
            everything = [value for values in seen.values() for value in values]
            for name, values in seen.items():
                if not values:
                    # It was gone before it was read.
                    continue
                lies = [chance.choice(everything), chance.choice([*values]), chance.randbytes(64)]
                there.set(name, chance.choice(lies))

    async def tell_lies() -> None:
        while True:
            await asyncio.to_thread(lie)
            await asyncio.sleep(0.02)

    async with _meanwhile(tell_lies()):
        yield
    assert len(seen) > 1, "there was nothing to lie about"


@asynccontextmanager
async def _meanwhile(doing: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(doing)
    try:
        yield
    finally:
        assert not task.done(), task.exception()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    "trouble",
    [killed_and_empty_again, stalled, stalled_again_and_again, full, lying],
    ids=lambda trouble: trouble.__name__,
)
async def test_whatever_becomes_of_redis_answers_are_right_and_nobody_waits(
    own, engine, both, second_level, viewers, trouble
):
    tenant = await new_tenant(own)
    loads = [Load(server.port, tenant.headers) for server in both]
    async with loads[0].kept_up(1), loads[1].kept_up(1):
        await rounds(viewers, for_s=0)
        async with trouble(second_level):
            await rounds(viewers, for_s=TROUBLE_S)
        await rounds(viewers, for_s=0.5)

    took_s = sorted(took for viewer in viewers for took in viewer.took_s)
    held_s = [held for viewer in viewers for held in viewer.held_s]
    say(
        f"redis {trouble.__name__}: {len(took_s)} answers, p50 {statistics.median(took_s) * 1000:.1f} ms,"
        f" p99 {statistics.quantiles(took_s, n=100)[98] * 1000:.1f} ms, longest {took_s[-1]:.2f} s;"
        f" {len(held_s)} keys revoked, each refused after {max(held_s):.2f} s at most"
    )
    assert took_s[-1] < PATIENCE_S
    loads[0].ledger.deeds += loads[1].ledger.deeds
    assert loads[0].ledger.refusals == 0
    await loads[0].ledger.check(engine, tenant.id)


async def rounds(viewers: list[Viewer], *, for_s: float) -> None:
    until = time.monotonic() + for_s

    async def view(viewer: Viewer) -> None:
        await viewer.round()
        while time.monotonic() < until:
            await viewer.round()

    async with asyncio.TaskGroup() as group:
        for viewer in viewers:
            group.create_task(view(viewer))
