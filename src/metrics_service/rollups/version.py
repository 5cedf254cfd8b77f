"""Whether a tenant's data is still what it was, without looking at it.

Every transaction that changes anything of a tenant's changes its version with its COMMIT, so that what
was read of one version is right for as long as that is the version.
"""

from __future__ import annotations

from hashlib import blake2b
from importlib.metadata import version
from zoneinfo import ZoneInfo

import msgspec

from metrics_service.db.tenancy import ContextConnection

READ_VERSION = "SELECT coalesce(sum(version), 0)::bigint FROM data_versions"

# Two releases that run side by side may answer the same in different ways.
RELEASE = version("metrics-service")


async def read_version(connection: ContextConnection) -> int:
    """The version of all that the transaction sees at this moment."""
    found: int = await connection.fetchval(READ_VERSION)
    return found


def key_of(version: int, *question: object) -> bytes:
    """What an answer to the question is kept under, when it was read of this version."""
    told = msgspec.msgpack.encode((RELEASE, version, question), enc_hook=_spelt)
    return blake2b(told, digest_size=32).digest()


def _spelt(value: object) -> str:
    if isinstance(value, ZoneInfo):
        return value.key
    raise NotImplementedError
