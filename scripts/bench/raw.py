"""What it costs the receiver to keep requests as they came: its rate with and without, in turns.

    python scripts/bench/raw.py [--data DIR] [--rounds 5] [--requests 24] [--json]

One worker; requests of 1,000 records, as `otlp_compare.py` sends them. The setting of all tenants is
changed between the runs, on which the process hears of it within two seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

import asyncpg
from common import DATA, BenchTenant, admin_dsn, database, load_tenants, median, serving, table
from load import BATCH, Measured, measure
from otlp_compare import Scenario, Store, log_requests

CONCURRENCY = (2, 4)
WARMING = 8
HOURS = (0, 24)
HEARD_AFTER_S = 2.2
TARGET = 0.9

Runs = dict[tuple[int, int], list[Measured]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    tenants = load_tenants(chosen.data)
    scenario = Scenario(is_json=chosen.json)
    with database(chosen.data) as addresses:
        dsn = admin_dsn(addresses)
        asyncio.run(Store(dsn, tenants).empty())
        with serving("service", addresses.runtime, data=chosen.data) as server:
            runs: Runs = {}
            for number in range(-1, chosen.rounds):
                # Nobody always comes first.
                for hours in HOURS if number % 2 else reversed(HOURS):
                    asyncio.run(_keep(dsn, tenants, hours))
                    time.sleep(HEARD_AFTER_S)
                    for concurrency in CONCURRENCY:
                        count = WARMING if number < 0 else chosen.requests
                        requests = log_requests(tenants, count, scenario)
                        found = measure(server, requests, concurrency=concurrency)
                        kept = asyncio.run(_kept(dsn, tenants))
                        if found.failures or (kept > 0) != (hours > 0):
                            raise SystemExit(f"{found.failures} failures, {kept} requests are kept")
                        if number >= 0:
                            runs.setdefault((concurrency, hours), []).append(found)
        asyncio.run(_keep(dsn, tenants, 0))
    print(_report(runs))


async def _keep(dsn: str, tenants: list[BenchTenant], hours: int) -> None:
    """Set it for all tenants, and begin with nothing kept."""
    connection = await asyncpg.connect(dsn)
    for tenant in tenants:
        await connection.execute(f"TRUNCATE {tenant.schema}.raw_requests")
        await connection.execute(
            f"""
            INSERT INTO {tenant.schema}.tenant_settings (tenant_id, name, value)
            VALUES ($1, 'raw_hours', to_jsonb($2::int))
            ON CONFLICT (tenant_id, name) DO UPDATE SET value = excluded.value
            """,
            tenant.id,
            hours,
        )
    await connection.close()


async def _kept(dsn: str, tenants: list[BenchTenant]) -> int:
    connection = await asyncpg.connect(dsn)
    counts = [
        await connection.fetchval(f"SELECT count(*) FROM {tenant.schema}.raw_requests")
        for tenant in tenants
    ]
    await connection.close()
    return sum(counts)


def _report(runs: Runs) -> str:
    rows = []
    for concurrency in CONCURRENCY:
        without, kept = ([run.per_second * BATCH for run in runs[concurrency, h]] for h in HOURS)
        ratio = median([a / b for a, b in zip(kept, without, strict=True)])
        cpu = [median([run.cpu_ms for run in runs[concurrency, hours]]) for hours in HOURS]
        rows.append([
            str(concurrency), f"{median(without):,.0f}", f"{median(kept):,.0f}", f"{ratio:.0%}",
            f"{cpu[0]:.1f}", f"{cpu[1]:.1f}", "yes" if ratio >= TARGET else "no",
        ])  # fmt: skip
    head = [
        "at once",
        "rows/s",
        "kept: rows/s",
        "of it",
        "CPU ms",
        "kept: CPU ms",
        f"≥ {TARGET:.0%}",
    ]
    return table(head, rows)


if __name__ == "__main__":
    main()
