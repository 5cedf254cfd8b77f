"""`/live`: server-sent events that tell open pages what to ask for again."""

from __future__ import annotations

import random

from litestar import Litestar
from litestar.handlers import asgi
from litestar.types import Receive, Scope, Send

from metrics_service.errors import (
    ForbiddenError,
    MethodNotAllowedError,
    MetricsServiceError,
    UnauthenticatedError,
)
from metrics_service.http.cookies import sign_in_token
from metrics_service.http.dependencies import requires
from metrics_service.http.headers import adding
from metrics_service.http.limits import LIVE_PATH
from metrics_service.http.problems import send_problem
from metrics_service.tenants.authenticate import Principal
from metrics_service.tenants.sign_ins import KIND as PERSON
from metrics_service.web.live.streams import Hub

# Spread, so that the browsers of a server that ended do not all come to the next one at once.
RETRY_MS = (5_000, 10_000)

_ALLOW = (b"allow", b"GET")
_HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    # Nginx would hold messages back until there are enough of them.
    (b"x-accel-buffering", b"no"),
]


@asgi(LIVE_PATH, opt=requires("read"), copy_scope=False)
async def live(scope: Scope, receive: Receive, send: Send) -> None:
    """Tell a signed-in person's browser what changes; as bare as can be, because it stays open."""
    hub: Hub = Litestar.from_scope(scope).state["hub"]
    try:
        principal, token = _admitted(scope)
        with hub.joined(scope["state"]["tenant"].id, principal, token) as stream:
            await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS]})
            retry = b"retry: %d\n" % random.randint(*RETRY_MS)  # noqa: S311  # no secret
            await stream.run(receive, send, retry + hub.first_words())
    except MethodNotAllowedError as error:
        await send_problem(error, scope, adding(send, _ALLOW))
    except MetricsServiceError as error:
        await send_problem(error, scope, send)


def _admitted(scope: Scope) -> tuple[Principal, str]:
    """Who is there, and what proves it."""
    if scope.get("method") != "GET":
        raise MethodNotAllowedError("this is only to be read")
    principal: Principal | None = scope.get("user")
    token = sign_in_token(scope["headers"])
    if principal is None or principal.kind != PERSON or token is None:
        raise UnauthenticatedError("sign in first")
    if not principal.allows("read"):
        raise ForbiddenError("this role reads nothing")
    return principal, token
