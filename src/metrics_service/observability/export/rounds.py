"""Sends what all instruments stand at, again and again, in a thread of its own."""

from __future__ import annotations

import time
from collections.abc import Iterable
from threading import Event, Thread

import structlog

from metrics_service.observability.export.batches import BREATH_S
from metrics_service.observability.export.delivery import Delivery
from metrics_service.observability.export.points import encode_points
from metrics_service.observability.export.requests import Envelope, Items
from metrics_service.observability.meters import Instrument

log = structlog.get_logger(__name__)


class Rounds:
    """One request each interval, and one in the end."""

    def __init__(
        self,
        delivery: Delivery,
        envelope: Envelope,
        *,
        instruments: Iterable[Instrument],
        interval_s: float,
        is_over: Event,
    ) -> None:
        self._delivery = delivery
        self._envelope = envelope
        self._instruments = tuple(instruments)
        self._interval_s = interval_s
        self._is_over = is_over
        self.thread = Thread(target=self._run, name="export-metrics", daemon=True)

    def _run(self) -> None:
        while not self._is_over.wait(self._interval_s):
            self._send()
        self._send()

    def _send(self) -> None:
        told: list[Items] = []
        for instrument in self._instruments:
            try:
                items = encode_points(instrument)
            except (TypeError, ValueError):
                # A bug of ours, in one of them; all others are told.
                log.exception("an instrument cannot be encoded", instrument=instrument.name)
                continue
            if items.count:
                told.append(items)
            # One with two hundred series takes a millisecond.
            time.sleep(BREATH_S)
        if told:
            count = sum(items.count for items in told)
            self._delivery.deliver(self._envelope.around(told), count)
