"""Jobs: what operators ask for over HTTP, and a process that owns the schemas does later."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar, Literal
from uuid import UUID, uuid4

import asyncpg
import msgspec

from metrics_service.db.tenancy import ContextConnection
from metrics_service.errors import TooManyRequestsError

CHANNEL = "metrics_jobs"
"""Where each job is announced, by its id, when it is queued."""

JobKind = Literal["provision", "upgrade", "suspend", "resume"]
JobStatus = Literal["queued", "running", "done", "failed"]

RETRY_AFTER_S = 60

QUEUE = "SELECT public.queue_job($1, $2, $3, $4::jsonb, $5)"


class Provision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Make a tenant; the values are those of `NewTenant`, checked and normalised."""

    kind: ClassVar[JobKind] = "provision"

    slug: str
    name: str
    domain: str
    plan: str


class Upgrade(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bring one schema to head; every schema that is behind or failed when it names none."""

    kind: ClassVar[JobKind] = "upgrade"

    schema: str | None = None


class Suspend(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Stop serving a tenant; its data stays."""

    kind: ClassVar[JobKind] = "suspend"

    tenant_id: UUID


class Resume(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Serve a suspended tenant again."""

    kind: ClassVar[JobKind] = "resume"

    tenant_id: UUID


Wanted = Provision | Upgrade | Suspend | Resume

KINDS: dict[str, type[Wanted]] = {kind.kind: kind for kind in (Provision, Upgrade, Suspend, Resume)}


class Job(msgspec.Struct, frozen=True):
    """One job as operators see it; a thousand wait at most, and those that ended are kept for 30 days."""

    id: UUID
    kind: JobKind
    arguments: dict[str, Any]
    status: JobStatus
    queued_by: str
    queued_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    done: int
    total: int | None
    """None until it is known how much there is to do."""
    result: dict[str, Any] | None
    error: str | None
    """Why it failed, in one line."""


async def queue_job(
    connection: ContextConnection, operator: bytes, wanted: Wanted, *, job_id: UUID | None = None
) -> UUID:
    """Queue a job in the caller's transaction, which may write; return its id.

    `operator` is the hash of a living operator key. Raises `TooManyRequestsError` when too many wait,
    and `asyncpg.UniqueViolationError` for the id of a job that there is.
    """
    job_id = job_id or uuid4()
    tenant_id = wanted.tenant_id if isinstance(wanted, Suspend | Resume) else None
    arguments = msgspec.json.encode(wanted).decode()
    try:
        await connection.execute(QUEUE, operator, job_id, wanted.kind, arguments, tenant_id)
    except asyncpg.ConfigurationLimitExceededError as error:
        raise TooManyRequestsError(
            "too many jobs wait already", retry_after_s=RETRY_AFTER_S
        ) from error
    return job_id


def wanted_of(kind: str, arguments: str) -> Wanted:
    """Read what `queue_job` wrote; raises `msgspec.ValidationError`."""
    return msgspec.json.decode(arguments, type=KINDS[kind])
