"""What it costs the service to watch itself: the same load with all of it, and with less and less.

    python scripts/bench/observability.py [--data DIR] [--rounds 15] [--pages 600] [--batches 24]
        [--base SOURCE] [--only page|batch] [--starts 1] [--kinds off traced slow]

One worker each, in interleaved rounds whose order turns; ratios are of neighbours within a round.
Two processes that run the same code differ by up to a tenth, by where things lie in memory: what is
to be known more closely wants several starts of each.
`off` is the service as it runs when no OTEL_ variable is set; `base` is the source tree it is compared
with, such as one from before it could watch itself; `traced` exports a trace of every request to a
collector on this machine, which counts them; `slow` calls slow what takes a millisecond, so that
nearly all statements of a batch are noted and written.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
from common import (
    DATA,
    SOURCE,
    BenchTenant,
    Running,
    database,
    load_tenants,
    median,
    serving,
    table,
)
from load import Measured, batch_requests, measure, page_requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

BASE, OFF, TRACED, SLOW = "base", "off", "traced", "slow"
PAGE, BATCH = "page of 50, 8 at once", "batch of 1,000, 2 at once"
CONCURRENCY = {PAGE: 8, BATCH: 2}
# Of requests a second.
# Timing statements is always on, so that is a part of what `off` costs; `slow` is the worst that may come.
TARGETS = {(OFF, BASE): "≥ 98%", (TRACED, OFF): "≥ 90%", (SLOW, OFF): ""}

Results = dict[tuple[str, str], list[Measured]]


class Counted(msgspec.Struct):
    """What the collector was told."""

    requests: int = 0
    spans: int = 0
    bytes: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--pages", type=int, default=600)
    parser.add_argument("--batches", type=int, default=24)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--only", choices=["page", "batch"])
    parser.add_argument("--starts", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", default=[OFF, TRACED, SLOW])
    chosen = parser.parse_args()
    tenants = load_tenants(chosen.data)
    with _collector() as (endpoint, counted), database(chosen.data) as addresses:
        kinds: dict[str, tuple[Path, dict[str, str]]] = {
            OFF: (SOURCE, {}),
            TRACED: (SOURCE, _tracing(endpoint)),
            # Without the line in the log that each of them gets.
            SLOW: (SOURCE, {"SLOW_QUERY_THRESHOLD_MS": "1", "METRICS_LOG_LEVEL": "error"}),
        }
        if chosen.base is not None:
            kinds[BASE] = (chosen.base, {})
        kinds = {name: kind for name, kind in kinds.items() if name in chosen.kinds or name == BASE}
        results: Results = {}
        answered = 0
        for _ in range(chosen.starts):
            with ExitStack() as stack:
                servers = [
                    stack.enter_context(
                        serving(name, addresses.runtime, source=source, data=chosen.data, more=more)
                    )
                    for name, (source, more) in kinds.items()
                ]
                answered += _rounds(chosen, tenants, servers, results)
        told = counted()
    print(_report(results))
    print(
        f"\nThe collector was told of {told.requests} of {answered} requests,"
        f" in {told.spans} spans of {told.bytes / max(1, told.spans):.0f} bytes."
    )


def _rounds(
    chosen: argparse.Namespace, tenants: list[BenchTenant], servers: list[Running], results: Results
) -> int:
    """Add what was measured; returns how many requests were traced."""
    traced = 0
    for number in range(-1, chosen.rounds):
        turn = number % len(servers)
        order = servers[turn:] + servers[:turn]
        # And every second time it goes backwards: two that are compared follow each other
        # as often one way as the other.
        for server in order if number % 2 else order[::-1]:
            for scenario, requests in _requests(chosen, tenants, number):
                found = measure(server, requests, concurrency=CONCURRENCY[scenario])
                if found.failures:
                    raise SystemExit(f"{server.name}: {found.failures} requests failed")
                traced += len(requests) * (server.name == TRACED)
                if number >= 0:
                    results.setdefault((scenario, server.name), []).append(found)
    return traced


def _requests(
    chosen: argparse.Namespace, tenants: list[BenchTenant], number: int
) -> Iterator[tuple[str, list[bytes]]]:
    if chosen.only != "batch":
        yield PAGE, page_requests(tenants, chosen.pages, seed=number)
    if chosen.only != "page":
        yield BATCH, batch_requests(tenants, chosen.batches, seed=number)


def _tracing(endpoint: str) -> dict[str, str]:
    return {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_TRACES_SAMPLER": "always_on",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        # What a burst of this load makes must not be dropped, or it would be cheaper than it is.
        "OTEL_BSP_MAX_QUEUE_SIZE": "200000",
    }


def _report(results: Results) -> str:
    rows = []
    for (scenario, name), runs in results.items():
        rows.append(
            [
                scenario,
                name,
                f"{median([run.per_second for run in runs]):,.0f}",
                f"{median([run.p50 for run in runs]):.2f}",
                f"{median([run.p99 for run in runs]):.1f}",
                f"{median([run.cpu_ms for run in runs]):.3f}",
            ]
        )
        for (one, other), target in TARGETS.items():
            if one != name or (scenario, other) not in results:
                continue
            others = results[scenario, other]
            rate = median([a.per_second / b.per_second for a, b in zip(runs, others, strict=True)])
            cpu = median([a.cpu_ms / b.cpu_ms for a, b in zip(runs, others, strict=True)])
            rows[-1] += [f"{rate:.1%} of {other}", target, f"{cpu:.1%}"]
    head = ["scenario", "server", "requests/s", "p50 ms", "p99 ms", "CPU ms a request"]
    return table([*head, "rate", "target", "CPU"], [[*row, *[""] * (9 - len(row))] for row in rows])


# -- the collector ---------------------------------------------------------------------------------


@contextmanager
def _collector() -> Iterator[tuple[str, Callable[[], Counted]]]:
    """A process that takes whatever is exported; counts when it is asked, not while others are timed."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.Process(target=_collect, args=(listening, theirs), daemon=True)
        process.start()
        port = listening.getsockname()[1]
    bodies: list[bytes] = []

    def counted() -> Counted:
        ours.send(None)
        while (body := ours.recv()) is not None:
            bodies.append(body)
        return _count(bodies)

    try:
        yield f"http://127.0.0.1:{port}", counted
    finally:
        process.terminate()
        process.join()


def _collect(listening: socket.socket, asked: Connection) -> None:
    bodies: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
                bodies.append(await reader.readexactly(length))
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\n"
                    b"Content-Length: 0\r\n\r\n"
                )
        except asyncio.IncompleteReadError:
            writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(take, sock=listening, limit=2**26)
        async with server:
            while not asked.poll():  # noqa: ASYNC110 - another process asks
                await asyncio.sleep(0.2)
        asked.recv()
        for body in bodies:
            asked.send(body)
        asked.send(None)

    asyncio.run(serve())


def _count(bodies: list[bytes]) -> Counted:
    counted = Counted()
    for body in bodies:
        request = ExportTraceServiceRequest.FromString(body)
        spans = [
            span
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        counted.requests += sum(span.kind == Span.SPAN_KIND_SERVER for span in spans)
        counted.spans += len(spans)
        counted.bytes += len(body)
    return counted


if __name__ == "__main__":
    main()
