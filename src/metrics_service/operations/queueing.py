"""What operators want done is checked and queued, for a process that owns the schemas."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Annotated
from uuid import UUID

import asyncpg
import msgspec
from litestar import Response
from msgspec import Meta

from metrics_service.db.tenancy import ContextConnection
from metrics_service.errors import (
    ConflictError,
    FieldError,
    IdempotencyMismatchError,
    InvalidBodyError,
    InvalidNameError,
    NotFoundError,
)
from metrics_service.fleet.jobs import Job, Provision, Resume, Suspend, Upgrade, Wanted, queue_job
from metrics_service.fleet.reading import find_job, get_job, get_tenant, has_schema, is_taken
from metrics_service.http.idempotency import idempotency_key
from metrics_service.operations.dependencies import (
    API,
    OperatorRequest,
    operations_of,
    reading,
    writing,
)
from metrics_service.settings import Settings
from metrics_service.tenants.new_tenant import NewTenant, Plan

ACCEPTED = 202

Text = Annotated[str, Meta(min_length=1, max_length=255)]
Check = Callable[[ContextConnection], Awaitable[None]]

# The job itself looks again: it may wait for its turn.
CHANGEABLE = ("active", "suspended")


class TenantIn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tenant that is to be made; its name and domain are the slug where none are given."""

    slug: Text
    name: Text | None = None
    domain: Text | None = None
    plan: Plan = "basic"


class Queued(msgspec.Struct, frozen=True):
    """The job that will do it, or that a request with the same Idempotency-Key queued before."""

    job: Job
    is_replayed: bool = False


async def provision(request: OperatorRequest, wanted: TenantIn) -> Queued:
    """Raises `InvalidBodyError`, or `ConflictError` when slug or domain are taken."""
    new = _checked(wanted, operations_of(request).settings)

    async def check(connection: ContextConnection) -> None:
        has_slug, has_domain = await is_taken(
            connection, request.user.key_hash, slug=new.slug, domain=new.domain
        )
        if has_slug:
            raise ConflictError(f"slug {new.slug} is taken")
        if has_domain:
            raise ConflictError(f"domain {new.domain} is taken")

    return await _queue(request, Provision(new.slug, new.name, new.domain, new.plan), check)


async def suspend(request: OperatorRequest, tenant_id: UUID) -> Queued:
    """Raises `NotFoundError`, or `ConflictError` for a tenant that is neither served nor suspended."""
    return await _queue(request, Suspend(tenant_id), _is_changeable(request, tenant_id))


async def resume(request: OperatorRequest, tenant_id: UUID) -> Queued:
    """As `suspend`."""
    return await _queue(request, Resume(tenant_id), _is_changeable(request, tenant_id))


async def upgrade(request: OperatorRequest, schema: str | None) -> Queued:
    """Raises `NotFoundError` for a schema that the ledger does not have."""

    async def check(connection: ContextConnection) -> None:
        if schema is not None and not await has_schema(connection, request.user.key_hash, schema):
            raise NotFoundError("schema", schema)

    return await _queue(request, Upgrade(schema), check)


def accepted(queued: Queued) -> Response[Job]:
    """The job as an answer, and where to ask for it again."""
    headers = {"location": f"{API}/jobs/{queued.job.id}"}
    if queued.is_replayed:
        headers["Idempotency-Replayed"] = "true"
    return Response(queued.job, status_code=ACCEPTED, headers=headers)


def _checked(wanted: TenantIn, settings: Settings) -> NewTenant:
    try:
        return NewTenant.of(
            wanted.slug,
            name=wanted.name,
            domain=wanted.domain,
            plan=wanted.plan,
            base_domain=settings.metrics_base_domain,
            operator_domain=settings.metrics_operator_domain,
        )
    except InvalidNameError as error:
        # It begins with the name of the field.
        field, _, reason = str(error).partition(" ")
        raise InvalidBodyError([FieldError(reason, field=field.rstrip(":"))]) from None


def _is_changeable(request: OperatorRequest, tenant_id: UUID) -> Check:
    async def check(connection: ContextConnection) -> None:
        tenant = await get_tenant(connection, request.user.key_hash, tenant_id)
        if tenant.status not in CHANGEABLE:
            raise ConflictError(f"tenant {tenant.slug} is {tenant.status}")

    return check


async def _queue(request: OperatorRequest, wanted: Wanted, check: Check) -> Queued:
    """Raises `IdempotencyMismatchError`, or `TooManyRequestsError` where too many wait."""
    key, operator = idempotency_key(request), request.user.key_hash
    job_id = None if key is None else _id_of(request.user.id, key)
    if job_id is not None and (before := await _find_replayed(request, wanted, job_id)) is not None:
        return before
    try:
        async with writing(request) as connection:
            await check(connection)
            made_id = await queue_job(connection, operator, wanted, job_id=job_id)
            return Queued(await get_job(connection, operator, made_id))
    except asyncpg.UniqueViolationError:
        # Sent twice at once.
        before = None if job_id is None else await _find_replayed(request, wanted, job_id)
        if before is None:
            raise
        return before


async def _find_replayed(request: OperatorRequest, wanted: Wanted, job_id: UUID) -> Queued | None:
    async with reading(request) as connection:
        job = await find_job(connection, request.user.key_hash, job_id)
    if job is None:
        return None
    if (job.kind, job.arguments) != (wanted.kind, msgspec.to_builtins(wanted)):
        raise IdempotencyMismatchError
    return Queued(job, is_replayed=True)


def _id_of(operator_id: UUID, key: str) -> UUID:
    """The same for the same operator and key: the table of jobs itself refuses a second one."""
    digest = hashlib.sha256(operator_id.bytes + key.encode()).digest()
    return UUID(bytes=digest[:16], version=4)
