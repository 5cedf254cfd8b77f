"""What the receiver's diary costs: the same OTLP load with it, and with one that notes nothing.

    python scripts/bench/diary.py [--data DIR] [--rounds 9] [--requests 40]

One worker each, in interleaved rounds; every request is new, and goes to a tenant at random. Small
requests are the dear case: noting one takes as long as noting a large one.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import random
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common import DATA, BenchTenant, Running, database, load_tenants, median, serving, table
from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from litestar.types import ASGIApp
from load import Measured, measure
from otlp_compare import APART_NS, START_NS, Scenario, post_logs
from otlp_data import as_protobuf, request_of

from metrics_service.app import serve_app
from metrics_service.http import foundation
from metrics_service.ingest.diary import Diary

CONCURRENCY = 4
RECORDS = (1000, 20)
WITH, WITHOUT = "with", "without"
TARGET = 0.97

_seeds = itertools.count(time.time_ns() // 1_000_000)

Runs = dict[tuple[int, str], list[Measured]]


class Unwritten(Diary):
    """A diary that notes nothing."""

    def accept(self, *_: Any) -> None:
        pass

    def refuse(self, *_: Any) -> None:
        pass


def make_with() -> ASGIApp:
    return serve_app()


def make_without() -> ASGIApp:
    foundation.Diary = Unwritten  # type: ignore[misc]  # a class is put in the place of its base
    return serve_app()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--serve", choices=[WITH, WITHOUT], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve is not None:
        _serve(chosen.serve, chosen.port)
        return
    tenants = load_tenants(chosen.data)
    with database(chosen.data) as addresses, ExitStack() as stack:
        servers = [
            stack.enter_context(
                serving(
                    name,
                    addresses.runtime,
                    data=chosen.data,
                    program=(str(Path(__file__)), "--serve", name),
                )
            )
            for name in (WITH, WITHOUT)
        ]
        runs: Runs = {}
        for number in range(-1, chosen.rounds):
            for records in RECORDS:
                # As many records' worth of small requests would take too long to make.
                count = chosen.requests * (1 if records == max(RECORDS) else 10)
                # The order turns, so that nobody always comes first.
                for server in servers if number % 2 else servers[::-1]:
                    found = _measured(server, tenants, records, count)
                    if number >= 0:
                        runs.setdefault((records, server.name), []).append(found)
    print(_report(runs))


def _serve(name: str, port: int) -> None:
    Granian(
        f"diary:make_{name}",
        address="127.0.0.1",
        port=port,
        interface=Interfaces.ASGI,
        workers=1,
        factory=True,
        http=HTTPModes.http1,
        websockets=False,
        log_level=LogLevels.warning,
        log_access=False,
    ).serve()


def _measured(server: Running, tenants: list[BenchTenant], records: int, count: int) -> Measured:
    made = []
    for seed in itertools.islice(_seeds, count):
        body = request_of(
            seed,
            records=records,
            sessions=min(20, records),
            start_ns=START_NS + seed % 10_000 * APART_NS,
            names=(),
        )
        tenant = random.Random(seed).choice(tenants)
        made.append(post_logs(tenant, as_protobuf(body), Scenario()))
    found = measure(server, made, concurrency=CONCURRENCY)
    if found.failures:
        raise SystemExit(f"{server.name}: {found.failures} failures")
    return found


def _report(runs: Runs) -> str:
    rows = []
    for records in RECORDS:
        pairs = list(zip(runs[records, WITH], runs[records, WITHOUT], strict=True))
        # Within a round, because only neighbours in time had the same machine.
        rate = median([one.per_second / other.per_second for one, other in pairs])
        cpu = median([one.cpu_ms / other.cpu_ms for one, other in pairs])
        rows.append([
            str(records),
            f"{median([one.per_second for one, _ in pairs]):.1f}",
            f"{median([other.per_second for _, other in pairs]):.1f}",
            f"{rate:.1%}", f"≥ {TARGET:.0%}",
            f"{median([one.cpu_ms for one, _ in pairs]):.2f}",
            f"{median([other.cpu_ms for _, other in pairs]):.2f}", f"{cpu:.1%}",
        ])  # fmt: skip
    head = ["records a request", "requests/s with", "without", "of it", "target",
            "server CPU ms with", "without", "of it"]  # fmt: skip
    return table(head, rows)


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn", force=True)
    main()
