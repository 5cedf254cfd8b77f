"""What one process tells the outside about itself, from its start to its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from threading import Event, Thread
from typing import Any

import msgspec

from metrics_service import logs
from metrics_service.observability import catalog, work
from metrics_service.observability.export.answers import Sender
from metrics_service.observability.export.batches import Batches
from metrics_service.observability.export.console import ConsoleSender
from metrics_service.observability.export.delivery import Delivery, ExportState
from metrics_service.observability.export.http_sender import HttpSender
from metrics_service.observability.export.lines import Line, LineEncoder, line_of
from metrics_service.observability.export.requests import Envelope
from metrics_service.observability.export.resource import resource_of
from metrics_service.observability.export.rounds import Rounds
from metrics_service.observability.export.settings import Kind, OtelSettings, Target
from metrics_service.observability.export.spans import SpanEncoder

STOP_S = 3.0


class Export:
    """Sends what ended, was written and was counted in this process; nothing of it waits for that."""

    def __init__(self, settings: OtelSettings, *, process: str) -> None:
        self._is_over = Event()
        self._envelope = Envelope(resource_of(settings.resource, process=process))
        self._deliveries = {kind: self._delivery(settings, kind) for kind in settings.ways}
        self._spans: Batches[work.Work] | None = None
        self._lines: Batches[Line] | None = None
        self._threads: list[Thread] = []
        self._undone: list[Callable[[], None]] = []
        self._own_threads: frozenset[int | None] = frozenset()
        self._settings = settings

    def start(self) -> None:
        """Begin to listen to works and lines, and to send."""
        if "traces" in self._deliveries:
            self._start_spans()
        if "logs" in self._deliveries:
            self._start_lines()
        if "metrics" in self._deliveries:
            rounds = Rounds(
                self._deliveries["metrics"],
                self._envelope,
                instruments=catalog.INSTRUMENTS,
                interval_s=self._settings.metric_interval_s,
                is_over=self._is_over,
            )
            self._threads.append(rounds.thread)
        for thread in self._threads:
            thread.start()
        self._own_threads = frozenset(thread.ident for thread in self._threads)

    def state(self) -> Mapping[Kind, ExportState]:
        """How each signal fares, as it stands now."""
        return {
            kind: msgspec.structs.replace(delivery.state)
            for kind, delivery in self._deliveries.items()
        }

    def stop(self, timeout_s: float = STOP_S) -> None:
        """Send what is left, for so long at most; blocks."""
        until = time.monotonic() + timeout_s
        for undo in self._undone:
            undo()
        for delivery in self._deliveries.values():
            delivery.end_by(until)
        self._is_over.set()
        for batches in (self._spans, self._lines):
            if batches is not None:
                batches.wake()
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        for batches in (self._spans, self._lines):
            if batches is not None:
                batches.give_up()
        for delivery in self._deliveries.values():
            delivery.close()

    def _start_spans(self) -> None:
        spans = self._spans = Batches(
            "traces",
            self._deliveries["traces"],
            self._envelope,
            encode=SpanEncoder().encode,
            batching=self._settings.spans,
            is_over=self._is_over,
        )
        self._threads.append(spans.thread)

        def take(ended: work.Work) -> None:
            spans.put(ended, 1 + len(ended.spans))

        self._undone += [
            work.keep_spans(self._settings.sampling.keeps, take),
            logs.name_traces(_trace_of_line),
        ]

    def _start_lines(self) -> None:
        lines = self._lines = Batches(
            "logs",
            self._deliveries["logs"],
            self._envelope,
            encode=LineEncoder().encode,
            batching=self._settings.lines,
            is_over=self._is_over,
        )
        self._threads.append(lines.thread)

        def take(event: Mapping[str, Any]) -> None:
            if not self._is_echo():
                lines.put(line_of(event), 1)

        self._undone.append(logs.tell_lines(take))
        if self._spans is None:
            # Nothing is sampled, but requests are still asked whether they bring our own lines back.
            self._undone.append(work.keep_spans(lambda _trace, _caller: False, lambda _work: None))

    def _is_echo(self) -> bool:
        """Whether what happens here is our own export: a line about lines would make another."""
        found = work.CURRENT.get()
        is_taken_in = found is not None and found.is_own_export
        return is_taken_in or threading.get_ident() in self._own_threads

    def _delivery(self, settings: OtelSettings, kind: Kind) -> Delivery:
        senders = [
            ConsoleSender(kind) if way == "console" else _sender(kind, settings.targets[kind])
            for way in settings.ways[kind]
        ]
        timeout_s = {
            "traces": settings.spans.timeout_s,
            "logs": settings.lines.timeout_s,
            "metrics": settings.metric_timeout_s,
        }[kind]
        target = settings.targets.get(kind)
        if target is not None:
            timeout_s = min(timeout_s, target.timeout_s)
        return Delivery(kind, senders, timeout_s=timeout_s, is_over=self._is_over)


def start_export(settings: OtelSettings, *, process: str) -> Export | None:
    """Begin to send what the settings say; None where that is nothing."""
    if not settings.is_on:
        return None
    export = Export(settings, process=process)
    export.start()
    return export


def _sender(kind: Kind, target: Target) -> Sender:
    if target.protocol == "grpc":
        # Not where nobody asks for it: it takes memory.
        from metrics_service.observability.export.grpc_sender import GrpcSender  # noqa: PLC0415

        return GrpcSender(kind, target)
    return HttpSender(kind, target)


def _trace_of_line() -> tuple[str, str] | None:
    found = work.CURRENT.get()
    if found is None or not found.is_sampled:
        return None
    return found.trace_id.hex(), found.span_id.hex()
