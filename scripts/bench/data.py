"""Makes the data that the benchmarks read: many tenants, each with users, sessions and tags.

python scripts/bench/data.py [--data DIR] [--tenants 50] [--sessions 2000] [--jobs 2]
"""

from __future__ import annotations

import argparse
import asyncio
import random
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import msgspec
from common import DATA, TENANTS_FILE, BenchTenant, admin_dsn, database
from sqlalchemy import text

from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection, runtime_engine
from metrics_service.db.roles import OWNER
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.ingest.records import SessionRecord
from metrics_service.ingest.write import write_sessions
from metrics_service.tenants.initialise import prepare_embedded, target_of
from metrics_service.tenants.keys import create_key
from metrics_service.tenants.new_tenant import NewTenant
from metrics_service.tenants.provision import create_tenant
from metrics_service.tenants.registry import Tenant

USERS = 20
AGENTS = ("claude-code", "codex", "cursor", "copilot-cli")
TAGS = ("refactoring", "bugfix", "feature", "review", "spike")
PIECE = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--tenants", type=int, default=50)
    parser.add_argument("--sessions", type=int, default=2000)
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args()
    with database(chosen.data) as addresses:
        asyncio.run(prepare_embedded(addresses, upgrade=True))
        shares = [range(job, chosen.tenants, chosen.jobs) for job in range(chosen.jobs)]
        plain = msgspec.structs.replace(addresses, embedded=None)
        with ProcessPoolExecutor(chosen.jobs) as pool:
            made = pool.map(
                _make_share, [plain] * chosen.jobs, shares, [chosen.sessions] * chosen.jobs
            )
            tenants = [tenant for share in made for tenant in share]
        asyncio.run(_analyse(admin_dsn(addresses)))
    (chosen.data / TENANTS_FILE).write_bytes(msgspec.json.encode(tenants))
    print(f"{len(tenants)} tenants of {chosen.sessions} sessions in {chosen.data}")


def _make_share(addresses: Addresses, share: range, sessions: int) -> list[BenchTenant]:
    return asyncio.run(_make(addresses, share, sessions))


async def _make(addresses: Addresses, share: range, sessions: int) -> list[BenchTenant]:
    made = []
    engine = runtime_engine(addresses.runtime, pool_max=1)
    async with owner_connection(addresses.require_owner()) as connection:
        for number in share:
            new = NewTenant.of(
                f"bench-{number:04}", name=None, domain=None, plan="pro", base_domain="localhost"
            )
            tenant = await create_tenant(connection, new, target_of(addresses))
            async with connection.begin():
                await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
                issued = await create_key(
                    connection, tenant.id, scopes=["read", "ingest"], name="bench"
                )
            context = TenantContext(tenant.id)
            for start in range(0, sessions, PIECE):
                records = [
                    _session(number, place) for place in range(start, min(start + PIECE, sessions))
                ]
                async with tenant_connection(engine, context) as raw:
                    await write_sessions(raw, tenant.id, records)
            made.append(_bench_tenant(tenant, issued.key))
    await engine.dispose()
    return made


def _session(tenant: int, place: int) -> SessionRecord:
    chance = random.Random(tenant * 1_000_003 + place)
    started_at = datetime(2026, 10, 1, tzinfo=UTC) + timedelta(
        seconds=chance.randrange(30 * 86_400)
    )
    return SessionRecord(
        agent=chance.choice(AGENTS),
        external_id=f"session-{place}",
        started_at=started_at,
        ended_at=started_at + timedelta(seconds=chance.randrange(7200)) if place % 5 else None,
        session_type="interactive",
        user_email=f"user{chance.randrange(USERS)}@bench.example",
        repository=f"acme/service-{chance.randrange(12)}",
        branch="main",
        team=f"team-{chance.randrange(4)}",
        tags=chance.sample(TAGS, chance.randrange(3)),
        productivity_score=round(chance.random() * 100, 1),
        metadata={
            "editor": "vscode",
            "version": "1.95.2",
            "host": f"laptop-{chance.randrange(99)}",
        },
    )


def _bench_tenant(tenant: Tenant, key: str) -> BenchTenant:
    return BenchTenant(tenant.id, tenant.schema_name, f"{tenant.domain}.localhost", key)


async def _analyse(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("VACUUM ANALYZE")
    await connection.execute("CHECKPOINT")
    await connection.close()


if __name__ == "__main__":
    main()
