"""Sends over gRPC as an exporter does: one call for each signal, nothing tried again."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from metrics_service.send_test.answers import MAX_MESSAGE, Meaning, busy, of_message, refusal_of
from metrics_service.send_test.diagnosis import Finding, Symptom
from metrics_service.send_test.endpoint import Endpoint, Told
from metrics_service.send_test.environment import find_proxy, trusted_by_grpc
from metrics_service.send_test.http_sender import USER_AGENT, Reply
from metrics_service.send_test.probe import GRPC, find_cause
from metrics_service.send_test.session import KINDS, Export

DETAILS = "grpc-status-details-bin"

# The same refusals over HTTP, where their meaning is read.
_HTTP_STATUS = {
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.UNIMPLEMENTED: 405,
}
# What gRPC itself says when there was no conversation.
_SILENCE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


class GrpcSender:
    """A channel to one endpoint."""

    def __init__(self, endpoint: Endpoint, told: Told) -> None:
        self._endpoint = endpoint
        self._told = told
        self.proxy = find_proxy(endpoint, is_grpc=True)
        self._channel = _channel(endpoint)
        self._metadata = list(told.headers.items())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()

    def send(self, export: Export) -> Reply:
        kind = KINDS[export.signal]
        call = self._channel.unary_unary(kind.method)
        try:
            answer = call(
                export.request.SerializeToString(),
                metadata=self._metadata,
                timeout=self._told.timeout_s,
            )
        except grpc.RpcError as error:
            return self._refused(error)
        try:
            message = kind.answer.FromString(answer)
        except DecodeError:
            return Reply(Meaning(Finding(Symptom.NOT_OTLP, "it cannot be decoded")), "OK")
        return Reply(of_message(message, export.signal), "OK")

    def _refused(self, error: Any) -> Reply:
        code, text = error.code(), str(error.details() or "")[:MAX_MESSAGE]
        status = _status_of(error)
        if status is None and code in _SILENCE:
            found = self._cause()
            if found is not None:
                return Reply(Meaning(found))
        finding = self._finding(code, text, status)
        return Reply(Meaning(finding, text), code.name)

    def _cause(self) -> Finding | None:
        if self.proxy is not None:
            return Finding(Symptom.PROXY_FAILED, f"{self.proxy.words} does not let it pass")
        return find_cause(self._endpoint, wants=GRPC, timeout_s=self._told.timeout_s)

    def _finding(self, code: Any, text: str, status: Status | None) -> Finding:
        # gRPC's own words for an answer of HTTP/2 that is none of gRPC, such as a proxy's page.
        if status is None and ("http2 header" in text or "content-type" in text.lower()):
            return Finding(Symptom.FOREIGN, text)
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return Finding(Symptom.SILENT)
        if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}:
            wait_s = _retry_after_s(status)
            if code is grpc.StatusCode.RESOURCE_EXHAUSTED and wait_s is None:
                return Finding(Symptom.TOO_LARGE)
            return busy(text, wait_s)
        if code in _HTTP_STATUS:
            found = refusal_of(
                _HTTP_STATUS[code],
                text,
                self._endpoint,
                has_credential=self._told.has_credential,
            )
            if found is not None:
                return found
        is_ours = code in {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
        return Finding(Symptom.SERVER_ERROR if is_ours else Symptom.NOT_ACCEPTED, code.name)


def _channel(endpoint: Endpoint) -> Any:
    options = [
        ("grpc.default_authority", endpoint.asked),
        ("grpc.primary_user_agent", USER_AGENT),
        ("grpc.enable_retries", 0),
        # Of its own: channels to one address share their failures too.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if not endpoint.is_tls:
        return grpc.insecure_channel(endpoint.authority, options=options)
    options.append(("grpc.ssl_target_name_override", endpoint.asked_name))
    trust = grpc.ssl_channel_credentials(root_certificates=trusted_by_grpc())
    return grpc.secure_channel(endpoint.authority, trust, options=options)


def _status_of(error: Any) -> Status | None:
    """The `google.rpc.Status` of a refusal; only servers send one."""
    details = dict(error.trailing_metadata() or ()).get(DETAILS)
    try:
        return Status.FromString(details) if isinstance(details, bytes) else None
    except DecodeError:
        return None


def _retry_after_s(status: Status | None) -> str | None:
    retry = RetryInfo()
    for detail in status.details if status is not None else ():
        if detail.Unpack(retry):
            return str(retry.retry_delay.seconds)
    return None
