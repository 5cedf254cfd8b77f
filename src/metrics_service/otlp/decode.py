"""One request's bytes to a `Telemetry`: decoding and mapping, without a database; pure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec

from metrics_service.errors import MalformedRequestError
from metrics_service.fields import Signal
from metrics_service.ingest.diary_page import Taken
from metrics_service.ingest.telemetry import Telemetry
from metrics_service.ingest.temporality import DAY_NS
from metrics_service.otlp.decoded import Tally
from metrics_service.otlp.from_json import logs_from_json, points_from_json, spans_from_json
from metrics_service.otlp.from_protobuf import (
    logs_from_protobuf,
    points_from_protobuf,
    spans_from_protobuf,
)
from metrics_service.otlp.mapping import map_logs, map_points, map_spans


class Reading(msgspec.Struct, frozen=True):
    """What became of a request's items when they were read."""

    accepted: int
    rejected: int
    reasons: list[str]
    refused: dict[str, int] = {}
    """How many of the rejected for each reason."""
    agent: str | None = None
    """The client, as far as a mapper recognised one."""
    agent_version: str | None = None

    def taken(self) -> Taken:
        """The same for the receiver's diary."""
        return Taken(self.accepted, self.refused, self.agent, self.agent_version)


async def read_in_turns(
    signal: Signal, body: bytes, *, is_json: bool, received_ns: int, out: Telemetry
) -> Reading:
    """As `read_request`; other requests of the process have their turn meanwhile."""
    tally = Tally()
    for _ in _steps(signal, body, tally, is_json=is_json, received_ns=received_ns, out=out):
        await asyncio.sleep(0)
    return _reading(tally, out)


def read_request(
    signal: Signal, body: bytes, *, is_json: bool, received_ns: int, out: Telemetry
) -> Reading:
    """Decode a request and map its items into `out`, one by one.

    Raises `MalformedRequestError`, and `BodyTooLargeError` when it has too many items.
    """
    tally = Tally()
    for _ in _steps(signal, body, tally, is_json=is_json, received_ns=received_ns, out=out):
        pass
    return _reading(tally, out)


def _reading(tally: Tally, out: Telemetry) -> Reading:
    agent, version = _recognised(out)
    return Reading(tally.accepted, tally.rejected, tally.reasons, tally.refused, agent, version)


def _recognised(out: Telemetry) -> tuple[str | None, str | None]:
    """The client of the last session, or of what belongs to none."""
    session = next(reversed(out.sessions.values()), None)
    if session is not None:
        _, version = session.said.get("agent_version", (0, None))
        return session.agent, version
    if out.points:
        return out.points[-1].agent, None
    event = next(iter(out.events.values()), None)
    if event is not None:
        return event.agent, None
    call = next(iter(out.tools.values()), None)
    return (None if call is None else call.agent), None


def _steps(
    signal: Signal, body: bytes, tally: Tally, *, is_json: bool, received_ns: int, out: Telemetry
) -> Iterator[None]:
    out.horizon_ns = received_ns + DAY_NS
    if signal == "logs":
        read_logs = logs_from_json if is_json else logs_from_protobuf
        yield from map_logs(read_logs(body, received_ns, tally), out)
    elif signal == "traces":
        read_spans = spans_from_json if is_json else spans_from_protobuf
        yield from map_spans(read_spans(body, tally), out)
        if tally.rejected and not tally.accepted:
            # Requests of the three signals can be decoded as one another.
            raise MalformedRequestError(
                "no span has valid ids; are these logs or metrics, sent to /v1/traces?"
            )
    else:
        read_points = points_from_json if is_json else points_from_protobuf
        yield from map_points(read_points(body, received_ns, tally), out)
