"""`/v1/logs`, `/v1/metrics` and `/v1/traces`: OTLP over HTTP, as protobuf and as JSON."""

from __future__ import annotations

from litestar import Controller, Response, post
from litestar.di import NamedDependency

from metrics_service.errors import UnsupportedMediaTypeError
from metrics_service.fields import Signal
from metrics_service.http.body import take_body
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.diary_notes import leave_taken
from metrics_service.http.otlp_errors import JSON, PROTOBUF, PROTOBUF_TYPES, media_type_of
from metrics_service.otlp.answers import answer_json, answer_protobuf
from metrics_service.otlp.openapi import LOGS, METRICS, TRACES, otlp_operation
from metrics_service.otlp.receive import receive


class OtlpController(Controller):
    path = "/v1"
    tags = ["OTLP"]

    @post(
        "/logs",
        opt=requires("ingest"),
        status_code=200,
        operation_class=otlp_operation(LOGS),
    )
    async def post_logs(
        self, request: AnyRequest, caller: NamedDependency[Caller]
    ) -> Response[bytes]:
        """Take in log records (OTLP); sending them again is safe."""
        return await _take_in("logs", request, caller)

    @post(
        "/metrics",
        opt=requires("ingest"),
        status_code=200,
        operation_class=otlp_operation(METRICS),
    )
    async def post_metrics(
        self, request: AnyRequest, caller: NamedDependency[Caller]
    ) -> Response[bytes]:
        """Take in data points (OTLP); sending them again is safe."""
        return await _take_in("metrics", request, caller)

    @post(
        "/traces",
        opt=requires("ingest"),
        status_code=200,
        operation_class=otlp_operation(TRACES),
    )
    async def post_traces(
        self, request: AnyRequest, caller: NamedDependency[Caller]
    ) -> Response[bytes]:
        """Take in spans (OTLP); sending them again is safe."""
        return await _take_in("traces", request, caller)


async def _take_in(signal: Signal, request: AnyRequest, caller: Caller) -> Response[bytes]:
    media_type = media_type_of(request.scope)
    is_json = media_type == JSON
    if not is_json and media_type not in PROTOBUF_TYPES:
        raise UnsupportedMediaTypeError(f"Content-Type must be {PROTOBUF} or {JSON}")
    reading = await receive(caller, signal, await take_body(request), is_json=is_json)
    leave_taken(request.scope, reading.taken())
    answer = (
        answer_json(signal, reading)
        if is_json
        else answer_protobuf(signal, reading).SerializeToString()
    )
    return Response(answer, media_type=media_type)
