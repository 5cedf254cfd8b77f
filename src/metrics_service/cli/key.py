"""`metrics-service key`: issue, list, rotate and revoke API keys, a tenant's and operators'."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

import msgspec
import rich_click as click
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.cli.connect import Opened, opened_database
from metrics_service.cli.options import Duration
from metrics_service.cli.output import (
    json_option,
    print_many,
    print_one,
    require_consent,
    yes_option,
)
from metrics_service.cli.signals import run_async
from metrics_service.db.engine import runtime_engine
from metrics_service.db.roles import OWNER
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.errors import InvalidNameError
from metrics_service.fields import Email
from metrics_service.fleet.operator_keys import (
    IssuedOperatorKey,
    create_operator_key,
    is_operator_key,
    list_operator_keys,
    revoke_operator_key,
    rotate_operator_key,
)
from metrics_service.ingest.people import users_by_email
from metrics_service.tenants.keys import (
    SCOPES,
    IssuedKey,
    KeyRow,
    Scope,
    create_key,
    list_keys,
    revoke_key,
    rotate_key,
)
from metrics_service.tenants.names import validate_display_name
from metrics_service.tenants.registry import Tenant, get_tenant

NO_GRACE = timedelta(0)


operator_option = click.option(
    "--operator",
    "is_operators",
    is_flag=True,
    help="Of whoever looks after the whole service, not of a tenant.",
)


@click.group()
def key() -> None:
    """Issue API keys of a tenant or of operators, and take them back."""


@key.command()
@click.argument("slug", required=False)
@operator_option
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    help="What the key may do; can be given several times.",
)
@click.option("--user", "email", help="The email of the user for whom the key acts.")
@click.option("--expires-in", type=Duration(), help="When it dies by itself: 90d, 24h, 30m.")
@click.option("--name", default="cli", show_default=True, help="What it is for.")
@json_option
def create(
    slug: str | None,
    is_operators: bool,
    scopes: tuple[Scope, ...],
    email: str | None,
    expires_in: timedelta | None,
    name: str,
    as_json: bool,
) -> None:
    """Issue a key of the tenant SLUG, and print it: this is the only time that it is shown.

    With --operator it is a key to the operator's domain (METRICS_OPERATOR_DOMAIN).
    """
    owner = _owner_of(slug, is_operators=is_operators)
    if owner is None and (scopes or email is not None):
        raise click.UsageError("an operator's key has no --scope and no --user")
    if owner is not None and not scopes:
        raise click.UsageError("Missing option '--scope'.")
    with opened_database() as opened:
        issued = (
            _issue_operators(opened, name=name, expires_in=expires_in)
            if owner is None
            else issue(opened, owner, scopes, name=name, email=email, expires_in=expires_in)
        )
    print_one(issued, as_json=as_json)


def _owner_of(slug: str | None, *, is_operators: bool) -> str | None:
    """Whose keys are meant: the tenant's SLUG, or None for operators'."""
    if is_operators and slug is not None:
        raise click.UsageError("give SLUG or --operator, not both")
    if not is_operators and slug is None:
        raise click.UsageError("Missing argument 'SLUG'; operators' keys have --operator instead")
    return slug


def _issue_operators(
    opened: Opened, *, name: str, expires_in: timedelta | None
) -> IssuedOperatorKey:
    shown = validate_display_name(name)
    return opened.in_transaction(
        lambda connection: create_operator_key(connection, name=shown, expires_in=expires_in)
    )


def issue(
    opened: Opened,
    slug: str,
    scopes: tuple[Scope, ...],
    *,
    name: str,
    email: str | None,
    expires_in: timedelta | None,
) -> IssuedKey:
    """Issue a key of a tenant that is served; raises what is wrong with any of its values."""
    name = validate_display_name(name)
    email = _email(email) if email is not None else None
    tenant = opened.served_tenant(slug)
    user_id = _user_of(opened, tenant, email) if email is not None else None

    async def work(connection: AsyncConnection) -> IssuedKey:
        await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
        return await create_key(
            connection,
            tenant.id,
            scopes=list(dict.fromkeys(scopes)),
            name=name,
            user_id=user_id,
            expires_in=expires_in,
        )

    return opened.in_transaction(work)


def _email(text: str) -> str:
    try:
        return msgspec.convert(text.strip().lower(), Email)
    except msgspec.ValidationError:
        raise InvalidNameError(f"user: {text!r} is not an email address") from None


def _user_of(opened: Opened, tenant: Tenant, email: str) -> UUID:
    """The user's id; one that does not exist yet is made. Users live in the tenant's schema."""

    async def find() -> UUID:
        engine = runtime_engine(opened.addresses.runtime, pool_max=1)
        try:
            async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
                return (await users_by_email(connection, [email]))[email]
        finally:
            await engine.dispose()

    return run_async(find())


@key.command(name="list")
@click.argument("slug", required=False)
@operator_option
@json_option
def list_(slug: str | None, is_operators: bool, as_json: bool) -> None:
    """List the keys of a tenant, or operators', dead ones too; the keys themselves are not kept."""
    owner = _owner_of(slug, is_operators=is_operators)
    with opened_database() as opened:
        if owner is None:
            operators = opened.in_transaction(list_operator_keys)
            print_many(operators, as_json=as_json, none="operators have no keys")
            return
        name = opened.tenant_name(owner)

        async def find(connection: AsyncConnection) -> list[KeyRow]:
            return await list_keys(connection, (await get_tenant(connection, name)).id)

        keys = opened.in_transaction(find)
    print_many(keys, as_json=as_json, none="the tenant has no keys")


@key.command()
@click.argument("key_id", metavar="ID", type=click.UUID)
@click.option(
    "--grace",
    type=Duration(may_be_zero=True),
    default="24h",
    show_default=True,
    help="How long the old key lives on.",
)
@json_option
def rotate(key_id: UUID, grace: timedelta, as_json: bool) -> None:
    """Issue a key like the key ID, which dies after the grace."""

    async def work(connection: AsyncConnection) -> IssuedKey | IssuedOperatorKey:
        if await is_operator_key(connection, key_id):
            return await rotate_operator_key(connection, key_id, grace=grace)
        return await rotate_key(connection, key_id, grace=grace)

    with opened_database() as opened:
        issued = opened.in_transaction(work)
    print_one(issued, as_json=as_json)


@key.command()
@click.argument("key_id", metavar="ID", type=click.UUID)
@yes_option
def revoke(key_id: UUID, is_sure: bool) -> None:
    """Take the key ID back at once."""
    require_consent(f"Revoke key {key_id}?", is_sure=is_sure)

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
        if await is_operator_key(connection, key_id):
            await revoke_operator_key(connection, key_id, grace=NO_GRACE)
        else:
            await revoke_key(connection, key_id, grace=NO_GRACE)

    with opened_database() as opened:
        opened.in_transaction(work)
