"""Deletes what has had its time, in the registry and in tenants' schemas."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.http.idempotency import KEPT
from metrics_service.maintenance.each import Turn, each_tenant
from metrics_service.maintenance.place import Housed, as_owner
from metrics_service.tenants.revisions import is_behind

JOBS_KEPT = "interval '30 days'"
STRANGERS_KEPT = "interval '30 days'"

# In one transaction; what is more goes in the next turn.
MAX_ROWS = 10_000

# Who signs in or sends a key again tidies up after themselves: this is for those who do not come back.
# Anybody may be noted as a stranger, so that their lines alone go with time.
OF_A_TENANT = {
    "sign_ins": "expires_at < now()",
    "idempotency_keys": f"created_at <= now() - {KEPT}",
    "ingest_log": f"key_id IS NULL AND last_at < now() - {STRANGERS_KEPT}",
}


async def prune(connection: AsyncConnection) -> Turn:
    """Prune the registry and every tenant that is at this release's revision."""
    async with as_owner(connection):
        jobs = await _delete(connection, "public.fleet_jobs", f"finished_at < now() - {JOBS_KEPT}")
    turn = await each_tenant(connection, _prune_one)
    turn.rows += jobs
    return turn


async def _prune_one(connection: AsyncConnection, housed: Housed) -> int:
    if is_behind("tenant", housed.revision):
        # It may lack a table; it is pruned when it was upgraded.
        return 0
    return sum([await _delete(connection, *wanted) for wanted in OF_A_TENANT.items()])


async def _delete(connection: AsyncConnection, table: str, is_over: str) -> int:
    # Asked twice: a row that somebody changes meanwhile is asked as it has become.
    deleted = await connection.execute(
        text(
            f"""
            DELETE FROM {table} WHERE {is_over} AND ctid = ANY (ARRAY(
                SELECT ctid FROM {table} WHERE {is_over} LIMIT {MAX_ROWS}
            ))
            """
        )
    )
    return int(deleted.rowcount)
