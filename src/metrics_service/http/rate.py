"""Bounds how many requests a second one tenant makes of a process, and of all where they can count together."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TypeAlias
from uuid import UUID

import msgspec

from metrics_service.errors import TooManyRequestsError
from metrics_service.observability import catalog

BURST_S = 2
"""So many seconds' requests may come at once."""
MAX_BUCKETS = 10_000

EXCHANGE_S = 0.5
WINDOW_S = 60
"""Counters are begun anew so often; what others counted just before that is not heard of."""
# Of a burst: what is less is told later.
_WORTH_TELLING = 0.02
# What others say that they served leaves so much of the limit to this process: whoever writes wrong
# numbers into the counters cannot stop a tenant.
_OWN_SHARE = 0.1

Whose: TypeAlias = tuple[UUID, str]
"""The tenant, and the kind of who asks: machines do not use up what is people's."""


class RateCounters(Protocol):
    """Where processes count together; a second level is one."""

    async def count(self, name: bytes, by: int, *, window_s: int) -> int | None: ...


class _Bucket(msgspec.Struct):
    tokens: float
    at: float
    untold: int = 0
    window: int = -1
    told: int = 0
    """In this window, by this process; and by the others, as the next one."""
    others: int = 0


class RateLimit:
    """A bucket of tokens for each, filled at the limit's rate; a request takes one. 0 is no limit."""

    def __init__(self, per_second: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_second = per_second
        self._burst = float(per_second * BURST_S)
        self._clock = clock
        # The one that was asked for longest ago goes first: it is full again, or nearly.
        self._buckets: OrderedDict[Whose, _Bucket] = OrderedDict()

    def take(self, tenant_id: UUID, kind: str) -> None:
        """Count a request; raises `TooManyRequestsError` for one that is too many."""
        if not self.per_second:
            return
        now = self._clock()
        whose = (tenant_id, kind)
        bucket = self._buckets.get(whose)
        if bucket is None:
            bucket = self._begin(whose, now)
        else:
            self._buckets.move_to_end(whose)
            tokens = bucket.tokens + (now - bucket.at) * self.per_second
            bucket.tokens = min(tokens, self._burst)
            bucket.at = now
        if bucket.tokens < 1:
            catalog.REFUSALS.add(1, "requests_per_second")
            raise TooManyRequestsError(
                f"a tenant may make {self.per_second} requests a second",
                retry_after_s=math.ceil((1 - bucket.tokens) / self.per_second),
            )
        bucket.tokens -= 1
        bucket.untold += 1

    @asynccontextmanager
    async def exchanged(self, counters: RateCounters) -> AsyncIterator[None]:
        """Count together with other processes meanwhile; no request ever waits for it."""
        exchanging = asyncio.create_task(self._keep_exchanging(counters))
        try:
            yield
        finally:
            exchanging.cancel()
            await asyncio.gather(exchanging, return_exceptions=True)

    async def _keep_exchanging(self, counters: RateCounters) -> None:
        while True:
            await asyncio.sleep(EXCHANGE_S)
            await self.exchange(counters, window=int(time.time()) // WINDOW_S)

    async def exchange(self, counters: RateCounters, *, window: int) -> None:
        """Tell what was served here, and hear what others served of the same tenants."""
        worth = max(1.0, self._burst * _WORTH_TELLING)
        busy = [whose for whose, bucket in self._buckets.items() if bucket.untold >= worth]
        for whose in busy:
            bucket = self._buckets.get(whose)
            if bucket is not None:
                await self._tell(counters, whose, bucket, window)

    async def _tell(
        self, counters: RateCounters, whose: Whose, bucket: _Bucket, window: int
    ) -> None:
        if bucket.window != window:
            bucket.window, bucket.told, bucket.others = window, 0, 0
        untold, bucket.untold = bucket.untold, 0
        tenant_id, kind = whose
        name = b"rate\0%b\0%b\0%d" % (tenant_id.bytes, kind.encode(), window)
        # Kept until the next window is over for those whose clock is late.
        total = await counters.count(name, untold, window_s=2 * WINDOW_S)
        if total is None:
            return
        bucket.told += untold
        others = max(0, total - bucket.told)
        more = max(0, others - bucket.others)
        bucket.others = others
        most = (1 - _OWN_SHARE) * self.per_second * EXCHANGE_S
        bucket.tokens = max(bucket.tokens - min(more, most), -self._burst)

    def _begin(self, whose: Whose, now: float) -> _Bucket:
        bucket = self._buckets[whose] = _Bucket(self._burst, now)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        return bucket
