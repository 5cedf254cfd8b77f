"""Who may go to the database now: decided before a connection is taken, not while one is waited for.

As many requests at a time as the pool has connections. Who waits stands in his tenant's line, and
the lines are served in turn: a hundred of a loud tenant do not stand before the one of a quiet one.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from enum import IntEnum
from types import TracebackType
from typing import Generic, TypeVar

import msgspec

from metrics_service.errors import UnavailableError
from metrics_service.http.congestion import TARGET_S, Congestion
from metrics_service.observability import catalog
from metrics_service.observability.work import span

# As long as the pool lets wait by default, and half of what many OTLP clients wait in all.
PATIENCE_S = 5.0
LARGE_PATIENCE_S = 15.0
"""For what is done one at a time and takes seconds."""
HOPELESS_S = 0.5
"""Where all places are taken, who would wait for longer is told at once.

Less than the second in which an answer is of use: what is told here is only expected, and what else
runs on the machine can make it twice as long.
"""
MAX_WAITING = 1000
"""Of all tenants together; of more, each has no more than its share."""
MAX_WAITING_OF_A_TENANT = 128

TURN = "wait for a turn"
"""What the span is called."""

DoorT = TypeVar("DoorT")


class Purpose(IntEnum):
    """What a connection is wanted for; what is stuck with one leaves a tenant the others."""

    READ = 0
    LONG_READ = 1
    """May take as long as a statement may."""
    WRITE = 2


class _Waiter(msgspec.Struct, frozen=True, eq=False):
    purpose: Purpose
    since: float
    turn: asyncio.Future[None]


class _Standing:
    """One tenant: what it holds, and who of it waits. Forgotten when there is neither."""

    __slots__ = ("held", "line", "lines", "tenant", "together", "waiting")

    def __init__(self, tenant: Hashable) -> None:
        self.tenant = tenant
        self.together = 0
        # Each by purpose.
        self.held = [0, 0, 0]
        self.waiting = [0, 0, 0]
        self.lines: list[Congestion | None] = [None, None, None]
        self.line: deque[_Waiter] = deque()


class Admission:
    """Gives so many turns at a time, a tenant at most a share of them."""

    def __init__(
        self,
        places: int,
        *,
        patience_s: float = PATIENCE_S,
        target_s: float = TARGET_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience_s = patience_s
        self._hopeless_s = min(patience_s, max(HOPELESS_S, target_s))
        self._target_s = target_s
        self._clock = clock
        self._free = places
        half = max(1, places // 2)
        # Fewer long ones: each may keep its connection for as long as a statement may take.
        self._most = (half, max(1, places // 3), half)
        # More than for one purpose, so that who is stuck with his writes can still read; and never
        # all, unless there is but one.
        self._most_together = max(1, min(places - 1, -(-places * 2 // 3)))
        self._tenants: dict[Hashable, _Standing] = {}
        self._waiting = 0
        # Whose lines are not empty, the next to be served first.
        self._ring: OrderedDict[Hashable, _Standing] = OrderedDict()
        self._all = Congestion(clock(), target_s=target_s)

    @property
    def waiting(self) -> int:
        """How many wait for their turn now."""
        return self._waiting

    @contextmanager
    def read(self) -> Iterator[None]:
        """Let meters read it while this is open."""
        stop = catalog.TURNS_WAITING.read_by(lambda: self.waiting)
        try:
            yield
        finally:
            stop()

    def turn(
        self, tenant: Hashable, purpose: Purpose, door: AbstractAsyncContextManager[DoorT]
    ) -> Turn[DoorT]:
        """Wait for one of the tenant's turns, then open the door; the turn ends when it is shut.

        Never to be asked for within another one: who holds a turn must not wait for one. Raises
        `UnavailableError` when none comes in time, or would.
        """
        return Turn(self, tenant, purpose, door)

    def check(self, tenant: Hashable, purpose: Purpose) -> None:
        """Raises `UnavailableError` where there is more to do than can be done in time.

        To be asked early, while refusing is cheap.
        """
        if self._waiting:
            self._check(self._tenants.get(tenant), purpose, self._clock())

    def take(self, tenant: Hashable, purpose: Purpose) -> _Standing | None:
        """Take a turn if there is one now; for `Turn` alone, as the next ones."""
        standing = self._tenants.get(tenant)
        if standing is None:
            standing = self._tenants[tenant] = _Standing(tenant)
        # Whoever waits while a place is free waits for his own tenant: nobody is overtaken.
        if not self._free or not self._may_have(standing, purpose):
            return None
        line = standing.lines[purpose]
        if line is not None:
            line.flow()
        self._all.flow()
        self._give(standing, purpose)
        return standing

    async def wait(self, tenant: Hashable, purpose: Purpose) -> _Standing:
        """Wait for a turn that cannot be taken now."""
        standing = self._tenants[tenant]
        now = self._clock()
        try:
            self._check(standing, purpose, now)
        except UnavailableError:
            self._forget_idle(standing)
            raise
        waiter = _Waiter(purpose, now, asyncio.get_running_loop().create_future())
        self._join(standing, waiter)
        try:
            with span(TURN):
                async with asyncio.timeout(self._patience_s):
                    await waiter.turn
        except BaseException as error:
            if waiter.turn.done() and not waiter.turn.cancelled():
                # It was given on to this one, who has not yet noticed.
                self.give_back(standing, purpose)
            else:
                self._leave(standing, waiter)
            if not isinstance(error, TimeoutError):
                raise
            raise _refusal("database_turns") from None
        return standing

    def give_back(self, standing: _Standing, purpose: Purpose) -> None:
        standing.held[purpose] -= 1
        standing.together -= 1
        self._free += 1
        if self._ring:
            self._serve()
        self._forget_idle(standing)

    def _may_have(self, standing: _Standing, purpose: Purpose) -> bool:
        return (
            standing.together < self._most_together and standing.held[purpose] < self._most[purpose]
        )

    def _give(self, standing: _Standing, purpose: Purpose) -> None:
        standing.held[purpose] += 1
        standing.together += 1
        self._free -= 1

    def _check(self, standing: _Standing | None, purpose: Purpose, now: float) -> None:
        patience_s = self._patience_s
        waiting = 0
        if standing is not None:
            waiting = len(standing.line)
            line, ahead = standing.lines[purpose], standing.waiting[purpose]
            if line is not None and ahead and line.refuses(ahead, now, patience_s=patience_s):
                raise _refusal("shed")
        if waiting >= MAX_WAITING_OF_A_TENANT or (
            self._waiting >= MAX_WAITING and self._has_its_share(waiting)
        ):
            raise _refusal("database_turns")
        # So often is everybody served who waits before this one is.
        rounds = waiting + 1
        ahead = rounds * len(self._ring)
        if not self._free and self._all.refuses(ahead, now, patience_s=self._hopeless_s):
            raise _refusal("shed")

    def _has_its_share(self, waiting: int) -> bool:
        """Whether one more of a tenant of whom so many wait is more than an equal share of the room."""
        # Some loud ones may have taken all of it: who is quiet would be served soon all the same.
        tenants = len(self._ring) + (not waiting)
        return (waiting + 1) * tenants > MAX_WAITING

    def _join(self, standing: _Standing, waiter: _Waiter) -> None:
        purpose, now = waiter.purpose, waiter.since
        line = standing.lines[purpose]
        if line is None:
            standing.lines[purpose] = Congestion(now, target_s=self._target_s)
        elif not standing.waiting[purpose]:
            line.begin(now)
        if not self._waiting:
            self._all.begin(now)
        standing.line.append(waiter)
        standing.waiting[purpose] += 1
        self._waiting += 1
        self._ring.setdefault(standing.tenant, standing)

    def _leave(self, standing: _Standing, waiter: _Waiter) -> None:
        standing.line.remove(waiter)
        standing.waiting[waiter.purpose] -= 1
        self._waiting -= 1
        if not standing.line:
            del self._ring[standing.tenant]
        self._forget_idle(standing)

    def _serve(self) -> None:
        """Give what is free to those whose turn it is; each tenant one, then the next tenant."""
        passed_by = 0
        while self._free and passed_by < len(self._ring):
            tenant, standing = next(iter(self._ring.items()))
            self._ring.move_to_end(tenant)
            waiter = self._next_of(standing)
            if waiter is None:
                passed_by += 1
                continue
            passed_by = 0
            self._give(standing, waiter.purpose)
            self._note(standing, waiter)
            self._leave(standing, waiter)
            waiter.turn.set_result(None)

    def _next_of(self, standing: _Standing) -> _Waiter | None:
        for waiter in standing.line:
            # One that was cancelled leaves when its task is told so.
            if self._may_have(standing, waiter.purpose) and not waiter.turn.done():
                return waiter
        return None

    def _note(self, standing: _Standing, waiter: _Waiter) -> None:
        now = self._clock()
        waited_s = now - waiter.since
        line = standing.lines[waiter.purpose]
        if line is not None:
            line.move(waited_s, now)
        self._all.move(waited_s, now)
        catalog.TURN_WAIT_TIME.record(waited_s)

    def _forget_idle(self, standing: _Standing) -> None:
        if not standing.together and not standing.line:
            self._tenants.pop(standing.tenant, None)


class Turn(AbstractAsyncContextManager[DoorT], Generic[DoorT]):
    """A door behind which a turn is held. A class, because every request pays for it."""

    __slots__ = ("_admission", "_door", "_purpose", "_standing", "_tenant")

    def __init__(
        self,
        admission: Admission,
        tenant: Hashable,
        purpose: Purpose,
        door: AbstractAsyncContextManager[DoorT],
    ) -> None:
        self._admission = admission
        self._tenant = tenant
        self._purpose = purpose
        self._door = door

    async def __aenter__(self) -> DoorT:
        admission, tenant, purpose = self._admission, self._tenant, self._purpose
        standing = admission.take(tenant, purpose)
        if standing is None:
            standing = await admission.wait(tenant, purpose)
        self._standing = standing
        try:
            return await self._door.__aenter__()
        except BaseException:
            admission.give_back(standing, purpose)
            raise

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        try:
            return await self._door.__aexit__(kind, error, traceback)
        finally:
            self._admission.give_back(self._standing, self._purpose)


def _refusal(rule: str) -> UnavailableError:
    catalog.REFUSALS.add(1, rule)
    return UnavailableError("too many requests wait for the database", retry_after_s=1)
