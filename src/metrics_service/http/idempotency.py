"""Idempotency-Key: a POST that is sent again gets the answer it got, and nothing happens twice.

As the IETF draft `draft-ietf-httpapi-idempotency-key-header` has it: 422 for the key with another
request, 409 while the first is still running. The answer is kept for 24 hours, sealed, because it
may be the only place where a secret is shown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from litestar import Request, Response
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from metrics_service.errors import (
    ConflictError,
    IdempotencyMismatchError,
    MalformedRequestError,
)
from metrics_service.http.dependencies import AnyRequest, Caller

MAX_KEY_LENGTH = 128
KEPT = "interval '24 hours'"


async def once(
    request: AnyRequest,
    caller: Caller,
    tx: AsyncSession,
    act: Callable[[], Awaitable[Any]],
    *,
    status_code: int = 201,
) -> Response[Any]:
    """Do `act` in `tx`, unless this principal did it under the same Idempotency-Key before."""
    key = idempotency_key(request)
    if key is None:
        return Response(await act(), status_code=status_code)
    fingerprint = hashlib.sha256(
        f"{request.method} {request.scope['path']}\n".encode() + await request.body()
    ).digest()
    name = {"principal_id": caller.principal.id, "key": key}
    await _take_turn(tx, caller, key)
    kept = await _find(tx, name)
    if kept is not None:
        if kept.fingerprint != fingerprint:
            raise IdempotencyMismatchError
        answer = msgspec.Raw(caller.database.sealer.open(kept.sealed_answer))
        return Response(answer, status_code=status_code, headers={"Idempotency-Replayed": "true"})
    answer = msgspec.Raw(msgspec.json.encode(await act()))
    sealed = caller.database.sealer.seal(bytes(answer))
    await _keep(tx, {**name, "fingerprint": fingerprint, "sealed_answer": sealed})
    return Response(answer, status_code=status_code)


def idempotency_key(request: Request[Any, Any, Any]) -> str | None:
    values = request.headers.getall("Idempotency-Key", [])
    if not values:
        return None
    if len(values) > 1 or not 0 < len(values[0]) <= MAX_KEY_LENGTH or not values[0].isprintable():
        raise MalformedRequestError(
            f"Idempotency-Key must be one value of 1 to {MAX_KEY_LENGTH} printable characters"
        )
    return values[0]


async def _take_turn(tx: AsyncSession, caller: Caller, key: str) -> None:
    name = f"idempotency:{caller.tenant_id}:{caller.principal.id}:{key}"
    is_ours = await tx.scalar(
        text("SELECT pg_try_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name}
    )
    if not is_ours:
        raise ConflictError("a request with this Idempotency-Key is still running")


async def _find(tx: AsyncSession, name: dict[str, Any]) -> Any:
    found = await tx.execute(
        text(
            f"""
            SELECT fingerprint, sealed_answer FROM idempotency_keys
            WHERE principal_id = :principal_id AND key = :key AND created_at > now() - {KEPT}
            """
        ),
        name,
    )
    return found.one_or_none()


async def _keep(tx: AsyncSession, row: dict[str, Any]) -> None:
    # Those that are past their time go with the next one that is kept.
    await tx.execute(text(f"DELETE FROM idempotency_keys WHERE created_at <= now() - {KEPT}"))
    await tx.execute(
        text(
            """
            INSERT INTO idempotency_keys (principal_id, key, fingerprint, sealed_answer)
            VALUES (:principal_id, :key, :fingerprint, :sealed_answer)
            """
        ),
        row,
    )
