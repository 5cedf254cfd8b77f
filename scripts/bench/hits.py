"""How many of a serving process's look-ups its own memory answers, over minutes.

    python scripts/bench/hits.py [--data DIR] [--per-second 150] [--seconds 180]

One worker is asked for pages, by a tenant of `data.py` at random each time. Every tenant asks once before
the counting begins.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
from pathlib import Path

import httpx
from common import DATA, BenchTenant, Running, database, load_tenants, mib, serving, table
from load import drive, page_requests
from open_load import offer

from metrics_service.db.engine import owner_connection
from metrics_service.fleet.operator_keys import create_operator_key

OPERATORS = "operators.localhost"
LOOKUPS = re.compile(
    r'^metrics_service_cache_lookups_total\{.*cache="(\w+)",outcome="(\w+)"\} (\S+)$', re.MULTILINE
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--per-second", type=float, default=150.0)
    parser.add_argument("--seconds", type=float, default=180.0)
    chosen = parser.parse_args()
    tenants = load_tenants(chosen.data)
    with database(chosen.data) as addresses:
        key = asyncio.run(_operator_key(addresses.require_owner()))
        more = {"METRICS_OPERATOR_DOMAIN": OPERATORS}
        with serving("service", addresses.runtime, data=chosen.data, more=more) as server:
            asyncio.run(_measure(server, tenants, key, chosen))


async def _operator_key(owner_dsn: str) -> str:
    async with owner_connection(owner_dsn) as connection, connection.begin():
        return (await create_operator_key(connection, name="bench")).key


async def _measure(
    server: Running, tenants: list[BenchTenant], key: str, chosen: argparse.Namespace
) -> None:
    for tenant in tenants:
        await drive(server.port, page_requests([tenant], 1, seed=1), concurrency=1)
    before, memory = await _lookups(server, key), mib(server.worker())
    requests = itertools.cycle(page_requests(tenants, 100_000, seed=2))
    outcome = await offer(
        server.port, requests, per_second=chosen.per_second, seconds=chosen.seconds, seed=2
    )
    after = await _lookups(server, key)
    rows = []
    for cache in sorted({cache for cache, _ in after}):
        hits, misses = (
            after.get((cache, how), 0) - before.get((cache, how), 0) for how in ("hit", "miss")
        )
        if hits + misses:
            rows.append([cache, f"{hits:.0f}", f"{misses:.0f}", f"{hits / (hits + misses):.2%}"])
    print(table(["cache", "hits", "misses", "hit rate"], rows))
    print(
        f"\n{len(tenants)} tenants; {len(outcome.latencies)} of {outcome.offered} served in"
        f" {outcome.took_s:.0f} s, p99 {outcome.percentile_ms(0.99):.1f} ms;"
        f" worker {memory:.0f} MiB before, {mib(server.worker()):.0f} after"
    )


async def _lookups(server: Running, key: str) -> dict[tuple[str, str], float]:
    headers = {"Host": OPERATORS, "Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
        answer = (await client.get("/metrics", headers=headers)).raise_for_status()
    return {
        (cache, outcome): float(value) for cache, outcome, value in LOOKUPS.findall(answer.text)
    }


if __name__ == "__main__":
    main()
