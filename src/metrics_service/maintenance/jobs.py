"""Does one job: what it makes and the word that it is done are one transaction wherever they can be."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any, assert_never
from uuid import UUID

import msgspec
import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.db.engine import owner_connection
from metrics_service.db.failures import domain_error, driver_error
from metrics_service.errors import DatabaseUnreachableError, MetricsServiceError, UnavailableError
from metrics_service.fleet.jobs import Provision, Resume, Suspend, Upgrade, wanted_of
from metrics_service.maintenance.place import Place, as_owner
from metrics_service.maintenance.queue import (
    JobLostError,
    TakenJob,
    advance_job,
    fail_job,
    finish_job,
    give_back,
    hold_job,
)
from metrics_service.observability import catalog
from metrics_service.observability.work import name_of, working
from metrics_service.tenants.lifecycle import set_served
from metrics_service.tenants.new_tenant import NewTenant
from metrics_service.tenants.registry import Tenant

# A job that ends whoever does it would keep all others waiting for ever.
MAX_ATTEMPTS = 3
GIVING_BACK_S = 2.0
# Of the schemas that could not be upgraded; the ledger names all.
MAX_NAMED = 20

log = structlog.get_logger(__name__)


class GivenUpError(MetricsServiceError):
    """A job that was begun again and again."""

    def __init__(self) -> None:
        super().__init__(f"begun {MAX_ATTEMPTS} times, and each time whoever did it ended first")


class NotAllUpgradedError(MetricsServiceError):
    """An upgrade that left schemas behind."""

    def __init__(self, failed: int, result: dict[str, Any]) -> None:
        super().__init__(
            f"{failed} {'schema' if failed == 1 else 'schemas'} could not be upgraded: the ledger says why"
        )
        self.result = result


async def do_job(connection: AsyncConnection, job: TakenJob, place: Place) -> bool:
    """Do it, and say in its row what became of it; False when it could not be done.

    Where the database is in trouble the error goes on its way, and the job stays: it is found again.
    """
    with working(f"maintenance {job.kind}") as work:
        work.attributes["metrics_service.job.id"] = str(job.id)
        try:
            tenant_id = await _do(connection, job, place)
        except asyncio.CancelledError:
            await _give_back(job, place)
            raise
        except JobLostError as error:
            log.warning("job lost", job=str(job.id), kind=job.kind, reason=str(error))
            return False
        except Exception as error:  # whatever it is, who queued the job is to see it
            if _may_pass(error):
                raise
            work.error = name_of(driver_error(error))
            reason = _reason(error, job)
            result = error.result if isinstance(error, NotAllUpgradedError) else {}
            async with as_owner(connection):
                await fail_job(connection, job, reason, result)
            catalog.JOBS.add(1, job.kind, "failed")
            log.warning("job failed", job=str(job.id), kind=job.kind, reason=reason)
            return False
        work.tenant_id = None if tenant_id is None else str(tenant_id)
        catalog.JOBS.add(1, job.kind, "done")
        log.info("job done", job=str(job.id), kind=job.kind, attempt=job.attempt)
        return True


def _may_pass(error: Exception) -> bool:
    """Whether it is the database's trouble, and none of the job's."""
    trouble = (UnavailableError, DatabaseUnreachableError)
    return isinstance(error, trouble) or isinstance(domain_error(error), trouble)


def _reason(error: Exception, job: TakenJob) -> str:
    if isinstance(error, MetricsServiceError):
        return str(error)
    if isinstance(error, msgspec.ValidationError):
        return f"arguments: {error}"
    log.error("job went wrong", job=str(job.id), kind=job.kind, exc_info=error)
    # The text of an error of the database may have values in it.
    return f"unexpected {name_of(driver_error(error))}; the log says more"


async def _do(connection: AsyncConnection, job: TakenJob, place: Place) -> UUID | None:
    """Do it; return whose tenant it was about."""
    if job.attempt > MAX_ATTEMPTS:
        raise GivenUpError
    wanted = wanted_of(job.kind, job.arguments)
    match wanted:
        case Provision():
            return await _provision(connection, job, wanted, place)
        case Suspend() | Resume():
            return await _set_served(connection, job, wanted)
        case Upgrade():
            await _upgrade(connection, job, wanted, place)
            return None
        case _:
            assert_never(wanted)


async def _provision(
    connection: AsyncConnection, job: TakenJob, wanted: Provision, place: Place
) -> UUID:
    # Alembic is in memory where there is something to be made with it, and nowhere else.
    from metrics_service.tenants.provision import create_tenant_within  # noqa: PLC0415

    new = NewTenant.of(
        wanted.slug,
        name=wanted.name,
        domain=wanted.domain,
        plan=wanted.plan,
        base_domain=place.base_domain,
        operator_domain=place.operator_domain,
    )
    async with as_owner(connection):
        await hold_job(connection, job)
        # The tenant's role is made by the login itself.
        await connection.execute(text("RESET ROLE"))
        tenant = await create_tenant_within(connection, new, place.target())
        await finish_job(connection, job, _result(tenant))
    return tenant.id


async def _set_served(connection: AsyncConnection, job: TakenJob, wanted: Suspend | Resume) -> UUID:
    async with as_owner(connection):
        await hold_job(connection, job)
        tenant = await set_served(
            connection, wanted.tenant_id, is_served=isinstance(wanted, Resume)
        )
        await finish_job(connection, job, _result(tenant))
    return tenant.id


async def _upgrade(
    connection: AsyncConnection, job: TakenJob, wanted: Upgrade, place: Place
) -> None:
    from metrics_service.tenants.upgrade import upgrades  # noqa: PLC0415  # as in `_provision`

    done, failed = 0, []
    # One schema at a time: the rest of the machine is for those who are being served.
    async with aclosing(upgrades(place.target(), jobs=1, only=wanted.schema)) as each:
        async for outcome, total in each:
            done += 1
            if outcome.error is not None:
                failed.append({"schema_name": outcome.schema_name, "error": outcome.error})
            await advance_job(connection, job, done=done, total=total)
    result = {"upgraded": done - len(failed), "failed": failed[:MAX_NAMED]}
    if failed:
        raise NotAllUpgradedError(len(failed), result)
    async with as_owner(connection):
        await finish_job(connection, job, result)


def _result(tenant: Tenant) -> dict[str, Any]:
    return {
        "tenant_id": str(tenant.id),
        "slug": tenant.slug,
        "domain": tenant.domain,
        "schema_name": tenant.schema_name,
        "status": tenant.status,
    }


async def _give_back(job: TakenJob, place: Place) -> None:
    """Where it was ended in order the job waits again, as if nobody had begun it."""
    try:
        async with (
            asyncio.timeout(GIVING_BACK_S),
            owner_connection(place.owner_dsn) as connection,
        ):
            await give_back(connection, job)
    except (DBAPIError, DatabaseUnreachableError, OSError) as error:
        # Then it is found running, with nobody who does it.
        log.warning("job not given back", job=str(job.id), reason=name_of(driver_error(error)))
