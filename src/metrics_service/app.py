"""The only place where the parts meet; read it first.

A request goes through the layers from the outside in: it is named and logged, its head is judged, the
host gives the tenant, the credential must be that tenant's, the body is read and inflated; then the
framework finds the handler, which opens one transaction that sees this tenant alone.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide
from litestar.types import ASGIApp, ControllerRouterHandler

from metrics_service import logs
from metrics_service.cache.two_levels import TwoLevels
from metrics_service.dashboards.controller import DashboardController
from metrics_service.dashboards.data_controller import DashboardDataController
from metrics_service.dashboards.file_controller import DashboardFileController
from metrics_service.dashboards.image_controller import DashboardImageController
from metrics_service.dashboards.kept_answers import DashboardAnswers
from metrics_service.dashboards.pictures.images import Renderer
from metrics_service.dashboards.share_controller import ShareController
from metrics_service.dashboards.shared_controller import SharedController
from metrics_service.dashboards.shared_data_controller import SharedDataController
from metrics_service.dashboards.template_controller import DashboardTemplateController
from metrics_service.dashboards.version_controller import DashboardVersionController
from metrics_service.errors import DatabaseUnreachableError
from metrics_service.health import controller as health
from metrics_service.health.monitor import HealthMonitor
from metrics_service.http.access_log import AccessLog
from metrics_service.http.auth import CredentialGate
from metrics_service.http.body import BodyGuard
from metrics_service.http.dependencies import authorize, provide_caller, provide_tx
from metrics_service.http.diary import DiaryKeeper
from metrics_service.http.ending import Ending
from metrics_service.http.failures import EXCEPTION_HANDLERS
from metrics_service.http.foundation import lay_foundation
from metrics_service.http.guard import HeadGuard
from metrics_service.http.lingering import Lingering
from metrics_service.http.me import get_me
from metrics_service.http.openapi import complete_openapi, openapi_config
from metrics_service.http.responses import JsonResponse
from metrics_service.http.retrying import RetryGate
from metrics_service.http.tenant import TenantGate
from metrics_service.http.throttle import FailureThrottle
from metrics_service.identities.controller import IdentityController, IdentityRuleController
from metrics_service.identities.followers import Followers
from metrics_service.ingest.records import SessionRecord, ToolMetricRecord
from metrics_service.ingest_log.controller import IngestLogController
from metrics_service.keys.controller import KeyController
from metrics_service.model_calls.controller import ModelCallController
from metrics_service.observability.siblings import Siblings
from metrics_service.operations.app import operator_app
from metrics_service.operations.switch import OperatorSwitch
from metrics_service.otlp.controller import OtlpController
from metrics_service.session_events.controller import SessionEventController
from metrics_service.sessions.controller import MetricsSessionController
from metrics_service.settings import Settings, load_settings
from metrics_service.setup.controller import SetupController
from metrics_service.setup.request import Reach
from metrics_service.slow_queries.controller import SlowQueryController
from metrics_service.tenant_settings.controller import TenantSettingsController
from metrics_service.tool_metrics.controller import ToolMetricController
from metrics_service.users.controller import OwnSignInController
from metrics_service.web.answers import Answers
from metrics_service.web.assets import Assets
from metrics_service.web.live.controller import live
from metrics_service.web.live.streams import Hub
from metrics_service.web.routes import WEB
from metrics_service.web.vega import VegaBundle

ANSWERS_BYTES = 32 * 1024 * 1024
# However little changes: widgets of "the latest day" go on, and what an operator changed by hand is seen.
ANSWERS_LIVE_S = 60.0

ROUTES: list[ControllerRouterHandler] = [
    get_me,
    OwnSignInController,
    MetricsSessionController,
    SessionEventController,
    ToolMetricController,
    ModelCallController,
    DashboardController,
    DashboardVersionController,
    ShareController,
    SharedController,
    SharedDataController,
    DashboardDataController,
    DashboardFileController,
    DashboardImageController,
    DashboardTemplateController,
    KeyController,
    SetupController,
    IdentityController,
    IdentityRuleController,
    IngestLogController,
    SlowQueryController,
    TenantSettingsController,
    OtlpController,
    health.live,
    health.ready,
    health.health,
    *WEB,
    live,
]


def create_app(settings: Settings, *, runtime_dsn: str, direct_dsn: str) -> ASGIApp:
    """Build one process's application; it connects when its lifespan begins."""
    foundation = lay_foundation(settings, runtime_dsn=runtime_dsn, direct_dsn=direct_dsn)

    renderer, followers = Renderer(), Followers()
    vega = VegaBundle(settings.data_dir)
    kept = TwoLevels(
        "answers", max_bytes=ANSWERS_BYTES, ttl_s=ANSWERS_LIVE_S, second=foundation.second
    )
    hub = Hub(
        max_streams=settings.metrics_streams_max,
        hears=foundation.listener.hears,
        find=foundation.database.sign_ins.find,
    )
    ending = Ending(settings.metrics_drain_delay_ms / 1000)
    ending.tell(hub.end)
    ending.tell(Lingering(settings.metrics_port).end)
    monitor = HealthMonitor(
        foundation.engine,
        settings,
        runtime_dsn=runtime_dsn,
        kind="http",
        listener=foundation.listener,
        second=foundation.second,
        ending=ending,
    )
    if foundation.database.replicas is not None:
        monitor.on("health-change", foundation.database.replicas.hear)
    siblings = Siblings("worker")
    foundation.listener.tell_changes(hub.changed)
    foundation.listener.tell(hub.check)
    reach = Reach(settings.trusted_proxies, settings.metrics_otlp_grpc_port)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        with ending.foreseen():
            async with (
                foundation.standing("http") as export,
                aclosing(renderer),
                aclosing(followers),
                aclosing(vega),
                hub.kept(),
                siblings.answering(),
                monitor.kept(None if export is None else export.state),
            ):
                yield

    assets = Assets(vega.version)

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
        state=State(
            {
                "database": foundation.database,
                "renderer": renderer,
                "followers": followers,
                "reach": reach,
                "vega": vega,
                "assets": assets,
                "answers": Answers(kept),
                "dashboard_answers": DashboardAnswers(kept),
                "hub": hub,
                "health": monitor,
            }
        ),
    )
    complete_openapi(litestar, SessionRecord, ToolMetricRecord)
    app: ASGIApp = BodyGuard(RetryGate(litestar))
    app = CredentialGate(
        app,
        foundation.keys,
        foundation.database.links,
        sign_ins=foundation.database.sign_ins,
        throttle=FailureThrottle(
            settings.metrics_auth_failures_per_minute, second=foundation.second
        ),
        trusted_proxies=settings.trusted_proxies,
        rate=foundation.database.rate,
        admission=foundation.database.admission,
    )
    app = TenantGate(app, foundation.directory)
    if settings.metrics_operator_domain is not None:
        operators = operator_app(
            settings,
            foundation=foundation,
            shared={"assets": assets, "vega": vega, "health": monitor, "siblings": siblings},
        )
        app = OperatorSwitch(
            app,
            operators,
            domain=settings.metrics_operator_domain,
            base_domain=settings.metrics_base_domain,
        )
    app = HeadGuard(app)
    app = DiaryKeeper(app, foundation.database.diary, foundation.directory, foundation.keys)
    return AccessLog(app, foundation.activity)


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
