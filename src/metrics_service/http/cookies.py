"""The cookie of a sign-in: one host's, of no use to scripts, and sent along by its own pages alone."""

from __future__ import annotations

from collections.abc import Iterable

from metrics_service.http.headers import Header, values_of
from metrics_service.tenants.sign_ins import LIFETIME

# The prefix makes browsers take it only with Secure, with Path=/ and without Domain (RFC 6265bis).
NAME = "__Host-metrics"
_ATTRIBUTES = "Path=/; Secure; HttpOnly; SameSite=Lax"

# A token has 43 characters.
MAX_LENGTH = 128


def sign_in_token(headers: Iterable[Header]) -> str | None:
    """The token of the sign-in that a request comes with; of two, nobody knows whose they are."""
    found = [
        value.strip()
        for line in values_of(headers, b"cookie")
        for name, _, value in (pair.partition(b"=") for pair in line.split(b";"))
        if name.strip() == NAME.encode()
    ]
    if len(found) != 1 or not 0 < len(found[0]) <= MAX_LENGTH or not found[0].isascii():
        return None
    return found[0].decode()


def kept(token: str) -> str:
    """The value of Set-Cookie that makes a browser keep the token for as long as it is good."""
    return f"{NAME}={token}; Max-Age={int(LIFETIME.total_seconds())}; {_ATTRIBUTES}"


def dropped() -> str:
    """The value of Set-Cookie that makes a browser forget the token."""
    return f"{NAME}=; Max-Age=0; {_ATTRIBUTES}"
