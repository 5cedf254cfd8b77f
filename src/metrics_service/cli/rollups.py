"""`metrics-service db rebuild-rollups`."""

from __future__ import annotations

import msgspec
import rich_click as click
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.cli.connect import Opened, opened_database
from metrics_service.cli.output import Advance, json_option, print_many, progress
from metrics_service.cli.signals import run_async
from metrics_service.db.engine import runtime_engine
from metrics_service.db.tenancy import TenantContext
from metrics_service.rollups.rebuild import rebuild_rollups
from metrics_service.tenants.registry import Tenant, get_tenant, list_tenants

# A day of ten million calls takes a few seconds.
STATEMENT_TIMEOUT_MS = 600_000


class RebuiltTenant(msgspec.Struct, frozen=True):
    """What became of one tenant's rollups."""

    slug: str
    days: int
    mended_days: int


@click.command("rebuild-rollups")
@click.argument("tenants", nargs=-1, metavar="[TENANT]...")
@click.option("--all", "is_all", is_flag=True, help="Every active tenant.")
@json_option
def rebuild_rollups_command(tenants: tuple[str, ...], is_all: bool, as_json: bool) -> None:
    """Recompute the rollups of tenants from their rows, a day at a time; safe to repeat.

    Batches wait while their tenant's day is made anew, and nothing is lost. `mended_days` counts the
    days whose rollups were not what the rows say.
    """
    if bool(tenants) == is_all:
        raise click.UsageError("name tenants, or say --all")
    with opened_database() as opened, progress() as advance:

        async def found(connection: AsyncConnection) -> list[Tenant]:
            if is_all:
                return [one for one in await list_tenants(connection) if one.status == "active"]
            return [await get_tenant(connection, opened.tenant_name(name)) for name in tenants]

        chosen = opened.in_transaction(found)
        done = run_async(_rebuild(opened, chosen, advance))
    print_many(done, as_json=as_json, none="there are no tenants")


async def _rebuild(opened: Opened, tenants: list[Tenant], advance: Advance) -> list[RebuiltTenant]:
    engine = runtime_engine(opened.addresses.runtime, pool_max=1)
    done = []
    try:
        for tenant in tenants:
            rebuilt = await rebuild_rollups(
                engine,
                TenantContext(tenant.id, timeout_ms=STATEMENT_TIMEOUT_MS),
                on_day=lambda day, days, slug=tenant.slug: advance(slug, day, days),  # type: ignore[misc]  # a default
            )
            done.append(RebuiltTenant(tenant.slug, rebuilt.days, rebuilt.mended_days))
    finally:
        await engine.dispose()
    return done
