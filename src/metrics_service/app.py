"""The only place where the parts meet; read it first.

A request goes through the layers from the outside in: it is named and logged, its head is judged, the
host gives the tenant, the credential must be that tenant's, the body is read and inflated; then the
framework finds the handler, which opens one transaction that sees this tenant alone.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from litestar.types import ASGIApp, ControllerRouterHandler

from metrics_service import logs
from metrics_service.dashboards.controller import DashboardController
from metrics_service.db.engine import runtime_engine, warm
from metrics_service.db.pages import CursorSigner
from metrics_service.errors import DatabaseUnreachableError
from metrics_service.health import controller as health
from metrics_service.http.access_log import AccessLog
from metrics_service.http.auth import CredentialGate
from metrics_service.http.body import BodyGuard
from metrics_service.http.dependencies import Database, authorize, provide_caller, provide_tx
from metrics_service.http.failures import EXCEPTION_HANDLERS
from metrics_service.http.guard import HeadGuard
from metrics_service.http.me import get_me
from metrics_service.http.openapi import complete_openapi, openapi_config
from metrics_service.http.responses import JsonResponse
from metrics_service.http.sealing import Sealer
from metrics_service.http.tenant import TenantGate
from metrics_service.http.throttle import FailureThrottle
from metrics_service.ingest.prices import load_prices
from metrics_service.ingest.tool_names import ToolNames
from metrics_service.ingest.write_telemetry import TelemetryWriter
from metrics_service.keys.controller import KeyController
from metrics_service.model_calls.controller import ModelCallController
from metrics_service.otlp.controller import OtlpController
from metrics_service.session_events.controller import SessionEventController
from metrics_service.sessions.controller import MetricsSessionController
from metrics_service.settings import Settings, load_settings
from metrics_service.tenant_settings.controller import TenantSettingsController
from metrics_service.tenants.authenticate import KeyRing
from metrics_service.tenants.content import SettingsDirectory
from metrics_service.tenants.listener import RegistryListener
from metrics_service.tenants.resolve import TenantDirectory
from metrics_service.tool_metrics.controller import ToolMetricController

ROUTES: list[ControllerRouterHandler] = [
    get_me,
    MetricsSessionController,
    SessionEventController,
    ToolMetricController,
    ModelCallController,
    DashboardController,
    KeyController,
    TenantSettingsController,
    OtlpController,
    health.live,
    health.ready,
]


def create_app(settings: Settings, *, runtime_dsn: str, direct_dsn: str) -> ASGIApp:
    """Build one process's application; it connects when its lifespan begins."""
    engine = runtime_engine(
        runtime_dsn,
        pool_max=settings.database_pool_max,
        pool_timeout_ms=settings.database_pool_timeout_ms,
    )
    listener = RegistryListener(direct_dsn)
    directory = TenantDirectory(
        engine, base_domain=settings.metrics_base_domain, ttl_s=listener.ttl_s
    )
    keys = KeyRing(engine, ttl_s=listener.ttl_s)
    listener.tell(directory.forget)
    listener.tell(keys.forget)
    secret = settings.secret_key()
    tool_names = ToolNames()
    database = Database(
        engine=engine,
        signer=CursorSigner(secret),
        tool_names=tool_names,
        telemetry=TelemetryWriter(tool_names, load_prices(settings.prices_file)),
        tenant_settings=SettingsDirectory(engine),
        sealer=Sealer(secret),
        query_timeout_ms=settings.database_query_timeout_ms,
    )

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        listener.start()
        await warm(engine, settings.database_pool_min)
        # What start-up made lives as long as the process: a full collection that walks all of it takes
        # 70 ms, and large batches cause many.
        gc.collect()
        gc.freeze()
        try:
            yield
        finally:
            await listener.stop()
            await engine.dispose()

    litestar = Litestar(
        route_handlers=ROUTES,
        before_request=authorize,
        response_class=JsonResponse,
        dependencies={"caller": Provide(provide_caller), "tx": Provide(provide_tx)},
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=[lifespan],
        logging_config=None,
        # The guards in front know better: it depends on the route, and on inflating.
        request_max_body_size=None,
        openapi_config=openapi_config(),
        state=State({"database": database}),
    )
    complete_openapi(litestar)
    app: ASGIApp = BodyGuard(litestar)
    app = CredentialGate(
        app,
        keys,
        throttle=FailureThrottle(settings.metrics_auth_failures_per_minute),
        trusted_proxies=settings.trusted_proxies,
    )
    app = TenantGate(app, directory)
    app = HeadGuard(app)
    return AccessLog(app)


def serve_app() -> ASGIApp:
    """What each worker of the server runs: the application of its environment."""
    settings = load_settings()
    logs.configure_logging(settings.metrics_log_level, json=not sys.stdout.isatty())
    if settings.database_url is None:
        raise DatabaseUnreachableError("a worker is told where the database is by DATABASE_URL")
    return create_app(
        settings,
        runtime_dsn=settings.database_url,
        direct_dsn=settings.database_direct_url or settings.database_url,
    )
