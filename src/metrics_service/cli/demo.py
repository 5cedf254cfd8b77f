"""`metrics-service demo`: everything set up and served, with something to paste."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import msgspec
import rich_click as click
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.cli.connect import Opened
from metrics_service.cli.output import progress
from metrics_service.cli.serve import (
    binding_of,
    database_to_serve,
    host_option,
    otlp_grpc_line,
    otlp_grpc_port_option,
    port_option,
    require_head,
    serve_on,
    workers_option,
)
from metrics_service.cli.server import Binding
from metrics_service.cli.signals import run_async, until_told
from metrics_service.db.engine import owner_connection, runtime_engine
from metrics_service.db.roles import OWNER
from metrics_service.fleet.operator_keys import create_operator_key
from metrics_service.seeds.companies import DEVELOPMENT
from metrics_service.seeds.dashboards import OVERVIEW
from metrics_service.seeds.logins import Login, ensure_login
from metrics_service.seeds.rows import seed_id
from metrics_service.seeds.seed import seed
from metrics_service.settings import Settings, load_settings
from metrics_service.setup.agents import claude_code
from metrics_service.setup.connection import Connection, Endpoint
from metrics_service.setup.writing import assignments
from metrics_service.tenants.keys import create_key
from metrics_service.tenants.names import strip_base
from metrics_service.tenants.passwords import Passwords
from metrics_service.tenants.registry import Tenant, get_tenant, notify

KEY_NAME = "demo"
KEY_LIVES = timedelta(days=7)
OPERATOR_DOMAIN = "operator"
"""Where operators look at the demo, unless METRICS_OPERATOR_DOMAIN says otherwise."""


class DemoTenant(msgspec.Struct, frozen=True):
    """A tenant to look at, the key for it, and who signs in."""

    tenant: Tenant
    key: str
    login: Login | None = None


@click.command()
@host_option
@port_option
@workers_option
@otlp_grpc_port_option
def demo(
    host: str | None, port: int | None, workers: int | None, otlp_grpc_port: int | None
) -> None:
    """Set up a database with three tenants and 30 days of history, and serve it."""
    if load_settings().metrics_operator_domain is None:
        os.environ["METRICS_OPERATOR_DOMAIN"] = OPERATOR_DOMAIN
    binding = binding_of(load_settings(), host, port, workers, otlp_grpc_port)
    with until_told(), database_to_serve() as opened:
        tenants = run_async(_set_up(opened))
        operator_key = opened.in_transaction(_operator_key)
        serve_on(
            opened,
            binding,
            on_ready=lambda: click.echo(
                introduction(tenants, binding, opened.base_domain)
                + "\n"
                + operators_introduction(operator_key, binding, opened.settings)
            ),
        )


async def _set_up(opened: Opened) -> list[DemoTenant]:
    addresses = opened.addresses
    # A database of somebody else's is never migrated unasked.
    await require_head(addresses.runtime)
    with progress() as advance:
        report = await seed(
            addresses,
            "development",
            force=False,
            clear=False,
            on_progress=advance,
            base_domain=opened.base_domain,
        )
    owner_dsn = addresses.require_owner()
    tenants = [await _with_key(owner_dsn, seeded.slug) for seeded in report.tenants]
    return await _with_logins(addresses.runtime, tenants)


async def _with_logins(runtime_dsn: str, tenants: list[DemoTenant]) -> list[DemoTenant]:
    companies = {company.slug: company for company in DEVELOPMENT}
    engine, passwords = runtime_engine(runtime_dsn, pool_max=1), Passwords()
    try:
        return [
            msgspec.structs.replace(
                shown,
                login=await ensure_login(
                    engine, passwords, shown.tenant.id, companies[shown.tenant.slug]
                ),
            )
            for shown in tenants
        ]
    finally:
        passwords.close()
        await engine.dispose()


async def _with_key(owner_dsn: str, slug: str) -> DemoTenant:
    """Issue this run's key, and forget those of earlier runs that have expired."""
    async with owner_connection(owner_dsn) as connection, connection.begin():
        await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
        tenant = await get_tenant(connection, slug)
        await connection.execute(
            text(
                """
                DELETE FROM public.api_keys
                WHERE tenant_id = :id AND name = :name AND user_id IS NULL AND expires_at < now()
                """
            ),
            {"id": tenant.id, "name": KEY_NAME},
        )
        await notify(connection, tenant.id)
        issued = await create_key(
            connection, tenant.id, scopes=["ingest", "read"], name=KEY_NAME, expires_in=KEY_LIVES
        )
        return DemoTenant(tenant, issued.key)


async def _operator_key(connection: AsyncConnection) -> str:
    """Issue this run's key of operators, and forget those of earlier runs that have expired."""
    await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
    await connection.execute(
        text("DELETE FROM public.operator_keys WHERE name = :name AND expires_at < now()"),
        {"name": KEY_NAME},
    )
    issued = await create_operator_key(connection, name=KEY_NAME, expires_in=KEY_LIVES)
    return issued.key


def introduction(tenants: list[DemoTenant], binding: Binding, base_domain: str) -> str:
    """What `demo` prints when it serves: for each tenant an address, a login, a key, four commands."""
    parts = [
        f"Metrics Service serves {len(tenants)} demo tenants. Ctrl-C stops it; the data stays.\n"
        "Each has an address of its own: open it in a browser, and sign in with its login."
        + otlp_grpc_line(binding)
    ]
    for shown in tenants:
        url = f"http://{shown.tenant.domain}.{base_domain}:{binding.port}"
        authorization = f"-H 'Authorization: Bearer {shown.key}'"
        item = {"tool_name": "Bash", "started_at": _now(), "duration_ms": 42.5}
        batch = msgspec.json.encode([item]).decode()
        parts.append(
            f"{shown.tenant.name} ({shown.tenant.subscription_plan})  {url}\n"
            f"{login_line(shown.login)}"
            f"  key   {shown.key}  (read and ingest, for {KEY_LIVES.days} days)\n"
            f"  read  curl -s {authorization} '{url}/api/v1/sessions?limit=3'\n"
            f"  send  curl -s {authorization} -H 'Content-Type: application/json'"
            f" -d '{batch}' '{url}/api/v1/tool-metrics/batch'\n"
            f"  look  curl -sS {authorization} '{url}{overview_of(shown.tenant)}' -o overview.png\n"
            f"  agent {agent_command(shown, binding, base_domain)}"
        )
    return "\n\n".join(parts) + "\n"


def operators_introduction(key: str, binding: Binding, settings: Settings) -> str:
    """What `demo` prints for whoever looks after the service."""
    domain = settings.metrics_operator_domain or ""
    host = strip_base(domain, settings.metrics_base_domain)
    url = f"http://{host}.{settings.metrics_base_domain}:{binding.port}"
    return (
        f"Operators  {url}\n"
        f"  key   {key}  (to sign in there, for {KEY_LIVES.days} days)\n"
        f"  read  curl -s -H 'Authorization: Bearer {key}' '{url}/operator/api/v1/tenants'\n"
    )


def login_line(login: Login | None) -> str:
    """Who signs in on the page; nothing where nobody does."""
    if login is None:
        return ""
    password = login.password or "with the password that you chose"
    return f"  login {login.email}  {password}\n"


def overview_of(tenant: Tenant) -> str:
    """Where the picture of the seeded overview is."""
    dashboard_id = seed_id(tenant.id, f"dashboard:{OVERVIEW.key}")
    return f"/api/v1/dashboards/{dashboard_id}/image"


def agent_command(shown: DemoTenant, binding: Binding, base_domain: str) -> str:
    """How to start Claude Code so that it sends here."""
    endpoint = Endpoint("http", f"{shown.tenant.domain}.{base_domain}", binding.port)
    connection = Connection(
        endpoint=endpoint, protocol=claude_code.AGENT.protocols[0], key=shown.key
    )
    return " ".join([*assignments(claude_code.variables(connection)), "claude"])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
