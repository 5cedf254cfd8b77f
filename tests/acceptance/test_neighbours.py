"""No tenant feels another: floods, lines, thousands of sockets that say nothing, clients that leave."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from time import perf_counter
from typing import Any

import httpx
import pytest

from acceptance.conftest import SOURCE, Wire, _wait_until_healthy
from acceptance.export import export, good
from acceptance.talk import (
    check_problem,
    check_status,
    post_batch,
    stored_batch,
    stored_dashboard,
    tool_metric,
)

ME = "/api/v1/me"
SESSIONS = "/api/v1/sessions"

LIMIT = 10
FLOODED_LIMIT, TIMES = 4, 50
FLOOD_S = 6.0
SENDERS = 20
IN_FLIGHT, LONG_LIST, HEAVY_S = 64, 500, 4.0
SOCKETS = 5000
"""Each is a file of ours, and those that are taken in one of the server's."""


@contextmanager
def serving(settings: Any, addresses: Any, **environ: str) -> Iterator[Wire]:
    """The server that the product ships, with settings of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("METRICS_")}
    kept.pop("DATABASE_OWNER_URL", None)
    command = [sys.executable, "-m", "metrics_service", "serve", "--port", str(port)]
    process = subprocess.Popen(
        command,
        env={
            **kept,
            "PYTHONPATH": str(SOURCE),
            "PYTHONWARNINGS": "ignore",
            "DATABASE_URL": addresses.runtime,
            "METRICS_SECRET_KEY": str(settings.metrics_secret_key),
            "METRICS_LOG_LEVEL": "error",
            **environ,
        },
    )
    try:
        _wait_until_healthy(port, process)
        yield Wire(port, process)
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def limited(settings, addresses) -> Iterator[Wire]:
    """A server with a limit that one process can exceed fifty times."""
    with serving(settings, addresses, METRICS_REQUESTS_PER_SECOND=str(FLOODED_LIMIT)) as wire:
        yield wire


# -- the rate ---------------------------------------------------------------------------------------


async def test_a_tenant_over_its_rate_is_429_and_no_other_is(open_app, new_tenant) -> None:
    tenant, other = await new_tenant(), await new_tenant()
    async with open_app(metrics_requests_per_second=LIMIT) as client:
        mine = [await client.get(ME, headers=tenant.headers) for _ in range(LIMIT * 2 + 10)]
        refused = await post_batch(client, tenant, [tool_metric()])
        exported = await export(client, tenant.headers, "logs", good("logs"))
        theirs = [await client.get(ME, headers=other.headers) for _ in range(5)]
        live = await client.get("/health/live")
        await asyncio.sleep(1.1)
        later = await client.get(ME, headers=tenant.headers)

    assert [answer.status_code for answer in mine[: LIMIT * 2]] == [200] * LIMIT * 2
    assert mine[-1].status_code == 429
    assert check_problem(refused, 429)["detail"] == f"a tenant may make {LIMIT} requests a second"
    assert int(refused.headers["retry-after"]) == 1
    check_status(exported, 429)
    assert [answer.status_code for answer in theirs] == [200] * 5
    assert (live.status_code, later.status_code) == (200, 200)
    assert mine[0].json()["limits"]["requests_per_second"] == LIMIT


async def test_strangers_use_up_nothing_of_a_tenants_rate(open_app, new_tenant) -> None:
    tenant = await new_tenant()
    wrong = {**tenant.headers, "Authorization": "Bearer x"}
    async with open_app(
        metrics_requests_per_second=LIMIT, metrics_auth_failures_per_minute=0
    ) as client:
        strangers = [await client.get(ME, headers=wrong) for _ in range(LIMIT * 3)]
        mine = await client.get(ME, headers=tenant.headers)

    assert {answer.status_code for answer in strangers} == {401}
    assert mine.status_code == 200


async def test_without_a_limit_me_says_so(open_app, new_tenant) -> None:
    tenant = await new_tenant()
    async with open_app(metrics_requests_per_second=0) as client:
        answer = await client.get(ME, headers=tenant.headers)

    assert answer.json()["limits"]["requests_per_second"] is None


# -- a flood ----------------------------------------------------------------------------------------


async def ask_now_and_then(
    client: httpx.AsyncClient, tenant: Any, seconds: float
) -> tuple[list[float], set[int]]:
    took, statuses = [], set()
    until = perf_counter() + seconds
    while perf_counter() < until:
        begun = perf_counter()
        statuses.add((await client.get(SESSIONS, headers=tenant.headers)).status_code)
        took.append(perf_counter() - begun)
        await asyncio.sleep(0.4)
    return took, statuses


@asynccontextmanager
async def flooding(client: httpx.AsyncClient, tenant: Any) -> AsyncIterator[list[int]]:
    """Send fifty times the limit, as far as one process can."""
    statuses: list[int] = []

    async def send() -> None:
        while True:
            due = perf_counter() + SENDERS / (FLOODED_LIMIT * TIMES)
            statuses.append((await client.get(SESSIONS, headers=tenant.headers)).status_code)
            await asyncio.sleep(max(0.0, due - perf_counter()))

    senders = [asyncio.create_task(send()) for _ in range(SENDERS)]
    try:
        yield statuses
    finally:
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)


async def test_beside_a_flood_a_quiet_tenant_is_served_without_an_error(
    limited, new_tenant
) -> None:
    """How long it takes is for `scripts/bench/neighbours.py`: here both ends share two cores."""
    loud, quiet = await new_tenant(), await new_tenant()
    async with limited.client() as ours, limited.client() as theirs:
        alone, at_first = await ask_now_and_then(ours, quiet, 2.0)
        async with flooding(theirs, loud) as loud_statuses:
            beside, statuses = await ask_now_and_then(ours, quiet, FLOOD_S)

    assert at_first == statuses == {200}
    assert set(loud_statuses) == {200, 429}
    served = loud_statuses.count(200)
    # What it began with, and what came while it flooded, which ends a little later than it should.
    assert served <= FLOODED_LIMIT * (2 + FLOOD_S + 2)
    assert loud_statuses.count(429) > served
    assert statistics.median(beside) < max(0.2, 10 * statistics.median(alone))


# -- what is heavy ----------------------------------------------------------------------------------


@asynccontextmanager
async def occupying(
    client: httpx.AsyncClient, tenant: Any, paths: list[str]
) -> AsyncIterator[list[int]]:
    """Have as many requests in flight as a tenant may, all the time."""
    statuses: list[int] = []

    async def ask(path: str) -> None:
        while True:
            answer = await client.get(path, headers=tenant.headers)
            statuses.append(answer.status_code)
            if answer.status_code != 200:
                await asyncio.sleep(0.1)

    asking = [asyncio.create_task(ask(paths[number % len(paths)])) for number in range(IN_FLIGHT)]
    try:
        yield statuses
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def test_beside_a_tenant_with_all_it_may_have_in_flight_of_heavy_things_another_is_served(
    settings, addresses, new_tenant
) -> None:
    loud, quiet = await new_tenant(), await new_tenant()
    async with AsyncExitStack() as opened:
        wire = opened.enter_context(serving(settings, addresses))
        ours = await opened.enter_async_context(wire.client())
        theirs = await opened.enter_async_context(wire.client())
        await stored_batch(
            theirs, loud, [tool_metric(duration_ms=number) for number in range(LONG_LIST)]
        )
        board = await stored_dashboard(theirs, loud)
        image = f"/api/v1/dashboards/{board['id']}/image"
        paths = [f"/api/v1/tool-metrics?limit={LONG_LIST}"] * 3 + [image]
        async with occupying(theirs, loud, paths) as loud_statuses:
            _, statuses = await ask_now_and_then(ours, quiet, HEAVY_S)

    assert statuses == {200}
    assert loud_statuses.count(200) > 0
    # Pictures wait for each other, and no tenant has more than a few of them wait.
    assert {200, 503} <= set(loud_statuses) <= {200, 429, 503}


# -- sockets ----------------------------------------------------------------------------------------


async def test_five_thousand_sockets_that_say_nothing_or_little_stop_nobody(
    limited, new_tenant
) -> None:
    tenant = await new_tenant()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] != resource.RLIM_INFINITY and before[1] < SOCKETS + 500:
        pytest.skip(f"this user may open {before[1]} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], SOCKETS + 500), before[1]))
    sockets: list[socket.socket] = []
    try:
        for number in range(SOCKETS):
            sockets.append(opened(limited.port))
            if number % 100 == 0:
                await asyncio.sleep(0)
        await asyncio.sleep(1)
        arrived = sum(1 for one in sockets if has_arrived(one))
        async with limited.client() as client:
            statuses = set()
            for turn in range(3):
                drip(sockets[::2], turn)
                answer = await client.get(SESSIONS, headers=tenant.headers)
                statuses.add(answer.status_code)
                # A byte a second; a connection of its own each time.
                async with limited.client() as another:
                    answer = await another.get(ME, headers=tenant.headers)
                statuses.add(answer.status_code)
                await asyncio.sleep(1)
        is_up = limited.process.poll() is None
    finally:
        for one in sockets:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    assert statuses == {200}
    assert is_up
    assert arrived > SOCKETS / 2


def opened(port: int) -> socket.socket:
    one = socket.socket()
    one.setblocking(False)
    one.connect_ex(("127.0.0.1", port))
    return one


def has_arrived(one: socket.socket) -> bool:
    """Whether it is connected: the server has taken it in, or will when it accepts the next ones."""
    try:
        one.getpeername()
    except OSError:
        return False
    return True


def drip(sockets: list[socket.socket], turn: int) -> None:
    """Send each one more byte of a request that never ends."""
    request = b"GET /api/v1/sessions HTTP/1.1\r\n"
    for one in sockets:
        try:
            one.send(request[turn : turn + 1])
        except OSError:
            continue


async def test_clients_that_leave_in_the_middle_leave_nothing_behind(open_app, new_tenant) -> None:
    tenant = await new_tenant()
    async with open_app(database_pool_max=2, database_pool_min=1) as client:
        await client.get(SESSIONS, headers=tenant.headers)
        for _ in range(20):
            asked = [
                asyncio.create_task(client.get(SESSIONS, headers=tenant.headers)) for _ in range(20)
            ]
            await asyncio.sleep(0.004)
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        answers = await asyncio.gather(
            *(client.get(SESSIONS, headers=tenant.headers) for _ in range(8))
        )

    assert {answer.status_code for answer in answers} == {200}
