"""What became of one request."""

from __future__ import annotations

import msgspec

from metrics_service.send_test.diagnosis import Symptom
from metrics_service.send_test.session import Protocol, Signal

NOT_TRIED = "not tried"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What was sent, what came back, and what to change."""

    protocol: Protocol
    signal: Signal
    endpoint: str
    session: str
    """The session's external id."""
    sent: int
    accepted: int
    refused: int
    status: str
    """That of HTTP or gRPC; empty where nobody answered."""
    message: str
    """The server's own."""
    duration_ms: float
    symptom: Symptom | None = None
    advice: str | None = None

    @property
    def is_accepted(self) -> bool:
        return self.symptom is None
