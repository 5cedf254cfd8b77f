"""`Export<Signal>ServiceResponse`: empty when all is well, else how many items were refused, and why."""

from __future__ import annotations

from typing import Any

import msgspec
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from metrics_service.fields import Signal
from metrics_service.otlp.decode import Reading

MAX_MESSAGE_LENGTH = 1000

# What each signal answers with, and what it calls the count, in protobuf and in JSON.
_ANSWERS: dict[Signal, tuple[Any, str, str]] = {
    "logs": (ExportLogsServiceResponse, "rejected_log_records", "rejectedLogRecords"),
    "metrics": (ExportMetricsServiceResponse, "rejected_data_points", "rejectedDataPoints"),
    "traces": (ExportTraceServiceResponse, "rejected_spans", "rejectedSpans"),
}


def answer_protobuf(signal: Signal, reading: Reading) -> Any:
    """The message; of zero bytes when nothing was refused and there is no warning."""
    kind, count, _ = _ANSWERS[signal]
    if is_clean(reading):
        return kind()
    return kind(partial_success={count: reading.rejected, "error_message": _message(reading)})


def answer_json(signal: Signal, reading: Reading) -> bytes:
    if is_clean(reading):
        return b"{}"
    _, _, count = _ANSWERS[signal]
    # 64-bit integers are text in the JSON of protobuf.
    partial = {count: str(reading.rejected), "errorMessage": _message(reading)}
    return msgspec.json.encode({"partialSuccess": partial})


def is_clean(reading: Reading) -> bool:
    return not (reading.rejected or reading.reasons)


def _message(reading: Reading) -> str:
    message = "; ".join(reading.reasons)
    return (
        message if len(message) <= MAX_MESSAGE_LENGTH else message[: MAX_MESSAGE_LENGTH - 1] + "…"
    )
