"""Sign-ins: what a browser holds after somebody proved who they are, however they did."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.pool import breaker_of
from metrics_service.db.tenancy import ContextConnection, TenantContext, tenant_connection
from metrics_service.errors import NotFoundError
from metrics_service.tenants.authenticate import Principal
from metrics_service.tenants.database_time import MOMENT, Moment
from metrics_service.tenants.looked_up import Found, LookUps, Shared
from metrics_service.tenants.registry import CHANNEL

KIND = "user"
CACHE = "sign_ins"
LIFETIME = timedelta(days=14)
MAX_OF_A_USER = 50
MAX_REMEMBERED = 10_000
MAX_USER_AGENT = 255

SCOPES_OF_ROLE = {
    "owner": frozenset({"admin"}),
    "admin": frozenset({"admin"}),
    "editor": frozenset({"read", "write"}),
    "viewer": frozenset({"read"}),
    "service": frozenset({"ingest"}),
}

FIND = f"""
SELECT {MOMENT}, u.id, u.name, u.email, u.role, s.expires_at
FROM sign_ins s JOIN users u ON u.tenant_id = s.tenant_id AND u.id = s.user_id
WHERE s.token_hash = $1 AND s.expires_at > now()
"""

# It locks the user too: their sign-ins are counted one after the other.
SEE = "UPDATE users SET last_seen_at = now() WHERE id = $1 RETURNING id"

# Those that ended, and the oldest where there are too many with the one to come.
MAKE_ROOM = """
DELETE FROM sign_ins WHERE user_id = $1 AND id NOT IN (
    SELECT id FROM sign_ins WHERE user_id = $1 AND expires_at > now()
    ORDER BY created_at DESC, id DESC LIMIT $2
)
"""

ADD = """
INSERT INTO sign_ins (token_hash, user_id, expires_at, user_agent) VALUES ($1, $2, $3, $4)
"""

LIST = """
SELECT id, created_at, expires_at, user_agent, token_hash = $2 AS is_current
FROM sign_ins WHERE user_id = $1 AND expires_at > now() ORDER BY created_at DESC, id DESC
"""

END = "DELETE FROM sign_ins WHERE token_hash = $1 RETURNING id"
END_ONE = "DELETE FROM sign_ins WHERE user_id = $1 AND id = $2 RETURNING id"
END_ALL = "DELETE FROM sign_ins WHERE user_id = $1 AND ($2::bytea IS NULL OR token_hash <> $2)"

# Heard when the transaction commits, and by nobody before.
ANNOUNCE = "SELECT pg_notify($1, shared.current_tenant()::text)"

_is_token = re.compile(r"[A-Za-z0-9_-]{43}").fullmatch


class NewSignIn(msgspec.Struct, frozen=True):
    """A sign-in as its browser gets it, once."""

    token: str
    expires_at: datetime


class SignInRow(msgspec.Struct, frozen=True):
    """A sign-in as its user sees it listed."""

    id: UUID
    created_at: datetime
    expires_at: datetime
    user_agent: str | None
    is_current: bool


class SignIns:
    """Finds whose a token is, and remembers it until the listener says that something changed."""

    def __init__(
        self, engine: AsyncEngine, *, ttl_s: Callable[[], float], shared: Shared | None = None
    ) -> None:
        self._engine = engine
        self._known: LookUps[Principal] = LookUps(
            CACHE,
            Principal,
            max_entries=MAX_REMEMBERED,
            ttl_s=ttl_s,
            refuse=breaker_of(engine).refuse,
            shared=shared,
        )

    async def find(self, tenant_id: UUID, token: str) -> Principal | None:
        """Who holds this token; None for one of another tenant as for one of nobody."""
        if not _is_token(token):
            return None
        token_hash = hash_token(token)
        principal = await self._known.find(
            tenant_id, token_hash, lambda: self._look_up(tenant_id, token_hash)
        )
        return None if principal is None or principal.has_expired else principal

    async def end(self, tenant_id: UUID, token: str) -> None:
        """End the sign-in of this token, if there is one."""
        async with tenant_connection(self._engine, TenantContext(tenant_id)) as connection:
            if await connection.fetchval(END, hash_token(token)) is not None:
                await announce(connection)
        self.forget_everywhere(tenant_id)

    def forget(self, tenant_id: UUID | None) -> None:
        """Forget the sign-ins of one tenant, or all."""
        self._known.forget(tenant_id)

    def forget_everywhere(self, tenant_id: UUID) -> None:
        """Something was changed here, and committed: here it holds at once, elsewhere when it is heard."""
        self._known.forget_everywhere(tenant_id)

    async def _look_up(self, tenant_id: UUID, token_hash: bytes) -> Found[Principal] | None:
        context = TenantContext(tenant_id, read_only=True)
        async with tenant_connection(self._engine, context) as connection:
            row = await connection.fetchrow(FIND, token_hash)
        if row is None:
            return None
        # asyncpg's own kind of UUID is not what others compare with.
        user_id = UUID(int=row["id"].int)
        principal = Principal(
            kind=KIND,
            id=user_id,
            name=row["name"] or row["email"] or str(user_id),
            scopes=SCOPES_OF_ROLE[row["role"]],
            user_id=user_id,
            expires_at=row["expires_at"],
            user_role=row["role"],
        )
        return Found(principal, Moment.of(row["looked_up_at"], row["server"]))


def hash_token(token: str) -> bytes:
    """SHA-256 suffices, as for keys: there is nothing to guess in 256 random bits."""
    return hashlib.sha256(token.encode()).digest()


# -- in the caller's transaction, which is of the user's tenant ---------------------------------------


async def begin_sign_in(
    connection: ContextConnection, user_id: UUID, *, user_agent: str | None
) -> NewSignIn:
    """Sign a user in: always with a token of our own making. Raises `NotFoundError`."""
    if await connection.fetchval(SEE, user_id) is None:
        raise NotFoundError("user", user_id)
    await connection.execute(MAKE_ROOM, user_id, MAX_OF_A_USER - 1)
    made = NewSignIn(secrets.token_urlsafe(32), datetime.now(UTC) + LIFETIME)
    # Not every server refuses the one character that PostgreSQL's text has not.
    agent = user_agent.replace("\0", "")[:MAX_USER_AGENT] if user_agent else None
    await connection.execute(ADD, hash_token(made.token), user_id, made.expires_at, agent)
    return made


async def list_sign_ins(
    connection: ContextConnection, user_id: UUID, *, current: str
) -> list[SignInRow]:
    """The sign-ins of a user that have not ended, the latest first."""
    return [SignInRow(*row) for row in await connection.fetch(LIST, user_id, hash_token(current))]


async def end_sign_in(connection: ContextConnection, user_id: UUID, sign_in_id: UUID) -> bool:
    """End one of a user's sign-ins, everywhere; False when it is not one of theirs."""
    if await connection.fetchval(END_ONE, user_id, sign_in_id) is None:
        return False
    await announce(connection)
    return True


async def end_sign_ins(
    connection: ContextConnection, user_id: UUID, *, but: str | None = None
) -> None:
    """End all sign-ins of a user, but the one of this token, everywhere."""
    await connection.execute(END_ALL, user_id, None if but is None else hash_token(but))
    await announce(connection)


async def announce(connection: ContextConnection) -> None:
    """Tell every process, on commit, that what it remembers of this tenant's people is old."""
    await connection.execute(ANNOUNCE, CHANNEL)
