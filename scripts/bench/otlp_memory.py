"""The memory of one worker under a stream of large OTLP payloads from many tenants.

    python scripts/bench/otlp_memory.py [--data DIR] [--seconds 240] [--at-once 1] [--json] [--gzip]

A body has about 8 MiB: 10,000 new records as protobuf, 6,000 as JSON. The target is less than 250 MiB
at every moment, and a last third that rests no higher than the first.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import re
import time
from pathlib import Path

from common import (
    DATA,
    SOURCE,
    database,
    load_tenants,
    median,
    mib,
    serving,
    table,
    watched,
)
from load import drive
from otlp_compare import START_NS, Scenario, post_logs
from otlp_data import as_protobuf, request_of

TARGET_MIB = 250
# As many as make 8 MiB with the attribute below.
RECORDS = {False: 10_000, True: 6_000}
MORE = {"workspace": "/home/dev/projects/" + "x" * 120}

_call_ids = re.compile(rb"toolu_.{8}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seconds", type=int, default=240)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--gzip", action="store_true")
    parser.add_argument("--source", type=Path, default=SOURCE)
    chosen = parser.parse_args()
    tenants = load_tenants(chosen.data)
    scenario = Scenario(is_json=chosen.json, is_gzipped=chosen.gzip)
    body = request_of(1, records=RECORDS[chosen.json], start_ns=START_NS, more=MORE)
    body = body if chosen.json else as_protobuf(body)
    rests, peaks = [], []
    with (
        database(chosen.data) as addresses,
        serving("service", addresses.runtime, source=chosen.source, data=chosen.data) as server,
    ):
        worker = server.worker()
        begun = mib(worker)
        give_up_at = time.monotonic() + chosen.seconds
        # No run begins with the ids of another.
        for number in itertools.count(int(time.time()) % 2**24 * 256):
            if time.monotonic() > give_up_at:
                break
            first = number * chosen.at_once
            requests = [
                post_logs(tenants[seed % len(tenants)], _renewed(body, seed), scenario)
                for seed in range(first, first + chosen.at_once)
            ]
            with watched(worker) as peak:
                _, _, failures = asyncio.run(
                    drive(server.port, requests, concurrency=chosen.at_once, max_s=600)
                )
            if failures:
                raise SystemExit(f"{failures} of {chosen.at_once} requests failed")
            rests.append(mib(worker))
            peaks.append(peak[0])
    third = len(rests) // 3
    rows = [["started", "", f"{begun:.0f}", ""]]
    for name, part in (("first third", slice(0, third)), ("last third", slice(-third, None))):
        rows.append([name, f"{third}", f"{median(rests[part]):.0f}", f"{max(peaks[part]):.0f}"])
    verdict = "yes" if max(peaks) < TARGET_MIB else "**no**"
    size = len(body) / 2**20
    print(f"{len(rests) * chosen.at_once} bodies of {size:.1f} MiB, {chosen.at_once} at once")
    print(table(["part", "requests", "resident MiB", "peak MiB"], rows))
    print(f"under {TARGET_MIB} MiB: {verdict}")


def _renewed(body: bytes, seed: int) -> bytes:
    """The same records with ids that no other body has."""
    return _call_ids.sub(b"toolu_%08x" % (seed % 2**32), body)


if __name__ == "__main__":
    main()
