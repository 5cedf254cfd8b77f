"""`/migrations`: the ledger of schemas: which are up to date, behind or failed, and upgrading them."""

from __future__ import annotations

from typing import Any

import msgspec
from litestar import Response, get, post

from metrics_service.errors import InvalidBodyError
from metrics_service.fleet.reading import count_schemas, list_schemas
from metrics_service.fleet.views import SchemasQuery
from metrics_service.http.bodies import field_error
from metrics_service.http.forms import read_form
from metrics_service.operations.dependencies import OperatorRequest, reading
from metrics_service.operations.migrations_controller import UpgradeIn
from metrics_service.operations.pages.asked import Asked
from metrics_service.operations.pages.jobs import job_page
from metrics_service.operations.pages.page import REFRESH_S, page
from metrics_service.operations.queueing import upgrade
from metrics_service.tenants.revisions import head
from metrics_service.web.query import page_query

PATH = "/migrations"
STATES: dict[str | None, str] = {
    None: "All",
    "failed": "Failed",
    "behind": "Behind",
    "current": "Up to date",
}


@get(PATH)
async def get_migrations(request: OperatorRequest) -> Response[bytes]:
    query = page_query(request, SchemasQuery)
    async with reading(request) as connection:
        found = await list_schemas(connection, request.user.key_hash, query)
        counts = await count_schemas(connection, request.user.key_hash)
    asked = Asked(PATH, query)
    by_state = {
        None: counts.schemas,
        "failed": counts.failed,
        "behind": counts.behind,
        "current": counts.schemas - counts.failed - counts.behind,
    }
    return page(
        request,
        "migrations.html",
        values={
            "asked": asked,
            "found": found,
            "counts": counts,
            "states": asked.choices("state", STATES, by_state),
            "heads": {"registry": head("registry"), "tenant": head("tenant")},
        },
        operator=request.user,
        title="Migrations",
        refresh_s=REFRESH_S,
    )


@post(PATH, status_code=303)
async def post_migrations(request: OperatorRequest) -> Response[Any]:
    """Have one schema brought to head, or all that are behind or failed."""
    form = await read_form(request)
    try:
        wanted = msgspec.convert({"schema": form.get("schema") or None}, UpgradeIn)
    except msgspec.ValidationError as error:
        raise InvalidBodyError([field_error(error)]) from None
    return job_page((await upgrade(request, wanted.schema)).job)
