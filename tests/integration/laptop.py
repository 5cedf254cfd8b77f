"""Sessions of real clients twice: what they sent while they ran, and what they wrote down of it.

Both were recorded of the same sessions against a model server on loopback (Claude Code 2.1.330, Codex
0.169.0); texts are shortened.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from stories import Item

from metrics_service.ingest.recorded import IMPORT_SCOPE
from metrics_service.transcripts.events import FORMS, as_request
from metrics_service.transcripts.files import find_transcripts
from metrics_service.transcripts.reading import Client, Transcript
from metrics_service.transcripts.records import Record
from metrics_service.transcripts.state import Progress

FOLDER = Path(__file__).parents[1] / "unit" / "transcripts"


class _Live(msgspec.Struct):
    signal: Any
    service: str
    scope: str
    resource: list[tuple[str, str]]
    item: msgspec.Raw


def live_items(client: Client) -> list[Item]:
    """What the client sent."""
    lines = (FOLDER / f"{client}.live.jsonl").read_bytes().splitlines()
    found = [msgspec.json.decode(line, type=_Live) for line in lines]
    return [
        Item(one.signal, one.service, one.scope, tuple(one.resource), bytes(one.item))
        for one in found
    ]


def recorded(client: Client) -> Iterator[Record]:
    """What its transcripts tell."""
    for found in find_transcripts(FOLDER / client).files:
        transcript = Transcript(client, found, Progress(found.path), since_ns=0)
        for record in transcript.records():
            if record is not None:
                yield record


def imported_items(client: Client, user_email: str | None = None) -> list[Item]:
    """The same as items of telemetry, as the command sends them."""
    items = []
    for record in recorded(client):
        message = ExportLogsServiceRequest.FromString(as_request(client, user_email, [record]))
        (sent,) = message.resource_logs[0].scope_logs[0].log_records
        resource = () if user_email is None else (("user.email", user_email),)
        body = msgspec.json.encode(MessageToDict(sent))
        items.append(Item("logs", FORMS[client].service, IMPORT_SCOPE, resource, body))
    return items
