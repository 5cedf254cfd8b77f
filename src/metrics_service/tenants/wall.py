"""The wall around a tenant's table, as one operation of its migrations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from alembic.operations import MigrateOperation, Operations
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.db.roles import BACKUP


@Operations.register_operation("protect_tenant_table")
class ProtectTenantTable(MigrateOperation):
    """`op.protect_tenant_table(name)`: all that keeps other tenants out, the grants last."""

    def __init__(self, table: str) -> None:
        self.table = table

    @classmethod
    def protect_tenant_table(cls, operations: Operations, table: str) -> None:
        operations.invoke(cls(table))


@Operations.implementation_for(ProtectTenantTable)
def _protect_tenant_table(operations: Operations, operation: ProtectTenantTable) -> None:
    opts = operations.get_context().opts
    # In one round trip: a tenant has dozens of tables.
    statements = ";\n".join(_wall(operation.table, opts))
    operations.execute(f"DO $wall$ BEGIN {statements}; END $wall$")


def _wall(table: str, opts: dict[str, Any]) -> Iterator[str]:
    expression, role = opts["tenant_expression"], opts["role"]
    ids = ", ".join(f"'{tenant_id}'" for tenant_id in opts["tenant_ids"])
    yield (
        f"ALTER TABLE {table} ADD CONSTRAINT {table}_tenant CHECK (tenant_id IN ({ids})),"
        " ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
    )
    # Both carry the expression: some servers drop RESTRICTIVE without a word.
    yield f"CREATE POLICY guard ON {table} AS RESTRICTIVE USING ({expression}) WITH CHECK ({expression})"
    yield f"CREATE POLICY access ON {table} USING ({expression}) WITH CHECK ({expression})"
    yield f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role}"
    if opts["has_backup_role"]:
        yield f"GRANT SELECT ON {table} TO {BACKUP}"


async def wall_options(
    connection: AsyncConnection, schema: str, *, runtime_role: str
) -> dict[str, Any]:
    """What revisions need to know of the server and the schema: `op.get_context().opts`."""
    facts = (
        await connection.execute(
            text(
                """
                SELECT format('%I', CAST(:runtime AS text)) AS runtime_role,
                       EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') AS is_citus,
                       EXISTS (SELECT FROM pg_roles WHERE rolname = :backup) AS has_backup_role
                """
            ),
            {"runtime": runtime_role, "backup": BACKUP},
        )
    ).one()
    call = "shared.current_tenant()" if facts.is_citus else "(SELECT shared.current_tenant())"
    return {
        "runtime_role": facts.runtime_role,
        "has_backup_role": facts.has_backup_role,
        "tenant_expression": f"tenant_id = {call}",
        "role": schema,
    }
