"""From a credential to the principal it stands for, within one tenant."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.pool import breaker_of
from metrics_service.db.tenancy import registry_connection
from metrics_service.errors import UnauthenticatedError
from metrics_service.tenants.database_time import MOMENT, Moment
from metrics_service.tenants.keys import hash_key, prefix_of
from metrics_service.tenants.looked_up import Found, LookUps, Shared

MAX_KEYS_REMEMBERED = 20_000
CACHE = "keys"

NO_HASH = bytes(32)

FIND = f"""
SELECT {MOMENT}, id, name, key_hash, scopes, user_id, expires_at
FROM public.find_api_key($1, $2)
"""


class Principal(msgspec.Struct, frozen=True):
    """Who is asking, however it was proven."""

    kind: str
    id: UUID
    name: str
    scopes: frozenset[str]
    """As granted; `allows` knows what they imply."""
    user_id: UUID | None = None
    expires_at: datetime | None = None
    user_role: str | None = None
    """The role of a person who signed in; a key has none of its own."""

    def allows(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes

    @property
    def role(self) -> str:
        """A person's own, else the role whose rights come nearest."""
        if self.user_role is not None:
            return self.user_role
        for scope, role in (("admin", "admin"), ("write", "editor"), ("read", "viewer")):
            if scope in self.scopes:
                return role
        return "service"

    @property
    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)


class EndedKey(msgspec.Struct, frozen=True):
    """A key that was this tenant's until it expired or was revoked."""

    id: UUID
    expires_at: datetime | None
    revoked_at: datetime | None

    def __str__(self) -> str:
        ends = [(self.expires_at, "expired"), (self.revoked_at, "was revoked")]
        ended_at, how = min((at, how) for at, how in ends if at is not None)
        return f"this key {how} at {ended_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


class KeyRing:
    """Checks API keys against their tenant's, and remembers the good ones."""

    def __init__(
        self, engine: AsyncEngine, *, ttl_s: Callable[[], float], shared: Shared | None = None
    ) -> None:
        self._engine = engine
        self._known: LookUps[Principal] = LookUps(
            CACHE,
            Principal,
            max_entries=MAX_KEYS_REMEMBERED,
            ttl_s=ttl_s,
            refuse=breaker_of(engine).refuse,
            shared=shared,
        )

    async def find_principal(self, tenant_id: UUID, key: str) -> Principal | None:
        """Find whose key this is; None for a key of another tenant as for one of nobody."""
        key_hash = hash_key(key)
        principal = await self._known.find(
            tenant_id, key_hash, lambda: self._look_up(tenant_id, key, key_hash)
        )
        return None if principal is None or principal.has_expired else principal

    async def why_not(self, tenant_id: UUID, key: str | None) -> UnauthenticatedError:
        """Why a credential that found nobody found nobody.

        The client is told what it proved to know: that a key ended, by that very key.
        """
        if key is None:
            return UnauthenticatedError(finding="there is no credential that can be read")
        ended = await self._find_ended(tenant_id, key)
        if ended is None:
            return UnauthenticatedError(finding="this key is not one of this tenant's")
        return UnauthenticatedError(
            f"{ended}; make another with `metrics-service key create`", key_id=ended.id
        )

    async def _find_ended(self, tenant_id: UUID, key: str) -> EndedKey | None:
        prefix = prefix_of(key)
        if prefix is None:
            return None
        async with registry_connection(self._engine) as connection:
            row = await connection.fetchrow(
                """
                SELECT id, key_hash, expires_at, revoked_at
                FROM public.find_ended_api_key($1, $2)
                """,
                tenant_id,
                prefix,
            )
        # Compared in any case, so that a prefix that was somebody's takes no longer.
        kept = row["key_hash"] if row is not None else NO_HASH
        if not hmac.compare_digest(kept, hash_key(key)) or row is None:
            return None
        return EndedKey(row["id"], row["expires_at"], row["revoked_at"])

    def forget(self, tenant_id: UUID | None) -> None:
        """Forget the keys of one tenant, or all."""
        self._known.forget(tenant_id)

    async def _look_up(self, tenant_id: UUID, key: str, key_hash: bytes) -> Found[Principal] | None:
        # Something without the shape of a key takes the same road, to take the same time.
        async with registry_connection(self._engine) as connection:
            row = await connection.fetchrow(FIND, tenant_id, prefix_of(key) or "")
        kept = row["key_hash"] if row is not None else NO_HASH
        if not hmac.compare_digest(kept, key_hash) or row is None:
            return None
        user_id = row["user_id"]
        principal = Principal(
            kind="api_key",
            # asyncpg's own kind of UUID is not what others compare with.
            id=UUID(int=row["id"].int),
            name=row["name"],
            scopes=frozenset(row["scopes"]),
            user_id=None if user_id is None else UUID(int=user_id.int),
            expires_at=row["expires_at"],
        )
        return Found(principal, Moment.of(row["looked_up_at"], row["server"]))
