"""The ledger `public.tenant_schemas`: which schema is at which revision, and nothing else says so."""

from __future__ import annotations

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.tenants.revisions import history_of, is_behind


class SchemaState(msgspec.Struct, frozen=True):
    """One row of the ledger."""

    schema_name: str
    revision: str | None
    status: str
    last_error: str | None = None
    is_behind: bool = False


async def ledger(connection: AsyncConnection) -> list[SchemaState]:
    """Every schema with its revision; empty before the registry exists."""
    if not await has_ledger(connection):
        return []
    rows = await connection.execute(
        text(
            """
            SELECT schema_name, revision, status, last_error FROM public.tenant_schemas
            ORDER BY schema_name <> 'public', schema_name
            """
        )
    )
    return [
        SchemaState(
            row.schema_name,
            row.revision,
            row.status,
            row.last_error,
            is_behind(history_of(row.schema_name), row.revision),
        )
        for row in rows
    ]


async def has_ledger(connection: AsyncConnection) -> bool:
    found = await connection.execute(
        text("SELECT to_regclass('public.tenant_schemas') IS NOT NULL")
    )
    return bool(found.scalar_one())


async def revision_of(connection: AsyncConnection, schema: str) -> str | None:
    """The schema's revision, its row locked; None before its first."""
    if not await has_ledger(connection):
        return None
    found = await connection.execute(
        text("SELECT revision FROM public.tenant_schemas WHERE schema_name = :schema FOR UPDATE"),
        {"schema": schema},
    )
    return found.scalar_one_or_none()


async def record(
    connection: AsyncConnection, schema: str, revision: str | None, status: str, error: str | None
) -> None:
    await connection.execute(
        text(
            """
            INSERT INTO public.tenant_schemas (schema_name, revision, status, last_error)
            VALUES (:schema, :revision, :status, :error)
            ON CONFLICT (schema_name) DO UPDATE
            SET revision = excluded.revision, status = excluded.status,
                last_error = excluded.last_error, updated_at = now()
            """
        ),
        {"schema": schema, "revision": revision, "status": status, "error": error},
    )
