"""`/health`: the process lives; it may take traffic."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import asyncpg
import msgspec
from litestar import Request, Response, get

from metrics_service.db.tenancy import registry_connection
from metrics_service.errors import MetricsServiceError
from metrics_service.tenants.revisions import REGISTRY, is_behind

PATIENCE_S = 2.0


class Health(msgspec.Struct, frozen=True):
    status: Literal["healthy", "unhealthy"]


@get("/health/live", tags=["health"])
async def live() -> Health:
    """The process answers."""
    return Health("healthy")


@get(["/health/ready", "/health"], tags=["health"])
async def ready(request: Request[Any, Any, Any]) -> Response[Health]:
    """The process may take traffic: its database answers and is current."""
    is_ready = await _database_is_ready(request)
    return Response(
        Health("healthy" if is_ready else "unhealthy"), status_code=200 if is_ready else 503
    )


async def _database_is_ready(request: Request[Any, Any, Any]) -> bool:
    engine = request.app.state.database.engine
    try:
        async with asyncio.timeout(PATIENCE_S), registry_connection(engine) as connection:
            revision = await connection.fetchval("SELECT public.schema_revision($1)", REGISTRY)
    except (MetricsServiceError, TimeoutError, asyncpg.PostgresError):
        return False
    return not is_behind("registry", revision)
