"""Rows per second that OTLP commits beside the native batch of as many rows, in interleaved rounds.

    python scripts/bench/otlp_compare.py [--data DIR] [--rounds 5] [--requests 24]
        [--variant NAME=SOURCE ...] [--only SCENARIO ...]

A request has 1,000 records of 16 attributes, all new, made before the clock starts; after each run the
rows are counted. One worker each; a variant is another source tree, measured in the same rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import msgspec
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
from load import BATCH, Measured, batch_requests, measure
from otlp_data import as_protobuf, gzipped, request_of, session_names

CONCURRENCY = (2, 4)
WARMING = 8
NATIVE = "native batch"
TARGET = 0.40
COLLECTED = 20
# A record begins with the millisecond after the one before.
APART_NS = BATCH * 1_000_000
START_NS = 1_792_000_000 * 10**9

_seeds = itertools.count(time.time_ns() // 1_000_000)


class Scenario(msgspec.Struct, frozen=True):
    """What clients send: an encoding, and whose sessions a request has."""

    is_json: bool = False
    is_gzipped: bool = False
    sessions: int = COLLECTED
    goes_on: bool = False
    """Whether a tenant's requests are all about the same sessions."""


SCENARIOS = {
    "protobuf": Scenario(),
    "protobuf, gzip": Scenario(is_gzipped=True),
    "JSON": Scenario(is_json=True),
    "JSON, gzip": Scenario(is_json=True, is_gzipped=True),
    "collector: 20 sessions that go on": Scenario(goes_on=True),
    "one agent: 1 session that goes on": Scenario(sessions=1, goes_on=True),
}

Runs = dict[tuple[str, int, str], list[Measured]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=24)
    parser.add_argument("--variant", action="append", default=[], metavar="NAME=SOURCE")
    parser.add_argument("--only", action="append", choices=list(SCENARIOS))
    chosen = parser.parse_args()
    tenants = load_tenants(chosen.data)
    sources = {"service": SOURCE}
    sources |= {name: Path(path) for name, _, path in (v.partition("=") for v in chosen.variant)}
    with database(chosen.data) as addresses, ExitStack() as stack:
        store = Store(admin_dsn(addresses), tenants)
        asyncio.run(store.empty())
        native = stack.enter_context(serving(NATIVE, addresses.runtime, data=chosen.data))
        servers = [
            stack.enter_context(serving(name, addresses.runtime, source=source, data=chosen.data))
            for name, source in sources.items()
        ]
        runs: Runs = {}
        for number in range(-1, chosen.rounds):
            is_warming = number < 0
            count = WARMING if is_warming else chosen.requests
            noted = {} if is_warming else runs
            for concurrency in CONCURRENCY:
                for name, server, make in _turns(number, native, servers, tenants, chosen.only):
                    found = _committed(store, server, make(count), concurrency)
                    noted.setdefault((name, concurrency, server.name), []).append(found)
    print(_report(runs))


def _turns(
    number: int,
    native: Running,
    servers: list[Running],
    tenants: list[BenchTenant],
    only: list[str] | None,
) -> list[tuple[str, Running, Callable[[int], list[bytes]]]]:
    """Who sends what to whom in one round; the order turns, so that nobody always comes first."""
    turns: list[tuple[str, Running, Callable[[int], list[bytes]]]] = [
        (NATIVE, native, lambda count: batch_requests(tenants, count, seed=number))
    ]
    for name in only or SCENARIOS:
        scenario = SCENARIOS[name]
        for server in servers:

            def make(count: int, scenario: Scenario = scenario) -> list[bytes]:
                return log_requests(tenants, count, scenario)

            turns.append((name, server, make))
    turn = number % len(turns)
    return turns[turn:] + turns[:turn]


def log_requests(tenants: list[BenchTenant], count: int, scenario: Scenario) -> list[bytes]:
    """Requests of records that nobody has sent before, for tenants at random."""
    made = []
    for seed in itertools.islice(_seeds, count):
        place = random.Random(seed).randrange(len(tenants))
        names = session_names(place, scenario.sessions) if scenario.goes_on else ()
        body = request_of(
            seed,
            records=BATCH,
            sessions=scenario.sessions,
            start_ns=START_NS + seed % 10_000 * APART_NS,
            names=names,
        )
        body = body if scenario.is_json else as_protobuf(body)
        made.append(post_logs(tenants[place], body, scenario))
    return made


def post_logs(tenant: BenchTenant, body: bytes, scenario: Scenario) -> bytes:
    """The request, from a body that is in its encoding already and not yet compressed."""
    body = gzipped(body) if scenario.is_gzipped else body
    coding = "Content-Encoding: gzip\r\n" if scenario.is_gzipped else ""
    return (
        f"POST /v1/logs HTTP/1.1\r\nHost: {tenant.host}\r\n{coding}"
        f"Authorization: Bearer {tenant.key}\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: application/{'json' if scenario.is_json else 'x-protobuf'}\r\n\r\n"
    ).encode() + body


def _committed(store: Store, server: Running, requests: list[bytes], concurrency: int) -> Measured:
    before = asyncio.run(store.rows())
    found = measure(server, requests, concurrency=concurrency)
    stored = asyncio.run(store.rows()) - before
    if found.failures or stored != len(requests) * BATCH:
        raise SystemExit(f"{server.name}: {found.failures} failures, {stored:,} rows are there")
    return found


class Store:
    """The tables themselves, past every wall."""

    def __init__(self, dsn: str, tenants: list[BenchTenant]) -> None:
        self._dsn = dsn
        self._schemas = sorted({tenant.schema for tenant in tenants})

    async def empty(self) -> None:
        connection = await asyncpg.connect(self._dsn)
        for schema in self._schemas:
            await connection.execute(f"TRUNCATE {schema}.tool_metrics")
        await connection.execute("CHECKPOINT")
        await connection.close()

    async def rows(self) -> int:
        """How many tool calls are stored."""
        connection = await asyncpg.connect(self._dsn)
        counts = [
            await connection.fetchval(f"SELECT count(*) FROM {schema}.tool_metrics")
            for schema in self._schemas
        ]
        await connection.close()
        return sum(counts)


def _report(runs: Runs) -> str:
    rows = []
    for (name, concurrency, server), found in runs.items():
        rates = [run.per_second * BATCH for run in found]
        natives = [run.per_second * BATCH for run in runs[NATIVE, concurrency, NATIVE]]
        # Within a round, because only neighbours in time had the same machine.
        of_native = median([a / b for a, b in zip(rates, natives, strict=True)])
        rows.append([
            name, str(concurrency), "" if server == NATIVE else server,
            f"{median(rates):,.0f}", f"{min(rates):,.0f} - {max(rates):,.0f}",
            f"{median([run.p50 for run in found]):.0f}", f"{median([run.p99 for run in found]):.0f}",
            f"{median([run.cpu_ms for run in found]):.1f}",
            f"{of_native:.0%}", "" if name == NATIVE else f"≥ {TARGET:.0%}",
        ])  # fmt: skip
    head = ["1,000 records a request", "at once", "server", "rows/s", "range", "p50 ms", "p99 ms",
            "server CPU ms a request", "of native", "target"]  # fmt: skip
    return table(head, sorted(rows, key=lambda row: (row[0] != NATIVE, row[0], row[1], row[2])))


if __name__ == "__main__":
    main()
