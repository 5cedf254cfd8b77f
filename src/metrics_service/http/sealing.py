"""Encrypts answers that are kept to be repeated."""

from __future__ import annotations

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken

from metrics_service.errors import ConflictError


class Sealer:
    """Encrypts kept answers with a key derived from the service's secret."""

    def __init__(self, secret: bytes) -> None:
        key = hashlib.sha256(b"sealed answers" + secret).digest()
        self._fernet = Fernet(base64.urlsafe_b64encode(key))

    def seal(self, answer: bytes) -> bytes:
        return self._fernet.encrypt(answer)

    def open(self, sealed: bytes) -> bytes:
        """Raises `ConflictError` when the secret is another one than when it was sealed."""
        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken:
            raise ConflictError(
                "the answer kept for this Idempotency-Key cannot be read any more; use another key"
            ) from None
