"""Sends OTLP over gRPC; imported only where that is asked for, because it takes memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# Before the library is there, which has lines of its own about every connection that fails.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from metrics_service.observability.export.answers import SERVICES, Answer, Refused, read_answer
from metrics_service.observability.export.settings import Kind, Target
from metrics_service.observability.own_exports import own_user_agent

DETAILS = "grpc-status-details-bin"
AGAIN = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""As the specification of OTLP has it; RESOURCE_EXHAUSTED only where it says when."""


class GrpcSender:
    """A channel to one collector."""

    def __init__(self, kind: Kind, target: Target) -> None:
        self._kind = kind
        self._metadata = tuple(target.headers.items())
        self._packing = grpc.Compression.Gzip if target.is_gzipped else None
        self._channel = _channel(target)
        # Bytes in, bytes out: nothing has to be made into a message.
        self._call = self._channel.unary_unary(SERVICES[kind].method)

    def send(self, request: bytes, timeout_s: float) -> Answer:
        try:
            answer = self._call(
                request, timeout=timeout_s, metadata=self._metadata, compression=self._packing
            )
        except grpc.RpcError as error:
            return _refused(error)
        return read_answer(self._kind, answer) or Refused("not otlp", is_final=True)

    def close(self) -> None:
        self._channel.close()


def _channel(target: Target) -> Any:
    options = [
        ("grpc.primary_user_agent", own_user_agent()),
        # When to try again is decided in one place, for both protocols.
        ("grpc.enable_retries", 0),
        # Or a collector that was away for long is not asked for two minutes after it came back.
        ("grpc.max_reconnect_backoff_ms", 5000),
        # Of its own: channels to one address share their failures too.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if not target.is_tls:
        return grpc.insecure_channel(target.authority, options=options)
    trust = grpc.ssl_channel_credentials(
        root_certificates=_read(target.authorities or os.environ.get("SSL_CERT_FILE")),
        private_key=_read(target.client_key or target.client_certificate),
        certificate_chain=_read(target.client_certificate),
    )
    return grpc.secure_channel(target.authority, trust, options=options)


def _read(path: str | None) -> bytes | None:
    return Path(path).read_bytes() if path else None


def _refused(error: Any) -> Refused:
    code = error.code()
    wait_s = _retry_delay_s(error)
    is_again = code in AGAIN or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and wait_s is not None)
    return Refused(f"grpc {code.name}", is_final=not is_again, wait_s=wait_s)


def _retry_delay_s(error: Any) -> float | None:
    """When the collector wants to be asked again, in the details that only servers send."""
    details = dict(error.trailing_metadata() or ()).get(DETAILS)
    try:
        status = Status.FromString(details) if isinstance(details, bytes) else None
    except DecodeError:
        return None
    retry = RetryInfo()
    for detail in status.details if status is not None else ():
        if detail.Unpack(retry):
            delay_s: float = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
            return max(0.0, delay_s)
    return None
