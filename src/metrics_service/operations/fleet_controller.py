"""`/operator/api/v1`: who asks, and what there is to see of the service as a whole."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec
from litestar import Controller, get
from litestar.params import FromPath

from metrics_service.db.pages import Page
from metrics_service.fleet.jobs import Job
from metrics_service.fleet.reading import (
    get_job,
    list_activity,
    list_audit,
    list_health_events,
    list_jobs,
    list_processes,
    read_totals,
)
from metrics_service.fleet.views import (
    ActivityView,
    AuditQuery,
    AuditView,
    FleetQuery,
    Found,
    HealthEventsQuery,
    HealthEventView,
    JobsQuery,
    ProcessView,
    Totals,
)
from metrics_service.http.query import parse_query, query_operation
from metrics_service.operations.dependencies import API, OperatorRequest, page_of, reading


class OperatorMe(msgspec.Struct, frozen=True):
    """Whose key it is."""

    id: UUID
    name: str
    expires_at: datetime | None


class ActivityQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose activity; everybody's without a tenant."""

    tenant_id: UUID | None = None


class Activity(msgspec.Struct, frozen=True):
    """The last day by five minutes; those in which nothing happened are left out."""

    data: list[ActivityView]


class FleetController(Controller):
    path = API
    tags = ["service"]

    @get("/me")
    async def get_me(self, request: OperatorRequest) -> OperatorMe:
        """Say whose key this is."""
        return OperatorMe(request.user.id, request.user.name, request.user.expires_at)

    @get("/statistics")
    async def get_statistics(self, request: OperatorRequest) -> Totals:
        """Add all tenants up: how many, how large, how busy."""
        async with reading(request) as connection:
            return await read_totals(connection, request.user.key_hash)

    @get("/activity", operation_class=query_operation(ActivityQuery))
    async def get_activity(self, request: OperatorRequest) -> Activity:
        """Show what was asked and sent within the last day, of one tenant or of all."""
        query = parse_query(request, ActivityQuery)
        async with reading(request) as connection:
            return Activity(await list_activity(connection, request.user.key_hash, query.tenant_id))

    @get("/processes", operation_class=query_operation(FleetQuery))
    async def list_processes(self, request: OperatorRequest) -> Page[ProcessView]:
        """List the processes with their pools and checks, the worst first."""
        query = parse_query(request, FleetQuery)
        async with reading(request) as connection:
            rows = await list_processes(connection, request.user.key_hash)
        shown = rows[query.offset : query.offset + query.limit]
        return page_of(Found(shown, len(rows)), query)

    @get("/health-events", operation_class=query_operation(HealthEventsQuery))
    async def list_health_events(self, request: OperatorRequest) -> Page[HealthEventView]:
        """List what changed in the health of processes, newest first."""
        query = parse_query(request, HealthEventsQuery)
        async with reading(request) as connection:
            return page_of(
                await list_health_events(connection, request.user.key_hash, query), query
            )

    @get("/jobs", operation_class=query_operation(JobsQuery))
    async def list_jobs(self, request: OperatorRequest) -> Page[Job]:
        """List jobs, newest first."""
        query = parse_query(request, JobsQuery)
        async with reading(request) as connection:
            return page_of(await list_jobs(connection, request.user.key_hash, query), query)

    @get("/jobs/{job_id:uuid}")
    async def get_job(self, request: OperatorRequest, job_id: FromPath[UUID]) -> Job:
        """Show how far a job has got."""
        async with reading(request) as connection:
            return await get_job(connection, request.user.key_hash, job_id)

    @get("/audit-log", operation_class=query_operation(AuditQuery))
    async def list_audit(self, request: OperatorRequest) -> Page[AuditView]:
        """List what operators did, newest first."""
        query = parse_query(request, AuditQuery)
        async with reading(request) as connection:
            return page_of(await list_audit(connection, request.user.key_hash, query), query)
