"""`metrics-service serve`: the HTTP server on a database that is ready for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import asyncpg
import rich_click as click
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from metrics_service.cli.connect import Opened, opened_database
from metrics_service.cli.maintenance import maintenance_beside
from metrics_service.cli.server import Binding, check_ports, run_server
from metrics_service.cli.signals import end_if_told, run_async, until_told
from metrics_service.db.engine import owner_connection
from metrics_service.db.failures import driver_error
from metrics_service.errors import ConflictError, MigrationError
from metrics_service.ingest.prices import load_prices
from metrics_service.logs import configure_logging
from metrics_service.observability.export import load_otel_settings
from metrics_service.settings import Settings, load_settings
from metrics_service.tenants.check import OLDEST_MAJOR
from metrics_service.tenants.operator_domain import operators_hosts
from metrics_service.tenants.revisions import REGISTRY, is_behind

host_option = click.option("--host", help="METRICS_HOST by default.")
port_option = click.option("--port", type=click.IntRange(1, 65535), help="METRICS_PORT by default.")
workers_option = click.option(
    "--workers", type=click.IntRange(1, 256), help="METRICS_WORKERS by default."
)
otlp_grpc_port_option = click.option(
    "--otlp-grpc-port",
    type=click.IntRange(1, 65535),
    help="Take OTLP over gRPC at this port too; METRICS_OTLP_GRPC_PORT by default. Clients expect 4317.",
)


@click.command()
@host_option
@port_option
@workers_option
@otlp_grpc_port_option
def serve(
    host: str | None, port: int | None, workers: int | None, otlp_grpc_port: int | None
) -> None:
    """Serve HTTP until SIGTERM or Ctrl-C; requests in flight are answered first.

    SIGHUP replaces the workers, one after the other: each serves on until its successor does, and
    answers what it has. A database that is away is waited for (DB_RETRY_ATTEMPTS).
    """
    binding = binding_of(load_settings(), host, port, workers, otlp_grpc_port)
    with until_told(), database_to_serve() as opened:
        serve_on(
            opened,
            binding,
            on_ready=lambda: click.echo(
                f"Metrics Service serves {binding.url}{otlp_grpc_line(binding)}"
            ),
        )


def binding_of(
    settings: Settings,
    host: str | None,
    port: int | None,
    workers: int | None,
    otlp_grpc_port: int | None,
) -> Binding:
    """Where to listen; raises `PortTakenError` before anything is started."""
    return check_ports(
        Binding(
            host=host or settings.metrics_host,
            port=port or settings.metrics_port,
            workers=workers or settings.metrics_workers,
            otlp_grpc_port=otlp_grpc_port or settings.metrics_otlp_grpc_port,
        )
    )


def otlp_grpc_line(binding: Binding) -> str:
    """A line on where OTLP over gRPC is taken, to follow another; nothing where it is not."""
    url = binding.otlp_grpc_url
    return "" if url is None else f"\nOTLP over gRPC is taken at {url}"


@contextmanager
def database_to_serve() -> Iterator[Opened]:
    """Open the database; the embedded one is brought to head and looked after."""
    with opened_database(upgrade=True) as opened:
        embedded = opened.addresses.embedded
        with embedded.watched() if embedded is not None else nullcontext():
            yield opened


def serve_on(opened: Opened, binding: Binding, *, on_ready: Callable[[], None]) -> None:
    settings = opened.settings
    tell_workers(opened, binding)
    run_async(require_head(opened.addresses.runtime))
    run_async(require_operators_alone(opened))
    # Each process reads them again; here a mistake is one message before anything is served.
    load_prices(settings.prices_file)
    load_otel_settings()
    configure_logging(settings.metrics_log_level, json=not os.isatty(1))
    end_if_told()
    with maintenance_beside(opened) as maintenance:

        def ready() -> None:
            on_ready()
            if maintenance is not None:
                maintenance.start()

        run_server(
            binding,
            streams_max=settings.metrics_streams_max,
            drain_delay_ms=settings.metrics_drain_delay_ms,
            is_verbose=settings.metrics_log_level == "debug",
            on_ready=ready,
        )


def tell_workers(opened: Opened, binding: Binding) -> None:
    """Leave in the environment what workers read their settings from, and no more."""
    os.environ["METRICS_SECRET_KEY"] = opened.settings.secret_key().decode()
    os.environ["DATABASE_URL"] = opened.addresses.runtime
    os.environ["METRICS_HOST"], os.environ["METRICS_PORT"] = binding.host, str(binding.port)
    # An empty one is none.
    os.environ["METRICS_OTLP_GRPC_PORT"] = str(binding.otlp_grpc_port or "")
    # Only the command line and maintenance may own.
    os.environ.pop("DATABASE_OWNER_URL", None)
    if opened.addresses.embedded is not None:
        os.environ.pop("DATABASE_DIRECT_URL", None)


async def require_head(runtime_dsn: str) -> None:
    """Raise `MigrationError` unless the server is supported and its registry at head, or ahead."""
    try:
        async with owner_connection(runtime_dsn) as connection:
            number = text("SELECT current_setting('server_version_num')::int")
            _refuse_old(await connection.scalar(number) // 10_000)
            revision = await connection.scalar(
                text("SELECT public.schema_revision(:schema)"), {"schema": REGISTRY}
            )
    except DBAPIError as error:
        if isinstance(
            driver_error(error),
            (asyncpg.UndefinedFunctionError, asyncpg.InsufficientPrivilegeError),
        ):
            raise MigrationError(
                "the database is not initialised; run 'metrics-service db init'"
            ) from error
        raise
    if is_behind("registry", revision):
        raise MigrationError(
            f"the registry is behind this release ({revision}); run 'metrics-service db upgrade'"
        )


def _refuse_old(major: int) -> None:
    if major < OLDEST_MAJOR:
        raise MigrationError(
            f"the database is PostgreSQL {major}; the service needs {OLDEST_MAJOR} or later"
        )


async def require_operators_alone(opened: Opened) -> None:
    """Raise `ConflictError` when a tenant is registered where operators are to look."""
    domain = opened.settings.metrics_operator_domain
    if domain is None:
        return
    async with owner_connection(opened.addresses.runtime) as connection:
        for host in sorted(operators_hosts(domain, opened.base_domain)):
            slug = await connection.scalar(
                text("SELECT slug FROM public.resolve_host(:host)"), {"host": host}
            )
            if slug is not None:
                raise ConflictError(
                    f"METRICS_OPERATOR_DOMAIN {domain} is a domain of tenant {slug}; choose another,"
                    f" or run 'metrics-service tenant domain remove {slug} {host}'"
                )
