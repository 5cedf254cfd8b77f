"""Sends long reads to replicas, where an answer of theirs is as good as the primary's.

How far a replica is behind is never guessed. Every change of a tenant's data changes its version, so a
replica that shows the version which the primary just had shows all that anybody was told is stored: also
to who wrote a moment ago, through whichever process. Does it show another one, or does anything go wrong,
the primary answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Generic, Literal, TypeAlias, TypeVar, cast
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from metrics_service.db.pauses import Pauses
from metrics_service.db.pool import breaker_of, pool_read
from metrics_service.db.replica import EVERYBODY, Replica
from metrics_service.db.tenancy import ContextConnection, hot_door
from metrics_service.errors import TransientError, UnavailableError
from metrics_service.fleet.health_events import HealthEvent
from metrics_service.observability import catalog
from metrics_service.rollups.version import READ_VERSION

LOST_S = (0.5, 1.0, 5.0)
"""Who lost a replica in the middle of a read reads of the primary alone for so long; the next time longer."""

# One that was promoted follows nobody any more.
SHOWN = f"SELECT pg_is_in_recovery(), ({READ_VERSION})"

Useless: TypeAlias = Literal["differs", "promoted"]
DoorT = TypeVar("DoorT")

log = structlog.get_logger(__name__)


class _UselessError(Exception):
    """The replica answers, but not what the primary would."""

    def __init__(self, reason: Useless) -> None:
        super().__init__(reason)
        self.reason = reason


class ReplicaReads:
    """The replicas of one process; asked in turn."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self._replicas = list(replicas)
        self._turn = deque(self._replicas)
        self._lost = Pauses(*LOST_S)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Notice by itself, while this is open, which of them are away; let go of all in the end."""
        async with AsyncExitStack() as standing:
            for replica in self._replicas:
                standing.enter_context(pool_read(replica.engine))
                standing.push_async_callback(replica.engine.dispose)
                await standing.enter_async_context(breaker_of(replica.engine).kept())
            yield

    def hear(self, event: HealthEvent) -> None:
        """A check's status changed: what is late, or no standby, is not worth trying."""
        for replica in self._replicas:
            if replica.name == event.check_name:
                replica.is_fit = event.status == "healthy"

    def choose(self, tenant_id: UUID) -> Replica | None:
        """One that may be tried, with a place there taken; None: read of the primary."""
        if self._lost.holds(tenant_id):
            catalog.REPLICA_FALLBACKS.add(1, "resting")
            return None
        reasons = []
        for _ in range(len(self._turn)):
            replica = self._turn[0]
            self._turn.rotate(-1)
            reason = replica.refusal(tenant_id)
            if reason is None:
                replica.enter(tenant_id)
                return replica
            reasons.append(reason)
        catalog.REPLICA_FALLBACKS.add(1, reasons[-1])
        return None

    def useless(self, replica: Replica, tenant_id: UUID, reason: Useless) -> None:
        if reason == "differs":
            replica.differing.begin(tenant_id)
        else:
            replica.failing.begin(EVERYBODY)
        catalog.REPLICA_FALLBACKS.add(1, reason)

    def failed(self, replica: Replica, error: Exception) -> None:
        log.warning("a replica fails", replica=replica.name, reason=type(error).__name__)
        replica.failing.begin(EVERYBODY)
        catalog.REPLICA_FALLBACKS.add(1, "failed")

    def lost(self, replica: Replica, tenant_id: UUID) -> None:
        """In the middle of a read, which is done again: at the primary, and not at the next replica."""
        log.warning("a replica was lost", replica=replica.name)
        replica.failing.begin(EVERYBODY)
        self._lost.begin(tenant_id)
        catalog.REPLICA_FALLBACKS.add(1, "lost")

    def went_well(self, replica: Replica, tenant_id: UUID) -> None:
        replica.differing.end(tenant_id)
        replica.failing.end(EVERYBODY)
        self._lost.end(tenant_id)


class LongRead(AbstractAsyncContextManager[DoorT], Generic[DoorT]):
    """A door to a replica where that answers as the primary would, else to the primary.

    What breaks while it is open is a `TransientError`: done again, it opens at the primary.
    """

    def __init__(
        self,
        reads: ReplicaReads,
        tenant_id: UUID,
        *,
        primary: AbstractAsyncContextManager[DoorT],
        at: Callable[[AsyncEngine], AbstractAsyncContextManager[DoorT]],
        look: Callable[[], Awaitable[int]],
        version: int | None,
    ) -> None:
        self._reads = reads
        self._tenant_id = tenant_id
        self._primary = primary
        self._at = at
        self._look = look
        self._version = version
        self._replica: Replica | None = None

    async def __aenter__(self) -> DoorT:
        replica = self._reads.choose(self._tenant_id)
        if replica is not None:
            door = await self._tried(replica)
            if door is not None:
                catalog.LONG_READS.add(1, "replica")
                return door
        catalog.LONG_READS.add(1, "primary")
        return await self._primary.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        replica = self._replica
        if replica is None:
            return await self._primary.__aexit__(kind, error, traceback)
        try:
            is_handled = await self._checked.__aexit__(kind, error, traceback)
            if isinstance(error, UnavailableError):
                # Told in the product's words already, and so passed on as it is.
                raise error
        except UnavailableError as lost:
            self._reads.lost(replica, self._tenant_id)
            raise TransientError from lost
        else:
            if error is None:
                self._reads.went_well(replica, self._tenant_id)
            return is_handled
        finally:
            replica.leave(self._tenant_id)

    async def _tried(self, replica: Replica) -> DoorT | None:
        """The door there; None where it is no use, and its place is given back."""
        try:
            version = await self._look() if self._version is None else self._version
            self._checked = self._showing(version, replica)
            door = await self._entered(replica)
        except BaseException:
            replica.leave(self._tenant_id)
            raise
        if door is None:
            replica.leave(self._tenant_id)
        else:
            self._replica = replica
        return door

    async def _entered(self, replica: Replica) -> DoorT | None:
        try:
            return await self._checked.__aenter__()
        except _UselessError as useless:
            self._reads.useless(replica, self._tenant_id, useless.reason)
        except Exception as error:  # noqa: BLE001  # whatever it is, there is the primary
            self._reads.failed(replica, error)
        return None

    @asynccontextmanager
    async def _showing(self, version: int, replica: Replica) -> AsyncIterator[DoorT]:
        """The door there, through which this version is seen, or a later one."""
        async with self._at(replica.engine) as door:
            connection = await _connection_of(door)
            is_standby, shown = await connection.fetchrow(SHOWN)
            if not is_standby:
                raise _UselessError("promoted")
            if shown != version:
                raise _UselessError("differs")
            yield door


async def _connection_of(door: object) -> ContextConnection:
    return (
        await hot_door(door) if isinstance(door, AsyncSession) else cast("ContextConnection", door)
    )
