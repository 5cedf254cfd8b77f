"""The pool of connections, which knows how many wait for one, and for how long."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from time import perf_counter
from typing import Any

import asyncpg
import msgspec
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.util import await_only

from metrics_service.db.breaker import RANK, RUNTIME, Breaker
from metrics_service.db.failures import driver_error
from metrics_service.observability import catalog

AGAIN_AFTER_S = (0.02, 0.1)
"""A server that has no connection to spare is asked again some time between these."""

LATEST = 256
"""Of how many waits their spread is known."""


class PoolFigures(msgspec.Struct, frozen=True):
    """How a pool stands."""

    size: int
    """How many connections it may have."""
    open: int
    in_use: int
    waiting: int
    timeouts: int
    """How many got none in time, since the pool was made."""
    acquire_p50_ms: float | None
    """Of the latest that were acquired; None when there was none yet."""
    acquire_p95_ms: float | None

    @property
    def idle(self) -> int:
        return self.open - self.in_use


class MeteredPool(AsyncAdaptedQueuePool):
    """SQLAlchemy's pool; whichever door is used, this is where all wait, and where all are refused."""

    breaker: Breaker | None = None
    """Knows whether the database is away; None where nobody asks."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        # SQLAlchemy makes pools anew by its own list of arguments: there is no place for one of ours.
        super().__init__(*arguments, **options)
        self._latest_s: deque[float] = deque(maxlen=LATEST)
        self._waiting = 0
        self._timeouts = 0

    @property
    def name(self) -> str:
        """What meters call it."""
        return RUNTIME if self.breaker is None else self.breaker.name

    @property
    def waiting(self) -> int:
        """How many wait for a connection now."""
        return self._waiting

    def figures(self) -> PoolFigures:
        waits = sorted(self._latest_s)
        return PoolFigures(
            size=self.size(),
            open=self.checkedin() + self.checkedout(),
            in_use=self.checkedout(),
            waiting=self._waiting,
            timeouts=self._timeouts,
            acquire_p50_ms=_nearest_rank(waits, 0.5),
            acquire_p95_ms=_nearest_rank(waits, 0.95),
        )

    def recreate(self) -> MeteredPool:
        made = super().recreate()
        if not isinstance(made, MeteredPool):
            raise TypeError("a pool makes its like")
        made.breaker = self.breaker
        return made

    def connect(self) -> PoolProxiedConnection:
        """Get a connection, or wait for one of our own where the server has no other to spare."""
        begun, tries = perf_counter(), 0
        while True:
            tries += 1
            try:
                return super().connect()
            except Exception as error:
                is_full = isinstance(driver_error(error), asyncpg.TooManyConnectionsError)
                is_last = perf_counter() - begun >= self.timeout()
                # When all begin together, the one that got the last is not through yet.
                if not is_full or is_last or not (self._has_one_to_wait_for or tries == 1):
                    raise
            await_only(asyncio.sleep(random.uniform(*AGAIN_AFTER_S)))  # noqa: S311  # only to spread them

    @property
    def _has_one_to_wait_for(self) -> bool:
        return self.breaker is not None and self.breaker.has_connections

    def _do_get(self) -> ConnectionPoolEntry:
        breaker = self.breaker
        if breaker is not None:
            breaker.refuse()
        begun = perf_counter()
        self._waiting += 1
        try:
            entry = super()._do_get()
        except PoolTimeoutError:
            self._timeouts += 1
            catalog.DB_CONNECTION_TIMEOUTS.add(1, self.name)
            if breaker is not None:
                breaker.suspect()
            raise
        finally:
            self._waiting -= 1
        if breaker is not None and breaker.is_open:
            # It opened while this one waited.
            self._do_return_conn(entry)
            breaker.refuse()
        waited_s = perf_counter() - begun
        self._latest_s.append(waited_s)
        catalog.DB_CONNECTION_WAIT_TIME.record(waited_s, self.name)
        return entry


def figures_of(engine: AsyncEngine) -> PoolFigures:
    """How the engine's pool stands."""
    return metered_pool_of(engine).figures()


def metered_pool_of(engine: AsyncEngine) -> MeteredPool:
    """The engine's pool now: it makes itself a new one when it is disposed of."""
    pool = engine.sync_engine.pool
    if not isinstance(pool, MeteredPool):
        raise TypeError("this engine's pool is not metered")
    return pool


def breaker_of(engine: AsyncEngine) -> Breaker:
    """What knows whether the engine's database is away."""
    breaker = metered_pool_of(engine).breaker
    if breaker is None:
        raise TypeError("this engine has no breaker")
    return breaker


@contextmanager
def pool_read(engine: AsyncEngine) -> Iterator[None]:
    """Let meters read the engine's pool while this is open."""
    count, name = catalog.DB_CONNECTION_COUNT, breaker_of(engine).name
    with ExitStack() as readers:
        for stop in (
            catalog.DB_CONNECTION_MAX.read_by(lambda: metered_pool_of(engine).size(), name),
            count.read_by(lambda: metered_pool_of(engine).checkedout(), name, "used"),
            count.read_by(lambda: metered_pool_of(engine).checkedin(), name, "idle"),
            catalog.DB_PENDING_REQUESTS.read_by(lambda: metered_pool_of(engine).waiting, name),
            catalog.DB_BREAKER_STATE.read_by(lambda: RANK[breaker_of(engine).state], name),
        ):
            readers.callback(stop)
        yield


def _nearest_rank(ordered: list[float], share: float) -> float | None:
    if not ordered:
        return None
    return round(ordered[math.ceil(share * len(ordered)) - 1] * 1000, 3)
