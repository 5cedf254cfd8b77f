"""The operators' application: beside the tenants' one, with nothing of it but what browsers load.

A request comes here by its host alone (`switch.py`); it must be an operator's (`gate.py`), and what it
reads of the service the registry tells it for the operator's key, and for nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg
from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.types import ASGIApp, ControllerRouterHandler

from metrics_service.errors import UnauthenticatedError
from metrics_service.fleet.operators import OperatorKeys
from metrics_service.health import controller as health
from metrics_service.http.body import BodyGuard
from metrics_service.http.failures import EXCEPTION_HANDLERS
from metrics_service.http.foundation import Foundation
from metrics_service.http.openapi import complete_openapi
from metrics_service.http.problems import refusal_of
from metrics_service.http.responses import JsonResponse
from metrics_service.http.retrying import RetryGate
from metrics_service.http.throttle import FailureThrottle
from metrics_service.operations.cookies import OperatorCookies
from metrics_service.operations.dependencies import API, NEEDS_KEY, Operations, authorize
from metrics_service.operations.fleet_controller import FleetController
from metrics_service.operations.gate import OperatorGate
from metrics_service.operations.migrations_controller import MigrationController
from metrics_service.operations.openapi import operators_openapi
from metrics_service.operations.pages.routes import PAGES
from metrics_service.operations.process_controller import get_health, get_metrics
from metrics_service.operations.sign_in import SIGNING_IN
from metrics_service.operations.slow_queries_controller import OperatorSlowQueryController
from metrics_service.operations.tenants_controller import TenantController
from metrics_service.settings import Settings
from metrics_service.web.static_files import get_static

ROUTES: list[ControllerRouterHandler] = [
    FleetController,
    TenantController,
    MigrationController,
    OperatorSlowQueryController,
    get_health,
    health.live,
    health.ready,
    get_metrics,
    PAGES,
    *SIGNING_IN,
    get_static,
]


def operator_app(
    settings: Settings,
    *,
    foundation: Foundation,
    shared: Mapping[str, Any],
) -> ASGIApp:
    """Build it; `shared` is what its handlers find in the state, being the process's only one.

    These are `assets`, `vega`, `health` and `siblings`. It has no lifespan of its own.
    """
    keys = OperatorKeys(foundation.engine, ttl_s=foundation.listener.ttl_s)
    foundation.listener.tell(keys.forget)
    cookies = OperatorCookies(settings.secret_key())
    throttle = FailureThrottle(settings.metrics_auth_failures_per_minute, second=foundation.second)
    operations = Operations(foundation.engine, keys, cookies, throttle, settings)
    litestar = Litestar(
        route_handlers=ROUTES,
        before_request=authorize,
        response_class=JsonResponse,
        exception_handlers={
            **EXCEPTION_HANDLERS,
            asyncpg.InvalidAuthorizationSpecificationError: _of_ended_key,
        },
        logging_config=None,
        # The guard in front knows better: it depends on inflating.
        request_max_body_size=None,
        openapi_config=operators_openapi(),
        state=State({**shared, "operations": operations}),
    )
    complete_openapi(litestar, api=API)
    app: ASGIApp = BodyGuard(RetryGate(litestar))
    return OperatorGate(
        app, keys, cookies, throttle=throttle, trusted_proxies=settings.trusted_proxies
    )


def _of_ended_key(request: Request[Any, Any, Any], _: Exception) -> Response[Any]:
    # The registry knows sooner than this process that a key was revoked.
    refusal = refusal_of(UnauthenticatedError(NEEDS_KEY), request.scope)
    return Response(
        refusal.body,
        status_code=refusal.status,
        media_type=refusal.media_type,
        headers=refusal.headers,
    )
