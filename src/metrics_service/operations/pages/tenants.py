"""`/tenants`: who there is, how large and how busy; making one, suspending and resuming."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath

from metrics_service.errors import (
    ConflictError,
    InvalidBodyError,
    MetricsServiceError,
    TooManyRequestsError,
)
from metrics_service.fleet.reading import list_tenants, read_totals
from metrics_service.fleet.views import Found, TenantsQuery, TenantView, Totals
from metrics_service.http.bodies import field_error
from metrics_service.http.forms import read_form
from metrics_service.http.problems import STATUS_OF, headers_of
from metrics_service.operations.dependencies import OperatorRequest, operations_of, reading
from metrics_service.operations.pages.asked import Asked
from metrics_service.operations.pages.jobs import job_page
from metrics_service.operations.pages.page import REFRESH_S, page
from metrics_service.operations.queueing import TenantIn, provision, resume, suspend
from metrics_service.tenants.new_tenant import PLANS
from metrics_service.web.query import page_query

PATH = "/tenants"

STATUSES: dict[str | None, str] = {
    None: "All",
    "active": "Active",
    "suspended": "Suspended",
    "provisioning": "Being made",
}
FIELDS = ("slug", "name", "domain", "plan")
# What the form is shown again for, with what was wrong.
AGAIN = (InvalidBodyError, ConflictError, TooManyRequestsError)


@get(PATH)
async def get_tenants(request: OperatorRequest) -> Response[bytes]:
    return await _listed(request, page_query(request, TenantsQuery), filled={})


@post(PATH, status_code=303)
async def post_tenant(request: OperatorRequest) -> Response[Any]:
    """Have a tenant made; the form is shown again with what was wrong."""
    form = await read_form(request)
    filled = {name: form[name].strip() for name in FIELDS if form.get(name, "").strip()}
    try:
        return job_page((await provision(request, _wanted(filled))).job)
    except AGAIN as error:
        shown = await _listed(
            request,
            TenantsQuery(),
            filled=filled,
            wrong=_told(error),
            status=STATUS_OF[type(error)],
        )
        shown.headers.update(headers_of(error))
        return shown


@post(f"{PATH}/{{tenant_id:uuid}}/suspend", status_code=303)
async def post_suspend(request: OperatorRequest, tenant_id: FromPath[UUID]) -> Response[Any]:
    return job_page((await suspend(request, tenant_id)).job)


@post(f"{PATH}/{{tenant_id:uuid}}/resume", status_code=303)
async def post_resume(request: OperatorRequest, tenant_id: FromPath[UUID]) -> Response[Any]:
    return job_page((await resume(request, tenant_id)).job)


def _wanted(filled: dict[str, str]) -> TenantIn:
    """Raises `InvalidBodyError`."""
    try:
        return msgspec.convert(filled, TenantIn)
    except msgspec.ValidationError as error:
        raise InvalidBodyError([field_error(error)]) from None


def _told(error: MetricsServiceError) -> str:
    if isinstance(error, InvalidBodyError):
        return "; ".join(f"{one.field}: {one.reason}" for one in error.errors)
    return str(error)


async def _listed(
    request: OperatorRequest,
    query: TenantsQuery,
    *,
    filled: dict[str, str],
    wrong: str | None = None,
    status: int = 200,
) -> Response[bytes]:
    async with reading(request) as connection:
        found: Found[TenantView] = await list_tenants(connection, request.user.key_hash, query)
        totals: Totals = await read_totals(connection, request.user.key_hash)
    asked = Asked(PATH, query)
    counts: dict[str | None, int] = {
        None: totals.tenants,
        "active": totals.active,
        "suspended": totals.suspended,
        "provisioning": totals.provisioning,
    }
    return page(
        request,
        "tenants.html",
        values={
            "asked": asked,
            "found": found,
            "totals": totals,
            "statuses": asked.choices("status", STATUSES, counts),
            "plans": PLANS,
            "filled": filled,
            "wrong": wrong,
            "base_domain": operations_of(request).settings.metrics_base_domain,
        },
        operator=request.user,
        status=status,
        title="Tenants",
        # A form that is being filled in stays.
        refresh_s=REFRESH_S if wrong is None else None,
    )
