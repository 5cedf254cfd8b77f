"""Links that need no key: a signed token in the path opens one shared thing of one tenant."""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from datetime import UTC, datetime
from uuid import UUID

from metrics_service.errors import NotFoundError
from metrics_service.tenants.authenticate import Principal

PREFIX = "/api/v1/shared/"
PAGE_PREFIX = "/shared/"
_PREFIXES = (PREFIX, PAGE_PREFIX)
KIND = "link"

VERSION = 1
MAC_BYTES = 20
# Version, id of the share, its end in seconds since 1970. With the MAC a multiple of three bytes.
_PAYLOAD = struct.Struct(">B16sQ")
TOKEN_LENGTH = (MAC_BYTES + _PAYLOAD.size) * 4 // 3
LABEL_BYTES = 4


class LinkSigner:
    """Signs tokens for one share of one tenant, until it ends."""

    def __init__(self, secret: bytes) -> None:
        self._key = hashlib.sha256(b"link" + secret).digest()
        self._label_key = hashlib.sha256(b"label" + secret).digest()

    def sign(self, tenant_id: UUID, share_id: UUID, expires_at: datetime) -> str:
        payload = _PAYLOAD.pack(VERSION, share_id.bytes, int(expires_at.timestamp()))
        return base64.urlsafe_b64encode(self._mac(tenant_id, payload) + payload).decode()

    def verify(self, tenant_id: UUID, token: str) -> Principal | None:
        """Whoever holds the token; None when it is not of this tenant, or has ended.

        A good token may still be of a share that was taken back: its row says so.
        """
        if len(token) != TOKEN_LENGTH or not token.isascii():
            return None
        try:
            signed = base64.b64decode(token, altchars=b"-_", validate=True)
        except ValueError:
            return None
        mac, payload = signed[:MAC_BYTES], signed[MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(tenant_id, payload)):
            return None
        # The decoder takes two alphabets; only ours is a token.
        if base64.urlsafe_b64encode(signed).decode() != token:
            return None
        _, share_id, ends = _PAYLOAD.unpack(payload)
        expires_at = datetime.fromtimestamp(ends, UTC)
        principal = Principal(
            kind=KIND,
            id=UUID(bytes=share_id),
            name="shared link",
            scopes=frozenset(),
            expires_at=expires_at,
        )
        return None if principal.has_expired else principal

    def label(self, share_id: UUID, user_id: UUID) -> str:
        """What a link shows in place of a user: the same within one link, another in each other."""
        digest = hashlib.blake2b(
            share_id.bytes + user_id.bytes, digest_size=LABEL_BYTES, key=self._label_key
        )
        return f"user {digest.hexdigest()}"

    def _mac(self, tenant_id: UUID, payload: bytes) -> bytes:
        message = tenant_id.bytes + payload
        return hashlib.blake2b(message, digest_size=MAC_BYTES, key=self._key).digest()


def no_link() -> NotFoundError:
    """What every link that opens nothing is answered; why is told to nobody."""
    return NotFoundError("such link; it may have ended or have been taken back")


def is_link(path: str) -> bool:
    """Whether a token, and nothing else, is the credential of this path."""
    return path.startswith(_PREFIXES)


def token_of(path: str) -> str:
    """What stands in the place of the token, be it one or not."""
    return path.removeprefix(PREFIX).removeprefix(PAGE_PREFIX).partition("/")[0]
