"""Cookies of sign-ins: one host's, of no use to scripts, and sent along by its own pages alone."""

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
    """The token of the sign-in that a request comes with."""
    token = cookie_of(headers, NAME, max_length=MAX_LENGTH)
    return token.decode() if token and token.isascii() else None


def kept(token: str) -> str:
    """The value of Set-Cookie that makes a browser keep the token for as long as it is good."""
    return kept_cookie(NAME, token, lifetime_s=int(LIFETIME.total_seconds()))


def dropped() -> str:
    """The value of Set-Cookie that makes a browser forget the token."""
    return dropped_cookie(NAME)


# -- of any name --------------------------------------------------------------------------------------


def cookie_of(headers: Iterable[Header], name: str, *, max_length: int) -> bytes | None:
    """The one cookie of that name; of two, nobody knows whose they are."""
    found = [
        value.strip()
        for line in values_of(headers, b"cookie")
        for key, _, value in (pair.partition(b"=") for pair in line.split(b";"))
        if key.strip() == name.encode()
    ]
    return found[0] if len(found) == 1 and len(found[0]) <= max_length else None


def kept_cookie(name: str, value: str, *, lifetime_s: int) -> str:
    return f"{name}={value}; Max-Age={lifetime_s}; {_ATTRIBUTES}"


def dropped_cookie(name: str) -> str:
    return f"{name}=; Max-Age=0; {_ATTRIBUTES}"
