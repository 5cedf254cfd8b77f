"""Records as OTLP logs, as their client would have sent them, but for the scope that says what they are."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from metrics_service.ingest.recorded import IMPORT_SCOPE
from metrics_service.transcripts.claude_code import SERVICE as CLAUDE_CODE
from metrics_service.transcripts.codex import SERVICE as CODEX
from metrics_service.transcripts.records import Attribute, Record

# How each begins the names of its events, and what it calls a session's id.
_FORMS = {
    CLAUDE_CODE: ("claude_code.", "session.id"),
    CODEX: ("codex.", "conversation.id"),
}


def as_request(service: str, user_email: str | None, records: Iterable[Record]) -> bytes:
    """The body of one request."""
    prefix, session_key = _FORMS[service]
    request = ExportLogsServiceRequest()
    resource = request.resource_logs.add()
    resource.resource.attributes.append(_pair("service.name", service))
    if user_email is not None:
        resource.resource.attributes.append(_pair("user.email", user_email))
    scope = resource.scope_logs.add()
    scope.scope.name = IMPORT_SCOPE
    scope.log_records.extend(
        LogRecord(
            time_unix_nano=record.time_ns,
            observed_time_unix_nano=record.time_ns,
            attributes=[
                _pair("event.name", f"{prefix}{record.name}"),
                _pair(session_key, record.session_id),
                *(_pair(name, value) for name, value in record.attributes.items()),
            ],
        )
        for record in records
    )
    body: bytes = request.SerializeToString()
    return body


def _pair(name: str, value: Attribute) -> KeyValue:
    if isinstance(value, str):
        return KeyValue(key=name, value=AnyValue(string_value=value))
    if isinstance(value, bool):
        return KeyValue(key=name, value=AnyValue(bool_value=value))
    if isinstance(value, int):
        return KeyValue(key=name, value=AnyValue(int_value=value))
    return KeyValue(key=name, value=AnyValue(double_value=value))
