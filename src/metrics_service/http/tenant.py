"""The host names the tenant: no tenant, no service."""

from __future__ import annotations

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from metrics_service.errors import (
    MetricsServiceError,
    TenantSuspendedError,
    UnavailableError,
    UnknownHostError,
)
from metrics_service.http.limits import HEALTH_PATHS, STATIC_PREFIX
from metrics_service.http.problems import send_problem
from metrics_service.tenants.resolve import ServedTenant, TenantDirectory


class TenantGate:
    """Middleware: puts the tenant into the state, or answers that there is none to be served."""

    def __init__(self, app: ASGIApp, directory: TenantDirectory) -> None:
        self._app = app
        self._directory = directory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or _is_for_all(scope["path"]):
            await self._app(scope, receive, send)
            return
        try:
            await self._find(scope)
        except MetricsServiceError as error:
            await send_problem(error, scope, send)
            return
        await self._app(scope, receive, send)

    async def _find(self, scope: Scope) -> None:
        state = scope["state"]
        tenant = await self._directory.find(state["host"])
        if tenant is not None and tenant.is_active:
            state["tenant_id"] = str(tenant.id)
        state["tenant"] = require_served(tenant)


def _is_for_all(path: str) -> bool:
    # What pages are made of is the same for all, and error pages on unknown hosts need it too.
    return path in HEALTH_PATHS or path.startswith(STATIC_PREFIX)


def require_served(tenant: ServedTenant | None) -> ServedTenant:
    """Raises `UnknownHostError`, `TenantSuspendedError`, or `UnavailableError` while it is upgraded."""
    if tenant is None or tenant.status in {"deleting", "deleted"}:
        raise UnknownHostError
    if not tenant.is_active:
        raise TenantSuspendedError
    if not tenant.schema_is_ready:
        raise UnavailableError("this tenant is being upgraded", retry_after_s=5)
    return tenant
