"""What became of one attempt to send."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from metrics_service.observability.export.settings import Kind


class Service(msgspec.Struct, frozen=True):
    """How a signal is spoken of."""

    method: str
    request: Any
    answer: Any
    rejected: str


_SERVICES = "/opentelemetry.proto.collector"
SERVICES: dict[Kind, Service] = {
    "traces": Service(
        f"{_SERVICES}.trace.v1.TraceService/Export",
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
        "rejected_spans",
    ),
    "metrics": Service(
        f"{_SERVICES}.metrics.v1.MetricsService/Export",
        ExportMetricsServiceRequest,
        ExportMetricsServiceResponse,
        "rejected_data_points",
    ),
    "logs": Service(
        f"{_SERVICES}.logs.v1.LogsService/Export",
        ExportLogsServiceRequest,
        ExportLogsServiceResponse,
        "rejected_log_records",
    ),
}


class Taken(msgspec.Struct, frozen=True):
    """The collector has it."""

    rejected: int = 0
    """How many of the items it did not want."""


class Refused(msgspec.Struct, frozen=True):
    """It does not."""

    reason: str
    """A class of failures, such as `http 503`; never anything that the other side wrote."""
    is_final: bool = False
    """Whether sending it again is no use."""
    wait_s: float | None = None
    """How long the other side wants to be left alone."""


Answer = Taken | Refused


class Sender(Protocol):
    """A way to a collector; used by one thread."""

    def send(self, request: bytes, timeout_s: float) -> Answer:
        """Try once; never raises for what the other side or the network does."""

    def close(self) -> None: ...


def read_answer(kind: Kind, body: bytes) -> Taken | None:
    """What an answer says that should be one of OTLP; None where it is none."""
    service = SERVICES[kind]
    try:
        answer = service.answer.FromString(body)
    except DecodeError:
        return None
    rejected: int = getattr(answer.partial_success, service.rejected)
    return Taken(max(0, rejected))
