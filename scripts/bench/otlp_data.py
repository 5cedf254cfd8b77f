"""Payloads of 1,000 log records with the attributes that Claude Code sends: 16 each."""

from __future__ import annotations

import gzip
import random
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

TOOLS = ("Bash", "Read", "Edit", "Grep", "Glob", "Write", "WebFetch", "Task")


def _any(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    return {"stringValue": value}


def _pairs(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _any(value)} for key, value in attributes.items()]


def session_names(seed: int, count: int) -> list[str]:
    """The same names for the same seed."""
    rng = random.Random(f"sessions {seed}")
    return [str(UUID(int=rng.getrandbits(128))) for _ in range(count)]


def request_of(
    seed: int,
    *,
    records: int = 1000,
    sessions: int = 20,
    start_ns: int,
    names: Sequence[str] = (),
    more: dict[str, Any] | None = None,
) -> bytes:
    """An OTLP request in JSON: results of tool calls, each with an id of its own.

    Its sessions are new ones unless `names` has some; each record has the attributes `more` too.
    """
    rng = random.Random(seed)
    names = names or session_names(seed, sessions)
    # The sessions' own: one that changed hands would have all of its rows written anew.
    email = f"dev{int(names[0][:8], 16) % 7}@example.com"
    items = []
    for number in range(records):
        time_ns = start_ns + number * 1_000_000
        attributes = {
            "event.name": "tool_result",
            "event.timestamp": "2026-11-20T09:31:04.123Z",
            "event.sequence": number,
            "session.id": names[number % len(names)],
            "organization.id": "6c7f5bd2-3e0b-4f1f-9a8e-2b7c6d5e4f30",
            "user.account_uuid": "0b9f7c1e-9d1d-4a53-8b0e-7a1f2c3d4e5f",
            "user.id": "5f2d1c0b9a8e7d6c5b4a39281706f5e4d3c2b1a0",
            "user.email": email,
            "terminal.type": "vscode",
            "prompt.id": "3f2a1b0c-4d5e-6f70-8192-a3b4c5d6e7f8",
            "tool_name": TOOLS[number % len(TOOLS)],
            "tool_use_id": f"toolu_{rng.getrandbits(96):024x}",
            "success": "true" if number % 10 else "false",
            "duration_ms": str(rng.randrange(5, 20_000)),
            "decision_type": "accept",
            "decision_source": "config",
            **(more or {}),
        }
        items.append(
            {
                "timeUnixNano": str(time_ns),
                "observedTimeUnixNano": str(time_ns + 1000),
                "body": _any("claude_code.tool_result"),
                "attributes": _pairs(attributes),
            }
        )
    resource = {"service.name": "claude-code", "service.version": "2.1.330", "os.type": "linux"}
    return msgspec.json.encode(
        {
            "resourceLogs": [
                {
                    "resource": {"attributes": _pairs(resource)},
                    "scopeLogs": [
                        {
                            "scope": {"name": "com.anthropic.claude_code.events"},
                            "logRecords": items,
                        }
                    ],
                }
            ]
        }
    )


def as_protobuf(body: bytes) -> bytes:
    """The same request in protobuf; by hand, as the library's way takes a third of a second."""
    request = ExportLogsServiceRequest()
    for group in msgspec.json.decode(body)["resourceLogs"]:
        logs = request.resource_logs.add()
        _fill(logs.resource.attributes, group["resource"]["attributes"])
        for scoped in group["scopeLogs"]:
            scope_logs = logs.scope_logs.add()
            scope_logs.scope.name = scoped["scope"]["name"]
            for item in scoped["logRecords"]:
                record = scope_logs.log_records.add(
                    time_unix_nano=int(item["timeUnixNano"]),
                    observed_time_unix_nano=int(item["observedTimeUnixNano"]),
                )
                record.body.string_value = item["body"]["stringValue"]
                _fill(record.attributes, item["attributes"])
    return request.SerializeToString()


def _fill(attributes: Any, pairs: list[dict[str, Any]]) -> None:
    for pair in pairs:
        added = attributes.add(key=pair["key"])
        for kind, value in pair["value"].items():
            if kind == "stringValue":
                added.value.string_value = value
            elif kind == "intValue":
                added.value.int_value = int(value)
            elif kind == "doubleValue":
                added.value.double_value = value
            else:
                added.value.bool_value = value


def gzipped(body: bytes) -> bytes:
    return gzip.compress(body, compresslevel=6)
