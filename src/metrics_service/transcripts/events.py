"""Records as OTLP logs, as their client would have sent them, but for the scope that says what they are."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from metrics_service.ingest.recorded import IMPORT_SCOPE
from metrics_service.transcripts.reading import Client
from metrics_service.transcripts.records import Attribute, Record


class Form(msgspec.Struct, frozen=True):
    """How a client names itself, and what it tells."""

    service: str
    prefix: str
    """Of the names of its events."""
    session_key: str


FORMS: dict[Client, Form] = {
    "claude-code": Form("claude-code", "claude_code.", "session.id"),
    "codex": Form("codex_cli_rs", "codex.", "conversation.id"),
}


def as_request(client: Client, user_email: str | None, records: Iterable[Record]) -> bytes:
    """The body of one request."""
    form = FORMS[client]
    request = ExportLogsServiceRequest()
    resource = request.resource_logs.add()
    resource.resource.attributes.append(_pair("service.name", form.service))
    if user_email is not None:
        resource.resource.attributes.append(_pair("user.email", user_email))
    scope = resource.scope_logs.add()
    scope.scope.name = IMPORT_SCOPE
    scope.log_records.extend(
        LogRecord(
            time_unix_nano=record.time_ns,
            observed_time_unix_nano=record.time_ns,
            attributes=[
                _pair("event.name", f"{form.prefix}{record.name}"),
                _pair(form.session_key, record.session_id),
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
