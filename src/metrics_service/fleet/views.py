"""What an operator sees of the whole service, and what he may ask of its lists."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

import msgspec
from msgspec import Meta

from metrics_service.db.listing import MAX_PAGE, After, Before
from metrics_service.fleet.jobs import JobKind, JobStatus

ViewT = TypeVar("ViewT", bound=msgspec.Struct)

TenantStatus = Literal["provisioning", "active", "suspended", "deleting"]
SchemaState = Literal["current", "behind", "failed"]
HealthStatus = Literal["healthy", "degraded", "unhealthy"]
EventKind = Literal["health-change", "connection-error", "connection-recovery", "failover"]
ProcessKind = Literal["http", "otlp-grpc", "maintenance"]

TenantSort = Literal[
    "slug",
    "-slug",
    "bytes",
    "-bytes",
    "records_hour",
    "-records_hour",
    "requests_hour",
    "-requests_hour",
    "sessions_today",
    "-sessions_today",
    "created_at",
    "-created_at",
]

# -- what is seen -----------------------------------------------------------------------------------


class TenantView(msgspec.Struct, frozen=True):
    """One tenant: who, in which state, how large and how busy; in the order of the function."""

    id: UUID
    slug: str
    name: str
    domain: str
    plan: str
    status: TenantStatus
    created_at: datetime
    updated_at: datetime
    schema_name: str
    schema_revision: str | None
    schema_status: str | None
    schema_error: str | None
    measured_at: datetime | None
    """When its size was measured; None until it was, as then are the four figures that follow."""
    bytes: int | None
    row_count: int | None
    sessions: int | None
    sessions_today: int | None
    requests_hour: int
    failures_hour: int
    refusals_hour: int
    records_hour: int
    records_day: int
    bytes_day: int
    active_at: datetime | None
    """The last five minutes in which anything was asked or sent."""


class Totals(msgspec.Struct, frozen=True):
    """All tenants together."""

    tenants: int
    active: int
    suspended: int
    provisioning: int
    measured: int
    """Of how many the size is known."""
    bytes: int
    row_count: int
    sessions: int
    sessions_today: int
    requests_hour: int
    failures_hour: int
    refusals_hour: int
    records_hour: int
    records_day: int
    bytes_day: int


class ActivityView(msgspec.Struct, frozen=True):
    """What was asked and sent within five minutes."""

    bucket: datetime
    requests: int
    failures: int
    refusals: int
    records: int
    duplicates: int
    bytes: int


class SchemaView(msgspec.Struct, frozen=True):
    """One line of the migration ledger; the registry itself belongs to no tenant."""

    schema_name: str
    tenant_id: UUID | None
    slug: str | None
    revision: str | None
    status: str
    last_error: str | None
    updated_at: datetime
    state: SchemaState


class SchemaCounts(msgspec.Struct, frozen=True):
    """How many schemas there are, and how many of them want something done."""

    schemas: int
    behind: int
    failed: int


class ProcessView(msgspec.Struct, frozen=True):
    """One process, as it reported itself last."""

    id: UUID
    kind: ProcessKind
    host: str
    pid: int
    version: str
    started_at: datetime
    seen_at: datetime
    status: HealthStatus
    report: dict[str, Any]
    is_silent: bool
    """It has not reported for so long that nobody should take it for living."""


class HealthEventView(msgspec.Struct, frozen=True):
    """Something that changed in the health of a process."""

    id: int
    at: datetime
    process_id: UUID | None
    kind: EventKind
    check_name: str
    status_before: str | None
    status: str | None
    detail: str


class AuditView(msgspec.Struct, frozen=True):
    """Something that an operator did."""

    id: UUID
    at: datetime
    actor: str
    action: str
    tenant_id: UUID | None
    detail: dict[str, Any]


# -- what is asked ----------------------------------------------------------------------------------


class FleetQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of every list of the operator's: pages by number, because a human turns them."""

    limit: Annotated[int, Meta(ge=1, le=500, description="Rows a page.")] = 50
    page: Annotated[int, Meta(ge=1, le=MAX_PAGE, description="Which page.")] = 1

    @property
    def offset(self) -> int:
        return (self.page - 1) * self.limit


class TenantsQuery(FleetQuery, frozen=True, kw_only=True):
    """Which tenants, in which order."""

    status: TenantStatus | None = None
    q: Annotated[str, Meta(max_length=255, description="Part of slug, name or domain.")] | None = (
        None
    )
    sort: TenantSort = "slug"


class SchemasQuery(FleetQuery, frozen=True, kw_only=True):
    """Which lines of the ledger; those that want something done come first."""

    state: SchemaState | None = None


class HealthEventsQuery(FleetQuery, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Which events; the newest come first."""

    from_: After | None = None
    to: Before | None = None
    kind: EventKind | None = None
    check_name: Annotated[str, Meta(max_length=64)] | None = None
    process_id: UUID | None = None


class JobsQuery(FleetQuery, frozen=True, kw_only=True):
    """Which jobs; the newest come first."""

    kind: JobKind | None = None
    status: JobStatus | None = None


class AuditQuery(FleetQuery, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Which of the operators' actions; the newest come first."""

    from_: After | None = None
    to: Before | None = None
    tenant_id: UUID | None = None


class Found(msgspec.Struct, Generic[ViewT], frozen=True):
    """The rows of one page, and how many there are in all."""

    rows: list[ViewT]
    total: int
