"""`/sign-in` and `/sign-out`: forms, which need no script."""

from __future__ import annotations

from litestar import Response, get, post

from metrics_service.errors import (
    InvalidBodyError,
    MetricsServiceError,
    TooManyRequestsError,
    UnavailableError,
)
from metrics_service.http.browser import SECURITY_HEADERS
from metrics_service.http.cookies import dropped, kept, sign_in_token
from metrics_service.http.dependencies import AnyRequest, Database, requires
from metrics_service.http.forms import read_form
from metrics_service.http.headers import values_of
from metrics_service.http.limits import SIGN_IN_PATH, SIGN_OUT_PATH
from metrics_service.http.problems import STATUS_OF, headers_of
from metrics_service.http.same_origin import check_same_origin
from metrics_service.tenants.resolve import ServedTenant
from metrics_service.tenants.sign_ins import NewSignIn
from metrics_service.users.write import People, email_of, sign_in
from metrics_service.web.page import page
from metrics_service.web.sign_in_form import NO_COOKIE, arrive_at, go_to, local_path, told

MAX_EMAIL_SHOWN = 254
BUSY = "The service is busy. Wait a moment, then try again."

# What the form is shown again for, with what was wrong.
AGAIN = (InvalidBodyError, TooManyRequestsError, UnavailableError)


@get(SIGN_IN_PATH, include_in_schema=False)
async def get_sign_in(request: AnyRequest) -> Response[bytes]:
    """Show the form, or go on for whoever has signed in."""
    wanted = local_path(request.query_params.get("next"))
    if await _is_signed_in(request):
        return go_to(wanted)
    return _form(request, wanted, wrong=NO_COOKIE if "arrived" in request.query_params else None)


@post(SIGN_IN_PATH, include_in_schema=False)
async def post_sign_in(request: AnyRequest) -> Response[bytes]:
    """Sign in; pages with something unsaved ask with `Accept: application/json` for no page."""
    # Else another site could sign somebody in as somebody else, and read what they write then.
    check_same_origin(request.scope)
    is_for_script = any(
        b"application/json" in value for value in values_of(request.scope["headers"], b"accept")
    )
    form = await read_form(request)
    wanted = local_path(form.get("next"))
    email = form.get("email", "")
    try:
        begun = await _sign_in(request, email, form.get("password", ""))
    except AGAIN as error:
        if is_for_script:
            raise
        return _form(request, wanted, email=email, wrong=told(error, unavailable=BUSY), error=error)
    if is_for_script:
        headers = {**SECURITY_HEADERS, "set-cookie": kept(begun.token)}
        return Response(b"", status_code=204, headers=headers)
    return arrive_at(wanted, cookie=kept(begun.token))


@post(SIGN_OUT_PATH, opt=requires(None), include_in_schema=False)
async def post_sign_out(request: AnyRequest) -> Response[bytes]:
    """End the sign-in of this browser."""
    check_same_origin(request.scope)
    token = sign_in_token(request.scope["headers"])
    if token is not None:
        await _database(request).sign_ins.end(_tenant(request).id, token)
    return go_to(SIGN_IN_PATH, cookie=dropped())


SIGNING_IN = [get_sign_in, post_sign_in, post_sign_out]
"""What is open to those who have not signed in."""


async def _is_signed_in(request: AnyRequest) -> bool:
    token = sign_in_token(request.scope["headers"])
    if token is None:
        return False
    return await _database(request).sign_ins.find(_tenant(request).id, token) is not None


async def _sign_in(request: AnyRequest, email: str, password: str) -> NewSignIn:
    database, tenant_id = _database(request), _tenant(request).id
    people = People(database.engine, tenant_id, database.passwords)
    # Before anything is hashed; what is no email is one account to it, which nobody has.
    with database.password_throttle.attempt(request.scope, email_of(email) or ""):
        begun = await sign_in(
            people, email=email, password=password, user_agent=request.headers.get("user-agent")
        )
    before = sign_in_token(request.scope["headers"])
    if before is not None:
        # It leaves this browser, and would live on unseen.
        await database.sign_ins.end(tenant_id, before)
    return begun


def _form(
    request: AnyRequest,
    wanted: str,
    *,
    email: str = "",
    wrong: str | None = None,
    error: MetricsServiceError | None = None,
) -> Response[bytes]:
    shown = page(
        request,
        "sign_in.html",
        title="Sign in",
        values={
            "next": wanted,
            "email": email[:MAX_EMAIL_SHOWN],
            "wrong": wrong,
            "tenant_name": _tenant(request).name,
        },
        status=200 if error is None else STATUS_OF[type(error)],
    )
    if error is not None:
        shown.headers.update(headers_of(error))
    return shown


def _database(request: AnyRequest) -> Database:
    database: Database = request.app.state.database
    return database


def _tenant(request: AnyRequest) -> ServedTenant:
    tenant: ServedTenant = request.scope["state"]["tenant"]
    return tenant
