"""`/health`: the process lives; it may take traffic; it is well.

They answer on any host, and say nothing that could help a stranger.
"""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get

from metrics_service.health.monitor import HealthMonitor
from metrics_service.health.schemas import Health


@get("/health/live", tags=["health"])
async def live() -> Health:
    """The process answers."""
    return Health("healthy")


@get("/health/ready", tags=["health"])
async def ready(request: Request[Any, Any, Any]) -> Response[Health]:
    """The process may take traffic: it is not about to end, its database answers and is current."""
    return _answer(Health("healthy" if await _monitor(request).readiness.ask() else "unhealthy"))


@get("/health", tags=["health"])
async def health(request: Request[Any, Any, Any]) -> Response[Health]:
    """How the process is; the report behind the word is shown to operators alone."""
    monitor = _monitor(request)
    return _answer(Health(monitor.status if await monitor.readiness.ask() else "unhealthy"))


def _monitor(request: Request[Any, Any, Any]) -> HealthMonitor:
    monitor: HealthMonitor = request.app.state.health
    return monitor


def _answer(health: Health) -> Response[Health]:
    return Response(health, status_code=503 if health.status == "unhealthy" else 200)
