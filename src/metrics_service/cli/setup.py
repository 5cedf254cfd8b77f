"""`metrics-service setup`: how a client is pointed at a tenant, ready to paste."""

from __future__ import annotations

from datetime import timedelta
from typing import cast
from urllib.parse import urlsplit

import msgspec
import rich_click as click
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.cli.connect import Opened, opened_database
from metrics_service.cli.key import issue
from metrics_service.cli.options import Duration
from metrics_service.cli.output import json_option, print_json, print_many
from metrics_service.errors import InvalidNameError, MalformedRequestError
from metrics_service.fields import Protocol, ShortText
from metrics_service.setup.compose import (
    WrongProtocolError,
    choose_protocol,
    compose,
    find_agent,
    list_agents,
)
from metrics_service.setup.connection import PLACEHOLDER, Connection, Endpoint, Scheme
from metrics_service.setup.schemas import IssuedSetup, Part, Setup
from metrics_service.tenants.keys import IssuedKey
from metrics_service.tenants.names import normalize_host, strip_base
from metrics_service.tenants.registry import Tenant, get_tenant

PROTOCOLS = ("http/protobuf", "http/json", "grpc")
OF_A_KEY = ("key_name", "email", "expires_in")


@click.command()
@click.argument("agent", required=False)
@click.option("--tenant", "slug", help="The tenant: its slug, id or domain.")
@click.option(
    "--protocol",
    type=click.Choice(PROTOCOLS),
    help="One that the client speaks; by default the first that the list shows.",
)
@click.option("--repository", help="Told with everything that is sent, to filter by: acme/shop.")
@click.option("--team", help="Told with everything that is sent, to filter by: web.")
@click.option(
    "--endpoint",
    metavar="URL",
    help="Where the tenant is reached, if not at its first domain and METRICS_PORT: "
    "https://metrics.acme.com behind a proxy.",
)
@click.option(
    "--grpc-endpoint",
    metavar="URL",
    help="The same for OTLP over gRPC; METRICS_OTLP_GRPC_PORT says its port otherwise.",
)
@click.option("--new-key", is_flag=True, help="Issue a key with the scope ingest, and put it in.")
@click.option("--key-name", help="What that key is for; the agent by default.")
@click.option(
    "--user", "email", metavar="EMAIL", help="Whose key it is; what it sends is that user's."
)
@click.option("--expires-in", type=Duration(), help="When that key dies by itself: 90d, 24h.")
@json_option
@click.pass_context
def setup(
    context: click.Context,
    agent: str | None,
    slug: str | None,
    protocol: str | None,
    repository: str | None,
    team: str | None,
    endpoint: str | None,
    grpc_endpoint: str | None,
    new_key: bool,
    key_name: str | None,
    email: str | None,
    expires_in: timedelta | None,
    as_json: bool,
) -> None:
    """Print how the client AGENT is pointed at a tenant; without AGENT, list those there are.

    It looks into the service's database; away from it, GET /api/v1/setup/AGENT answers the same.

    Example: metrics-service setup codex --tenant acme --team web --new-key
    """
    if agent is None:
        print_many(list_agents(), as_json=as_json, none="")
        return
    found = find_agent(agent)
    if slug is None:
        raise click.UsageError("--tenant says for which tenant", context)
    if not new_key and any(context.params[name] is not None for name in OF_A_KEY):
        raise click.UsageError("--key-name, --user and --expires-in go with --new-key", context)
    _check_words(repository=repository, team=team)
    with opened_database() as opened:
        tenant = _tenant(opened, slug)
        place = _endpoint(opened, tenant, endpoint, grpc_endpoint)
        try:
            spoken = choose_protocol(found, cast("Protocol | None", protocol), place)
        except WrongProtocolError as error:
            raise click.UsageError(f"--protocol: {error}", context) from None
        issued = None
        if new_key:
            name = key_name or found.code
            issued = issue(opened, slug, ("ingest",), name=name, email=email, expires_in=expires_in)
    connection = Connection(
        endpoint=place,
        protocol=spoken,
        key=PLACEHOLDER if issued is None else issued.key,
        repository=repository,
        team=team,
    )
    _print(compose(found, connection), issued, as_json=as_json)


def _check_words(**given: str | None) -> None:
    for name, value in given.items():
        if value is None:
            continue
        try:
            msgspec.convert(value, ShortText)
            value.encode()
        except (msgspec.ValidationError, UnicodeEncodeError):
            raise InvalidNameError(f"{name}: must be 1 to 255 characters of UTF-8") from None


# -- where ------------------------------------------------------------------------------------------


def _tenant(opened: Opened, slug: str) -> Tenant:
    wanted = opened.tenant_name(slug)
    return opened.in_transaction(lambda connection: get_tenant(connection, wanted))


def _endpoint(
    opened: Opened, tenant: Tenant, given: str | None, given_grpc: str | None
) -> Endpoint:
    settings = opened.settings
    if given is None:
        place = Endpoint("http", _first_host(opened, tenant), settings.metrics_port)
    else:
        place = _parsed("--endpoint", given)
        _require_served(opened, tenant, "--endpoint", place.host)
    grpc = None
    if given_grpc is not None:
        grpc_place = _parsed("--grpc-endpoint", given_grpc)
        _require_served(opened, tenant, "--grpc-endpoint", grpc_place.host)
        grpc = grpc_place.origin
    elif settings.metrics_otlp_grpc_port is not None:
        grpc = f"{place.scheme}://{place.host}:{settings.metrics_otlp_grpc_port}"
    return msgspec.structs.replace(place, grpc=grpc)


def _first_host(opened: Opened, tenant: Tenant) -> str:
    # A name without a dot stands below the base; one with dots is served as it is, too.
    return tenant.domain if "." in tenant.domain else f"{tenant.domain}.{opened.base_domain}"


def _parsed(option: str, url: str) -> Endpoint:
    try:
        parts = urlsplit(url)
        port, host = parts.port, normalize_host(parts.hostname or "")
    except (ValueError, MalformedRequestError):
        raise InvalidNameError(f"{option}: {url!r} is not an address") from None
    is_origin = not (parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc)
    if parts.scheme not in {"http", "https"} or not is_origin:
        raise InvalidNameError(
            f"{option}: {url!r} is not of the form https://metrics.acme.com:8000"
        )
    return Endpoint(cast("Scheme", parts.scheme), host, port)


def _require_served(opened: Opened, tenant: Tenant, option: str, host: str) -> None:
    """An agent whose address is nobody's, or somebody else's, fails where nobody looks."""
    domain = strip_base(host, opened.base_domain)

    async def owner(connection: AsyncConnection) -> object:
        found = await connection.execute(
            text("SELECT id FROM public.resolve_host(:host)"), {"host": domain}
        )
        return found.scalar_one_or_none()

    if opened.in_transaction(owner) != tenant.id:
        raise InvalidNameError(
            f"{option}: {host} is not a domain of {tenant.slug}: name one that is, such as "
            f"{_first_host(opened, tenant)}, or make it one with "
            f"'metrics-service tenant domain add {tenant.slug} {host}'"
        )


# -- how it is printed ------------------------------------------------------------------------------


def _print(composed: Setup, issued: IssuedKey | None, *, as_json: bool) -> None:
    if as_json:
        fields = msgspec.structs.asdict(composed)
        print_json(composed if issued is None else IssuedSetup(**fields, key=issued))
        return
    click.echo(as_text(composed, issued))


def as_text(composed: Setup, issued: IssuedKey | None) -> str:
    """Blocks to paste, each below a line that says where; all else is comments."""
    head = f"# {composed.name}, over {composed.protocol} to {composed.endpoint}\n"
    if issued is not None:
        until = issued.expires_at.isoformat() if issued.expires_at is not None else "it is revoked"
        head += f"# with the key {issued.id}, which is shown here alone and lives until {until}\n"
    blocks = [f"# -- {_place(part)}\n{part.content}" for part in composed.parts]
    notes = "".join(f"# - {note}\n" for note in composed.notes)
    checks = "".join(f"#   {check}\n" for check in composed.check)
    return "\n".join([head, *blocks, f"# To know:\n{notes}", f"# To check:\n{checks}"]).rstrip()


def _place(part: Part) -> str:
    if part.kind == "environment":
        return "into the shell that starts it, or its profile"
    return f"into {part.path}"
