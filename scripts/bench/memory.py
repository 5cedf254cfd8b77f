"""The memory of one worker while it serves a thousand tenants, and while large bodies arrive.

    python scripts/bench/data.py --data /tmp/metrics-bench-1000 --tenants 1000 --sessions 100
    python scripts/bench/memory.py [--data /tmp/metrics-bench-1000] [--requests 20000] [--bodies 20]

The target is less than 200 MiB at every moment.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import psutil
from common import (
    SOURCE,
    Running,
    database,
    load_tenants,
    mib,
    serving,
    table,
    watched,
)
from load import batch_requests, drive, page_requests

DATA_OF_MANY = Path("/tmp/metrics-bench-1000")  # noqa: S108 - as in `common`
TARGET_MIB = 200
STEPS = 10
CONCURRENCY = 16
ITEMS = 10_000
FAT = {"output": "x" * 1640, "why": "as large as a batch of ten thousand may be on average"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA_OF_MANY)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--bodies", type=int, default=20)
    parser.add_argument("--source", type=Path, default=SOURCE)
    chosen = parser.parse_args()
    tenants = load_tenants(chosen.data)
    rows = []
    with (
        database(chosen.data) as addresses,
        serving("service", addresses.runtime, source=chosen.source, data=chosen.data) as server,
    ):
        worker = server.worker()
        rows.append(_row("started", worker, mib(worker)))
        for step in range(STEPS):
            requests = page_requests(tenants, chosen.requests // STEPS, seed=step)
            with watched(worker) as peak:
                _send(server, requests, CONCURRENCY)
            rows.append(_row(f"{(step + 1) * len(requests):,} pages", worker, peak[0]))
        for number in range(chosen.bodies):
            body = batch_requests(tenants, 1, seed=number, size=ITEMS, metadata=FAT)
            with watched(worker) as peak:
                _send(server, body, 1)
            size = len(body[0]) / 2**20
            rows.append(_row(f"body {number + 1}, {size:.1f} MiB", worker, peak[0]))
    print(table(["after", "resident MiB", "peak MiB", "peak under 200"], rows))


def _send(server: Running, requests: list[bytes], concurrency: int) -> None:
    _, _, failures = asyncio.run(drive(server.port, requests, concurrency=concurrency, max_s=600))
    if failures:
        raise SystemExit(f"{failures} requests failed")


def _row(after: str, worker: psutil.Process, peak: float) -> list[str]:
    verdict = "yes" if peak < TARGET_MIB else "**no**"
    return [after, f"{mib(worker):.0f}", f"{peak:.0f}", verdict]


if __name__ == "__main__":
    main()
