"""`metrics-service db`: make a database ready, migrate it, look into it, take it down."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

import msgspec
import rich_click as click
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.cli.advise import advise_command
from metrics_service.cli.connect import Opened, opened_database
from metrics_service.cli.output import (
    Advance,
    json_option,
    print_columns,
    print_json,
    print_many,
    progress,
    require_consent,
    some,
    yes_option,
)
from metrics_service.cli.psql import find_psql, run_psql
from metrics_service.cli.rollups import rebuild_rollups_command
from metrics_service.cli.signals import run_async
from metrics_service.cli.slow_queries import slow_queries_command
from metrics_service.db.addresses import SUPERUSER, Addresses
from metrics_service.errors import (
    ConflictError,
    DatabaseUnreachableError,
    MigrationError,
    NotFoundError,
)
from metrics_service.seeds.seed import seed as seed_database
from metrics_service.tenants.check import check as check_database
from metrics_service.tenants.check import find_holes
from metrics_service.tenants.initialise import (
    default_jobs,
    initialise,
    prepare_embedded,
    target_of,
)
from metrics_service.tenants.ledger import SchemaState, ledger
from metrics_service.tenants.migrate import Outcome
from metrics_service.tenants.reset import reset as reset_database
from metrics_service.tenants.revisions import REGISTRY, head, revisions
from metrics_service.tenants.upgrade import downgrade as downgrade_schemas
from metrics_service.tenants.upgrade import upgrade_all

Environment = Literal["development", "test", "production"]

NOT_INITIALISED = "the database is not initialised; run 'metrics-service db init'"


class Initialised(msgspec.Struct, frozen=True):
    """What `db init` did."""

    revision: str
    notes: list[str]


class Upgraded(msgspec.Struct, frozen=True):
    """What `db upgrade` did: a line for each schema, and the holes that it found."""

    schemas: list[Outcome]
    holes: list[str]


class Heads(msgspec.Struct, frozen=True):
    """The newest revision of each history that this release knows."""

    registry: str
    tenant: str


class SchemaStatus(msgspec.Struct, frozen=True):
    """One schema: whose it is, where it stands."""

    schema_name: str
    tenant: str | None
    revision: str | None
    status: str
    is_behind: bool
    last_error: str | None


class Status(msgspec.Struct, frozen=True):
    """What `db status` prints."""

    heads: Heads
    schemas: list[SchemaStatus]


@click.group()
def db() -> None:
    """Initialise, migrate, check, open and reset the database."""


@db.command()
@click.option("--admin-url", metavar="DSN", help="A login with CREATEROLE that owns the database.")
@json_option
def init(admin_url: str | None, as_json: bool) -> None:
    """Create roles and registry; safe to repeat. The embedded database needs no --admin-url."""
    with opened_database(prepare=False) as opened:
        admin = _admin_dsn(opened, admin_url)
        notes = run_async(initialise(opened.addresses, admin))
    if as_json:
        print_json(Initialised(head("registry"), notes))
        return
    click.echo(f"the registry is at {head('registry')}")
    for note in notes:
        click.echo(f"note: {note}")


def _admin_dsn(opened: Opened, given: str | None) -> str:
    if given is None:
        if opened.addresses.embedded is None:
            raise click.UsageError("DATABASE_URL is set, so --admin-url is required")
        return opened.addresses.embedded.dsn(SUPERUSER)
    if opened.addresses.embedded is not None:
        raise click.UsageError("--admin-url is for a given database, and DATABASE_URL is not set")
    parts = urlsplit(given)
    if parts.scheme not in {"postgresql", "postgres"} or not parts.username:
        raise click.UsageError("--admin-url must begin with postgresql:// and name a user")
    # Else the roles would get their rights on a database that nobody uses.
    owner = urlsplit(opened.addresses.require_owner())
    if parts.path.strip("/") and parts.path != owner.path:
        raise click.UsageError("--admin-url and DATABASE_OWNER_URL name different databases")
    return given


@db.command()
@click.option("--jobs", type=click.IntRange(1, 64), help="How many schemas at a time.")
@json_option
def upgrade(jobs: int | None, as_json: bool) -> None:
    """Bring the registry and every tenant schema to head; go on past a broken one."""
    with opened_database() as opened, progress() as advance:
        result = run_async(_upgrade(opened.addresses, jobs or default_jobs(), advance))
    _print_outcomes(result, result.schemas, as_json=as_json)
    _fail_for(result.schemas, result.holes)


async def _upgrade(addresses: Addresses, jobs: int, advance: Advance) -> Upgraded:
    outcomes: list[Outcome] = []

    def on_outcome(outcome: Outcome, total: int) -> None:
        outcomes.append(outcome)
        advance(outcome.schema_name, len(outcomes), total)

    await upgrade_all(target_of(addresses), jobs=jobs, on_outcome=on_outcome)
    return Upgraded(outcomes, await find_holes(addresses))


def _print_outcomes(result: object, outcomes: list[Outcome], *, as_json: bool) -> None:
    if as_json:
        print_json(result)
        return
    for outcome in outcomes:
        click.echo(f"{outcome.schema_name}  {outcome.revision or '-'}  {outcome.error or 'ready'}")


def _fail_for(outcomes: list[Outcome], holes: list[str]) -> None:
    wrong = [f"{outcome.schema_name}: {outcome.error}" for outcome in outcomes if outcome.error]
    if wrong or holes:
        raise MigrationError(some([*wrong, *holes], "; "))


@db.command()
@click.option("--schema", help="One schema; 'public' is the registry. All tenants' by default.")
@click.option("--to", metavar="REVISION", help="How far; one step back by default.")
@yes_option
@json_option
def downgrade(schema: str | None, to: str | None, is_sure: bool, as_json: bool) -> None:
    """Take schemas one step back, or back to a revision. What the step made is lost."""
    with opened_database() as opened:
        states = opened.in_transaction(ledger)
        schemas = _chosen(states, schema)
        require_consent(f"Take {some(schemas)} back, data included?", is_sure=is_sure)
        target = msgspec.structs.replace(target_of(opened.addresses), steps_back=True, to=to)
        outcomes = run_async(downgrade_schemas(target, schemas))
    _print_outcomes(outcomes, outcomes, as_json=as_json)
    _fail_for(outcomes, [])


def _chosen(states: list[SchemaState], schema: str | None) -> list[str]:
    at = {state.schema_name: state.revision for state in states}
    tenants = [name for name in at if name != REGISTRY]
    if schema is None:
        if not tenants:
            raise NotFoundError("tenant schema")
        return tenants
    if schema not in at:
        raise NotFoundError("schema", schema)
    if schema == REGISTRY and tenants and at[REGISTRY] == revisions("registry")[0]:
        raise ConflictError("the registry's first revision holds tenants; use 'db reset'")
    return [schema]


@db.command()
@json_option
def status(as_json: bool) -> None:
    """Show the revision of every schema."""
    with opened_database() as opened:
        schemas = opened.in_transaction(_statuses)
    if not schemas:
        raise MigrationError(NOT_INITIALISED)
    if as_json:
        print_json(Status(Heads(head("registry"), head("tenant")), schemas))
    else:
        print_many(schemas, as_json=False, none=NOT_INITIALISED)


async def _statuses(connection: AsyncConnection) -> list[SchemaStatus]:
    states = await ledger(connection)
    if not states:
        return []
    rows = await connection.execute(text("SELECT schema_name, slug FROM public.tenants"))
    slug_of = {row.schema_name: row.slug for row in rows}
    return [
        SchemaStatus(
            schema_name=state.schema_name,
            tenant=slug_of.get(state.schema_name),
            revision=state.revision,
            status=state.status,
            is_behind=state.is_behind,
            last_error=state.last_error,
        )
        for state in states
    ]


@db.command()
@json_option
def check(as_json: bool) -> None:
    """Say whether the database is reachable, at head and safe."""
    with opened_database() as opened:
        report = run_async(check_database(opened.settings, opened.addresses))
    if as_json:
        print_json(report)
    else:
        print_columns([[one.status, one.name, one.detail] for one in report.checks])
    failed = [f"{one.name}: {one.detail}" for one in report.checks if one.status == "failed"]
    if report.is_unreachable:
        raise DatabaseUnreachableError(some(failed, "; "))
    if failed:
        raise MigrationError(some(failed, "; "))


@db.command(context_settings={"ignore_unknown_options": True})
@click.option("--owner", "as_owner", is_flag=True, help="As the migrator, not the runtime login.")
@click.argument("psql_arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def shell(context: click.Context, as_owner: bool, psql_arguments: tuple[str, ...]) -> None:
    """Open psql on the database; what follows is passed on to it."""
    with opened_database() as opened:
        addresses = opened.addresses
        dsn = addresses.require_owner() if as_owner else addresses.runtime
        code = run_psql(find_psql(addresses.embedded), dsn, psql_arguments)
    context.exit(code)


@db.command()
@yes_option
def reset(is_sure: bool) -> None:
    """Drop every tenant and the registry; 'db init' makes a new one."""
    with opened_database(prepare=False) as opened:
        addresses = opened.addresses
        database = urlsplit(addresses.runtime).path.removeprefix("/")
        require_consent(f"Destroy everything in database {database}?", is_sure=is_sure)
        with progress() as advance:
            dropped = run_async(reset_database(target_of(addresses), on_dropped=advance))
        run_async(prepare_embedded(addresses, upgrade=True))
    click.echo(f"dropped {dropped} tenants and the registry", err=True)


@db.command()
@click.option(
    "--env",
    "environment",
    required=True,
    type=click.Choice(["development", "test", "production"]),
    help="What to seed for.",
)
@click.option("--force", is_flag=True, help="Seed again where seeds are already.")
@click.option("--clear", is_flag=True, help="Remove earlier seeds first.")
@click.option("--verbose", is_flag=True, help="Say what is done, step by step.")
@json_option
def seed(environment: Environment, force: bool, clear: bool, verbose: bool, as_json: bool) -> None:
    """Fill the database with what an environment needs; safe to repeat."""
    with opened_database() as opened, progress() as advance:
        report = run_async(
            seed_database(
                opened.addresses,
                environment,
                force=force,
                clear=clear,
                on_progress=_spoken if verbose else advance,
                base_domain=opened.base_domain,
            )
        )
    if as_json:
        print_json(report)
    else:
        print_many(report.tenants, as_json=False, none="nothing to seed")


def _spoken(what: str, done: int, total: int) -> None:
    click.echo(f"{what} {done}/{total}", err=True)


db.add_command(rebuild_rollups_command)
db.add_command(slow_queries_command)
db.add_command(advise_command)
