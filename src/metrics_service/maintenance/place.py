"""Where maintenance works, and as whom."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.db.roles import OWNER

if TYPE_CHECKING:
    from metrics_service.tenants.migrate import Target

# Who is served goes first: what waits longer than this comes back another time.
LOCK_TIMEOUT_MS = 1000
STATEMENT_TIMEOUT_MS = 20_000


class Place(msgspec.Struct, frozen=True):
    """The database that is looked after, and the names that are not to be given away there."""

    owner_dsn: str
    direct_dsn: str
    """Passes by a pooler: a lock of the session and LISTEN are lost behind one."""
    runtime_dsn: str
    runtime_role: str
    base_domain: str
    operator_domain: str | None

    def target(self) -> Target:
        """What makes and migrates schemas; it takes long to be imported."""
        from metrics_service.tenants.migrate import Target  # noqa: PLC0415

        return Target(owner_dsn=self.owner_dsn, runtime_role=self.runtime_role)


class Housed(msgspec.Struct, frozen=True):
    """A tenant, and the schema that holds its rows."""

    tenant_id: UUID
    schema_name: str
    revision: str | None


@asynccontextmanager
async def as_owner(connection: AsyncConnection) -> AsyncIterator[None]:
    """A transaction of the owner's in the registry."""
    async with connection.begin():
        await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
        yield


@asynccontextmanager
async def in_schema(connection: AsyncConnection, housed: Housed) -> AsyncIterator[None]:
    """A transaction of the owner's that sees one tenant's rows.

    Row security is forced on the owner as on everybody, so that a statement meets no other's rows
    where tenants share a schema. The runtime login cannot do this: it has no door to a suspended tenant.
    """
    async with as_owner(connection):
        for setting in (
            f"lock_timeout = {LOCK_TIMEOUT_MS}",
            f"statement_timeout = {STATEMENT_TIMEOUT_MS}",
            f"search_path = {housed.schema_name}, shared, pg_temp",
            f"app.tenant_id = '{housed.tenant_id}'",
        ):
            await connection.execute(text(f"SET LOCAL {setting}"))
        yield


async def housed_tenants(connection: AsyncConnection) -> list[Housed]:
    """The tenants that have rows, whether they are served or not."""
    async with as_owner(connection):
        rows = await connection.execute(
            text(
                """
                SELECT t.id, t.schema_name, s.revision
                FROM public.tenants t
                JOIN public.tenant_schemas s ON s.schema_name = t.schema_name
                WHERE t.status IN ('active', 'suspended') ORDER BY t.id
                """
            )
        )
        return [Housed(row.id, row.schema_name, row.revision) for row in rows]
