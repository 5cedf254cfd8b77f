"""The credential must be the tenant's own."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from ipaddress import IPv4Network, IPv6Network

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from metrics_service.errors import ForbiddenError, MetricsServiceError, UnauthenticatedError
from metrics_service.http.admission import Admission, Purpose
from metrics_service.http.cookies import sign_in_token
from metrics_service.http.diary_notes import signal_of
from metrics_service.http.headers import Header
from metrics_service.http.in_flight import InFlight
from metrics_service.http.limits import (
    BATCH_PATHS,
    JSON_PREFIX,
    KEYED_PREFIX,
    LIVE_PATH,
    SIGN_IN_PATH,
    STATIC_PREFIX,
    is_otlp,
)
from metrics_service.http.links import LinkSigner, is_link, no_link, token_of
from metrics_service.http.problems import send_problem
from metrics_service.http.rate import RateLimit
from metrics_service.http.same_origin import SAFE_METHODS, check_same_origin, is_same_origin
from metrics_service.http.throttle import FailureThrottle, client_address
from metrics_service.tenants.authenticate import KeyRing, Principal
from metrics_service.tenants.sign_ins import SignIns

# Before the body is read: strangers cannot make a process hold what they send.
PROTECTED = ("/api/", "/v1/")
MAX_CREDENTIAL_LENGTH = 512
PATH_SCOPES = frozenset({"ingest"})

# Nobody is asked who he is there; all other paths are pages, which send strangers to sign in.
_NO_PAGES = (*PROTECTED, KEYED_PREFIX, STATIC_PREFIX, "/schema", "/health")
_KEY_HEADERS = frozenset({b"authorization", b"x-api-key"})


class CredentialGate:
    """Middleware: puts the principal into `scope["user"]`; none passes where one is needed."""

    def __init__(
        self,
        app: ASGIApp,
        keys: KeyRing,
        links: LinkSigner,
        *,
        sign_ins: SignIns,
        throttle: FailureThrottle,
        trusted_proxies: Sequence[IPv4Network | IPv6Network],
        rate: RateLimit,
        admission: Admission,
    ) -> None:
        self._app = app
        self._rate = rate
        self._admission = admission
        self._keys = keys
        self._links = links
        self._sign_ins = sign_ins
        self._throttle = throttle
        self._trusted_proxies = trusted_proxies
        self._in_flight = InFlight()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        try:
            principal = await self._identify(scope)
            if principal is None:
                await self._app(scope, receive, send)
                return
            scope["user"] = principal
            _check_place(scope, principal)
            # Behind the credential: a stranger cannot use up what is the tenant's.
            with self._held(scope, principal):
                await self._app(scope, receive, send)
        except MetricsServiceError as error:
            await send_problem(error, scope, send)

    def _held(self, scope: Scope, principal: Principal) -> AbstractContextManager[None]:
        if scope["path"] == LIVE_PATH:
            # It stays open for as long as a page does; where it is served, streams are counted.
            return nullcontext()
        tenant_id = scope["state"]["tenant"].id
        # Each kind apart: neither machines nor all those whom a link was passed on to leave the
        # tenant's people without an answer, nor the other way round.
        self._rate.take(tenant_id, principal.kind)
        # Here, because it costs a tenth of what is found out at the door: nothing of the body was
        # read yet, and no route was looked for.
        purpose = _purpose_of(scope)
        if purpose is not None:
            self._admission.check(tenant_id, purpose)
        return self._in_flight.hold((tenant_id, principal.kind))

    async def _identify(self, scope: Scope) -> Principal | None:
        path = scope["path"]
        if path.startswith(PROTECTED) or is_link(path):
            return await self._authenticate(scope)
        if path == SIGN_IN_PATH or path.startswith(_NO_PAGES):
            return None
        token = sign_in_token(scope["headers"])
        return None if token is None else await self._find_person(scope, token)

    async def _authenticate(self, scope: Scope) -> Principal:
        tenant_id = scope["state"]["tenant"].id
        if is_link(scope["path"]):
            # The token is all that is looked at: no key makes up for one that is wrong.
            principal = self._links.verify(tenant_id, token_of(scope["path"]))
        elif _is_from_a_page(scope):
            return await self._authenticate_person(scope)
        else:
            key = credential(scope)
            principal = await self._keys.find_principal(tenant_id, key) if key is not None else None
        if principal is not None:
            return principal
        address = client_address(scope, self._trusted_proxies)
        host = scope["state"]["host"]
        self._throttle.refuse(address, host)
        if is_link(scope["path"]):
            raise no_link()
        if signal_of(scope) is None:
            raise UnauthenticatedError
        # Whoever sends telemetry looks at nothing but this answer, if at that.
        raise await self._keys.why_not(tenant_id, credential(scope))

    async def _authenticate_person(self, scope: Scope) -> Principal:
        token = sign_in_token(scope["headers"])
        principal = None if token is None else await self._find_person(scope, token)
        if principal is None:
            # Not counted: there is nothing to guess in 256 random bits, and a page that stayed open
            # after its sign-in ended would lock its whole office out.
            raise UnauthenticatedError("you are not signed in any more; sign in again")
        return principal

    async def _find_person(self, scope: Scope, token: str) -> Principal | None:
        principal = await self._sign_ins.find(scope["state"]["tenant"].id, token)
        if principal is not None and scope.get("method") not in SAFE_METHODS:
            check_same_origin(scope)
        return principal


def _is_from_a_page(scope: Scope) -> bool:
    """Whether the cookie is what counts: under /api, and where no key is sent."""
    if not scope["path"].startswith(JSON_PREFIX):
        return False
    names = {name for name, _ in scope["headers"]}
    if names & _KEY_HEADERS:
        return False
    # One of our pages whose cookie is gone asks without any: nothing was tried, so nothing failed.
    return sign_in_token(scope["headers"]) is not None or is_same_origin(scope)


def _purpose_of(scope: Scope) -> Purpose | None:
    """What a request will want a connection for, as far as can be told; else the door will find out."""
    if is_otlp(scope["path"]) or scope["path"] in BATCH_PATHS:
        return Purpose.WRITE
    return Purpose.READ if scope.get("method") in SAFE_METHODS else None


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
