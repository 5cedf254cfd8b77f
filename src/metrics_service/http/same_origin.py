"""What changes something must come from one of our own pages: a cookie is sent along by others too.

`SameSite=Lax` does not know one tenant's host from another's under the same domain, so browsers are
asked what they say of every request: `Sec-Fetch-Site`, or where it is missing (older ones, and plain
HTTP) `Origin`. See the W3C's "Fetch Metadata Request Headers" and OWASP's cheat sheet on CSRF.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from litestar.types import Scope

from metrics_service.errors import ForbiddenError
from metrics_service.http.headers import values_of

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_PORTS = {"http": 80, "https": 443}


def check_same_origin(scope: Scope) -> None:
    """Raises `ForbiddenError` when a browser made the request for a page of another origin.

    Whatever says neither is no browser: none has left out both, for many years, where something is to be
    changed. A program has its cookie from nobody but its user.
    """
    headers = scope["headers"]
    is_of_browser = any(name in {b"sec-fetch-site", b"origin"} for name, _ in headers)
    if is_of_browser and not is_same_origin(scope):
        raise ForbiddenError("this must be asked for by a page of this very address")


def is_same_origin(scope: Scope) -> bool:
    """Whether a browser says that a page of this very host made the request."""
    sites = values_of(scope["headers"], b"sec-fetch-site")
    if sites:
        return sites == [b"same-origin"]
    origins = values_of(scope["headers"], b"origin")
    hosts = values_of(scope["headers"], b"host")
    return len(origins) == len(hosts) == 1 and _is_of_host(origins[0], hosts[0])


def _is_of_host(origin: bytes, host: bytes) -> bool:
    try:
        from_page = urlsplit(origin.decode("ascii"))
        here = urlsplit(f"{from_page.scheme}://{host.decode('ascii')}")
        usual = _PORTS[from_page.scheme]
        # The scheme is the page's own: before a proxy that speaks TLS, ours is another one.
        return (
            from_page.hostname is not None
            and from_page.hostname.rstrip(".") == (here.hostname or "").rstrip(".")
            and (from_page.port or usual) == (here.port or usual)
        )
    except (ValueError, KeyError):
        return False
