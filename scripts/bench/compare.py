"""The service beside its floor, in interleaved rounds: medians and ratios against the targets.

    python scripts/bench/compare.py [--data DIR] [--rounds 5] [--pages 2000] [--batches 60]
        [--variant NAME=SOURCE ...] [--only page|batch]

A variant is another source tree of the product, measured in the same rounds. Every server runs on
Granian with one worker, no access log and METRICS_LOG_LEVEL=warning; load generator, servers and
database share the machine. The tool metrics of the tenants are emptied first.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import ExitStack
from pathlib import Path

import asyncpg
from common import (
    DATA,
    SOURCE,
    BenchTenant,
    Running,
    admin_dsn,
    database,
    load_tenants,
    median,
    serving,
    table,
)
from copy_floor import CopyFloor
from load import BATCH, Measured, batch_requests, measure, page_requests

PAGE_CONCURRENCY = (8, 16)
BATCH_CONCURRENCY = (2, 4)
WARMING_PAGES = 600
WARMING_BATCHES = 20
COPY = "COPY"

PAGE_TARGET = 0.75
BATCH_TARGET = 0.70
COPY_TARGET = 0.50

Scenario = str
Results = dict[tuple[Scenario, str], list[Measured]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pages", type=int, default=2000)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--variant", action="append", default=[], metavar="NAME=SOURCE")
    parser.add_argument("--only", choices=["page", "batch"])
    chosen = parser.parse_args()
    tenants = load_tenants(chosen.data)
    sources = {"floor": SOURCE, "service": SOURCE}
    sources |= {name: Path(path) for name, _, path in (v.partition("=") for v in chosen.variant)}
    with database(chosen.data) as addresses, ExitStack() as stack:
        asyncio.run(_empty(admin_dsn(addresses), tenants))
        servers = [
            stack.enter_context(serving(name, addresses.runtime, source=source, data=chosen.data))
            for name, source in sources.items()
        ]
        copy = CopyFloor(admin_dsn(addresses), tenants[0])
        asyncio.run(copy.reset())
        results: Results = {}
        copied: list[float] = []
        for number in range(-1, chosen.rounds):
            # The order turns, so that no server always follows the same one.
            turn = number % len(servers)
            order = servers[turn:] + servers[:turn]
            is_warming = number < 0
            if chosen.only != "batch":
                pages = WARMING_PAGES if is_warming else chosen.pages
                _pages(order, tenants, pages, number, {} if is_warming else results)
            if chosen.only != "page":
                batches = WARMING_BATCHES if is_warming else chosen.batches
                _batches(order, tenants, batches, number, {} if is_warming else results)
                rate = asyncio.run(copy.run(batches))
                copied += [] if is_warming else [rate]
    print(_report(results, copied, list(sources)))


def _pages(
    servers: list[Running], tenants: list[BenchTenant], count: int, number: int, results: Results
) -> None:
    for concurrency in PAGE_CONCURRENCY:
        requests = page_requests(tenants, count, seed=number)
        for server in servers:
            _note(results, f"page of 50, {concurrency} at once", server, requests, concurrency)


def _batches(
    servers: list[Running], tenants: list[BenchTenant], count: int, number: int, results: Results
) -> None:
    for concurrency in BATCH_CONCURRENCY:
        for server in servers:
            requests = batch_requests(tenants, count, seed=number)
            _note(results, f"batch of 1,000, {concurrency} at once", server, requests, concurrency)
    for server in servers:
        requests = batch_requests(tenants, count, seed=number, with_ids=False)
        _note(results, "batch without ids, 4 at once", server, requests, 4)


def _note(
    results: Results, scenario: str, server: Running, requests: list[bytes], concurrency: int
) -> None:
    found = measure(server, requests, concurrency=concurrency)
    if found.failures:
        raise SystemExit(f"{server.name}: {found.failures} requests failed")
    results.setdefault((scenario, server.name), []).append(found)


def _report(results: Results, copied: list[float], names: list[str]) -> str:
    rows = []
    for scenario in dict.fromkeys(scenario for scenario, _ in results):
        is_page = scenario.startswith("page")
        unit = 1 if is_page else BATCH
        rates = {name: [run.per_second * unit for run in results[scenario, name]] for name in names}
        for name in names:
            runs = results[scenario, name]
            # Within a round, because only neighbours in time had the same machine.
            of_floor = median([a / b for a, b in zip(rates[name], rates["floor"], strict=True)])
            target = PAGE_TARGET if is_page else BATCH_TARGET
            rows.append([
                scenario, name,
                f"{median(rates[name]):,.0f} {'requests' if is_page else 'rows'}/s",
                f"{min(rates[name]):,.0f} - {max(rates[name]):,.0f}",
                f"{median([run.p50 for run in runs]):.1f}", f"{median([run.p99 for run in runs]):.1f}",
                f"{median([run.cpu_ms for run in runs]):.2f}",
                f"{of_floor:.0%}", "" if name == "floor" else f"≥ {target:.0%}",
            ])  # fmt: skip
            if copied and not is_page:
                of_copy = median([a / b for a, b in zip(rates[name], copied, strict=True)])
                rows[-1] += [f"{of_copy:.0%}", "" if name == "floor" else f"≥ {COPY_TARGET:.0%}"]
            else:
                rows[-1] += ["", ""]
    if copied:
        rows.append([
            "COPY of 1,000, one connection", COPY, f"{median(copied):,.0f} rows/s",
            f"{min(copied):,.0f} - {max(copied):,.0f}", *[""] * 7,
        ])  # fmt: skip
    head = ["scenario", "server", "median", "range", "p50 ms", "p99 ms", "server CPU ms a request",
            "of floor", "target", "of COPY", "target"]  # fmt: skip
    return table(head, rows)


async def _empty(dsn: str, tenants: list[BenchTenant]) -> None:
    connection = await asyncpg.connect(dsn)
    for tenant in tenants:
        await connection.execute(f"TRUNCATE {tenant.schema}.tool_metrics")
    await connection.execute("CHECKPOINT")
    await connection.close()


if __name__ == "__main__":
    main()
