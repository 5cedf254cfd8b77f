"""`/health` and `/metrics` on the operators' domain: what this process, and those beside it, say themselves."""

from __future__ import annotations

from litestar import Response, get

from metrics_service.health.monitor import HealthMonitor
from metrics_service.health.schemas import HealthReport
from metrics_service.observability.prometheus import MEDIA_TYPE
from metrics_service.observability.siblings import Siblings
from metrics_service.operations.dependencies import OperatorRequest


@get("/health", tags=["health"])
async def get_health(request: OperatorRequest) -> Response[HealthReport]:
    """Report on this process: each check with its time, the pool, the memory, the server."""
    monitor: HealthMonitor = request.app.state.health
    report = monitor.report()
    return Response(report, status_code=503 if report.status == "unhealthy" else 200)


@get("/metrics", include_in_schema=False)
async def get_metrics(request: OperatorRequest) -> Response[str]:
    """Tell Prometheus what all processes of this server count."""
    siblings: Siblings = request.app.state["siblings"]
    return Response(await siblings.exposition(), media_type=MEDIA_TYPE)
