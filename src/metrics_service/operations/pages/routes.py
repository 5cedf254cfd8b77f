"""Every page of the operators', behind one door: whoever has not signed in is asked to, and comes back."""

from __future__ import annotations

from litestar import Response, Router

from metrics_service.operations.dependencies import OperatorRequest
from metrics_service.operations.pages.health import get_health_history
from metrics_service.operations.pages.jobs import get_jobs
from metrics_service.operations.pages.migrations import get_migrations, post_migrations
from metrics_service.operations.pages.overview import get_overview
from metrics_service.operations.pages.slow_queries import get_slow_queries, get_slow_query
from metrics_service.operations.pages.tenant import get_tenant_page
from metrics_service.operations.pages.tenants import (
    get_tenants,
    post_resume,
    post_suspend,
    post_tenant,
)
from metrics_service.web.admission import sign_in_first


async def admit(request: OperatorRequest) -> Response[None] | None:
    """Raises `UnauthenticatedError` where nobody would see a form."""
    if "user" in request.scope or request.method == "OPTIONS":
        return None
    return sign_in_first(request)


PAGES = Router(
    "/",
    route_handlers=[
        get_overview,
        get_tenants,
        post_tenant,
        get_tenant_page,
        post_suspend,
        post_resume,
        get_slow_queries,
        get_slow_query,
        get_health_history,
        get_migrations,
        post_migrations,
        get_jobs,
    ],
    before_request=admit,
    include_in_schema=False,
)
