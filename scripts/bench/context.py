"""What the tenant context costs: round trips and microseconds, through both doors.

    python scripts/bench/context.py [--data DIR] [--rounds 7] [--transactions 300]

Each transaction reads one row, `SELECT 1`, so that what remains is the transaction itself. Round
trips are counted at the socket, as changes of direction between client and server.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

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

    variants: dict[str, Variant] = {
        "the query alone": none,
        "BEGIN, query, COMMIT": begin_alone,
        "BEGIN with the context, query, COMMIT": one_message,
        "BEGIN, context, query, COMMIT": separate,
        "`tenant_connection`": hot_door,
        "`tenant_session`": orm_door,
    }
    trips = {name: await _round_trips(run, tenants) for name, run in variants.items()}
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            taken[name].append(await _microseconds(run, tenants, transactions))
    await bare.close()
    await engine.dispose()
    lowest = median(taken["the query alone"])
    return table(
        ["transaction", "round trips", "us", "more than the query alone"],
        [
            [name, str(trips[name]), f"{median(values):.0f}", f"{median(values) - lowest:+.0f}"]
            for name, values in taken.items()
        ],
    )


async def _microseconds(run: Variant, tenants: list[BenchTenant], count: int) -> float:
    chance = random.Random(count)
    began = time.perf_counter()
    for _ in range(count):
        await run(chance.choice(tenants))
    return (time.perf_counter() - began) / count * 1e6


async def _round_trips(run: Variant, tenants: list[BenchTenant]) -> int:
    # The second time, when statements are prepared and connections open.
    for _ in range(2):
        await run(tenants[0])
    directions: list[str] = []
    with _overheard(directions):
        await run(tenants[0])
    return sum(1 for before, now in zip(["", *directions], directions, strict=False)
               if now == "sent" and before != "sent")  # fmt: skip


class _overheard:  # noqa: N801 - reads as a function
    """Notes what asyncpg's protocols send and receive while it is open."""

    def __init__(self, directions: list[str]) -> None:
        self._directions = directions

    def __enter__(self) -> None:
        selector = asyncio.selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
        self._write, self._receive = selector.write, selector._read_ready__on_eof
        self._selector = selector
        self._data = selector._read_ready
        directions = self._directions
        write, ready = self._write, self._data

        def wrote(transport: Any, data: Any) -> None:
            directions.append("sent")
            write(transport, data)

        def received(transport: Any) -> None:
            directions.append("received")
            ready(transport)

        selector.write, selector._read_ready = wrote, received

    def __exit__(self, *_: object) -> None:
        self._selector.write, self._selector._read_ready = self._write, self._data


if __name__ == "__main__":
    main()
