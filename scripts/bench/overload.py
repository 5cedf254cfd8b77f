"""What a worker does under more than it can take: offered half, once, twice and more of its capacity.

    python scripts/bench/overload.py [--data DIR] [--rates 0.5 1 2] [--seconds 15] [--tenants 30]
        [--scenario page|batch] [--base SOURCE] [--rounds 1]

The load is an open loop in another process: requests come when they are due. Goodput is what is
answered within a second. What the worker can take is measured before and after each load, because
other work on the machine changes it. `--base` measures another source tree too, such as one from
before: both run all the time, and are asked in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import (
    DATA,
    SOURCE,
    BenchTenant,
    Running,
    database,
    load_tenants,
    mib,
    serving,
    table,
    watched,
)
from load import batch_requests, drive, page_requests
from open_load import Outcome, offer

MADE = 400
# So that what is measured is what can be taken, not what may be.
NO_LIMIT = {"METRICS_REQUESTS_PER_SECOND": "0"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.5, 1, 2])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--tenants", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--scenario", choices=["page", "batch"], default="page")
    chosen = parser.parse_args()
    tenants = load_tenants(chosen.data)[: chosen.tenants]
    make = page_requests if chosen.scenario == "page" else batch_requests
    with database(chosen.data) as addresses, ExitStack() as running:
        servers = {
            name: running.enter_context(
                serving(name, addresses.runtime, source=source, data=chosen.data, more=NO_LIMIT)
            )
            for name, source in (("base", chosen.base), ("service", SOURCE))
            if source is not None
        }
        for server in servers.values():
            # Once for its caches.
            _closed(server.port, make(tenants, MADE, seed=0))
        rows = [
            _row(server, make, tenants, rate, number, chosen.seconds)
            for number, rate in enumerate(chosen.rates * chosen.rounds)
            for server in servers.values()
        ]
    print(
        table(
            ["tree", "offered/s", "good/s", "of the best", "late", "refused", "failed", "unsent",
             "p50 ms", "p99 ms", "sender's CPU", "MiB before, most, after"],
            rows,
        )
    )  # fmt: skip


def _row(
    server: Running,
    make: Any,
    tenants: list[BenchTenant],
    rate: float,
    seed: int,
    seconds: float,
) -> list[str]:
    before = _closed(server.port, make(tenants, MADE, seed=3 * seed))
    worker = server.worker()
    mib_before = mib(worker)
    with watched(worker) as peak:
        outcome = _offered(
            server.port, make(tenants, MADE, seed=3 * seed + 1), rate * before, seconds
        )
    mib_after = mib(worker)
    best = (before + _closed(server.port, make(tenants, MADE, seed=3 * seed + 2))) / 2
    good = outcome.good / outcome.took_s
    return [
        server.name, f"{outcome.offered / outcome.took_s:.0f} ({rate:g} times)", f"{good:.0f}",
        f"{good / best:.0%}", str(len(outcome.latencies) - outcome.good), str(outcome.refused),
        str(outcome.failed), str(outcome.unsent), f"{outcome.percentile_ms(0.5):.0f}",
        f"{outcome.percentile_ms(0.99):.0f}", f"{outcome.cpu_s / outcome.took_s:.0%}",
        f"{mib_before:.0f}, {peak[0]:.0f}, {mib_after:.0f}",
    ]  # fmt: skip


def _closed(port: int, requests: list[bytes]) -> float:
    """How many requests a second it can take."""
    took, latencies, _ = asyncio.run(drive(port, requests * 2, concurrency=16))
    return len(latencies) / took


def _offered(port: int, requests: list[bytes], per_second: float, seconds: float) -> Outcome:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_offer, (port, requests, per_second, seconds))


def _offer(port: int, requests: list[bytes], per_second: float, seconds: float) -> Outcome:
    repeated = itertools.cycle(requests)
    return asyncio.run(offer(port, repeated, per_second=per_second, seconds=seconds, seed=1))


if __name__ == "__main__":
    main()
