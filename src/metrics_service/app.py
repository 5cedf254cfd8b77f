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
from metrics_service.dashboards.controller import DashboardController
from metrics_service.dashboards.data_controller import DashboardDataController
from metrics_service.dashboards.file_controller import DashboardFileController
from metrics_service.dashboards.image_controller import DashboardImageController
from metrics_service.dashboards.pictures.images import Renderer
from metrics_service.dashboards.share_controller import ShareController
from metrics_service.dashboards.shared_controller import SharedController
from metrics_service.dashboards.shared_data_controller import SharedDataController
from metrics_service.dashboards.template_controller import DashboardTemplateController
from metrics_service.dashboards.version_controller import DashboardVersionController
from metrics_service.errors import DatabaseUnreachableError
from metrics_service.health import controller as health
from metrics_service.http.access_log import AccessLog
from metrics_service.http.auth import CredentialGate
from metrics_service.http.body import BodyGuard
from metrics_service.http.dependencies import authorize, provide_caller, provide_tx
from metrics_service.http.diary import DiaryKeeper
from metrics_service.http.failures import EXCEPTION_HANDLERS
from metrics_service.http.foundation import lay_foundation
from metrics_service.http.guard import HeadGuard
from metrics_service.http.me import get_me
from metrics_service.http.openapi import complete_openapi, openapi_config
from metrics_service.http.responses import JsonResponse
from metrics_service.http.tenant import TenantGate
from metrics_service.http.throttle import FailureThrottle
from metrics_service.identities.controller import IdentityController, IdentityRuleController
from metrics_service.identities.followers import Followers
from metrics_service.ingest_log.controller import IngestLogController
from metrics_service.keys.controller import KeyController
from metrics_service.model_calls.controller import ModelCallController
from metrics_service.otlp.controller import OtlpController
from metrics_service.session_events.controller import SessionEventController
from metrics_service.sessions.controller import MetricsSessionController
from metrics_service.settings import Settings, load_settings
from metrics_service.setup.controller import SetupController
from metrics_service.setup.request import Reach
from metrics_service.tenant_settings.controller import TenantSettingsController
from metrics_service.tool_metrics.controller import ToolMetricController
from metrics_service.users.controller import OwnSignInController
from metrics_service.web.answers import Answers
from metrics_service.web.assets import Assets
from metrics_service.web.live.controller import live
from metrics_service.web.live.streams import Hub
from metrics_service.web.routes import WEB
from metrics_service.web.vega import VegaBundle

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
    TenantSettingsController,
    OtlpController,
    health.live,
    health.ready,
    *WEB,
    live,
]


def create_app(settings: Settings, *, runtime_dsn: str, direct_dsn: str) -> ASGIApp:
    """Build one process's application; it connects when its lifespan begins."""
    foundation = lay_foundation(settings, runtime_dsn=runtime_dsn, direct_dsn=direct_dsn)

    renderer, followers = Renderer(), Followers()
    vega = VegaBundle(settings.data_dir)
    answers = Answers(foundation.listener.hears)
    foundation.listener.tell_changes(lambda tenant_id, _: answers.forget(tenant_id))
    hub = Hub(
        max_streams=settings.metrics_streams_max,
        hears=foundation.listener.hears,
        find=foundation.database.sign_ins.find,
    )
    # After the answers: who is told that something changed must not be given what was before.
    foundation.listener.tell_changes(hub.changed)
    foundation.listener.tell(hub.check)
    reach = Reach(settings.trusted_proxies, settings.metrics_otlp_grpc_port)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with (
            foundation.standing(),
            aclosing(renderer),
            aclosing(followers),
            aclosing(vega),
            hub.kept(),
        ):
            yield

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
                "assets": Assets(vega.version),
                "answers": answers,
                "hub": hub,
            }
        ),
    )
    complete_openapi(litestar)
    app: ASGIApp = BodyGuard(litestar)
    app = CredentialGate(
        app,
        foundation.keys,
        foundation.database.links,
        sign_ins=foundation.database.sign_ins,
        throttle=FailureThrottle(settings.metrics_auth_failures_per_minute),
        trusted_proxies=settings.trusted_proxies,
    )
    app = TenantGate(app, foundation.directory)
    app = HeadGuard(app)
    app = DiaryKeeper(app, foundation.database.diary, foundation.directory, foundation.keys)
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
