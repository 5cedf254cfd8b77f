"""Operators' keys: how they look, and how whoever has the command line issues them and takes them back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.db.roles import OWNER
from metrics_service.errors import NotFoundError
from metrics_service.tenants import keys
from metrics_service.tenants.registry import CHANNEL

KEY_MARK = "mso"
"""Not a tenant's: nobody takes the one for the other, people and scanners of secrets included."""

# No tenant's id: whoever hears it forgets all that it remembers.
OPERATORS_CHANGED = "operators"


class IssuedOperatorKey(msgspec.Struct, frozen=True):
    """What `key create --operator` prints: the only time the key is shown."""

    id: UUID
    key: str
    prefix: str
    name: str
    expires_at: datetime | None


class OperatorKeyRow(msgspec.Struct, frozen=True):
    """A key as it is listed."""

    id: UUID
    prefix: str
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


def prefix_of(key: str) -> str:
    """The look-up prefix of something that has the shape of an operator's key, else nobody's."""
    return keys.prefix_of(key, KEY_MARK) or ""


# -- as the owner ------------------------------------------------------------------------------------


async def create_operator_key(
    connection: AsyncConnection, *, name: str, expires_in: timedelta | None = None
) -> IssuedOperatorKey:
    """Issue a key in the caller's transaction."""
    await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
    material, key_id = keys.new_key(KEY_MARK), uuid4()
    expires_at = datetime.now(UTC) + expires_in if expires_in is not None else None
    await connection.execute(
        text(
            """
            INSERT INTO public.operator_keys (id, prefix, key_hash, name, expires_at)
            VALUES (:id, :prefix, :key_hash, :name, :expires_at)
            """
        ),
        {
            "id": key_id,
            "prefix": material.prefix,
            "key_hash": material.key_hash,
            "name": name,
            "expires_at": expires_at,
        },
    )
    await _record(connection, "operator key create", key_id)
    return IssuedOperatorKey(key_id, material.key, material.prefix, name, expires_at)


async def list_operator_keys(connection: AsyncConnection) -> list[OperatorKeyRow]:
    rows = await connection.execute(
        text(
            """
            SELECT id, prefix, name, created_at, expires_at, revoked_at
            FROM public.operator_keys ORDER BY created_at, id
            """
        )
    )
    return [OperatorKeyRow(*row) for row in rows]


async def is_operator_key(connection: AsyncConnection, key_id: UUID) -> bool:
    """Whether there is, or was, such a key of an operator's; a tenant's has no id of these."""
    found = await connection.scalar(
        text("SELECT EXISTS (SELECT FROM public.operator_keys WHERE id = :id)"), {"id": key_id}
    )
    return bool(found)


async def revoke_operator_key(
    connection: AsyncConnection, key_id: UUID, *, grace: timedelta
) -> None:
    """Let a key die after `grace`. Raises `NotFoundError`."""
    await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
    row = await connection.execute(
        text(
            """
            UPDATE public.operator_keys
            SET revoked_at = least(revoked_at, now() + CAST(:grace AS interval))
            WHERE id = :id RETURNING id
            """
        ),
        {"id": key_id, "grace": grace},
    )
    if row.scalar_one_or_none() is None:
        raise NotFoundError("operator key", key_id)
    await _record(connection, "operator key revoke", key_id)
    await connection.execute(
        text("SELECT pg_notify(:channel, :changed)"),
        {"channel": CHANNEL, "changed": OPERATORS_CHANGED},
    )


async def rotate_operator_key(
    connection: AsyncConnection, key_id: UUID, *, grace: timedelta
) -> IssuedOperatorKey:
    """Issue a key like the old one, and let the old one die after `grace`."""
    await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
    row = (
        await connection.execute(
            text(
                """
                SELECT name, created_at, expires_at FROM public.operator_keys
                WHERE id = :id AND revoked_at IS NULL FOR UPDATE
                """
            ),
            {"id": key_id},
        )
    ).one_or_none()
    if row is None:
        raise NotFoundError("live operator key", key_id)
    lifetime = row.expires_at - row.created_at if row.expires_at else None
    await revoke_operator_key(connection, key_id, grace=grace)
    return await create_operator_key(connection, name=row.name, expires_in=lifetime)


async def _record(connection: AsyncConnection, action: str, key_id: UUID) -> None:
    await connection.execute(
        text(
            """
            INSERT INTO public.operator_audit (action, detail)
            VALUES (:action, jsonb_build_object('key', CAST(:key AS text)))
            """
        ),
        {"action": action, "key": str(key_id)},
    )
