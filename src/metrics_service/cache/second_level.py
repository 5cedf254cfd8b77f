"""The second level: what processes remember together, in Redis. It makes faster, and decides nothing.

Nothing here raises, and nothing waits for longer than `link.PATIENCE_S`: a Redis that is away, stalled,
full, empty or lying is a miss. What it gives back is what was put for the same tenant, kind and key, or
nothing; whether that still holds is for the caller to know.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from metrics_service.cache.hearing import Hearing
from metrics_service.cache.link import Answer, LinkState, RedisLink
from metrics_service.cache.sealed import Seals
from metrics_service.observability import catalog

CACHE = "redis"
NOBODY = UUID(int=0)
"""Stands for the tenant where none is known yet, or where all are meant."""

MAX_VALUE_BYTES = 1024 * 1024
# What is put or counted in the background, at a time; what is more is left out.
MAX_UNDER_WAY = 200


class SecondLevel:
    """Redis by tenant, kind and key; works while `kept` is open, and is a miss otherwise."""

    def __init__(self, url: str, *, secret: bytes) -> None:
        """Raises `SettingsError` for an address that cannot be one."""
        self._link = RedisLink(url)
        self._seals = Seals(secret)
        self._hearing = Hearing(self._link)
        self._under_way: set[asyncio.Task[object]] = set()

    @property
    def state(self) -> LinkState:
        """How it stands, for the health report."""
        return self._link.state

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Connect in the background, and let go of it in the end; Redis may be away all the time."""
        async with self._link.kept(), self._hearing.kept():
            try:
                yield
            finally:
                for task in self._under_way:
                    task.cancel()
                await asyncio.gather(*self._under_way, return_exceptions=True)

    # -- values -------------------------------------------------------------------------------------

    async def get(self, tenant_id: UUID, kind: str, key: bytes) -> bytes | None:
        place = self._seals.place(tenant_id, kind, key)
        answer = await self._link.ask(lambda redis: redis.get(place.name))
        value = self._seals.open(place, answer.value)
        _note(answer, is_hit=value is not None)
        return value

    async def get_many(
        self, tenant_id: UUID, kind: str, keys: Sequence[bytes]
    ) -> dict[bytes, bytes]:
        """As `get`, in one go; what is missing is left out."""
        if not keys:
            return {}
        places = {key: self._seals.place(tenant_id, kind, key) for key in keys}
        answer = await self._link.ask(
            lambda redis: redis.mget([place.name for place in places.values()])
        )
        found = answer.value
        if not isinstance(found, list) or len(found) != len(places):
            found = [None] * len(places)
        opened = {
            key: self._seals.open(place, sealed)
            for (key, place), sealed in zip(places.items(), found, strict=True)
        }
        for value in opened.values():
            _note(answer, is_hit=value is not None)
        return {key: value for key, value in opened.items() if value is not None}

    async def put(
        self, tenant_id: UUID, kind: str, key: bytes, value: bytes, *, ttl_s: float
    ) -> None:
        """Keep it for so long, or not at all."""
        if len(value) > MAX_VALUE_BYTES:
            return
        place = self._seals.place(tenant_id, kind, key)
        sealed = self._seals.seal(place, value)
        lasts_ms = max(1, int(ttl_s * 1000))
        _note_write(
            await self._link.write(lambda redis: redis.set(place.name, sealed, px=lasts_ms))
        )

    async def delete(self, tenant_id: UUID, kind: str, *keys: bytes) -> None:
        """Try to; nobody may rely on it."""
        if keys:
            names = [self._seals.place(tenant_id, kind, key).name for key in keys]
            _note_write(await self._link.ask(lambda redis: redis.delete(*names)))

    # -- counters -----------------------------------------------------------------------------------

    async def count(self, name: bytes, by: int, *, window_s: int) -> int | None:
        """Add to a counter, and give what all processes counted; it ends `window_s` after its begin.

        None where nobody knows. As a number it can be sealed by nobody: a Redis that lies counts
        wrongly, so nothing but a limit may hang on it.
        """
        place = self._seals.place(NOBODY, "counter", name)

        async def counted(redis: Any) -> object:
            pipeline = redis.pipeline(transaction=True)
            # The one command begins the window, the other counts: none is without an end.
            pipeline.set(place.name, 0, ex=window_s, nx=True)
            pipeline.incrby(place.name, by)
            return (await pipeline.execute())[-1]

        answer = await self._link.write(counted)
        _note_write(answer)
        total = answer.value
        return total if isinstance(total, int) and total >= by else None

    # -- messages -----------------------------------------------------------------------------------

    async def publish(self, channel: str, message: bytes) -> None:
        """Tell every process that hears this channel at the moment, this one included."""
        place = self._seals.place(NOBODY, "channel", channel.encode())
        sealed = self._seals.seal(place, message)
        _note_write(await self._link.ask(lambda redis: redis.publish(place.name, sealed)))

    def hear(self, channel: str, heard: Callable[[bytes], None]) -> None:
        """Call `heard` with each message of the channel, from when `kept` is opened on.

        A message may come twice or never; one that is none of ours does not come.
        """
        place = self._seals.place(NOBODY, "channel", channel.encode())

        def open_and_tell(sealed: object) -> None:
            message = self._seals.open(place, sealed)
            if message is not None:
                heard(message)

        self._hearing.add(place.name, open_and_tell)

    # -- what nobody waits for ----------------------------------------------------------------------

    def soon(self, doing: Coroutine[Any, Any, object]) -> None:
        """Do one of these in the background; it is left out where too much is under way already."""
        if len(self._under_way) >= MAX_UNDER_WAY or not self._link.is_there:
            doing.close()
            return
        task = asyncio.create_task(doing, name="second-level")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)


def _note(answer: Answer, *, is_hit: bool) -> None:
    if answer.outcome == "answered":
        catalog.note_lookup(CACHE, is_hit=is_hit)
    else:
        catalog.CACHE_LOOKUPS.add(1, CACHE, answer.outcome)


def _note_write(answer: Answer) -> None:
    if answer.outcome == "failed":
        catalog.CACHE_LOOKUPS.add(1, CACHE, answer.outcome)
