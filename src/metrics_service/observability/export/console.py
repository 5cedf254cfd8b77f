"""Writes what would be sent to standard output instead, a line of JSON for each request."""

from __future__ import annotations

import sys

from google.protobuf.json_format import MessageToJson

from metrics_service.observability.export.answers import SERVICES, Answer, Taken
from metrics_service.observability.export.settings import Kind


class ConsoleSender:
    """For whoever wants to see it with their own eyes; ids are in base64 here, as protobuf's JSON has them."""

    def __init__(self, kind: Kind) -> None:
        self._request = SERVICES[kind].request

    def send(self, request: bytes, timeout_s: float) -> Answer:
        del timeout_s
        message = self._request.FromString(request)
        sys.stdout.write(MessageToJson(message, indent=None) + "\n")
        sys.stdout.flush()
        return Taken()

    def close(self) -> None:
        pass
