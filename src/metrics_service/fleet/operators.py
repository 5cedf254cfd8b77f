"""From an operator's key to the operator."""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.tenancy import registry_connection

KIND = "operator"
MAX_REMEMBERED = 1_000
MAX_TTL_S = 60.0
STALE_AFTER_S = 3600.0

NO_HASH = bytes(32)


class Operator(msgspec.Struct, frozen=True):
    """Who looks after the service, as his key proved; the hash is what the registry wants to see."""

    id: UUID
    name: str
    key_hash: bytes
    expires_at: datetime | None

    @property
    def kind(self) -> str:
        return KIND

    @property
    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)


class OperatorKeys:
    """Checks operators' keys, and remembers the good ones."""

    def __init__(self, engine: AsyncEngine, *, ttl_s: Callable[[], float]) -> None:
        self._engine = engine
        self._ttl_s = ttl_s
        self._remembered: OrderedDict[bytes, tuple[float, Operator]] = OrderedDict()
        # An answer asked for before a change and arriving after it must not be remembered.
        self._changes = 0

    async def find(self, prefix: str, key_hash: bytes) -> Operator | None:
        """Find whose key has this hash."""
        entry = self._remembered.get(key_hash)
        ttl_s = min(self._ttl_s(), MAX_TTL_S)
        if entry is not None and time.monotonic() - entry[0] <= ttl_s:
            return _living(entry[1])
        changes = self._changes
        operator = await self._look_up(prefix, key_hash)
        if changes == self._changes:
            self._remember(key_hash, operator)
        return _living(operator)

    def find_known(self, key_hash: bytes) -> Operator | None:
        """Whose key it was within the hour: for what is to be seen while the database is away.

        Whoever revoked it meanwhile did so where this process hears nothing of it.
        """
        entry = self._remembered.get(key_hash)
        if entry is None or time.monotonic() - entry[0] > STALE_AFTER_S:
            return None
        return _living(entry[1])

    def forget(self, tenant_id: UUID | None) -> None:
        """Forget all of them, unless it is but a tenant that changed."""
        if tenant_id is None:
            self._changes += 1
            self._remembered.clear()

    async def _look_up(self, prefix: str, key_hash: bytes) -> Operator | None:
        async with registry_connection(self._engine) as connection:
            row = await connection.fetchrow(
                "SELECT id, name, key_hash, expires_at FROM public.find_operator_key($1)", prefix
            )
        # Compared in any case, so that a prefix that is somebody's takes no longer.
        kept = row["key_hash"] if row is not None else NO_HASH
        if not hmac.compare_digest(kept, key_hash) or row is None:
            return None
        return Operator(row["id"], row["name"], kept, row["expires_at"])

    def _remember(self, key_hash: bytes, operator: Operator | None) -> None:
        if operator is None:
            self._remembered.pop(key_hash, None)
            return
        self._remembered[key_hash] = (time.monotonic(), operator)
        self._remembered.move_to_end(key_hash)
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)


def _living(operator: Operator | None) -> Operator | None:
    return None if operator is None or operator.has_expired else operator
