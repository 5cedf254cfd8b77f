"""Delivers the requests of one signal: tries again as OTLP asks for, gives up in time, counts what became of it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event

import msgspec
import structlog

from metrics_service.observability import catalog
from metrics_service.observability.export.answers import Answer, Refused, Sender, Taken
from metrics_service.observability.export.settings import Kind

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 5.0
# A collector that wants to be left alone for a day is asked again in a minute.
LONGEST_WAIT_S = 60.0

log = structlog.get_logger(__name__)


class ExportState(msgspec.Struct):
    """How a signal has fared so far."""

    failure: str | None = None
    """Why nothing is delivered at the moment: a class of failures; None while all is well."""
    sent: int = 0
    refused: int = 0
    """What the collector, asked once or many times, did not take."""
    dropped: int = 0
    """What there was no room for."""


class Delivery:
    """One signal's way out; used by one thread."""

    def __init__(
        self,
        kind: Kind,
        senders: list[Sender],
        *,
        timeout_s: float,
        is_over: Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = ExportState()
        self._kind = kind
        self._senders = senders
        self._timeout_s = timeout_s
        self._is_over = is_over
        self._clock = clock
        self._not_before = float("-inf")
        self._last_chance = float("inf")

    def end_by(self, moment: float) -> None:
        """Nothing is tried any more after that moment."""
        self._last_chance = moment

    def deliver(self, request: bytes, count: int) -> None:
        """Send a request of so many items, or give it up."""
        for sender in self._senders:
            until = min(self._clock() + self._timeout_s, self._last_chance)
            answer = self._tried(sender, request, until)
            if isinstance(answer, Taken):
                self._succeeded(count, answer.rejected)
            else:
                self._lost(count, answer.reason)

    def drop(self, count: int) -> None:
        """Note what was not even tried."""
        self.state.dropped += count
        catalog.EXPORTED.add(count, self._kind, "dropped")

    def close(self) -> None:
        for sender in self._senders:
            sender.close()

    def _tried(self, sender: Sender, request: bytes, until: float) -> Answer:
        pause_s = FIRST_PAUSE_S
        answer = Refused("collector asked to wait")
        while (left := until - self._clock()) > 0:
            if not self._waited(self._not_before - self._clock(), left):
                return answer
            left = until - self._clock()
            if left <= 0:
                return answer
            found = self._attempt(sender, request, left)
            if isinstance(found, Taken) or found.is_final:
                return found
            answer = found
            if found.wait_s is not None:
                self._not_before = self._clock() + min(found.wait_s, LONGEST_WAIT_S)
                continue
            # Those that lost the same collector do not all come back at the same moment.
            if not self._waited(random.uniform(0.5, 1.0) * pause_s, until - self._clock()):  # noqa: S311
                return answer
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return answer

    def _attempt(self, sender: Sender, request: bytes, timeout_s: float) -> Answer:
        try:
            return sender.send(request, timeout_s)
        except Exception:  # noqa: BLE001 - a bug of ours: it is logged, and the thread must not end
            self._say(log.exception, "telemetry cannot be sent")
            return Refused("internal", is_final=True)

    def _waited(self, pause_s: float, left_s: float) -> bool:
        """Wait; say whether there is any use in trying after it."""
        if pause_s <= 0:
            return True
        if self._is_over.is_set():
            # Nobody waits for us any more: what fails in the end is lost.
            return False
        if pause_s > left_s:
            self._is_over.wait(left_s)
            return False
        self._is_over.wait(pause_s)
        return True

    def _succeeded(self, count: int, rejected: int) -> None:
        rejected = min(rejected, count)
        self.state.sent += count - rejected
        catalog.EXPORTED.add(count - rejected, self._kind, "sent")
        if rejected:
            self._lost(rejected, "partial success")
        elif self.state.failure is not None:
            self.state.failure = None
            self._say(log.info, "telemetry is exported again")

    def _lost(self, count: int, reason: str) -> None:
        state = self.state
        is_new = state.failure != reason
        state.refused += count
        state.failure = reason
        catalog.EXPORTED.add(count, self._kind, "refused")
        if is_new:
            # Once, not for every batch; the count says how much it is.
            self._say(log.warning, "telemetry is not exported", reason=reason)

    def _say(self, write: Callable[..., object], event: str, **more: str) -> None:
        # Nobody may read our output any more; that is no reason for this thread to end.
        with suppress(OSError, ValueError):
            write(event, signal=self._kind, **more)
