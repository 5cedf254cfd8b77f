"""Knows when the database is away, so that nobody waits for it: closed, half-open, open.

Nothing is counted. Whatever fails as it would if the server were away is a reason to have a look, by a
connection of its own: does that fail too, and does nobody else hear of the server meanwhile, then it is
away. It is looked at again and again until it answers, so no request is ever sent to find that out.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from time import perf_counter
from typing import Literal, Protocol
from weakref import WeakSet

import asyncpg
import msgspec
import structlog

from metrics_service.db.failures import NOT_LET_IN
from metrics_service.errors import UnavailableError
from metrics_service.observability import catalog

RUNTIME = "runtime"
"""What meters call the pool of the runtime login."""

PATIENCE_S = 1.0
"""How long one look may take."""
AGAIN_AFTER_S = (0.1, 0.5)
"""While it is open, between two looks: some time between these, so that processes do not look together."""
APART_S = 0.1
"""Between two looks while it is closed, however much fails."""
QUIET_S = 1.0
"""Who has waited so long, while nobody at all was answered, is a reason to have a look."""
WATCH_EVERY_S = 0.25
GRACE_S = 1.0
"""How much longer transactions that heard nothing may wait for a server that is away."""
LATE_S = 0.25
"""A look that ends so much too late says more of this process than of the server."""
RENEWED_APART_S = 1.0

State = Literal["closed", "half-open", "open"]
RANK: dict[State, int] = {"closed": 0, "half-open": 1, "open": 2}

log = structlog.get_logger(__name__)


class Server(msgspec.Struct, frozen=True):
    """Which server answers: another one after a restart, and after a failover."""

    address: str | None
    """None over a unix socket."""
    port: int | None
    started_at: datetime
    timeline: str | None
    """None of a standby."""


Look = Callable[[], Awaitable[Server]]
"""Asks the server who it is, over a connection of its own; raises whatever goes wrong."""


class Guarded(Protocol):
    """A connection of the pool."""

    context: object | None
    """None while nobody has it."""
    came_at: float
    heard_at: float
    is_outdated: bool

    def is_closed(self) -> bool: ...

    def terminate(self) -> None: ...


class BreakerFigures(msgspec.Struct, frozen=True):
    """How a breaker stands."""

    state: State
    openings: int
    """How often it opened since the process began."""
    open_for_s: float | None
    """None while it is closed."""
    reason: str | None
    """Why it opened last."""


class Breaker:
    """One for each pool. Who is to serve asks `is_open`, which is all that it costs while all is well."""

    def __init__(self, look: Look, *, begin_anew: Callable[[], None], name: str = RUNTIME) -> None:
        """`begin_anew` is called when a server took no writes, before another one is looked for."""
        self.is_open = False
        self.state: State = "closed"
        self.name = name
        """What meters and lines call the pool."""
        self._look = look
        self._begin_anew = begin_anew
        self._told_of_another: list[Callable[[], None]] = []
        self._looking: asyncio.Task[None] | None = None
        self._connections: WeakSet[Guarded] = WeakSet()
        self._connecting: dict[asyncio.Timeout, float] = {}
        self._server: Server | None = None
        self._openings = 0
        self._opened_at = 0.0
        self._looked_at = 0.0
        self._renewed_at = 0.0
        self._reason: str | None = None

    # -- what doors and connections ask and tell -----------------------------------------------------

    @property
    def is_doubtful(self) -> bool:
        """Whether it is not known that the server answers."""
        return self.is_open or self._is_looking

    def refuse(self) -> None:
        """Raises `UnavailableError` while it is open."""
        if self.is_open:
            # Looked at all the time; but whoever did may have ended with its event loop.
            self.suspect()
            raise UnavailableError("the database cannot be reached")

    def suspect(self) -> None:
        """Something failed as it would if the server were away: have a look, one for all who ask."""
        if not self._is_looking:
            self._looking = asyncio.get_running_loop().create_task(self._find_out(), name="breaker")

    def guard(self, connection: Guarded) -> None:
        """A connection was made."""
        self._connections.add(connection)

    @property
    def has_connections(self) -> bool:
        """Whether there is any that could be waited for."""
        return any(not connection.is_closed() for connection in self._connections)

    @asynccontextmanager
    async def connecting(self, timeout_s: float) -> AsyncIterator[None]:
        """Somebody connects: that too can take too long. Raises `UnavailableError`, `TimeoutError`."""
        self.refuse()
        async with asyncio.timeout(timeout_s) as limit:
            self._connecting[limit] = perf_counter()
            try:
                yield
            finally:
                del self._connecting[limit]

    def renew(self) -> None:
        """Have no connection used again that was made before."""
        self._renewed_at = perf_counter()
        for connection in list(self._connections):
            if connection.context is None:
                connection.terminate()
            else:
                connection.is_outdated = True

    def on_another_server(self, call: Callable[[], None]) -> None:
        """Call this when another server may answer: whoever is connected to the one before learns nothing new."""
        self._told_of_another.append(call)

    def note_wrong_server(self) -> None:
        """A server takes no writes: renew, once for the many who find the same."""
        if perf_counter() - self._renewed_at >= RENEWED_APART_S:
            self._begin_anew()
            self.renew()
            # Is it another one that is found now, others have to know.
            self.suspect()

    def figures(self) -> BreakerFigures:
        return BreakerFigures(
            state=self.state,
            openings=self._openings,
            open_for_s=round(perf_counter() - self._opened_at, 3) if self.is_open else None,
            reason=self._reason,
        )

    # -- what it does by itself ----------------------------------------------------------------------

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Notice by itself, while this is open, that nobody is answered."""
        watching = asyncio.create_task(self._watch(), name="breaker-watch")
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            self.rest()

    def rest(self) -> None:
        """Look no longer: the pool was disposed of."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        self.is_open, self.state = False, "closed"

    @property
    def _is_looking(self) -> bool:
        return self._looking is not None and not self._looking.done()

    async def _watch(self) -> None:
        # Which server it is at first is found out at once, to notice when it is another one.
        self.suspect()
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            if self._is_quiet():
                self.suspect()

    def _is_quiet(self) -> bool:
        waiting = [
            connection.came_at
            for connection in self._connections
            if connection.context is not None and connection.came_at and not connection.is_closed()
        ]
        waiting.extend(self._connecting.values())
        if not waiting:
            return False
        since = max(min(waiting), self._looked_at, self._heard_at())
        return perf_counter() - since > QUIET_S

    def _heard_at(self) -> float:
        return max((connection.heard_at for connection in self._connections), default=0.0)

    async def _find_out(self) -> None:
        await asyncio.sleep(max(0.0, self._looked_at + APART_S - perf_counter()))
        while True:
            begun = perf_counter()
            try:
                server = await self._look_once()
            except Exception as error:  # noqa: BLE001  # whatever it is, nobody can be served so
                took_s = perf_counter() - begun
                catalog.DB_BREAKER_LOOKS.add(1, self.name, "failed")
                if not self.is_open:
                    if isinstance(error, TimeoutError) and took_s > PATIENCE_S + LATE_S:
                        continue
                    if self._heard_at() > begun:
                        # Who has a connection is served on.
                        return
                    self._open(error)
                self.state = "open"
            else:
                catalog.DB_BREAKER_LOOKS.add(1, self.name, "answered")
                self._looked_at = perf_counter()
                self._note(server)
                return
            await asyncio.sleep(random.uniform(*AGAIN_AFTER_S))  # noqa: S311  # only to spread them
            self.state = "half-open"

    async def _look_once(self) -> Server | None:
        """Who answers; None when it has no connection to spare or lets nobody in, which are answers too."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._look()
        except (asyncpg.TooManyConnectionsError, *NOT_LET_IN):
            # Who has a connection is served on, as where a password was changed before the service's was.
            return None

    def _open(self, error: Exception) -> None:
        self._opened_at, self._openings = perf_counter(), self._openings + 1
        self._reason = getattr(error, "sqlstate", None) or type(error).__name__
        self.is_open, self.state = True, "open"
        catalog.DB_BREAKER_OPENINGS.add(1, self.name)
        log.warning(
            "the database is away: requests are refused", pool=self.name, reason=self._reason
        )
        asyncio.get_running_loop().call_later(GRACE_S, self._give_up, self._opened_at)

    def _give_up(self, opened_at: float) -> None:
        """End what has waited since then: the connections may be dead."""
        for connection in list(self._connections):
            if (
                connection.context is not None
                and connection.came_at < opened_at
                and connection.heard_at < opened_at
            ):
                connection.terminate()
        for limit, begun in list(self._connecting.items()):
            if begun < opened_at:
                limit.reschedule(asyncio.get_running_loop().time())

    def _note(self, server: Server | None) -> None:
        before = self._server
        if server is not None:
            self._server = server
        if self.is_open:
            log.info(
                "the database is back",
                pool=self.name,
                away_s=round(perf_counter() - self._opened_at, 3),
            )
            self.is_open, self.state = False, "closed"
            # A connection that was idle meanwhile may have been cut off by anybody on the way.
            self._begin_again()
        elif None not in {before, server} and before != server:
            log.warning("another server answers: all connections are made anew", pool=self.name)
            self._begin_again()
            asyncio.get_running_loop().call_later(GRACE_S, self._give_up, self._renewed_at)

    def _begin_again(self) -> None:
        self.renew()
        for call in self._told_of_another:
            call()
