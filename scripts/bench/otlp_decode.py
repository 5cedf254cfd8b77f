"""How much of a bare walk over the payload decoding and mapping reach, by encoding.

The walk parses the payload and makes a row of every record, as a receiver without any mapping has to:
times, severity, ids, body and all attributes, whatever kind of value they have, kept until the request
ends. Its structs are plain ones, which the garbage collector follows; it runs as in the service. Rounds
alternate, with the same payload in both encodings; a ratio is the median over rounds.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import msgspec
import otlp_data
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from metrics_service.ingest.telemetry import Telemetry
from metrics_service.otlp.decode import read_request

ROUNDS = 40
RECORDS = 1000
START_NS = 1_760_000_000_000_000_000
TARGET = 0.5


class Row(msgspec.Struct):
    """A log record with nothing left to decode."""

    time_ns: int
    observed_ns: int
    severity: int
    severity_text: str
    trace_id: str
    span_id: str
    event_name: str
    body: Any
    attributes: dict[str, Any]


# -- protobuf ---------------------------------------------------------------------------------------


def walk_protobuf(body: bytes) -> list[Row]:
    rows = []
    for group in ExportLogsServiceRequest.FromString(body).resource_logs:
        _pairs_of(group.resource.attributes)
        for scoped in group.scope_logs:
            for record in scoped.log_records:
                attributes = {}
                for pair in record.attributes:
                    value = pair.value
                    attributes[pair.key] = value.string_value or _value_of(value)
                rows.append(
                    Row(
                        record.time_unix_nano,
                        record.observed_time_unix_nano,
                        record.severity_number,
                        record.severity_text,
                        record.trace_id.hex(),
                        record.span_id.hex(),
                        record.event_name,
                        record.body.string_value or _value_of(record.body),
                        attributes,
                    )
                )
    return rows


def _pairs_of(pairs: Any) -> dict[str, Any]:
    return {pair.key: pair.value.string_value or _value_of(pair.value) for pair in pairs}


def _value_of(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [item.string_value or _value_of(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _pairs_of(value.kvlist_value.values)
    return getattr(value, kind)


# -- JSON -------------------------------------------------------------------------------------------

Number = int | float | str | None


class _Value(msgspec.Struct, rename="camel"):
    string_value: str | None = None
    int_value: Number = None
    double_value: Number = None
    bool_value: bool | None = None
    array_value: _Array | None = None
    kvlist_value: _Pairs | None = None
    bytes_value: str | None = None


class _Array(msgspec.Struct):
    values: list[_Value] = []


class _Pair(msgspec.Struct):
    key: str
    value: _Value


class _Pairs(msgspec.Struct):
    values: list[_Pair] = []


class _Record(msgspec.Struct, rename="camel"):
    time_unix_nano: Number = None
    observed_time_unix_nano: Number = None
    severity_number: Number = None
    severity_text: str = ""
    trace_id: str = ""
    span_id: str = ""
    event_name: str = ""
    body: _Value | None = None
    attributes: list[_Pair] = []


class _Resource(msgspec.Struct):
    attributes: list[_Pair] = []


class _Scoped(msgspec.Struct, rename="camel"):
    log_records: list[_Record] = []


class _Group(msgspec.Struct, rename="camel"):
    resource: _Resource
    scope_logs: list[_Scoped] = []


class _Request(msgspec.Struct, rename="camel"):
    resource_logs: list[_Group] = []


_decoder = msgspec.json.Decoder(_Request)


def walk_json(body: bytes) -> list[Row]:
    rows = []
    for group in _decoder.decode(body).resource_logs:
        _plain_pairs(group.resource.attributes)
        for scoped in group.scope_logs:
            for record in scoped.log_records:
                attributes: dict[str, Any] = {}
                for pair in record.attributes:
                    text = pair.value.string_value
                    attributes[pair.key] = text if text is not None else _plain(pair.value)
                rows.append(
                    Row(
                        int(record.time_unix_nano or 0),
                        int(record.observed_time_unix_nano or 0),
                        int(record.severity_number or 0),
                        record.severity_text,
                        record.trace_id,
                        record.span_id,
                        record.event_name,
                        _plain(record.body) if record.body is not None else None,
                        attributes,
                    )
                )
    return rows


def _plain_pairs(pairs: list[_Pair]) -> dict[str, Any]:
    return {pair.key: _plain(pair.value) for pair in pairs}


def _plain(value: _Value) -> Any:
    if value.string_value is not None:
        return value.string_value
    if value.int_value is not None:
        return int(value.int_value)
    if value.double_value is not None:
        return float(value.double_value)
    if value.array_value is not None:
        return [_plain(item) for item in value.array_value.values]
    if value.kvlist_value is not None:
        return _plain_pairs(value.kvlist_value.values)
    return value.bool_value if value.bool_value is not None else value.bytes_value


# -- the service ------------------------------------------------------------------------------------


def mapped(body: bytes, *, is_json: bool) -> dict[int, Any]:
    out = Telemetry(uuid4())
    read_request("logs", body, is_json=is_json, received_ns=START_NS, out=out)
    return out.tools


def main() -> None:
    as_json = otlp_data.request_of(1, records=RECORDS, start_ns=START_NS)
    as_protobuf = otlp_data.as_protobuf(as_json)
    runs: dict[str, Callable[[], Any]] = {
        "walk protobuf": lambda: walk_protobuf(as_protobuf),
        "map protobuf": lambda: mapped(as_protobuf, is_json=False),
        "walk JSON": lambda: walk_json(as_json),
        "map JSON": lambda: mapped(as_json, is_json=True),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    gc.collect()
    # As the service does when it has started.
    gc.freeze()
    for _ in range(ROUNDS):
        for name, run in runs.items():
            started = time.process_time()
            assert len(run()) == RECORDS
            times[name].append(time.process_time() - started)
    for name, found in times.items():
        print(f"{name:14} {RECORDS / statistics.median(found):9,.0f} records/s of CPU time")
    for encoding in ("protobuf", "JSON"):
        pairs = zip(times[f"walk {encoding}"], times[f"map {encoding}"], strict=True)
        share = statistics.median([walk / both for walk, both in pairs])
        print(f"{encoding}: decoding and mapping at {share:.0%} of the walk (target {TARGET:.0%})")


if __name__ == "__main__":
    main()
