"""API keys: how they look, how they are kept, who may issue them."""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID, uuid4

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.db.roles import OWNER
from metrics_service.errors import NotFoundError
from metrics_service.tenants.registry import notify, record_action

Scope = Literal["ingest", "read", "write", "admin"]
SCOPES: tuple[Scope, ...] = ("ingest", "read", "write", "admin")

KEY_MARK = "msk"
PREFIX_BYTES = 5


class KeyMaterial(msgspec.Struct, frozen=True):
    """A key as its holder gets it, once, and what is kept of it."""

    key: str
    prefix: str
    key_hash: bytes


class IssuedKey(msgspec.Struct, frozen=True):
    """What `key create` prints: the only time the key is shown."""

    id: UUID
    key: str
    prefix: str
    scopes: list[str]
    expires_at: datetime | None


class KeyRow(msgspec.Struct, frozen=True):
    """A key as it is listed."""

    id: UUID
    prefix: str
    name: str
    scopes: list[str]
    user_id: UUID | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


def new_key(mark: str = KEY_MARK) -> KeyMaterial:
    """Make a key: a mark for secret scanners, a prefix to find it by, 256 random bits."""
    prefix = secrets.token_hex(PREFIX_BYTES)
    key = f"{mark}_{prefix}_{secrets.token_urlsafe(32)}"
    return KeyMaterial(key=key, prefix=prefix, key_hash=hash_key(key))


def hash_key(key: str) -> bytes:
    """SHA-256 suffices: there is nothing to guess in 256 random bits."""
    return hashlib.sha256(key.encode()).digest()


def prefix_of(key: str, mark: str = KEY_MARK) -> str | None:
    """The look-up prefix of something that has the shape of a key."""
    parts = key.split("_", 2)
    if len(parts) != 3 or parts[0] != mark or len(parts[1]) != 2 * PREFIX_BYTES:
        return None
    # PostgreSQL's text has no U+0000.
    return parts[1] if parts[1].isalnum() else None


# -- by the operator, as the owner ------------------------------------------------------------------


async def create_key(
    connection: AsyncConnection,
    tenant_id: UUID,
    *,
    scopes: list[Scope],
    name: str,
    user_id: UUID | None = None,
    expires_in: timedelta | None = None,
) -> IssuedKey:
    """Issue a key of a tenant in the caller's transaction, which runs as the owner."""
    material, key_id = new_key(), uuid4()
    expires_at = datetime.now(UTC) + expires_in if expires_in is not None else None
    await connection.execute(
        text(
            """
            INSERT INTO public.api_keys
                (id, tenant_id, prefix, key_hash, name, scopes, user_id, expires_at)
            VALUES (:id, :tenant_id, :prefix, :key_hash, :name, CAST(:scopes AS text[]), :user_id,
                    :expires_at)
            """
        ),
        {
            "id": key_id,
            "tenant_id": tenant_id,
            "prefix": material.prefix,
            "key_hash": material.key_hash,
            "name": name,
            "scopes": scopes,
            "user_id": user_id,
            "expires_at": expires_at,
        },
    )
    await record_action(connection, "key create", tenant_id, key=str(key_id))
    return IssuedKey(key_id, material.key, material.prefix, list(scopes), expires_at)


async def list_keys(connection: AsyncConnection, tenant_id: UUID) -> list[KeyRow]:
    rows = await connection.execute(
        text(
            """
            SELECT id, prefix, name, scopes, user_id, created_at, expires_at, revoked_at
            FROM public.api_keys WHERE tenant_id = :id ORDER BY created_at, id
            """
        ),
        {"id": tenant_id},
    )
    return [KeyRow(*row) for row in rows]


async def revoke_key(connection: AsyncConnection, key_id: UUID, *, grace: timedelta) -> UUID:
    """Let a key die after `grace`; return its tenant's id. Raises `NotFoundError`."""
    row = await connection.execute(
        text(
            """
            UPDATE public.api_keys SET revoked_at = least(revoked_at, now() + CAST(:grace AS interval))
            WHERE id = :id RETURNING tenant_id
            """
        ),
        {"id": key_id, "grace": grace},
    )
    tenant_id: UUID | None = row.scalar_one_or_none()
    if tenant_id is None:
        raise NotFoundError("key", key_id)
    await record_action(connection, "key revoke", tenant_id, key=str(key_id))
    await notify(connection, tenant_id)
    return tenant_id


async def rotate_key(connection: AsyncConnection, key_id: UUID, *, grace: timedelta) -> IssuedKey:
    """Issue a key like the old one, and let the old one die after `grace`."""
    await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
    row = (
        await connection.execute(
            text(
                """
                SELECT tenant_id, name, scopes, user_id, created_at, expires_at
                FROM public.api_keys WHERE id = :id AND revoked_at IS NULL FOR UPDATE
                """
            ),
            {"id": key_id},
        )
    ).one_or_none()
    if row is None:
        raise NotFoundError("live key", key_id)
    lifetime = row.expires_at - row.created_at if row.expires_at else None
    await revoke_key(connection, key_id, grace=grace)
    return await create_key(
        connection,
        row.tenant_id,
        scopes=row.scopes,
        name=row.name,
        user_id=row.user_id,
        expires_in=lifetime,
    )
