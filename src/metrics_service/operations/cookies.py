"""The cookie of an operator's sign-in: it holds no key, and is good for as long as its key is.

Nothing is kept of it here: it is sealed, says whose key was shown, and dies after half a day.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

import msgspec
from cryptography.fernet import Fernet, InvalidToken

from metrics_service.http.cookies import cookie_of, dropped_cookie, kept_cookie
from metrics_service.http.headers import Header

# Another than a tenant's, though hosts keep them apart already.
NAME = "__Host-metrics-operator"
LIFETIME_S = 12 * 3600
MAX_LENGTH = 512


class Shown(msgspec.Struct, frozen=True, array_like=True):
    """Which key was shown; what is sealed of it opens nothing without the seal."""

    prefix: str
    key_hash: bytes


class OperatorCookies:
    """Seals and opens what the cookie holds, with a key derived from the service's secret."""

    def __init__(self, secret: bytes) -> None:
        key = hashlib.sha256(b"operator sign-in" + secret).digest()
        self._fernet = Fernet(base64.urlsafe_b64encode(key))

    def kept(self, shown: Shown) -> str:
        """The value of Set-Cookie that makes a browser keep the sign-in."""
        token = self._fernet.encrypt(msgspec.msgpack.encode(shown)).decode()
        return kept_cookie(NAME, token, lifetime_s=LIFETIME_S)

    def open(self, headers: Iterable[Header]) -> Shown | None:
        """What the cookie of a request says."""
        token = cookie_of(headers, NAME, max_length=MAX_LENGTH)
        if token is None:
            return None
        try:
            return msgspec.msgpack.decode(self._fernet.decrypt(token, ttl=LIFETIME_S), type=Shown)
        except (InvalidToken, msgspec.DecodeError):
            # The latter: sealed by a release that wrote something else into it.
            return None


def dropped() -> str:
    """The value of Set-Cookie that makes a browser forget the sign-in."""
    return dropped_cookie(NAME)
