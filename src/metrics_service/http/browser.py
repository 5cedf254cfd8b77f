"""What browsers are told about every page, and how they show a person what went wrong."""

from __future__ import annotations

from html import escape

from litestar.types import Scope

from metrics_service.http.headers import values_of
from metrics_service.http.limits import (
    JSON_PREFIX,
    KEYED_PREFIX,
    LIVE_PATH,
    OTLP_PREFIX,
    STATIC_PREFIX,
)

# Images may be data: the arrows of controls are drawn in the stylesheet.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": POLICY,
    # Addresses of sessions and dashboards are nobody else's business.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    # The shared browser of an office shows nothing after signing out, the back button included.
    "cache-control": "no-store",
}
HTML = "text/html"
"""As the framework wants it, which adds the charset."""
HTML_UTF8 = f"{HTML}; charset=utf-8"

_NOT_FOR_PEOPLE = (JSON_PREFIX, OTLP_PREFIX, KEYED_PREFIX, "/health", LIVE_PATH, STATIC_PREFIX)

_ADVICE = {
    400: "The address of this page has a part that cannot be read.",
    403: "Ask an administrator of your organisation if you need it.",
    404: "It may have been deleted, or the address may be mistyped.",
    429: "Wait a moment, then load the page again.",
    503: "Wait a moment, then load the page again.",
    504: "A shorter time, or a filter, makes it faster.",
}
# Where nobody is served; the tenants that there are, are told to nobody.
_ADVICE_OUTSIDE = {
    403: "Ask whoever runs this service.",
    404: (
        "Each organisation has an address of its own: ask whoever runs this service for yours."
        " The demo prints its addresses where it was started."
    ),
}


def wants_page(scope: Scope) -> bool:
    """Whether somebody sits in front of the answer."""
    if scope["path"].startswith(_NOT_FOR_PEOPLE):
        return False
    return any(b"text/html" in value for value in values_of(scope["headers"], b"accept"))


def error_page(
    status: int, title: str, detail: str, request_id: str | None, *, has_overview: bool = True
) -> bytes:
    """A page that needs no tenant, no template and no database."""
    advice = (_ADVICE if has_overview else _ADVICE_OUTSIDE).get(status)
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>",
        '<link rel="icon" href="/static/current/icon.svg" type="image/svg+xml">',
        '<link rel="stylesheet" href="/static/current/style.css"></head>',
        '<body class="plain"><main class="plain-main">',
        f'<p class="muted">{status}</p><h1>{escape(title)}</h1>',
        f"<p><bdi>{escape(_sentence(detail))}</bdi></p>",
    ]
    if advice is not None:
        parts.append(f"<p>{advice}</p>")
    if has_overview:
        parts.append('<p><a class="button" href="/">Go to the overview</a></p>')
    if request_id is not None:
        parts.append(f'<p class="muted small">Request {escape(request_id)}</p>')
    parts.append("</main></body></html>")
    return "".join(parts).encode()


def _sentence(detail: str) -> str:
    return f"{detail[:1].upper()}{detail[1:]}{'' if detail.endswith('.') else '.'}"
