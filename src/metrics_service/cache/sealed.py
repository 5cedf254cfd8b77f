"""What Redis gets to see: names that say nothing, and values that only we can have made.

Redis may lie, mix things up, or be written by somebody else. So a value is sealed for the very place
that it was put into (tenant, kind and key): anything else that is found there opens to nothing.
"""

from __future__ import annotations

import hmac
import os
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

# So that an operator can tell ours apart, and a Redis user be confined to them: `~metrics:*`.
PREFIX = b"metrics:"
_NONCE_BYTES = 12


class Place(msgspec.Struct, frozen=True):
    """Where something is kept: what it is called in Redis, and what it really is."""

    name: bytes
    full: bytes
    """Tenant, kind and key, which Redis never sees."""


class Seals:
    """Names and seals by keys derived from the service's secret."""

    def __init__(self, secret: bytes) -> None:
        self._names = hmac.digest(secret, b"names in the second level", "sha256")
        self._values = hmac.digest(secret, b"values in the second level", "sha256")

    def place(self, tenant_id: UUID, kind: str, key: bytes) -> Place:
        spelt = kind.encode()
        # The lengths are fixed or said, so that no two places are spelt alike.
        full = tenant_id.bytes + len(spelt).to_bytes(2, "big") + spelt + key
        return Place(PREFIX + hmac.digest(self._names, full, "sha256").hex().encode(), full)

    def seal(self, place: Place, value: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher(place).encrypt(nonce, value, place.full)

    def open(self, place: Place, sealed: object) -> bytes | None:
        """What was sealed for this place; None for whatever else it is."""
        if not isinstance(sealed, bytes) or len(sealed) < _NONCE_BYTES:
            return None
        nonce, value = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher(place).decrypt(nonce, value, place.full)
        except InvalidTag:
            return None

    def _cipher(self, place: Place) -> AESGCM:
        # A key for each place: random nonces are safe for some billions of values under one key.
        return AESGCM(hmac.digest(self._values, place.full, "sha256"))
