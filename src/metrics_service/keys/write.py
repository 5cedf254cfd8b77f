"""Issues keys, for the tenant of the transaction."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from metrics_service.errors import FieldError, InvalidBodyError
from metrics_service.fields import now
from metrics_service.keys.repository import add_key, user_exists
from metrics_service.keys.schemas import KeyIn
from metrics_service.tenants.keys import IssuedKey, new_key


async def issue_key(tx: AsyncSession, wanted: KeyIn, *, within: str = "") -> IssuedKey:
    """Issue a key; raises `InvalidBodyError` where it is for nobody, with the field `within` the body."""
    if wanted.user_id is not None and not await user_exists(tx, wanted.user_id):
        raise InvalidBodyError([FieldError("there is no such user", field=f"{within}user_id")])
    scopes = list(dict.fromkeys(wanted.scopes))
    lifetime = wanted.expires_in_days
    expires_at = now() + timedelta(days=lifetime) if lifetime is not None else None
    key_id, material = uuid4(), new_key()
    await add_key(
        tx,
        key_id,
        material,
        name=wanted.name,
        scopes=list(scopes),
        user_id=wanted.user_id,
        expires_at=expires_at,
    )
    return IssuedKey(key_id, material.key, material.prefix, list(scopes), expires_at)
