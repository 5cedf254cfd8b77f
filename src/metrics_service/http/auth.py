"""The credential must be the tenant's own."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from metrics_service.errors import ForbiddenError, MetricsServiceError, UnauthenticatedError
from metrics_service.http.diary_notes import signal_of
from metrics_service.http.headers import Header
from metrics_service.http.links import LinkSigner, is_link, no_link, token_of
from metrics_service.http.problems import send_problem
from metrics_service.http.throttle import FailureThrottle, InFlight, client_address
from metrics_service.tenants.authenticate import KeyRing, Principal

# Before the body is read: strangers cannot make a process hold what they send.
PROTECTED = ("/api/", "/v1/")
MAX_CREDENTIAL_LENGTH = 512
PATH_SCOPES = frozenset({"ingest"})


class CredentialGate:
    """Middleware: puts the principal into `scope["user"]` for paths that need one."""

    def __init__(
        self,
        app: ASGIApp,
        keys: KeyRing,
        links: LinkSigner,
        *,
        throttle: FailureThrottle,
        trusted_proxies: Sequence[IPv4Network | IPv6Network],
    ) -> None:
        self._app = app
        self._keys = keys
        self._links = links
        self._throttle = throttle
        self._trusted_proxies = trusted_proxies
        self._in_flight = InFlight()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or not scope["path"].startswith(PROTECTED):
            await self._app(scope, receive, send)
            return
        try:
            principal = await self._authenticate(scope)
            scope["user"] = principal
            _check_place(scope, principal)
            # Behind the credential: a stranger cannot use up what is the tenant's. Nor can all those
            # whom one of its links was passed on to.
            with self._in_flight.hold((scope["state"]["tenant"].id, is_link(scope["path"]))):
                await self._app(scope, receive, send)
        except MetricsServiceError as error:
            await send_problem(error, scope, send)

    async def _authenticate(self, scope: Scope) -> Principal:
        tenant_id = scope["state"]["tenant"].id
        if is_link(scope["path"]):
            # The token is all that is looked at: no key makes up for one that is wrong.
            principal = self._links.verify(tenant_id, token_of(scope["path"]))
        else:
            key = credential(scope)
            principal = await self._keys.find_principal(tenant_id, key) if key is not None else None
        if principal is not None:
            return principal
        # Only failing attempts are counted and refused: a valid credential is always served.
        address = client_address(scope, self._trusted_proxies)
        host = scope["state"]["host"]
        self._throttle.check(address, host)
        self._throttle.record_failure(address, host)
        if is_link(scope["path"]):
            raise no_link()
        if signal_of(scope) is None:
            raise UnauthenticatedError
        # Whoever sends telemetry looks at nothing but this answer, if at that.
        raise await self._keys.why_not(tenant_id, credential(scope))


def _check_place(scope: Scope, principal: Principal) -> None:
    if "path_token" in scope["state"] and principal.scopes != PATH_SCOPES:
        raise ForbiddenError(
            "a key in the path must have the scope ingest and no other, because paths end up in logs"
        )


def credential(scope: Scope) -> str | None:
    """The key of the path, else of a header."""
    if "path_token" in scope["state"]:
        # Before any header: whoever configured the path did not mean the headers that a proxy adds.
        return _key(str(scope["state"]["path_token"]).encode())
    return header_credential(scope["headers"])


def header_credential(headers: Iterable[Header]) -> str | None:
    """The key of `X-API-Key` or `Authorization`, as Bearer or as the password of Basic."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in (b"authorization", b"x-api-key"):
            if name in found:
                return None
            found[name] = value
    return _key(found[b"x-api-key"] if b"x-api-key" in found else _authorization(found))


def _key(found: bytes | None) -> str | None:
    if found is None or not 0 < len(found) <= MAX_CREDENTIAL_LENGTH or not found.isascii():
        return None
    return found.decode()


def _authorization(found: dict[bytes, bytes]) -> bytes | None:
    scheme, _, value = found.get(b"authorization", b"").strip().partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return None
    return None
