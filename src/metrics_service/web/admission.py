"""Pages are for people who have signed in; who has not is asked to, and comes back to where he was."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from litestar import Request, Response
from litestar.response import Redirect

from metrics_service.errors import ForbiddenError, UnauthenticatedError
from metrics_service.http.dependencies import AnyRequest
from metrics_service.http.limits import SIGN_IN_PATH
from metrics_service.web.page import REFRESH


async def admit(request: AnyRequest) -> Response[None] | None:
    """Raises `ForbiddenError` for whoever may not see the page."""
    if request.method == "OPTIONS":
        # It only lists methods, by a handler of the framework's own that requires nothing.
        return None
    if "user" not in request.scope:
        return sign_in_first(request)
    # A page that forgot to say what it requires is open to nobody.
    scope = request.route_handler.opt["scope"]
    if scope is not None and not request.user.allows(scope):
        raise ForbiddenError("your role does not allow you to see this page")
    return None


def sign_in_first(request: Request[Any, Any, Any]) -> Response[None]:
    """Lead to the form and back; raises `UnauthenticatedError` where nobody would see it."""
    if REFRESH in request.headers or request.method not in {"GET", "HEAD"}:
        raise UnauthenticatedError
    wanted = request.scope["path"]
    if query := request.scope["query_string"]:
        wanted += f"?{query.decode()}"
    address = SIGN_IN_PATH if wanted == "/" else f"{SIGN_IN_PATH}?{urlencode({'next': wanted})}"
    return Redirect(address, status_code=303, headers={"cache-control": "no-store"})
