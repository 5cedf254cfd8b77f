"""What an operator may read of the whole service: one function for each of the registry's.

Every statement carries the hash of the operator's key, without which the registry tells nothing: a
key that died meanwhile raises `asyncpg.InvalidAuthorizationSpecificationError`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from asyncpg import Record

from metrics_service.db.statements import Where
from metrics_service.db.tenancy import ContextConnection
from metrics_service.errors import NotFoundError
from metrics_service.fleet.jobs import Job
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
    SchemaCounts,
    SchemasQuery,
    SchemaView,
    TenantsQuery,
    TenantView,
    Totals,
    ViewT,
)
from metrics_service.tenants.revisions import revisions

SILENT_AFTER_S = 60
"""A process reports many times as often."""

THE_BEGINNING = datetime(2000, 1, 1, tzinfo=UTC)

_JSON = msgspec.json.Decoder(dict[str, Any])


# -- tenants ----------------------------------------------------------------------------------------


async def list_tenants(
    connection: ContextConnection, operator: bytes, query: TenantsQuery
) -> Found[TenantView]:
    where = Where(operator)
    if query.status is not None:
        where.add("t.status = ?", query.status)
    if query.q is not None:
        # Each by itself: nothing is found across the end of one name and the beginning of another.
        names = ("lower(t.slug)", "lower(t.name)", "lower(t.domain)")
        asked = where.bind(query.q.lower())
        where.require(f"({' OR '.join(f'strpos({name}, {asked}) > 0' for name in names)})")
    column, direction = query.sort.lstrip("-"), "DESC" if query.sort.startswith("-") else "ASC"
    return await _page(
        connection,
        f"""
        SELECT {", ".join(f"t.{name}" for name in TenantView.__struct_fields__)},
               count(*) OVER () AS of_all
        FROM public.operator_tenants($1) t {where}
        ORDER BY t.{column} {direction} NULLS LAST, t.slug
        """,
        where,
        query,
        _tenant,
    )


async def get_tenant(connection: ContextConnection, operator: bytes, tenant_id: UUID) -> TenantView:
    """Raises `NotFoundError`."""
    row = await connection.fetchrow(
        f"""
        SELECT {", ".join(TenantView.__struct_fields__)}
        FROM public.operator_tenants($1) WHERE id = $2
        """,
        operator,
        tenant_id,
    )
    if row is None:
        raise NotFoundError("tenant", tenant_id)
    return _tenant(row)


async def is_taken(
    connection: ContextConnection, operator: bytes, *, slug: str, domain: str
) -> tuple[bool, bool]:
    """Whether a tenant has the slug, and whether one is served at the domain."""
    row = await connection.fetchrow(
        """
        SELECT EXISTS (SELECT FROM public.operator_schemas($1) s WHERE s.slug = $2),
               EXISTS (SELECT FROM public.resolve_host($3) h WHERE h.id IS NOT NULL)
        """,
        operator,
        slug,
        domain,
    )
    return row[0], row[1]


async def find_slugs(connection: ContextConnection, operator: bytes) -> dict[UUID, str]:
    """Every tenant's slug by its id, for lists that name tenants by their ids alone."""
    # Of the ledger, where nothing has to be added up first.
    rows = await connection.fetch(
        """
        SELECT tenant_id, slug FROM public.operator_schemas($1) WHERE tenant_id IS NOT NULL
        """,
        operator,
    )
    return {row["tenant_id"]: row["slug"] for row in rows}


async def read_totals(connection: ContextConnection, operator: bytes) -> Totals:
    sums = Totals.__struct_fields__[Totals.__struct_fields__.index("bytes") :]
    row = await connection.fetchrow(
        f"""
        SELECT count(*), count(*) FILTER (WHERE status = 'active'),
               count(*) FILTER (WHERE status = 'suspended'),
               count(*) FILTER (WHERE status = 'provisioning'), count(measured_at),
               {", ".join(f"coalesce(sum({name}), 0)::bigint" for name in sums)}
        FROM public.operator_tenants($1)
        """,
        operator,
    )
    return Totals(*row)


async def list_activity(
    connection: ContextConnection, operator: bytes, tenant_id: UUID | None = None
) -> list[ActivityView]:
    """The last day by five minutes, oldest first; those in which nothing happened are left out."""
    rows = await connection.fetch(
        """
        SELECT bucket, requests, failures, refusals, records, duplicates, bytes
        FROM public.operator_activity($1, $2) ORDER BY bucket
        """,
        operator,
        tenant_id,
    )
    return [ActivityView(*row) for row in rows]


# -- schemas ----------------------------------------------------------------------------------------

# A revision that this code does not know is ahead of it, and accepted.
_STATE = """
    CASE WHEN s.status = 'failed' THEN 'failed'
         WHEN s.revision IS NULL OR s.revision = ANY ($2::text[]) THEN 'behind'
         ELSE 'current' END
"""


def _left_behind() -> list[str]:
    return [*revisions("registry")[:-1], *revisions("tenant")[:-1]]


async def list_schemas(
    connection: ContextConnection, operator: bytes, query: SchemasQuery
) -> Found[SchemaView]:
    where = Where(operator, _left_behind())
    if query.state is not None:
        where.add("l.state = ?", query.state)
    return await _page(
        connection,
        f"""
        SELECT l.schema_name, l.tenant_id, l.slug, l.revision, l.status, l.last_error, l.updated_at,
               l.state, count(*) OVER () AS of_all
        FROM (
            SELECT s.schema_name, s.tenant_id, s.slug, s.revision, s.status, s.last_error,
                   s.updated_at, {_STATE} AS state
            FROM public.operator_schemas($1) s
        ) l {where}
        ORDER BY array_position(ARRAY['failed', 'behind', 'current'], l.state),
                 l.schema_name <> 'public', l.schema_name
        """,
        where,
        query,
        _viewed_as(SchemaView),
    )


async def count_schemas(connection: ContextConnection, operator: bytes) -> SchemaCounts:
    """Count all of them, the registry included."""
    row = await connection.fetchrow(
        f"""
        SELECT count(*), count(*) FILTER (WHERE state = 'behind'),
               count(*) FILTER (WHERE state = 'failed')
        FROM (SELECT {_STATE} AS state FROM public.operator_schemas($1) s) l
        """,
        operator,
        _left_behind(),
    )
    return SchemaCounts(*row)


async def has_schema(connection: ContextConnection, operator: bytes, name: str) -> bool:
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM public.operator_schemas($1) s WHERE s.schema_name = $2)",
            operator,
            name,
        )
    )


# -- processes and their health ---------------------------------------------------------------------


async def list_processes(connection: ContextConnection, operator: bytes) -> list[ProcessView]:
    """Every process that reported within the hour, the worst first."""
    rows = await connection.fetch(
        """
        SELECT p.id, p.kind, p.host, p.pid, p.version, p.started_at, p.seen_at, p.status,
               p.report::text AS report,
               p.seen_at < clock_timestamp() - make_interval(secs => $2) AS is_silent
        FROM public.operator_processes($1) p
        ORDER BY array_position(ARRAY['unhealthy', 'degraded', 'healthy'], p.status),
                 p.kind, p.started_at, p.id
        """,
        operator,
        SILENT_AFTER_S,
    )
    return [ProcessView(**{**row, "report": _JSON.decode(row["report"])}) for row in rows]


async def list_health_events(
    connection: ContextConnection, operator: bytes, query: HealthEventsQuery
) -> Found[HealthEventView]:
    where = Where(operator, query.from_ or THE_BEGINNING)
    if query.to is not None:
        where.add("e.at < ?", query.to)
    for name in ("kind", "check_name", "process_id"):
        if (value := getattr(query, name)) is not None:
            where.add(f"e.{name} = ?", value)
    return await _page(
        connection,
        f"""
        SELECT e.id, e.at, e.process_id, e.kind, e.check_name, e.status_before, e.status, e.detail,
               count(*) OVER () AS of_all
        FROM public.operator_health_events($1, $2) e {where} ORDER BY e.at DESC, e.id DESC
        """,
        where,
        query,
        _viewed_as(HealthEventView),
    )


# -- jobs, and what operators did --------------------------------------------------------------------

# As text, which is decoded here: what a pool makes of jsonb is its own matter.
_JOB = ", ".join(
    f"{name}::text AS {name}" if name in {"arguments", "result"} else name
    for name in Job.__struct_fields__
)


async def list_jobs(connection: ContextConnection, operator: bytes, query: JobsQuery) -> Found[Job]:
    where = Where(operator)
    for name in ("kind", "status"):
        if (value := getattr(query, name)) is not None:
            where.add(f"{name} = ?", value)
    return await _page(
        connection,
        f"""
        SELECT {_JOB}, count(*) OVER () AS of_all
        FROM public.operator_jobs($1) {where} ORDER BY queued_at DESC, id DESC
        """,
        where,
        query,
        _job,
    )


async def find_job(connection: ContextConnection, operator: bytes, job_id: UUID) -> Job | None:
    row = await connection.fetchrow(
        f"SELECT {_JOB} FROM public.operator_jobs($1) WHERE id = $2", operator, job_id
    )
    return None if row is None else _job(row)


async def get_job(connection: ContextConnection, operator: bytes, job_id: UUID) -> Job:
    """Raises `NotFoundError`."""
    job = await find_job(connection, operator, job_id)
    if job is None:
        raise NotFoundError("job", job_id)
    return job


async def list_audit(
    connection: ContextConnection, operator: bytes, query: AuditQuery
) -> Found[AuditView]:
    where = Where(operator)
    if query.from_ is not None:
        where.add("a.at >= ?", query.from_)
    if query.to is not None:
        where.add("a.at < ?", query.to)
    if query.tenant_id is not None:
        where.add("a.tenant_id = ?", query.tenant_id)
    return await _page(
        connection,
        f"""
        SELECT a.id, a.at, a.actor, a.action, a.tenant_id, a.detail::text AS detail,
               count(*) OVER () AS of_all
        FROM public.operator_audit_log($1) a {where} ORDER BY a.at DESC, a.id DESC
        """,
        where,
        query,
        _audit,
    )


# -- rows -------------------------------------------------------------------------------------------


async def _page(
    connection: ContextConnection,
    statement: str,
    where: Where,
    query: FleetQuery,
    view: Callable[[Record], ViewT],
) -> Found[ViewT]:
    rows = await connection.fetch(
        f"{statement} LIMIT {where.bind(query.limit)} OFFSET {where.bind(query.offset)}",
        *where.values,
    )
    if rows or query.page == 1:
        return Found([view(row) for row in rows], rows[0]["of_all"] if rows else 0)
    # A page after the last has no row that could tell how many there are.
    total = await connection.fetchval(
        f"SELECT count(*) FROM ({statement}) counted", *where.values[:-2]
    )
    return Found([], total)


def _viewed_as(kind: type[ViewT]) -> Callable[[Record], ViewT]:
    """Rows whose first columns are the struct's, in its order."""
    return lambda row: kind(*row[: len(kind.__struct_fields__)])


_tenant = _viewed_as(TenantView)


def _job(row: Record) -> Job:
    values = {name: row[name] for name in Job.__struct_fields__}
    values["arguments"] = _JSON.decode(row["arguments"])
    if row["result"] is not None:
        values["result"] = msgspec.json.decode(row["result"])
    return Job(**values)


def _audit(row: Record) -> AuditView:
    values = {name: row[name] for name in AuditView.__struct_fields__}
    return AuditView(**{**values, "detail": _JSON.decode(row["detail"])})
