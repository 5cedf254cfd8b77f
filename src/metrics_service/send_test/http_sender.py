"""Sends over HTTP as an exporter does: one POST for each signal, no redirect followed, nothing tried again."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import msgspec

from metrics_service.fields import Protocol
from metrics_service.send_test.answers import JSON, PROTOBUF, Meaning
from metrics_service.send_test.as_json import as_json
from metrics_service.send_test.endpoint import Endpoint, Told
from metrics_service.send_test.posting import Poster
from metrics_service.send_test.session import Export

USER_AGENT = "metrics-service-send-test"


class Reply(msgspec.Struct, frozen=True):
    """What came back, over whichever protocol."""

    meaning: Meaning
    status: str = ""


class HttpSender:
    """A connection to one endpoint, in one of the two encodings."""

    def __init__(self, protocol: Protocol, endpoint: Endpoint, told: Told) -> None:
        self._is_json = protocol == "http/json"
        self._poster = Poster(endpoint, told, user_agent=USER_AGENT)
        self.proxy = self._poster.proxy

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._poster.__exit__(kind, error, trace)

    def send(self, export: Export) -> Reply:
        media_type = JSON if self._is_json else PROTOBUF
        body = as_json(export.request) if self._is_json else export.request.SerializeToString()
        meaning, answer = self._poster.post(export.signal, body, media_type=media_type)
        return Reply(meaning, "" if answer is None else str(answer.status))
