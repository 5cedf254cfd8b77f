"""The queue of jobs: how one is taken, and how it comes to an end exactly once.

A job is taken with a number that grows with each time, and whoever has another one can neither finish
it nor put it back. So a process that was believed dead, and is not, changes nothing.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.errors import MetricsServiceError
from metrics_service.maintenance.place import as_owner

MAX_ERROR_LENGTH = 500


class TakenJob(msgspec.Struct, frozen=True):
    """A job that this process does."""

    id: UUID
    kind: str
    arguments: str
    attempt: int
    """The first, the second..: a job that was begun and not finished is begun again."""


class JobLostError(MetricsServiceError):
    """Another process does the job by now, or has done it."""

    def __init__(self, job: TakenJob) -> None:
        super().__init__(f"job {job.id} is no longer ours")


# What is running while the lock of maintenance is ours was begun by somebody who is gone; a row that
# is locked belongs to a transaction of theirs that PostgreSQL has not given up yet.
TAKE = """
UPDATE public.fleet_jobs
SET status = 'running', started_at = clock_timestamp(), done = 0, total = NULL,
    result = jsonb_build_object('attempts', coalesce((result ->> 'attempts')::integer, 0) + 1)
WHERE id = (
    SELECT id FROM public.fleet_jobs WHERE status IN ('queued', 'running')
    ORDER BY status = 'queued', queued_at, id LIMIT 1 FOR UPDATE SKIP LOCKED
)
RETURNING id, kind, arguments::text, (result ->> 'attempts')::integer AS attempt
"""

IS_OURS = "id = :id AND status = 'running' AND (result ->> 'attempts')::integer = :attempt"

HOLD = f"SELECT id FROM public.fleet_jobs WHERE {IS_OURS} FOR UPDATE"

ADVANCE = f"UPDATE public.fleet_jobs SET done = :done, total = :total WHERE {IS_OURS}"

FINISH = f"""
UPDATE public.fleet_jobs
SET status = :status, finished_at = clock_timestamp(), error = :error,
    done = CASE WHEN :status = 'done' THEN coalesce(total, 1) ELSE done END,
    total = CASE WHEN :status = 'done' THEN coalesce(total, 1) ELSE total END,
    result = CAST(:result AS jsonb)
WHERE {IS_OURS} RETURNING id
"""

GIVE_BACK = f"""
UPDATE public.fleet_jobs
SET status = 'queued', started_at = NULL, done = 0, total = NULL,
    result = jsonb_build_object('attempts', :attempt - 1)
WHERE {IS_OURS}
"""


async def take_job(connection: AsyncConnection) -> TakenJob | None:
    """Take the next job, those first that somebody began and did not finish; None when there is none."""
    async with as_owner(connection):
        row = (await connection.execute(text(TAKE))).one_or_none()
    return None if row is None else TakenJob(*row)


async def hold_job(connection: AsyncConnection, job: TakenJob) -> None:
    """Keep it ours until the caller's transaction, the owner's, ends. Raises `JobLostError`."""
    held = await connection.execute(text(HOLD), {"id": job.id, "attempt": job.attempt})
    if held.one_or_none() is None:
        raise JobLostError(job)


async def advance_job(connection: AsyncConnection, job: TakenJob, *, done: int, total: int) -> None:
    async with as_owner(connection):
        await connection.execute(
            text(ADVANCE), {"id": job.id, "attempt": job.attempt, "done": done, "total": total}
        )


async def finish_job(connection: AsyncConnection, job: TakenJob, result: dict[str, Any]) -> None:
    """Call it done in the caller's transaction, which is the owner's. Raises `JobLostError`."""
    await _end(connection, job, "done", result, None)


async def fail_job(
    connection: AsyncConnection, job: TakenJob, error: str, result: dict[str, Any]
) -> None:
    """Say why it could not be done, in the caller's transaction. Raises `JobLostError`."""
    await _end(connection, job, "failed", result, " ".join(error.split())[:MAX_ERROR_LENGTH])


async def _end(
    connection: AsyncConnection,
    job: TakenJob,
    status: str,
    result: dict[str, Any],
    error: str | None,
) -> None:
    ended = await connection.execute(
        text(FINISH),
        {
            "id": job.id,
            "attempt": job.attempt,
            "status": status,
            "error": error,
            "result": msgspec.json.encode(result | {"attempts": job.attempt}).decode(),
        },
    )
    if ended.one_or_none() is None:
        raise JobLostError(job)


async def give_back(connection: AsyncConnection, job: TakenJob) -> None:
    """Put it back as if it had never been taken."""
    async with as_owner(connection):
        await connection.execute(text(GIVE_BACK), {"id": job.id, "attempt": job.attempt})
