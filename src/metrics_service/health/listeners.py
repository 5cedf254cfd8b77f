"""Who is told when the health of this process changes; one that fails hurts nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import TypeAlias

import structlog

from metrics_service.fleet.health_events import HealthEvent
from metrics_service.fleet.views import EventKind

PATIENCE_S = 10.0
LAST_WORDS_S = 1.0

Listener: TypeAlias = Callable[[HealthEvent], Awaitable[None] | None]

log = structlog.get_logger(__name__)


class Listeners:
    """Calls in the order of asking; what a listener waits for, nobody else waits for."""

    def __init__(self) -> None:
        self._listeners: dict[EventKind, list[Listener]] = {}
        # Or a task that nobody holds could be collected before it is done.
        self._under_way: set[asyncio.Task[None]] = set()

    def on(self, kind: EventKind, listener: Listener) -> None:
        """Call it with each event of this kind."""
        self._listeners.setdefault(kind, []).append(listener)

    def tell(self, event: HealthEvent) -> None:
        for listener in self._listeners.get(event.kind, ()):
            try:
                answer = listener(event)
            except Exception:
                log.exception("health listener failed", kind=event.kind)
                continue
            if isawaitable(answer):
                task = asyncio.ensure_future(_awaited(answer, event))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)

    async def close(self) -> None:
        """Let those under way come to their end, for a moment."""
        if self._under_way:
            _, late = await asyncio.wait(self._under_way, timeout=LAST_WORDS_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


async def _awaited(answer: Awaitable[None], event: HealthEvent) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            await answer
    except Exception:
        log.exception("health listener failed", kind=event.kind)
