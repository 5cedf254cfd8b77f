"""What becomes of an export over gRPC, in the codes and details that OTLP clients act on.

They try again after UNAVAILABLE and some more codes; UNKNOWN and most others are final, and what was sent
is lost. Source: OTLP specification, section "OTLP/gRPC Response" and its "Failures".
"""

from __future__ import annotations

import msgspec
from google.protobuf.message import Message
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from google.rpc.status_pb2 import Status

from metrics_service.errors import InvalidBodyError, MetricsServiceError
from metrics_service.http.otlp_errors import MAX_RETRY_AFTER_S
from metrics_service.http.problems import STATUS_OF

# Trailers share 8 KiB with each other in many clients.
MAX_TEXT = 1000
DETAILS = "grpc-status-details-bin"

# Whatever is not here may be different a moment later.
_FINAL = {
    400: code_pb2.INVALID_ARGUMENT,
    401: code_pb2.UNAUTHENTICATED,
    403: code_pb2.PERMISSION_DENIED,
    404: code_pb2.NOT_FOUND,
    405: code_pb2.UNIMPLEMENTED,
    413: code_pb2.RESOURCE_EXHAUSTED,
    422: code_pb2.INVALID_ARGUMENT,
}


class Refusal(msgspec.Struct, frozen=True):
    """How a call ends that stored nothing."""

    code: str
    """The name that gRPC has for it."""
    text: str
    details: bytes
    """A `google.rpc.Status`."""


def refused(error: MetricsServiceError) -> Refusal:
    """Say why a request is not stored, and when it is worth another attempt."""
    status = Status(
        code=_FINAL.get(http_status(error), code_pb2.UNAVAILABLE),
        message=str(error)[:MAX_TEXT],
    )
    if status.code == code_pb2.UNAVAILABLE:
        _add(status, _retry_info(error))
    elif status.code == code_pb2.INVALID_ARGUMENT:
        _add(status, _bad_request(error))
    return Refusal(
        code=code_pb2.Code.Name(status.code),
        text=status.message,
        details=status.SerializeToString(),
    )


def http_status(error: MetricsServiceError) -> int:
    """What the error is over HTTP; one that never gets there is ours, and passes."""
    return STATUS_OF.get(type(error), 503)


def _add(status: Status, detail: Message) -> None:
    status.details.add().Pack(detail)


def _retry_info(error: MetricsServiceError) -> RetryInfo:
    info = RetryInfo()
    info.retry_delay.seconds = min(getattr(error, "retry_after_s", 1), MAX_RETRY_AFTER_S)
    return info


def _bad_request(error: MetricsServiceError) -> BadRequest:
    request = BadRequest()
    if isinstance(error, InvalidBodyError):
        for one in error.errors[:10]:
            request.field_violations.add(field=one.field or "", description=one.reason)
    else:
        request.field_violations.add(description=str(error)[:MAX_TEXT])
    return request
