"""Keeps the number of distinct tool names of a tenant bounded: each is a series for ever."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from metrics_service.cache.memory import TenantCache
from metrics_service.db.tenancy import ContextConnection
from metrics_service.ingest.rows import as_json

MAX_TOOL_NAMES = 5000
NAMES_REMEMBERED = 50_000

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('tool_names:' || $1, 0))"

ADD = """
WITH known AS MATERIALIZED (SELECT count(*) AS names FROM tool_names),
wanted AS MATERIALIZED (
    SELECT value AS name, row_number() OVER (ORDER BY value) AS place
    FROM json_array_elements_text($1::json)
    WHERE value NOT IN (SELECT name FROM tool_names)
),
added AS (
    INSERT INTO tool_names (name)
    SELECT name FROM wanted, known WHERE names + place <= $2
    ON CONFLICT (tenant_id, name) DO NOTHING RETURNING name
)
SELECT name FROM wanted EXCEPT SELECT name FROM added
"""


class ToolNames:
    """Which names each tenant has used; remembers some, so that most batches ask nothing."""

    def __init__(self) -> None:
        self._seen: TenantCache[bool] = TenantCache(NAMES_REMEMBERED, ttl_s=lambda: float("inf"))

    async def admit(
        self, connection: ContextConnection, tenant_id: UUID, names: Iterable[str]
    ) -> set[str]:
        """Register new names; in alphabetical order, and return those that are too many.

        Call `remember` with the others once the transaction is committed.
        """
        new = sorted({name for name in names if not self._seen.get(tenant_id, name)})
        if not new:
            return set()
        # Two batches with new names take turns, or together they would pass the limit.
        await connection.execute(LOCK, str(tenant_id))
        rows = await connection.fetch(ADD, as_json(new), MAX_TOOL_NAMES)
        return {row["name"] for row in rows}

    def remember(self, tenant_id: UUID, names: Iterable[str]) -> None:
        for name in set(names):
            self._seen.put(tenant_id, name, True)
