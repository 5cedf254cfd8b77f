"""How much of a bare walk over the payload decoding and mapping reach, by encoding.

The floor parses the payload and puts every attribute of every record into a dictionary, nothing
else. Rounds alternate; medians and ratios are printed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from uuid import uuid4

import msgspec
import otlp_data
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from metrics_service.ingest.telemetry import Telemetry
from metrics_service.otlp.decode import read_request

ROUNDS = 30
START_NS = 1_760_000_000_000_000_000


def walk_protobuf(body: bytes) -> int:
    rows = 0
    for group in ExportLogsServiceRequest.FromString(body).resource_logs:
        for scoped in group.scope_logs:
            for record in scoped.log_records:
                row = {}
                for pair in record.attributes:
                    value = pair.value
                    text = value.string_value
                    row[pair.key] = text or getattr(value, value.WhichOneof("value") or "", None)
                rows += bool(row) and bool(record.time_unix_nano)
    return rows


class _Value(msgspec.Struct, rename="camel"):
    string_value: str | None = None
    int_value: int | str | None = None
    double_value: float | None = None
    bool_value: bool | None = None


class _Pair(msgspec.Struct):
    key: str
    value: _Value


class _Record(msgspec.Struct, rename="camel"):
    time_unix_nano: str
    attributes: list[_Pair]


class _Scoped(msgspec.Struct, rename="camel"):
    log_records: list[_Record]


class _Group(msgspec.Struct, rename="camel"):
    scope_logs: list[_Scoped]


class _Request(msgspec.Struct, rename="camel"):
    resource_logs: list[_Group]


_decoder = msgspec.json.Decoder(_Request)


def walk_json(body: bytes) -> int:
    rows = 0
    for group in _decoder.decode(body).resource_logs:
        for scoped in group.scope_logs:
            for record in scoped.log_records:
                row: dict[str, object] = {}
                for pair in record.attributes:
                    value = pair.value
                    text = value.string_value
                    row[pair.key] = text if text is not None else value.int_value
                rows += bool(row) and bool(record.time_unix_nano)
    return rows


def mapped(body: bytes, *, is_json: bool) -> int:
    out = Telemetry(uuid4())
    read_request("logs", body, is_json=is_json, received_ns=START_NS, out=out)
    return len(out.tools)


def main() -> None:
    as_json = otlp_data.request_of(1, start_ns=START_NS)
    as_protobuf = otlp_data.as_protobuf(as_json)
    runs: dict[str, tuple[Callable[[], int], list[float]]] = {
        "walk protobuf": (lambda: walk_protobuf(as_protobuf), []),
        "map protobuf": (lambda: mapped(as_protobuf, is_json=False), []),
        "walk JSON": (lambda: walk_json(as_json), []),
        "map JSON": (lambda: mapped(as_json, is_json=True), []),
    }
    for _ in range(ROUNDS):
        for run, times in runs.values():
            started = time.perf_counter()
            assert run() == 1000
            times.append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, (_, times) in runs.items()}
    for name, seconds in medians.items():
        print(f"{name:14} {1000 / seconds:9,.0f} records/s")
    for encoding in ("protobuf", "JSON"):
        share = medians[f"walk {encoding}"] / medians[f"map {encoding}"]
        print(f"{encoding}: decoding and mapping at {share:.0%} of the bare walk (target 50 %)")


if __name__ == "__main__":
    main()
