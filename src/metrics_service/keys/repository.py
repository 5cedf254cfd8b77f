"""The tenant's keys, through functions that act for the tenant of the transaction alone."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from metrics_service.db.pages import Position
from metrics_service.tenants.keys import KeyMaterial, KeyRow


async def fetch_keys(
    tx: AsyncSession, *, after: Position | None, limit: int, offset: int
) -> list[KeyRow]:
    """Keys, oldest first."""
    rows = await tx.execute(
        text(
            """
            SELECT id, prefix, name, scopes, user_id, created_at, expires_at, revoked_at
            FROM shared.list_api_keys()
            WHERE CAST(:id AS uuid) IS NULL
               OR (created_at, id) > (CAST(:value AS timestamptz), CAST(:id AS uuid))
            ORDER BY created_at, id LIMIT :limit OFFSET :offset
            """
        ),
        {
            "value": after.value if after else None,
            "id": after.id if after else None,
            "limit": limit,
            "offset": offset,
        },
    )
    return [KeyRow(*row) for row in rows]


async def count_keys(tx: AsyncSession) -> int:
    return int(await tx.scalar(text("SELECT count(*) FROM shared.list_api_keys()")) or 0)


async def add_key(
    tx: AsyncSession,
    key_id: UUID,
    material: KeyMaterial,
    *,
    name: str,
    scopes: list[str],
    user_id: UUID | None,
    expires_at: datetime | None,
) -> None:
    await tx.execute(
        text(
            """
            SELECT shared.create_api_key(:id, :prefix, :hash, :name, CAST(:scopes AS text[]), :user_id,
                                         :expires_at)
            """
        ),
        {
            "id": key_id,
            "prefix": material.prefix,
            "hash": material.key_hash,
            "name": name,
            "scopes": scopes,
            "user_id": user_id,
            "expires_at": expires_at,
        },
    )


async def revoke_key(tx: AsyncSession, key_id: UUID) -> bool:
    """Let the key die now; False when the tenant has no such key."""
    found = await tx.scalar(text("SELECT shared.revoke_api_key(:id)"), {"id": key_id})
    return bool(found)


async def user_exists(tx: AsyncSession, user_id: UUID) -> bool:
    found = await tx.scalar(text("SELECT 1 FROM users WHERE id = :id"), {"id": user_id})
    return found is not None
