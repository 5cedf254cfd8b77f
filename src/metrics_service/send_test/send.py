"""Sends a session over each protocol, and says what became of each request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import msgspec

from metrics_service.fields import Protocol, Signal
from metrics_service.send_test.diagnosis import SAME_FOR_ALL, Symptom
from metrics_service.send_test.endpoint import Target, Told
from metrics_service.send_test.environment import Proxy
from metrics_service.send_test.grpc_sender import GrpcSender
from metrics_service.send_test.http_sender import HttpSender, Reply
from metrics_service.send_test.plain import plain
from metrics_service.send_test.session import Export, Session, new_session

Progress = Callable[[str, int, int], None]
NOT_TRIED = "not tried"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Of one request: what was sent, what came back, and what to change."""

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


class Tested(msgspec.Struct, frozen=True):
    """What became of the session that went one way."""

    target: Target
    session: str
    outcomes: list[Outcome]
    proxy: Proxy | None
    """What it went through."""

    @property
    def is_stored(self) -> bool:
        return any(one.accepted for one in self.outcomes)


def send_all(targets: Sequence[Target], told: Told, progress: Progress) -> list[Tested]:
    """Send a session of its own to each target; never raises because of what is there."""
    tested = []
    for number, target in enumerate(targets):
        progress(target.protocol, number, len(targets))
        tested.append(_send(target, told))
    return tested


def _send(target: Target, told: Told) -> Tested:
    session = new_session(target.protocol)
    outcomes: list[Outcome] = []
    with _sender(target, told) as sender:
        for export in session.exports:
            if outcomes and outcomes[-1].symptom in SAME_FOR_ALL:
                outcomes.append(_like(outcomes[-1], export))
                continue
            started = perf_counter()
            reply = sender.send(export)
            duration_ms = round((perf_counter() - started) * 1000, 1)
            outcomes.append(_outcome(target, session, export, reply, duration_ms, told))
        return Tested(target, session.external_id, outcomes, sender.proxy)


def _sender(target: Target, told: Told) -> HttpSender | GrpcSender:
    if target.protocol == "grpc":
        return GrpcSender(target.endpoint, told)
    return HttpSender(target.protocol, target.endpoint, told)


def _outcome(
    target: Target,
    session: Session,
    export: Export,
    reply: Reply,
    duration_ms: float,
    told: Told,
) -> Outcome:
    finding, rejected = reply.meaning.finding, min(reply.meaning.rejected, export.items)
    is_partial = bool(reply.meaning.rejected)
    accepted = export.items - rejected if finding is None or is_partial else 0
    return Outcome(
        protocol=target.protocol,
        signal=export.signal,
        endpoint=told.hide(target.endpoint.shown),
        session=session.external_id,
        sent=export.items,
        accepted=accepted,
        refused=export.items - accepted if reply.status else 0,
        status=reply.status,
        message=told.hide(plain(reply.meaning.message)),
        duration_ms=duration_ms,
        symptom=None if finding is None else finding.symptom,
        advice=None if finding is None else told.hide(plain(target.endpoint.advice(finding))),
    )


def _like(unreached: Outcome, export: Export) -> Outcome:
    return msgspec.structs.replace(
        unreached,
        signal=export.signal,
        sent=0,
        refused=0,
        status=NOT_TRIED,
        message="",
        duration_ms=0.0,
    )
