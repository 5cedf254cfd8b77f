"""What one connection reaches with binary COPY into a table like `tool_metrics`, without the wall.

python scripts/bench/copy_floor.py [--data DIR] [--batches 60]
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

import asyncpg
from common import DATA, BenchTenant, admin_dsn, database, load_tenants
from load import BATCH, tool_metrics

from metrics_service.ingest.records import session_id_of

TABLE = "tool_metrics_copied"
COLUMNS = (
    "tenant_id", "id", "session_id", "agent", "user_id", "tool_name", "tool_category", "started_at",
    "duration_ms", "wait_ms", "status", "error_type", "cpu_ms", "memory_bytes", "input_bytes",
    "output_bytes", "metadata",
)  # fmt: skip


class CopyFloor:
    """A table of one tenant's shape (columns, indexes, constraints, no row security), and rows."""

    def __init__(self, dsn: str, tenant: BenchTenant) -> None:
        self._dsn = dsn
        self._tenant = tenant

    async def reset(self) -> None:
        connection = await asyncpg.connect(self._dsn)
        await connection.execute(
            f"""
            SET search_path = {self._tenant.schema};
            DROP TABLE IF EXISTS public.{TABLE};
            CREATE TABLE public.{TABLE} (LIKE tool_metrics INCLUDING INDEXES INCLUDING CONSTRAINTS
                INCLUDING DEFAULTS INCLUDING STORAGE INCLUDING COMPRESSION)
            """
        )
        await connection.close()

    async def run(self, batches: int) -> float:
        """Rows per second over so many batches, each a transaction of its own."""
        made = [self._rows() for _ in range(batches)]
        connection = await asyncpg.connect(self._dsn)
        began = time.perf_counter()
        for rows in made:
            async with connection.transaction():
                await connection.copy_records_to_table(
                    TABLE, schema_name="public", records=rows, columns=COLUMNS
                )
        took = time.perf_counter() - began
        await connection.close()
        return batches * BATCH / took

    def _rows(self) -> list[tuple[Any, ...]]:
        tenant_id = self._tenant.id
        return [
            (
                tenant_id, item["id"],
                session_id_of(tenant_id, "claude-code", str(item["external_session_id"])),
                item["agent"], tenant_id, item["tool_name"], item["tool_category"],
                item["started_at"], item["duration_ms"], item["wait_ms"], item["status"], None,
                item["cpu_ms"], item["memory_bytes"], item["input_bytes"], item["output_bytes"], None,
            )
            for item in tool_metrics(BATCH, with_ids=True)
        ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--batches", type=int, default=60)
    chosen = parser.parse_args()
    with database(chosen.data) as addresses:
        floor = CopyFloor(admin_dsn(addresses), load_tenants(chosen.data)[0])
        asyncio.run(floor.reset())
        print(f"{asyncio.run(floor.run(chosen.batches)):.0f} rows/s")


if __name__ == "__main__":
    main()
