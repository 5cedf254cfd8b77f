"""`metrics-service key`: issue, list, rotate and revoke API keys."""

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


@click.group()
def key() -> None:
    """Issue API keys of a tenant, and take them back."""


@key.command()
@click.argument("slug")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(SCOPES),
    help="What the key may do; can be given several times.",
)
@click.option("--user", "email", help="The email of the user for whom the key acts.")
@click.option("--expires-in", type=Duration(), help="When it dies by itself: 90d, 24h, 30m.")
@click.option("--name", default="cli", show_default=True, help="What it is for.")
@json_option
def create(
    slug: str,
    scopes: tuple[Scope, ...],
    email: str | None,
    expires_in: timedelta | None,
    name: str,
    as_json: bool,
) -> None:
    """Issue a key of the tenant SLUG, and print it: this is the only time that it is shown."""
    with opened_database() as opened:
        issued = issue(opened, slug, scopes, name=name, email=email, expires_in=expires_in)
    print_one(issued, as_json=as_json)


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
@click.argument("slug")
@json_option
def list_(slug: str, as_json: bool) -> None:
    """List the keys of a tenant, dead ones too; the keys themselves are not kept."""
    with opened_database() as opened:
        name = opened.tenant_name(slug)

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
    with opened_database() as opened:
        issued = opened.in_transaction(
            lambda connection: rotate_key(connection, key_id, grace=grace)
        )
    print_one(issued, as_json=as_json)


@key.command()
@click.argument("key_id", metavar="ID", type=click.UUID)
@yes_option
def revoke(key_id: UUID, is_sure: bool) -> None:
    """Take the key ID back at once."""
    require_consent(f"Revoke key {key_id}?", is_sure=is_sure)
    with opened_database() as opened:

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
            await revoke_key(connection, key_id, grace=NO_GRACE)

        opened.in_transaction(work)
