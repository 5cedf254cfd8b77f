"""`metrics-service otlp replay`."""

from __future__ import annotations

from datetime import datetime
from functools import partial

import msgspec
import rich_click as click

from metrics_service.cli.connect import Opened, opened_database
from metrics_service.cli.options import Moment
from metrics_service.cli.output import Advance, json_option, print_columns, print_json, progress
from metrics_service.cli.signals import run_async
from metrics_service.db.engine import runtime_engine
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.ingest.known_people import PEOPLE_LOCK
from metrics_service.ingest.prices import load_prices
from metrics_service.otlp.replay import Changes, Replay, Replayed, alone
from metrics_service.tenants.registry import Tenant

# What was deleted is looked for among all rows of the tenant, once.
STATEMENT_TIMEOUT_MS = 600_000


@click.command()
@click.argument("tenant")
@click.option("--since", type=Moment(), help="Only requests that arrived then or later.")
@click.option("--until", type=Moment(), help="Only requests that arrived before; default: now.")
@click.option(
    "--dry-run", "is_dry", is_flag=True, help="Say what would change, and change nothing."
)
@json_option
def replay(
    tenant: str, since: datetime | None, until: datetime | None, is_dry: bool, as_json: bool
) -> None:
    """Map the kept requests of TENANT again, after a mapper was mended.

    Requests are kept where the tenant's setting `raw_hours` says for how long. What they told of
    before takes the values that they give it now, each fact still counted once; what no kept request
    tells of any more is removed, unless it is older than the oldest of them. With an unchanged mapper
    nothing changes. It is safe to repeat, also after it was killed, and while data comes in.

    What was deleted stays deleted. Points of metrics that are stored are not mapped again. Columns of
    a session change only where the new word is as late as the old, and of a call that several signals
    tell of each keeps its part until it tells another. Content is stored if the tenant allows it now.

    With --dry-run each request is tried alone, so rows of which several tell may be counted wrongly.

    Example: metrics-service otlp replay acme --since 2026-11-20T09:30:00Z --dry-run
    """
    if since is not None and until is not None and since >= until:
        raise click.UsageError("--since must be before --until")
    with opened_database() as opened, progress() as advance:
        found = opened.served_tenant(tenant)
        done = run_async(
            _replay(opened, found, since=since, until=until, is_dry=is_dry, advance=advance)
        )
    _print(done, as_json=as_json)
    if done.failed_requests:
        raise click.ClickException(
            f"{done.failed_requests} of {done.requests} requests could not be mapped:"
            f" {'; '.join(done.failures)}"
        )


async def _replay(
    opened: Opened,
    tenant: Tenant,
    *,
    since: datetime | None,
    until: datetime | None,
    is_dry: bool,
    advance: Advance,
) -> Replayed:
    engine = runtime_engine(opened.addresses.runtime, pool_max=1)
    # A pooler between us would not mind who holds a lock for so long, but others who wait for a
    # connection would.
    guard = runtime_engine(opened.addresses.direct, pool_max=1)
    context = TenantContext(tenant.id, timeout_ms=STATEMENT_TIMEOUT_MS)
    # It looks people up as ingest does.
    ingesting = msgspec.structs.replace(context, shared_lock=PEOPLE_LOCK)
    door = partial(tenant_connection, engine, ingesting)
    try:
        async with alone(partial(tenant_connection, guard, context), tenant.id):
            again = Replay(
                door,
                tenant.id,
                load_prices(opened.settings.prices_file),
                since=since,
                until=until,
                is_dry=is_dry,
            )
            return await again.run(lambda done, total: advance(tenant.slug, done, total))
    finally:
        await guard.dispose()
        await engine.dispose()


def _print(done: Replayed, *, as_json: bool) -> None:
    if as_json:
        print_json(done)
        return
    click.echo(
        f"{done.requests} requests with {done.items} items in {done.seconds:.1f} s;"
        f" {done.refused_items} items refused, {done.left_out} left out (deleted since, or an import's"
        " that live telemetry told better)"
    )
    rows = [
        (name, *(str(number) for number in (change.added, change.changed, change.removed)))
        for name in Replayed.__struct_fields__
        if isinstance(change := getattr(done, name), Changes)
    ]
    print_columns([("table", "added", "changed", "removed"), *rows])
