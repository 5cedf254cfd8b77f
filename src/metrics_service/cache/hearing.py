"""Hears what processes tell each other by Redis, for as long as that works."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from metrics_service.cache.link import LOOKS_EVERY_S, RedisLink

log = structlog.get_logger(__name__)


class Hearing:
    """One connection that is subscribed to what was added before `kept` was opened."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._told: dict[bytes, list[Callable[[object], None]]] = {}

    def add(self, channel: bytes, heard: Callable[[object], None]) -> None:
        self._told.setdefault(channel, []).append(heard)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        if not self._told:
            yield
            return
        listener = asyncio.create_task(self._keep_hearing(), name="redis-hearing")
        try:
            yield
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    async def _keep_hearing(self) -> None:
        while True:
            try:
                if self._link.is_there:
                    await self._hear()
            except Exception as error:  # noqa: BLE001  # the link tells of it, and knows when it is over
                log.debug("redis is not heard", reason=type(error).__name__)
            await asyncio.sleep(LOOKS_EVERY_S)

    async def _hear(self) -> None:
        losses = self._link.losses
        async with self._link.client.pubsub(ignore_subscribe_messages=True) as subscription:
            await subscription.subscribe(*self._told)
            # A connection that died without a word says nothing for ever: the link has noticed.
            while self._link.losses == losses:
                message = await subscription.get_message(timeout=LOOKS_EVERY_S)
                if message is not None:
                    self._tell(message)

    def _tell(self, message: dict[str, object]) -> None:
        for heard in self._told.get(_bytes(message.get("channel")), ()):
            heard(message.get("data"))


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""
