"""What a quiet tenant feels while another one sends fifty times what it may.

    python scripts/bench/neighbours.py [--data DIR] [--seconds 60] [--limit 20] [--times 50]
        [--scenario page|batch]

One worker, with a limit of so many requests a second. The quiet tenant asks for pages from a process of
its own, in turn alone and while the loud one floods from another, so that what else the machine does
comes to both. The target: its p99 stays under twice the quiet value, and none of its requests fails.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

from common import DATA, BenchTenant, database, load_tenants, mib, serving, table
from load import batch_requests, drive, page_requests
from open_load import Outcome, offer

QUIET_PER_SECOND = 15
TURNS = 4
# Begins before the measurement and ends after it.
AROUND_S = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--scenario", choices=["page", "batch"], default="page")
    chosen = parser.parse_args()
    loud, quiet = load_tenants(chosen.data)[:2]
    more = {"METRICS_REQUESTS_PER_SECOND": str(chosen.limit)}
    with (
        database(chosen.data) as addresses,
        serving("service", addresses.runtime, data=chosen.data, more=more) as server,
        ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        asyncio.run(drive(server.port, page_requests([quiet], 30, seed=1), concurrency=2))
        before = mib(server.worker())
        alone, beside, floods = Outcome(), Outcome(), Outcome()
        for _ in range(TURNS):
            _add(alone, _ask(pool, server.port, quiet, chosen.seconds / TURNS).result())
            flood = pool.submit(_flood, server.port, loud, chosen)
            asyncio.run(asyncio.sleep(AROUND_S))
            _add(beside, _ask(pool, server.port, quiet, chosen.seconds / TURNS).result())
            _add(floods, flood.result())
        after = mib(server.worker())
    rows = [
        _row("quiet, alone", alone),
        _row("quiet, beside the flood", beside),
        _row(f"loud, {chosen.times} times its limit", floods),
    ]
    head = [
        "tenant",
        "asked/s",
        "served/s",
        "refused",
        "failed",
        "unsent",
        "p50 ms",
        "p99 ms",
        "CPU",
    ]
    print(table(head, rows))
    times = beside.percentile_ms(0.99) / alone.percentile_ms(0.99)
    print(
        f"\np99 beside / alone: {times:.2f} (< 2); worker {before:.0f} MiB before, {after:.0f} after"
    )


def _ask(
    pool: ProcessPoolExecutor, port: int, tenant: BenchTenant, seconds: float
) -> Future[Outcome]:
    requests = page_requests([tenant], 1, seed=1)
    return pool.submit(_offer, port, requests, float(QUIET_PER_SECOND), seconds)


def _flood(port: int, tenant: BenchTenant, chosen: Any) -> Outcome:
    make = page_requests if chosen.scenario == "page" else batch_requests
    per_second, seconds = chosen.limit * chosen.times, chosen.seconds / TURNS + 2 * AROUND_S
    return _offer(port, make([tenant], 20, seed=1), per_second, seconds)


def _offer(port: int, requests: list[bytes], per_second: float, seconds: float) -> Outcome:
    repeated = itertools.cycle(requests)
    return asyncio.run(offer(port, repeated, per_second=per_second, seconds=seconds, seed=1))


def _add(whole: Outcome, part: Outcome) -> None:
    whole.latencies += part.latencies
    for name in ("offered", "refused", "failed", "unsent", "took_s", "cpu_s"):
        setattr(whole, name, getattr(whole, name) + getattr(part, name))


def _row(name: str, outcome: Outcome) -> list[str]:
    return [
        name,
        f"{outcome.offered / outcome.took_s:.0f}",
        f"{len(outcome.latencies) / outcome.took_s:.0f}",
        str(outcome.refused),
        str(outcome.failed),
        str(outcome.unsent),
        f"{outcome.percentile_ms(0.5):.1f}",
        f"{outcome.percentile_ms(0.99):.1f}",
        f"{outcome.cpu_s / outcome.took_s:.0%}",
    ]


if __name__ == "__main__":
    main()
