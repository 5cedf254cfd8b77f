"""What the tenant context costs: round trips and microseconds, through both doors.

    python scripts/bench/context.py [--data DIR] [--rounds 7] [--transactions 300]

Each transaction sends one statement, `SELECT 1`, so that what remains is the transaction itself.
Round trips are counted by a proxy before the database: how often the client spoke after it listened.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

import asyncpg
from common import DATA, BenchTenant, database, load_tenants, median, table
from sqlalchemy import text

from metrics_service.db.engine import runtime_engine
from metrics_service.db.tenancy import TenantContext, tenant_connection, tenant_session

QUERY = "SELECT 1"

Variant = Callable[[BenchTenant], Awaitable[None]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--transactions", type=int, default=300)
    chosen = parser.parse_args()
    tenants = load_tenants(chosen.data)
    with database(chosen.data) as addresses:
        print(asyncio.run(_compare(addresses.runtime, tenants, chosen.rounds, chosen.transactions)))


async def _compare(dsn: str, tenants: list[BenchTenant], rounds: int, transactions: int) -> str:
    proxy = Proxy(dsn)
    async with proxy.listening() as through_proxy, _variants(through_proxy) as variants:
        trips = {name: await _round_trips(proxy, run, tenants) for name, run in variants.items()}
    async with _variants(dsn) as variants:
        taken: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(rounds):
            for name, run in variants.items():
                taken[name].append(await _microseconds(run, tenants, transactions))
    alone = median(taken["the query alone"])
    lines = [
        [name, str(trips[name]), f"{median(values):.0f}", f"{median(values) - alone:+.0f}"]
        for name, values in taken.items()
    ]
    return table(["transaction", "round trips", "us", "beside the query alone"], lines)


@asynccontextmanager
async def _variants(dsn: str) -> AsyncIterator[dict[str, Variant]]:
    bare = await asyncpg.connect(dsn)
    engine = runtime_engine(dsn, pool_max=1)

    async def none(_: BenchTenant) -> None:
        await bare.fetchval(QUERY)

    async def begin_alone(_: BenchTenant) -> None:
        await bare.execute("BEGIN")
        await bare.fetchval(QUERY)
        await bare.execute("COMMIT")

    async def one_message(tenant: BenchTenant) -> None:
        await bare.execute(TenantContext(tenant.id).begin())
        await bare.fetchval(QUERY)
        await bare.execute("COMMIT")

    async def separate(tenant: BenchTenant) -> None:
        await bare.execute("BEGIN")
        await bare.execute("SELECT shared.enter_tenant($1, NULL, 10000)", tenant.id)
        await bare.fetchval(QUERY)
        await bare.execute("COMMIT")

    async def hot_door(tenant: BenchTenant) -> None:
        async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
            await connection.fetchval(QUERY)

    async def orm_door(tenant: BenchTenant) -> None:
        async with tenant_session(engine, TenantContext(tenant.id)) as tx:
            await tx.scalar(text(QUERY))

    yield {
        "the query alone": none,
        "BEGIN; query; COMMIT": begin_alone,
        "BEGIN with the context; query; COMMIT": one_message,
        "BEGIN; context; query; COMMIT": separate,
        "`tenant_connection`": hot_door,
        "`tenant_session`": orm_door,
    }
    await bare.close()
    await engine.dispose()


async def _microseconds(run: Variant, tenants: list[BenchTenant], count: int) -> float:
    chance = random.Random(count)
    began = time.perf_counter()
    for _ in range(count):
        await run(chance.choice(tenants))
    return (time.perf_counter() - began) / count * 1e6


async def _round_trips(proxy: Proxy, run: Variant, tenants: list[BenchTenant]) -> int:
    # From the third time on statements are prepared and connections open.
    for _ in range(3):
        await run(tenants[0])
    before = proxy.round_trips
    await run(tenants[0])
    return proxy.round_trips - before


class Proxy:
    """Stands before the database's socket and counts."""

    def __init__(self, dsn: str) -> None:
        self._parts = urlsplit(dsn)
        query = parse_qs(self._parts.query)
        self._name = f".s.PGSQL.{query['port'][0]}"
        self._port = query["port"][0]
        self._socket = str(Path(query["host"][0]) / self._name)
        self.round_trips = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        with tempfile.TemporaryDirectory() as place:
            server = await asyncio.start_unix_server(self._serve, Path(place) / self._name)
            query = f"host={quote(place, safe='')}&port={self._port}"
            yield urlunsplit(self._parts._replace(query=query))
            server.close()

    async def _serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        server, question = await asyncio.open_unix_connection(self._socket)
        is_asking = [False]

        async def ask() -> None:
            while data := await client.read(65536):
                if not is_asking[0]:
                    self.round_trips += 1
                    is_asking[0] = True
                question.write(data)
            question.close()

        async def tell() -> None:
            while data := await server.read(65536):
                is_asking[0] = False
                answer.write(data)
            answer.close()

        await asyncio.gather(ask(), tell())


if __name__ == "__main__":
    main()
