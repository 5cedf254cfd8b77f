"""One host is the operators': what is served there and what tenants are served never meet."""

from __future__ import annotations

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from metrics_service.tenants.names import strip_base


class OperatorSwitch:
    """Middleware behind the guard that notes the host: gives each request to one application."""

    def __init__(
        self, tenants: ASGIApp, operators: ASGIApp, *, domain: str, base_domain: str
    ) -> None:
        self._tenants = tenants
        self._operators = operators
        self._domain = domain
        self._base_domain = base_domain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP and self._is_operators(scope["state"]["host"]):
            scope["state"]["is_operators"] = True
            await self._operators(scope, receive, send)
            return
        await self._tenants(scope, receive, send)

    def _is_operators(self, host: str) -> bool:
        # As a tenant's domain is found: with and without the base domain.
        return self._domain in (host, strip_base(host, self._base_domain))
