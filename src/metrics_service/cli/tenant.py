"""`metrics-service tenant`: make, show, change and delete tenants."""

from __future__ import annotations

import msgspec
import rich_click as click
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.cli.connect import opened_database
from metrics_service.cli.output import (
    json_option,
    print_many,
    print_one,
    require_consent,
    yes_option,
)
from metrics_service.errors import InvalidNameError
from metrics_service.tenants import lifecycle
from metrics_service.tenants.initialise import target_of
from metrics_service.tenants.names import normalize_domain, validate_display_name, validate_slug
from metrics_service.tenants.new_tenant import PLANS, NewTenant
from metrics_service.tenants.operator_domain import refuse_operators
from metrics_service.tenants.provision import create_tenant
from metrics_service.tenants.registry import get_tenant, list_tenants


class Domain(msgspec.Struct, frozen=True):
    """A host at which a tenant is served."""

    domain: str
    is_first: bool


@click.group()
def tenant() -> None:
    """Provision tenants, and change them. A tenant is named by slug, domain or id."""


@tenant.command()
@click.argument("slug")
@click.option("--name", help="The name people see; the slug by default.")
@click.option("--domain", help="Where the tenant is served; the slug by default.")
@click.option("--plan", default="basic", show_default=True, help=f"One of {', '.join(PLANS)}.")
@json_option
def create(slug: str, name: str | None, domain: str | None, plan: str, as_json: bool) -> None:
    """Create the tenant SLUG: its role, its schema, its tables, its domain."""
    with opened_database() as opened:
        new = NewTenant.of(
            slug,
            name=name,
            domain=domain,
            plan=plan,
            base_domain=opened.base_domain,
            operator_domain=opened.settings.metrics_operator_domain,
        )
        target = target_of(opened.addresses)
        made = opened.as_owner(lambda connection: create_tenant(connection, new, target))
    print_one(made, as_json=as_json)


@tenant.command(name="list")
@json_option
def list_(as_json: bool) -> None:
    """List all tenants."""
    with opened_database() as opened:
        tenants = opened.in_transaction(list_tenants)
    print_many(tenants, as_json=as_json, none="there are no tenants")


@tenant.command()
@click.argument("slug")
@json_option
def show(slug: str, as_json: bool) -> None:
    """Show one tenant."""
    with opened_database() as opened:
        name = opened.tenant_name(slug)
        found = opened.in_transaction(lambda connection: get_tenant(connection, name))
    print_one(found, as_json=as_json)


@tenant.command()
@click.argument("slug")
@json_option
def suspend(slug: str, as_json: bool) -> None:
    """Stop serving a tenant; its data stays."""
    with opened_database() as opened:
        name = opened.tenant_name(slug)
        changed = opened.as_owner(lambda connection: lifecycle.suspend(connection, name))
    print_one(changed, as_json=as_json)


@tenant.command()
@click.argument("slug")
@json_option
def resume(slug: str, as_json: bool) -> None:
    """Serve a suspended tenant again."""
    with opened_database() as opened:
        name = opened.tenant_name(slug)
        changed = opened.as_owner(lambda connection: lifecycle.resume(connection, name))
    print_one(changed, as_json=as_json)


@tenant.command()
@click.argument("slug")
@click.option("--name", help="The new name that people see.")
@click.option("--slug", "new_slug", help="The new slug; domains stay as they are.")
@json_option
def rename(slug: str, name: str | None, new_slug: str | None, as_json: bool) -> None:
    """Give a tenant another name, or another slug."""
    if name is None and new_slug is None:
        raise click.UsageError("Say --name, --slug or both")
    new_name = validate_display_name(name) if name is not None else None
    new_slug = validate_slug(new_slug) if new_slug is not None else None
    with opened_database() as opened:
        named = opened.tenant_name(slug)
        changed = opened.as_owner(
            lambda connection: lifecycle.rename(connection, named, new_name=new_name, slug=new_slug)
        )
    print_one(changed, as_json=as_json)


@tenant.command()
@click.argument("slug")
@yes_option
@json_option
def delete(slug: str, is_sure: bool, as_json: bool) -> None:
    """Delete a tenant with everything it has; slug and domains are free afterwards."""
    with opened_database() as opened:
        name = opened.tenant_name(slug)
        found = opened.in_transaction(lambda connection: get_tenant(connection, name))
        require_consent(f"Delete tenant {found.slug} and all its data?", is_sure=is_sure)
        by_id = str(found.id)
        opened.as_owner(lambda connection: lifecycle.delete(connection, by_id))
    print_one(msgspec.structs.replace(found, status="deleted"), as_json=as_json)


@tenant.group()
def domain() -> None:
    """Change the domains at which a tenant is served."""


@domain.command(name="list")
@click.argument("slug")
@json_option
def list_domains(slug: str, as_json: bool) -> None:
    """List the domains of a tenant."""
    with opened_database() as opened:
        name = opened.tenant_name(slug)

        async def find(connection: AsyncConnection) -> list[Domain]:
            found = await get_tenant(connection, name)
            hosts = await lifecycle.list_domains(connection, found.id)
            return [Domain(host, host == found.domain) for host in hosts]

        domains = opened.in_transaction(find)
    print_many(domains, as_json=as_json, none="the tenant has no domains")


@domain.command()
@click.argument("slug")
@click.argument("domain")
@json_option
def add(slug: str, domain: str, as_json: bool) -> None:
    """Serve a tenant at DOMAIN too."""
    with opened_database() as opened:
        name = opened.tenant_name(slug)
        host = normalize_domain(domain, opened.base_domain)
        refuse_operators(
            host,
            operator_domain=opened.settings.metrics_operator_domain,
            base_domain=opened.base_domain,
        )

        async def work(connection: AsyncConnection) -> None:
            async with connection.begin():
                found = await get_tenant(connection, name)
            await lifecycle.add_domain(connection, found.id, host)

        opened.as_owner(work)
    print_one(Domain(host, False), as_json=as_json)


@domain.command()
@click.argument("slug")
@click.argument("domain")
def remove(slug: str, domain: str) -> None:
    """Stop serving a tenant at DOMAIN."""
    with opened_database() as opened:
        name = opened.tenant_name(slug)
        try:
            host = normalize_domain(domain, opened.base_domain)
        except InvalidNameError:
            host = domain

        async def work(connection: AsyncConnection) -> None:
            async with connection.begin():
                found = await get_tenant(connection, name)
            await lifecycle.remove_domain(connection, found, host)

        opened.as_owner(work)
