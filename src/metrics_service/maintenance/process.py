"""What the maintenance process does as long as it runs; any number of them may, and one leads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import msgspec
import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.db.connect import UNREACHABLE
from metrics_service.db.engine import owner_connection
from metrics_service.db.failures import driver_error
from metrics_service.errors import ConflictError, DatabaseUnreachableError, UnavailableError
from metrics_service.health.standing import Finding, Standing
from metrics_service.maintenance.each import Turn
from metrics_service.maintenance.jobs import do_job
from metrics_service.maintenance.leader import TRY_EVERY_S, Lead, candidate
from metrics_service.maintenance.measure import measure
from metrics_service.maintenance.place import Place
from metrics_service.maintenance.prune import prune
from metrics_service.maintenance.queue import take_job
from metrics_service.observability.work import name_of, working

# Each job is announced when it is queued; this is for an announcement that was lost.
LOOK_EVERY_S = 10.0
MEASURE_EVERY_S = 300.0
PRUNE_EVERY_S = 3600.0
AGAIN_AFTER_S = 2.0

# The database's trouble: it is waited out.
TROUBLE = (
    *UNREACHABLE,
    DBAPIError,
    DatabaseUnreachableError,
    UnavailableError,
)

log = structlog.get_logger(__name__)


class Done(msgspec.Struct, frozen=True):
    """What was done in one round of everything."""

    jobs_done: int
    jobs_failed: int
    tenants_measured: int
    tenants_left_out: int
    rows_pruned: int


class Maintenance:
    """Waits until it leads; then does jobs as they come, and the rest by the clock."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.is_leading = False
        self.standing = Standing("maintenance")

    async def run(self) -> None:
        """Maintain until it is cancelled, whatever becomes of the database meanwhile."""
        while True:
            try:
                await self._maintain()
            except* TROUBLE as group:
                reasons = ", ".join(sorted({name_of(driver_error(one)) for one in _leaves(group)}))
                log.warning("maintenance interrupted", reasons=reasons)
                self.standing.take(Finding("unhealthy", f"interrupted: {reasons}"))
            finally:
                self.is_leading = False
            await asyncio.sleep(AGAIN_AFTER_S)

    async def once(self) -> Done:
        """Do all that is to be done, once. Raises `ConflictError` while another process leads."""
        async with candidate(self._place.direct_dsn) as lead:
            if not await lead.try_once():
                raise ConflictError("another process maintains this database already")
            done, failed = await self._do_queued()
            measured = await self._turn("measure", measure)
            pruned = await self._turn("prune", prune)
        return Done(
            jobs_done=done,
            jobs_failed=failed,
            tenants_measured=measured.tenants,
            tenants_left_out=measured.left_out + pruned.left_out,
            rows_pruned=pruned.rows,
        )

    async def _maintain(self) -> None:
        async with candidate(self._place.direct_dsn) as lead:
            self.standing.take(Finding("healthy", "another process leads"))
            while not await lead.try_once():  # noqa: ASYNC110  # another process tells nobody that it ends
                await asyncio.sleep(TRY_EVERY_S)
            # Before the queue is looked at for the first time: so no announcement is missed.
            await lead.listen()
            self.is_leading = True
            self.standing.take(Finding("healthy", "leads"))
            log.info("maintenance leads")
            # Whoever does something is stopped when the lock is lost, and with it the right to do it.
            async with asyncio.TaskGroup() as group:
                group.create_task(lead.prove())
                group.create_task(self._do_jobs(lead))
                group.create_task(self._every(MEASURE_EVERY_S, "measure", measure))
                group.create_task(self._every(PRUNE_EVERY_S, "prune", prune))

    async def _do_jobs(self, lead: Lead) -> None:
        while True:
            await self._do_queued()
            await lead.told(within_s=LOOK_EVERY_S)

    async def _do_queued(self) -> tuple[int, int]:
        """Do what waits, one job after the other; return how many were done, and how many were not."""
        outcomes = []
        async with owner_connection(self._place.owner_dsn) as connection:
            while (job := await take_job(connection)) is not None:
                outcomes.append(await do_job(connection, job, self._place))
        return outcomes.count(True), outcomes.count(False)

    async def _every(
        self, seconds: float, name: str, do: Callable[[AsyncConnection], Awaitable[Turn]]
    ) -> None:
        while True:
            await self._turn(name, do)
            await asyncio.sleep(seconds)

    async def _turn(self, name: str, do: Callable[[AsyncConnection], Awaitable[Turn]]) -> Turn:
        with working(f"maintenance {name}"):
            async with owner_connection(self._place.owner_dsn) as connection:
                turn = await do(connection)
            log.info("maintenance turn", turn=name, **msgspec.structs.asdict(turn))
        return turn


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
