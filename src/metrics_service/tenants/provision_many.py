"""Makes many tenants, several at a time; what is there already is left as it is.

Each tenant is one transaction of its own, so a kill at any moment leaves whole tenants only, and the
same file again makes the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Literal
from uuid import UUID

import msgspec
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.db.engine import owner_connection
from metrics_service.errors import ConflictError, MigrationError
from metrics_service.tenants.migrate import Target, first_line
from metrics_service.tenants.new_tenant import NewTenant
from metrics_service.tenants.processes import in_processes
from metrics_service.tenants.provision import create_tenant
from metrics_service.tenants.registry import Tenant, find_tenant

# Below this many, starting processes costs more than it saves.
TENANTS_WORTH_A_PROCESS = 6

Status = Literal["created", "present", "missing", "failed"]


class Provisioned(msgspec.Struct, frozen=True):
    """What became of one tenant of the file; `missing` only in a dry run."""

    slug: str
    domain: str
    status: Status
    id: UUID | None = None
    reason: str | None = None


class Report(msgspec.Struct, frozen=True):
    """What became of all of them, in the order of the file."""

    created: int
    present: int
    missing: int
    failed: int
    tenants: list[Provisioned]

    @classmethod
    def of(cls, tenants: list[Provisioned]) -> Report:
        statuses = [tenant.status for tenant in tenants]
        return cls(
            created=statuses.count("created"),
            present=statuses.count("present"),
            missing=statuses.count("missing"),
            failed=statuses.count("failed"),
            tenants=tenants,
        )


async def provision_many(
    tenants: Sequence[NewTenant],
    target: Target,
    *,
    jobs: int,
    is_dry_run: bool = False,
    on_done: Callable[[Provisioned, int, int], None] = lambda *_: None,
) -> Report:
    """Make those that are missing. Raises only when the database cannot be reached."""
    outcomes: dict[str, Provisioned] = {}
    async with aclosing(_each(tenants, target, jobs, is_dry_run=is_dry_run)) as done:
        async for outcome in done:
            outcomes[outcome.slug] = outcome
            on_done(outcome, len(outcomes), len(tenants))
    return Report.of([outcomes[new.slug] for new in tenants])


async def _each(
    tenants: Sequence[NewTenant], target: Target, jobs: int, *, is_dry_run: bool
) -> AsyncGenerator[Provisioned, None]:
    if jobs == 1 or len(tenants) < TENANTS_WORTH_A_PROCESS:
        for new in tenants:
            yield await _provision(target, new, is_dry_run=is_dry_run)
        return
    work = partial(_in_process, target, is_dry_run=is_dry_run)
    async with aclosing(in_processes(work, tenants, jobs=jobs)) as done:
        async for outcome in done:
            yield outcome


def _in_process(target: Target, new: NewTenant, *, is_dry_run: bool) -> Provisioned:
    return asyncio.run(_provision(target, new, is_dry_run=is_dry_run))


async def _provision(target: Target, new: NewTenant, *, is_dry_run: bool) -> Provisioned:
    async with owner_connection(target.owner_dsn) as connection:
        if (there := await _there(connection, new)) is not None:
            return there
        if is_dry_run:
            return Provisioned(new.slug, new.domain, "missing")
        try:
            made = await create_tenant(connection, new, target)
        except ConflictError as error:
            # Another provisioner may have made this very tenant since we looked.
            there = await _there(connection, new)
            return there or Provisioned(new.slug, new.domain, "failed", reason=str(error))
        except (MigrationError, DBAPIError) as error:
            return Provisioned(new.slug, new.domain, "failed", reason=first_line(error))
        return Provisioned(new.slug, new.domain, "created", id=made.id)


async def _there(connection: AsyncConnection, new: NewTenant) -> Provisioned | None:
    async with connection.begin():
        found = await find_tenant(connection, new.slug)
    if found is None or found.slug != new.slug:
        return None
    reason = _difference(found, new)
    status: Status = "present" if reason is None else "failed"
    return Provisioned(new.slug, new.domain, status, id=found.id, reason=reason)


def _difference(found: Tenant, new: NewTenant) -> str | None:
    if found.domain != new.domain:
        return f"slug {found.slug} is there with the domain {found.domain}"
    if found.status == "deleting":
        return f"tenant {found.slug} is being deleted"
    return None
