"""Fills a database with believable tenants: `metrics-service db seed`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import msgspec
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection, runtime_engine
from metrics_service.db.roles import OWNER
from metrics_service.db.tenancy import ContextConnection, TenantContext, tenant_connection
from metrics_service.errors import ConflictError
from metrics_service.seeds import rows
from metrics_service.seeds.companies import DEVELOPMENT, TEST, Company
from metrics_service.seeds.work import DAYS, Work, history
from metrics_service.tenants.initialise import target_of
from metrics_service.tenants.new_tenant import NewTenant
from metrics_service.tenants.provision import create_tenant
from metrics_service.tenants.registry import Tenant, find_tenant, record_action

Environment = Literal["development", "test", "production"]
OnProgress = Callable[[str, int, int], None]

SEED_NUMBER = 1
"""Another number is another history; sessions of both would stand side by side."""

# As many facts as make a batch that PostgreSQL swallows in a few hundred milliseconds.
FACTS_A_BATCH = 4_000
# Deleting a month of rows is one statement; the tenant's own limit still holds.
STATEMENT_TIMEOUT_MS = 60_000

COMPANIES: dict[Environment, tuple[Company, ...]] = {
    "development": DEVELOPMENT,
    "test": TEST,
    "production": (),
}


class SeededTenant(msgspec.Struct, kw_only=True):
    """What became of one tenant; the numbers count rows that are new."""

    slug: str
    domain: str
    created: bool
    already_seeded: bool = False
    users: int = 0
    sessions: int = 0
    tool_metrics: int = 0
    model_calls: int = 0
    dashboards: int = 0


class SeedReport(msgspec.Struct):
    """What `seed` did, tenant by tenant."""

    tenants: list[SeededTenant]


async def seed(
    addresses: Addresses,
    environment: Environment,
    *,
    force: bool,
    clear: bool,
    on_progress: OnProgress,
    base_domain: str,
    now: datetime | None = None,
) -> SeedReport:
    """Make the environment's tenants with 30 days of history that end at `now`.

    A tenant that was seeded is left alone. `force` writes it again, which adds only what is not
    there: the days since. `clear` first removes what was seeded before, and nothing else.
    Production needs no seeds: its tenants are made by `tenant create`, so it gets an empty report.
    Each tenant is one transaction: a kill leaves it without any history, or with the one it had.
    Raises `ConflictError` when something is in the way.
    """
    companies = COMPANIES[environment]
    if clear and not companies:
        raise ConflictError("nothing is seeded in production, so nothing is cleared there")
    if not companies:
        return SeedReport(tenants=[])
    moment = now if now is not None else datetime.now(UTC)
    engine = runtime_engine(addresses.runtime, pool_max=1)
    try:
        async with _alone(addresses) as owner:
            run = _Run(addresses, owner, engine, moment, on_progress, base_domain)
            return SeedReport(
                tenants=[await run.seed(company, force or clear, clear) for company in companies]
            )
    finally:
        await engine.dispose()


@asynccontextmanager
async def _alone(addresses: Addresses) -> AsyncIterator[AsyncConnection]:
    """Connect as the owner; two runs at once take turns, and the second finds all done."""
    async with owner_connection(addresses.require_owner()) as owner:
        async with owner.begin():
            # Of the session: it outlives the transactions, and ends with the connection.
            await owner.execute(text("SELECT pg_advisory_lock(hashtextextended('db seed', 0))"))
        yield owner


class _Run:
    """One run: the connections, the moment at which the history ends, and whom to tell."""

    def __init__(
        self,
        addresses: Addresses,
        owner: AsyncConnection,
        engine: AsyncEngine,
        now: datetime,
        on_progress: OnProgress,
        base_domain: str,
    ) -> None:
        self._addresses = addresses
        self._owner = owner
        self._engine = engine
        self._now = now
        self._on_progress = on_progress
        self._base_domain = base_domain

    async def seed(self, company: Company, force: bool, clear: bool) -> SeededTenant:
        tenant, created = await self._tenant(company)
        seeded = SeededTenant(slug=tenant.slug, domain=tenant.domain, created=created)
        if not force and await self._is_seeded(tenant.id):
            seeded.already_seeded = True
            self._on_progress(company.slug, DAYS, DAYS)
            return seeded
        context = TenantContext(tenant.id, timeout_ms=STATEMENT_TIMEOUT_MS)
        async with tenant_connection(self._engine, context) as connection:
            if clear:
                await rows.clear(connection, tenant.id, company)
            written = await self._fill(connection, tenant.id, company)
        # Last, so that it never speaks of a history that is not there.
        await self._mark(tenant.id)
        return msgspec.structs.replace(seeded, **msgspec.structs.asdict(written))

    async def _tenant(self, company: Company) -> tuple[Tenant, bool]:
        async with self._owner.begin():
            found = await find_tenant(self._owner, company.slug)
        # A domain of somebody else's is found by the same name.
        if found is None or found.slug != company.slug:
            new = NewTenant.of(
                company.slug,
                name=company.name,
                domain=None,
                plan=company.plan,
                base_domain=self._base_domain,
            )
            return await create_tenant(self._owner, new, target_of(self._addresses)), True
        if found.status != "active":
            raise ConflictError(f"tenant {found.slug} is {found.status}")
        return found, False

    async def _is_seeded(self, tenant_id: UUID) -> bool:
        async with self._owner.begin():
            marked: Any = await self._owner.scalar(
                text("SELECT metadata ? 'seed' FROM public.tenants WHERE id = :id"),
                {"id": tenant_id},
            )
        return bool(marked)

    async def _mark(self, tenant_id: UUID) -> None:
        marker = {"number": SEED_NUMBER, "anchor": self._now.astimezone(UTC).date()}
        async with self._owner.begin():
            await self._owner.execute(text(f"SET LOCAL ROLE {OWNER}"))
            await self._owner.execute(
                text(
                    """
                    UPDATE public.tenants SET updated_at = now(),
                        metadata = metadata || jsonb_build_object('seed', CAST(:marker AS jsonb))
                    WHERE id = :id
                    """
                ),
                {"id": tenant_id, "marker": msgspec.json.encode(marker).decode()},
            )
            await record_action(self._owner, "db seed", tenant_id)

    async def _fill(
        self, connection: ContextConnection, tenant_id: UUID, company: Company
    ) -> rows.Written:
        written = rows.Written(users=await rows.add_users(connection, tenant_id, company))
        batch: list[Work] = []
        facts = 0
        for done, (_, works) in enumerate(history(company, SEED_NUMBER, self._now), start=1):
            batch += works
            facts += sum(len(work.tool_metrics) + len(work.model_calls) for work in works)
            if facts >= FACTS_A_BATCH:
                await rows.add_work(connection, tenant_id, batch, written)
                batch, facts = [], 0
            self._on_progress(company.slug, min(done, DAYS - 1), DAYS)
        await rows.add_work(connection, tenant_id, batch, written)
        written.dashboards = await rows.add_dashboards(connection, tenant_id, company)
        self._on_progress(company.slug, DAYS, DAYS)
        return written
