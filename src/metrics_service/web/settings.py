"""`/settings`: the organisation's own rules, and one's own account."""

from __future__ import annotations

import re

from litestar import Response, get
from litestar.di import NamedDependency

from metrics_service.errors import UnauthenticatedError
from metrics_service.http.cookies import sign_in_token
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.tenant_settings.repository import read_settings
from metrics_service.tenants.passwords import SHORTEST
from metrics_service.tenants.sign_ins import SignInRow, list_sign_ins
from metrics_service.users.repository import get_user
from metrics_service.web.page import page

# The first that fits counts: each of them says that it is all that stand below it, too.
BROWSERS = (
    ("Edge", r"\bEdg[A-Z]?[a-z]*/"),
    ("Opera", r"\bOPR/"),
    ("Firefox", r"\b(Firefox|FxiOS)/"),
    ("Chrome", r"\b(Chrome|CriOS|Chromium|HeadlessChrome)/"),
    ("Safari", r"\bSafari/"),
)
SYSTEMS = (
    ("Android", r"\bAndroid\b"),
    ("iOS", r"\b(iPhone|iPad)\b"),
    ("Windows", r"\bWindows\b"),
    ("macOS", r"\bMac OS X\b"),
    ("Linux", r"\bLinux\b"),
)


# Everybody has an account, whatever they may see.
@get("/settings", opt=requires(None))
async def get_settings(request: AnyRequest, caller: NamedDependency[Caller]) -> Response[bytes]:
    """The settings that one may see, and those that one may change."""
    user_id, token = caller.principal.user_id, sign_in_token(request.scope["headers"])
    if user_id is None or token is None:
        raise UnauthenticatedError("you are not signed in any more; sign in again")
    is_admin = caller.principal.allows("admin")
    hides_people = not await caller.sees_people()
    async with caller.reading() as connection:
        settings = await read_settings(connection) if is_admin else None
        account = await get_user(connection, user_id)
        sign_ins = await list_sign_ins(connection, user_id, current=token)
    return page(
        request,
        "settings.html",
        title="Settings",
        values={
            "tenant": caller.tenant,
            # A registered one may be short of the base domain, and is one of several.
            "domain": request.scope["state"]["host"],
            "settings": settings,
            "hides_people": hides_people,
            "account": account,
            "shortest": SHORTEST,
            "sign_ins": [(one, browser_of(one)) for one in sign_ins],
        },
        caller=caller,
        styles=["settings.css"],
        scripts=["settings.js"],
    )


def browser_of(sign_in: SignInRow) -> str:
    """By which somebody recognises where they signed in; what is not known is not guessed."""
    said = sign_in.user_agent or ""
    browser = _first(BROWSERS, said)
    system = _first(SYSTEMS, said)
    if browser is None:
        return said or "unknown browser"
    return f"{browser} on {system}" if system else browser


def _first(known: tuple[tuple[str, str], ...], said: str) -> str | None:
    return next((name for name, pattern in known if re.search(pattern, said)), None)
