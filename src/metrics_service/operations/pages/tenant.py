"""`/tenants/{id}`: one tenant: how large, how busy, which of its statements are slow, what was done to it."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from litestar import Response, get
from litestar.params import FromPath

from metrics_service.fields import now as moment_now
from metrics_service.fleet.reading import get_tenant, list_activity, list_audit
from metrics_service.fleet.slow_queries import (
    FleetSlowQuerySummary,
    SlowQueryFilter,
    of_operator,
    summarise_slow_queries,
)
from metrics_service.fleet.views import AuditQuery
from metrics_service.operations.dependencies import OperatorRequest, reading
from metrics_service.operations.pages.activity import hours_of, rates_of
from metrics_service.operations.pages.page import REFRESH_S, page

PATH = "/tenants/{tenant_id:uuid}"
DAY = timedelta(days=1)
LISTED = 10


@get(PATH)
async def get_tenant_page(request: OperatorRequest, tenant_id: FromPath[UUID]) -> Response[bytes]:
    key, now = request.user.key_hash, moment_now()
    async with reading(request) as connection:
        tenant = await get_tenant(connection, key, tenant_id)
        activity = await list_activity(connection, key, tenant_id)
        slow = await summarise_slow_queries(
            connection,
            of_operator(key),
            SlowQueryFilter(since=now - DAY, tenant_id=tenant_id),
            kind=FleetSlowQuerySummary,
            limit=LISTED,
        )
        done = await list_audit(connection, key, AuditQuery(tenant_id=tenant_id, limit=LISTED))
    return page(
        request,
        "tenant.html",
        values={
            "tenant": tenant,
            "rates": rates_of(activity, now),
            "hours": hours_of(activity),
            "slow": slow,
            "done": done,
        },
        operator=request.user,
        title=tenant.slug,
        refresh_s=REFRESH_S,
    )
