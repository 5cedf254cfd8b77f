"""A collector for tests: takes OTLP over HTTP and gRPC, decodes it, and misbehaves when it is told to."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
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

REQUESTS: dict[str, Any] = {
    "traces": ExportTraceServiceRequest,
    "metrics": ExportMetricsServiceRequest,
    "logs": ExportLogsServiceRequest,
}
RESPONSES: dict[str, Any] = {
    "traces": ExportTraceServiceResponse,
    "metrics": ExportMetricsServiceResponse,
    "logs": ExportLogsServiceResponse,
}
METHODS = {
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export": "traces",
    "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export": "metrics",
    "/opentelemetry.proto.collector.logs.v1.LogsService/Export": "logs",
}

Behaviour = Callable[[Any], bool]
"""Given whoever handles a request, does something else; says whether the usual is to be done after it."""


class Taken:
    """What has arrived, in order."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.attempts: list[float] = []
        self.behaviours: list[Behaviour] = []
        self._changed = threading.Condition()

    def add(self, signal: str, message: Any, headers: dict[str, str]) -> None:
        with self._changed:
            self.requests.append((signal, message))
            self.headers.append(headers)
            self._changed.notify_all()

    def next_behaviour(self) -> Behaviour | None:
        with self._changed:
            self.attempts.append(time.monotonic())
            self._changed.notify_all()
            return self.behaviours.pop(0) if self.behaviours else None

    def wait_for(self, is_there: Callable[[], bool], timeout_s: float = 10.0) -> None:
        with self._changed:
            assert self._changed.wait_for(is_there, timeout_s), f"not there: {len(self.requests)}"

    def spans(self) -> list[Any]:
        return [
            span
            for signal, message in list(self.requests)
            if signal == "traces"
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def records(self) -> list[Any]:
        return [
            record
            for signal, message in list(self.requests)
            if signal == "logs"
            for resource in message.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def metrics(self) -> list[Any]:
        return [
            metric
            for signal, message in list(self.requests)
            if signal == "metrics"
            for resource in message.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]


class HttpCollector(Taken):
    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port
        self.url = f"http://127.0.0.1:{port}"


def attributes_of(thing: Any) -> dict[str, Any]:
    return {
        item.key: getattr(item.value, item.value.WhichOneof("value")) for item in thing.attributes
    }


@contextmanager
def http_collector(trust: ssl.SSLContext | None = None) -> Iterator[HttpCollector]:
    server = _Server(("127.0.0.1", 0), _Handler)
    if trust is not None:
        server.socket = trust.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    server.collector = HttpCollector(server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    collector: HttpCollector

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        collector = self.server.collector
        behaviour = collector.next_behaviour()
        if behaviour is not None and not behaviour(self):
            return
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        signal = self.path.partition("?")[0].rpartition("/")[2]
        assert self.headers["content-type"] == "application/x-protobuf"
        headers = {key.lower(): value for key, value in self.headers.items()}
        collector.add(signal, REQUESTS[signal].FromString(body), {**headers, ":path": self.path})
        self.answer(200, RESPONSES[signal]().SerializeToString())

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        for name, value in {"content-type": "application/x-protobuf", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def read(self) -> bytes:
        return self.rfile.read(int(self.headers["content-length"]))

    def log_message(self, *_: Any) -> None:
        pass


def answering(status: int, body: bytes = b"", **headers: str) -> Behaviour:
    def behave(handler: Any) -> bool:
        handler.read()
        handler.answer(status, body, **headers)
        return False

    return behave


def hang_up(handler: Any) -> bool:
    """Close in the middle of the request's body."""
    handler.rfile.read(10)
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True
    return False


def break_off(handler: Any) -> bool:
    """Take it, say so, and close in the middle of the answer's body."""
    handler.read()
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.send_header("content-type", "application/x-protobuf")
    handler.end_headers()
    handler.wfile.write(b"\x0a")
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True
    return False


def dripping(seconds: float) -> Behaviour:
    """Answer so slowly that no single wait is long."""

    def behave(handler: Any) -> bool:
        handler.read()
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                handler.wfile.write(b"H" if handler.wfile.closed else b"X")
                time.sleep(0.05)
        except OSError:
            pass
        handler.close_connection = True
        return False

    return behave


def silent(seconds: float) -> Behaviour:
    def behave(handler: Any) -> bool:
        time.sleep(seconds)
        return True

    return behave


class GrpcCollector(Taken, grpc.GenericRpcHandler):
    """All three services."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def service(self, handler_call_details: Any) -> Any:
        signal = METHODS[handler_call_details.method]
        metadata = {
            key: value
            for key, value in handler_call_details.invocation_metadata
            if isinstance(value, str)
        }

        def export(request: Any, context: Any) -> Any:
            behaviour = self.next_behaviour()
            if behaviour is None or behaviour(context):
                self.add(signal, request, metadata)
            return RESPONSES[signal]()

        return grpc.unary_unary_rpc_method_handler(
            export,
            request_deserializer=REQUESTS[signal].FromString,
            response_serializer=RESPONSES[signal].SerializeToString,
        )


@contextmanager
def grpc_collector() -> Iterator[GrpcCollector]:
    collector = GrpcCollector()
    server = grpc.server(
        ThreadPoolExecutor(4), handlers=[collector], options=[("grpc.so_reuseport", 0)]
    )
    collector.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield collector
    finally:
        server.stop(0).wait()
