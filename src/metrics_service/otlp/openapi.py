"""How the routes of OTLP are described: each with a request that can be pasted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from litestar.openapi.spec import (
    OpenAPIFormat,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    RequestBody,
    Schema,
)

from metrics_service.http.otlp_errors import JSON, PROTOBUF

WITHOUT_HEADERS = (
    "A client that cannot send headers puts a key with the scope ingest alone into the path, "
    "before /v1: /i/<key>/v1/..."
)

_RESOURCE = {
    "attributes": [{"key": "service.name", "value": {"stringValue": "claude-code"}}],
}
_SESSION = {"key": "session.id", "value": {"stringValue": "5f0c8f6e"}}
_TIME = "1795166404000000000"

LOGS = {
    "resourceLogs": [
        {
            "resource": _RESOURCE,
            "scopeLogs": [
                {
                    "scope": {"name": "com.anthropic.claude_code.events"},
                    "logRecords": [
                        {
                            "timeUnixNano": _TIME,
                            "body": {"stringValue": "claude_code.tool_result"},
                            "attributes": [
                                _SESSION,
                                {"key": "event.name", "value": {"stringValue": "tool_result"}},
                                {"key": "tool_name", "value": {"stringValue": "Bash"}},
                                {"key": "tool_use_id", "value": {"stringValue": "toolu_01"}},
                                {"key": "success", "value": {"stringValue": "true"}},
                                {"key": "duration_ms", "value": {"stringValue": "412"}},
                            ],
                        }
                    ],
                }
            ],
        }
    ]
}
METRICS = {
    "resourceMetrics": [
        {
            "resource": _RESOURCE,
            "scopeMetrics": [
                {
                    "scope": {"name": "com.anthropic.claude_code"},
                    "metrics": [
                        {
                            "name": "claude_code.commit.count",
                            "sum": {
                                "aggregationTemporality": 1,
                                "isMonotonic": True,
                                "dataPoints": [
                                    {
                                        "startTimeUnixNano": "1795166344000000000",
                                        "timeUnixNano": _TIME,
                                        "asInt": "1",
                                        "attributes": [_SESSION],
                                    }
                                ],
                            },
                        }
                    ],
                }
            ],
        }
    ]
}
TRACES = {
    "resourceSpans": [
        {
            "resource": {
                "attributes": [{"key": "service.name", "value": {"stringValue": "my-agent"}}],
            },
            "scopeSpans": [
                {
                    "spans": [
                        {
                            "traceId": "5b8efff798038103d269b633813fc60c",
                            "spanId": "eee19b7ec3c1b174",
                            "name": "execute_tool Bash",
                            "startTimeUnixNano": _TIME,
                            "endTimeUnixNano": "1795166404412000000",
                            "attributes": [
                                {
                                    "key": "gen_ai.operation.name",
                                    "value": {"stringValue": "execute_tool"},
                                },
                                {"key": "gen_ai.tool.name", "value": {"stringValue": "Bash"}},
                            ],
                        }
                    ],
                }
            ],
        }
    ]
}


def otlp_operation(example: dict[str, Any]) -> type[Operation]:
    """An OpenAPI operation that takes the JSON of the example, or the same as protobuf."""
    message = Schema(type=OpenAPIType.OBJECT)
    binary = OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY))

    @dataclass
    class OtlpOperation(Operation):
        def __post_init__(self) -> None:
            self.description = f"{self.description} {WITHOUT_HEADERS}"
            self.request_body = RequestBody(
                required=True,
                content={
                    JSON: OpenAPIMediaType(schema=message, example=example),
                    PROTOBUF: binary,
                },
            )
            self.responses = {
                "200": OpenAPIResponse(
                    description="Stored; `partialSuccess` says what was refused, and why.",
                    content={
                        JSON: OpenAPIMediaType(schema=message, example={}),
                        PROTOBUF: binary,
                    },
                )
            }

    return OtlpOperation
