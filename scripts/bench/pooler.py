"""What PgBouncer in transaction mode costs: pages and batches through it, and directly.

    python scripts/bench/pooler.py [--data DIR] [--rounds 5] [--pages 1000] [--batches 40]

Servers of the product, one worker each, that differ in how they reach the database: directly; directly
with no statement kept prepared, which is about half of it; through PgBouncer as
`deploy/pgbouncer/` sets it up; and without its second wall, the reset after each transaction.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from common import DATA, HERE, BenchTenant, Running, database, load_tenants, median, serving, table
from load import Measured, batch_requests, measure, page_requests

from metrics_service.db.addresses import Addresses

# The tests start one too.
sys.path.append(str(HERE.parents[1] / "tests"))
from poolers import pooler_to

DIRECT = "direct"
WARMING_PAGES = 200
WARMING_BATCHES = 8
CONCURRENCY = {"page of 50": (1, 8), "batch of 1,000": (1, 4)}

Results = dict[tuple[str, str], list[Measured]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pages", type=int, default=1000)
    parser.add_argument("--batches", type=int, default=40)
    chosen = parser.parse_args()
    tenants = load_tenants(chosen.data)
    results: Results = defaultdict(list)
    with database(chosen.data) as addresses, _servers(addresses, chosen.data) as servers:
        for number in range(-1, chosen.rounds):
            # The order turns, so that no server always follows the same one.
            turn = number % len(servers)
            order = servers[turn:] + servers[:turn]
            if number < 0:
                _round(order, tenants, WARMING_PAGES, WARMING_BATCHES, number, defaultdict(list))
            else:
                _round(order, tenants, chosen.pages, chosen.batches, number, results)
    print(_report(results, [server.name for server in servers]))


@contextmanager
def _servers(addresses: Addresses, data: Path) -> Iterator[list[Running]]:
    pool = {"default_pool_size": "20"}
    with ExitStack() as stack:
        guarded = stack.enter_context(
            pooler_to(addresses.runtime, settings={**pool, "server_reset_query_always": "1"})
        )
        bare = stack.enter_context(pooler_to(addresses.runtime, settings=pool))
        yield [
            stack.enter_context(
                serving(
                    name,
                    dsn,
                    data=data,
                    more={
                        "DATABASE_DIRECT_URL": addresses.direct,
                        "DATABASE_PREPARED_STATEMENTS": prepared,
                        # Or the few tenants would be held back.
                        "METRICS_REQUESTS_PER_SECOND": "0",
                    },
                )
            )
            for name, dsn, prepared in (
                (DIRECT, addresses.runtime, "auto"),
                ("direct, nothing prepared", addresses.runtime, "off"),
                ("PgBouncer", guarded.dsn, "auto"),
                ("PgBouncer, no reset", bare.dsn, "auto"),
            )
        ]


def _round(
    servers: list[Running],
    tenants: list[BenchTenant],
    pages: int,
    batches: int,
    number: int,
    results: Results,
) -> None:
    for scenario, at_once in CONCURRENCY.items():
        for concurrency in at_once:
            for server in servers:
                # Batches are made anew for each: nobody shall have sent them before.
                requests = (
                    page_requests(tenants, pages, seed=number)
                    if scenario.startswith("page")
                    else batch_requests(tenants, batches, seed=number)
                )
                found = measure(server, requests, concurrency=concurrency)
                assert found.failures == 0, f"{server.name}: {found.failures} failures"
                results[f"{scenario}, {concurrency} at once", server.name].append(found)


def _report(results: Results, names: list[str]) -> str:
    rows = []
    for scenario in dict.fromkeys(scenario for scenario, _ in results):
        direct = results[scenario, DIRECT]
        for name in names:
            found = results[scenario, name]
            share = median(
                [one.per_second / base.per_second for one, base in zip(found, direct, strict=True)]
            )
            rows.append(
                [
                    scenario,
                    name,
                    f"{median([one.per_second for one in found]):.0f}",
                    f"{share:.0%}",
                    f"{median([one.p50 for one in found]):.2f}",
                    f"{median([one.p99 for one in found]):.1f}",
                ]
            )
    return table(["what", "how", "requests/s", "of direct", "p50 ms", "p99 ms"], rows)


if __name__ == "__main__":
    main()
