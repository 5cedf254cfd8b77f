"""The way to Redis: quick or not at all.

Nobody waits for Redis longer than `PATIENCE_S`, and nothing that it does is an error here. Once it did
not answer, nobody asks it: something in the background looks once a second whether it is there again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec
import structlog

from metrics_service.cache.sealed import PREFIX
from metrics_service.errors import SettingsError

if TYPE_CHECKING:
    from redis.asyncio import Redis

PATIENCE_S = 0.05
CONNECT_PATIENCE_S = 1.0
LOOKS_EVERY_S = 1.0
MAX_CONNECTIONS = 16
# An outage that comes and goes tells of itself once in a while.
TOLD_EVERY_S = 60.0

PROBE = PREFIX + b"probe"
PROBE_LASTS_S = 10

# An answer that says that what stands there is not what was expected, and nothing of the server.
_WRONG_TYPE = "WRONGTYPE"

Outcome: TypeAlias = Literal["answered", "failed", "unasked"]

log = structlog.get_logger(__name__)


class Answer(msgspec.Struct, frozen=True):
    """What came of a question; `value` is whatever Redis said."""

    outcome: Outcome
    value: object = None


FAILED = Answer("failed")
UNASKED = Answer("unasked")


class LinkState(msgspec.Struct, frozen=True):
    """How Redis stands, for people who look after it."""

    is_well: bool
    finding: str


class RedisLink:
    """One process's connections to Redis; asks only while `kept` is open and Redis answers."""

    def __init__(self, url: str) -> None:
        """Raises `SettingsError` for an address that cannot be one."""
        # Only who has a Redis waits a third of a second for its library.
        from redis.asyncio import ConnectionPool, Redis  # noqa: PLC0415  # see above
        from redis.asyncio.retry import Retry  # noqa: PLC0415  # see above
        from redis.backoff import NoBackoff  # noqa: PLC0415  # see above
        from redis.exceptions import ResponseError  # noqa: PLC0415  # see above
        from redis.maint_notifications import (  # noqa: PLC0415  # see above
            MaintNotificationsConfig,
        )

        try:
            pool = ConnectionPool.from_url(
                url,
                max_connections=MAX_CONNECTIONS + 2,
                # What every Redis speaks, and everything that stands in for one.
                protocol=2,
                retry=Retry(NoBackoff(), 0),
                socket_timeout=CONNECT_PATIENCE_S,
                socket_connect_timeout=CONNECT_PATIENCE_S,
                maint_notifications_config=MaintNotificationsConfig(enabled=False),
                driver_info=None,
            )
        except ValueError:
            # Its own message may repeat the password.
            raise SettingsError(
                "REDIS_URL has a wrong value: it is redis://, rediss:// or unix:// and an address"
            ) from None
        self.client: Redis = Redis(connection_pool=pool)
        self.losses = 0
        """How often Redis was found to be away: whoever holds a connection may want another."""
        self._refusal = ResponseError
        self._places = asyncio.Semaphore(MAX_CONNECTIONS)
        self._asked: set[asyncio.Task[object]] = set()
        self._trouble: str | None = "it was not asked yet"
        self._write_trouble: str | None = None
        self._told_at = float("-inf")

    @property
    def is_there(self) -> bool:
        return self._trouble is None

    @property
    def state(self) -> LinkState:
        if self._trouble is not None:
            return LinkState(is_well=False, finding=f"Redis is away: {self._trouble}")
        if self._write_trouble is not None:
            return LinkState(is_well=False, finding=f"Redis takes nothing: {self._write_trouble}")
        return LinkState(is_well=True, finding="Redis answers")

    async def ask(self, question: Callable[[Redis], Awaitable[object]]) -> Answer:
        """Ask something that changes nothing, or that works on a replica too."""
        if self._trouble is not None:
            return UNASKED
        return await self._ask(question)

    async def write(self, question: Callable[[Redis], Awaitable[object]]) -> Answer:
        """Ask for what needs a Redis that takes something."""
        if self._trouble is not None or self._write_trouble is not None:
            return UNASKED
        return await self._ask(question, is_write=True)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Look after the link while this is open."""
        keeper = asyncio.create_task(self._keep(), name="redis-link")
        try:
            yield
        finally:
            self._trouble = "it is not asked any more"
            for task in (keeper, *self._asked):
                task.cancel()
            await asyncio.gather(keeper, *self._asked, return_exceptions=True)
            await self._close(even_in_use=True)

    # -- asking -------------------------------------------------------------------------------------

    async def _ask(
        self, question: Callable[[Redis], Awaitable[object]], *, is_write: bool = False
    ) -> Answer:
        asked, is_crowded = time.monotonic(), self._places.locked()
        # A task, and not a timeout around it: a library may overlook that it was cancelled.
        task = asyncio.create_task(self._put(question))
        self._asked.add(task)
        task.add_done_callback(self._answered)
        try:
            await asyncio.wait({task}, timeout=PATIENCE_S)
        finally:
            # No more than a request where it is done.
            task.cancel()
        if not task.done():
            is_late = time.monotonic() - asked > 2 * PATIENCE_S
            # Where others were asking, or this process itself was too busy to listen, nothing is known.
            if not is_late and not is_crowded:
                self._lost("TimeoutError")
            return FAILED
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            return Answer("answered", task.result())
        self._went_wrong(error, is_write=is_write)
        return FAILED

    async def _put(self, question: Callable[[Redis], Awaitable[object]]) -> object:
        async with self._places:
            return await question(self.client)

    def _answered(self, task: asyncio.Task[object]) -> None:
        self._asked.discard(task)
        if not task.cancelled():
            # Nobody else looks at what came too late.
            task.exception()

    def _went_wrong(self, error: BaseException, *, is_write: bool) -> None:
        if not isinstance(error, self._refusal):
            self._lost(type(error).__name__)
        elif is_write:
            self._takes_nothing(type(error).__name__)
        elif not str(error).startswith(_WRONG_TYPE):
            self._lost(type(error).__name__)

    def _takes_nothing(self, reason: str) -> None:
        if self._write_trouble is None:
            self._write_trouble = reason
            self._tell("redis takes nothing", reason)

    def _lost(self, reason: str) -> None:
        if self._trouble is not None:
            return
        self._trouble = reason
        self.losses += 1
        self._tell("redis is away", reason)

    def _tell(self, event: str, reason: str) -> None:
        now = time.monotonic()
        if now - self._told_at >= TOLD_EVERY_S:
            self._told_at = now
            log.warning(event, reason=reason)

    # -- looking after it ---------------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            await self._look()
            # Not all processes at once: a server that comes back is greeted, not stormed.
            await asyncio.sleep(LOOKS_EVERY_S * random.uniform(0.75, 1.25))  # noqa: S311  # no secret

    async def _look(self) -> None:
        if self._trouble is not None:
            # What was connected before is of no use, and would fail one by one.
            await self._close()
        try:
            await self._greet(CONNECT_PATIENCE_S)
            # Connected now: from here on it must be quick.
            await self._greet(PATIENCE_S)
            if self._write_trouble is not None:
                await self._probe()
        except Exception as error:  # noqa: BLE001  # as in asking
            if self._trouble is None:
                self._lost(type(error).__name__)
            else:
                self._trouble = type(error).__name__
                self._tell("redis is away", self._trouble)
            return
        if self._trouble is not None:
            self._trouble = None
            log.info("redis is there")

    async def _greet(self, patience_s: float) -> None:
        asked = time.monotonic()
        try:
            async with asyncio.timeout(patience_s):
                await self.client.ping()
        except TimeoutError:
            if time.monotonic() - asked <= 2 * patience_s:
                raise

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.client.set(PROBE, b"1", ex=PROBE_LASTS_S)
        except self._refusal as refusal:
            self._write_trouble = type(refusal).__name__
        else:
            self._write_trouble = None

    async def _close(self, *, even_in_use: bool = False) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.client.connection_pool.disconnect(inuse_connections=even_in_use)
        except Exception as error:  # noqa: BLE001  # it is given up in any case
            log.debug("redis connections not closed", reason=type(error).__name__)
