"""What forms to sign in have in common: where they lead, and what they say when something was wrong."""

from __future__ import annotations

import re
from urllib.parse import quote, urlencode

from litestar import Response

from metrics_service.errors import MetricsServiceError, TooManyRequestsError, UnavailableError
from metrics_service.http.browser import HTML, SECURITY_HEADERS
from metrics_service.http.limits import SIGN_IN_PATH

MAX_NEXT_LENGTH = 2048
OVERVIEW = "/"

NO_COOKIE = (
    "Your browser kept no cookie, so you are not signed in. Signing in needs HTTPS, though under"
    " localhost Chrome, Edge and Firefox do without; and cookies must be allowed for this address."
)

# A backslash is a slash to browsers, and what is no character they leave out.
_is_local = re.compile(r"/(?![/\\])[^\x00-\x20\x7f-\x9f\\]*").fullmatch


def local_path(wanted: str | None) -> str:
    """Where to go on to: a path of this very host, else the overview."""
    if wanted is None or len(wanted) > MAX_NEXT_LENGTH or not _is_local(wanted):
        return OVERVIEW
    return wanted


def arrive_at(wanted: str, *, cookie: str) -> Response[bytes]:
    """Go on, signed in."""
    # Not there at once: a browser that does not keep the cookie would be sent back without a word.
    return go_to(f"{SIGN_IN_PATH}?{urlencode({'arrived': '1', 'next': wanted})}", cookie=cookie)


def go_to(path: str, *, cookie: str | None = None) -> Response[bytes]:
    # In ASCII, as headers are; what is escaped already stays as it is.
    headers = {**SECURITY_HEADERS, "location": quote(path, safe="/?#[]@!$&'()*+,;=:%~")}
    if cookie is not None:
        headers["set-cookie"] = cookie
    return Response(b"", status_code=303, headers=headers, media_type=HTML)


def told(error: MetricsServiceError, *, unavailable: str) -> str:
    """What was wrong, as the form says it."""
    if isinstance(error, TooManyRequestsError):
        return f"Too many attempts. Wait {error.retry_after_s} seconds, then try again."
    if isinstance(error, UnavailableError):
        return unavailable
    return f"{str(error).capitalize()}."
