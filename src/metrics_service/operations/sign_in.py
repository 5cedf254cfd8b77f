"""`/sign-in` and `/sign-out` of operators: a form that takes the key, and needs no script."""

from __future__ import annotations

from litestar import Response, get, post

from metrics_service.errors import (
    MetricsServiceError,
    TooManyRequestsError,
    UnauthenticatedError,
    UnavailableError,
)
from metrics_service.fleet.operator_keys import prefix_of
from metrics_service.fleet.operators import Operator
from metrics_service.http.forms import read_form
from metrics_service.http.limits import SIGN_IN_PATH, SIGN_OUT_PATH
from metrics_service.http.problems import STATUS_OF, headers_of
from metrics_service.http.same_origin import check_same_origin
from metrics_service.http.throttle import client_address
from metrics_service.operations.cookies import Shown, dropped
from metrics_service.operations.dependencies import OperatorRequest, operations_of
from metrics_service.operations.pages.page import page
from metrics_service.tenants.keys import hash_key
from metrics_service.web.sign_in_form import NO_COOKIE, arrive_at, go_to, local_path, told

MAX_KEY_LENGTH = 512

WRONG_KEY = "this is no operator's key, or it has ended"
NOBODY_TO_ASK = (
    "The database cannot be asked whose key this is. See whether PostgreSQL runs and is reached from"
    " here; then try again."
)

# What the form is shown again for, with what was wrong.
AGAIN = (UnauthenticatedError, TooManyRequestsError, UnavailableError)


@get(SIGN_IN_PATH, include_in_schema=False)
async def get_sign_in(request: OperatorRequest) -> Response[bytes]:
    """Show the form, or go on for whoever has signed in."""
    wanted = local_path(request.query_params.get("next"))
    shown = operations_of(request).cookies.open(request.scope["headers"])
    if shown is not None and await _find(request, shown) is not None:
        return go_to(wanted)
    return _form(request, wanted, wrong=NO_COOKIE if "arrived" in request.query_params else None)


@post(SIGN_IN_PATH, include_in_schema=False)
async def post_sign_in(request: OperatorRequest) -> Response[bytes]:
    """Take the key, and give a cookie that stands for it."""
    # Else another site could sign an operator in as somebody else.
    check_same_origin(request.scope)
    form = await read_form(request)
    wanted = local_path(form.get("next"))
    key = form.get("key", "").strip()[: MAX_KEY_LENGTH + 1]
    try:
        shown = await _show(request, key)
    except AGAIN as error:
        return _form(request, wanted, wrong=told(error, unavailable=NOBODY_TO_ASK), error=error)
    return arrive_at(wanted, cookie=operations_of(request).cookies.kept(shown))


@post(SIGN_OUT_PATH, include_in_schema=False)
async def post_sign_out(request: OperatorRequest) -> Response[bytes]:
    """Make this browser forget the sign-in; the key itself stays what it is."""
    check_same_origin(request.scope)
    return go_to(SIGN_IN_PATH, cookie=dropped())


SIGNING_IN = [get_sign_in, post_sign_in, post_sign_out]
"""What is open to those who have not signed in."""


async def _show(request: OperatorRequest, key: str) -> Shown:
    """Raises `UnauthenticatedError`, or `TooManyRequestsError` after too many of these."""
    operations = operations_of(request)
    shown = Shown(prefix_of(key), hash_key(key))
    if len(key) <= MAX_KEY_LENGTH and await _find(request, shown) is not None:
        return shown
    address = client_address(request.scope, operations.settings.trusted_proxies)
    host = request.scope["state"]["host"]
    operations.throttle.check(address, host)
    operations.throttle.record_failure(address, host)
    raise UnauthenticatedError(WRONG_KEY)


async def _find(request: OperatorRequest, shown: Shown) -> Operator | None:
    return await operations_of(request).keys.find(shown.prefix, shown.key_hash)


def _form(
    request: OperatorRequest,
    wanted: str,
    *,
    wrong: str | None = None,
    error: MetricsServiceError | None = None,
) -> Response[bytes]:
    shown = page(
        request,
        "sign_in.html",
        title="Sign in",
        values={"next": wanted, "wrong": wrong},
        operator=None,
        status=200 if error is None else STATUS_OF[type(error)],
    )
    if error is not None:
        shown.headers.update(headers_of(error))
    return shown
