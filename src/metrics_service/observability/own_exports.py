"""By what a service that takes in its own telemetry knows it: nothing of that is told again.

A name alone would do for any client that wants to be told of in no trace, no exported log and no slow
query: so behind it stands what only the processes of one service can know.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from importlib.metadata import version

NAME = "metrics-service"


class _Mark:
    __slots__ = ("value",)

    def __init__(self) -> None:
        # Until the service's secret is known: nobody's.
        self.value = _mark(secrets.token_bytes(32))


def know_own_exports(secret: bytes) -> None:
    """Mark what this process sends, and know what others with the same secret send, from now on."""
    _own.value = _mark(secret)


def own_user_agent() -> str:
    """How this process calls itself where it sends its telemetry."""
    return _own.value.decode()


def is_own(user_agent: bytes) -> bool:
    """Whether a process of this service sent it; gRPC adds its own name to what it was told."""
    mark = _own.value
    return hmac.compare_digest(user_agent[: len(mark)], mark)


def _mark(secret: bytes) -> bytes:
    proof = hmac.digest(secret, b"own export", hashlib.sha256).hex()[:32]
    return f"{NAME}-export/{version(NAME)} ({proof})".encode()


_own = _Mark()
