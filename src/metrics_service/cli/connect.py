"""What every command opens first: the settings, the database, one connection of the owner."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec
import rich_click as click
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.cli.signals import run_async
from metrics_service.db.addresses import Addresses, database_addresses
from metrics_service.db.engine import owner_connection
from metrics_service.db.waiting import servers_of, wait_for_database
from metrics_service.errors import ConflictError, MalformedRequestError
from metrics_service.settings import Settings, load_settings
from metrics_service.tenants.names import normalize_host, strip_base
from metrics_service.tenants.registry import Tenant, get_tenant

Result = TypeVar("Result")


class Opened(msgspec.Struct, frozen=True):
    """The settings, and where the database is."""

    settings: Settings
    addresses: Addresses

    @property
    def base_domain(self) -> str:
        return self.settings.metrics_base_domain

    def tenant_name(self, given: str) -> str:
        """A slug, id or domain as the registry spells it."""
        try:
            return strip_base(normalize_host(given), self.base_domain)
        except MalformedRequestError:
            return given

    def served_tenant(self, given: str) -> Tenant:
        """The tenant by its slug, id or domain; raises `ConflictError` for one that is deleted."""
        name = self.tenant_name(given)
        tenant = self.in_transaction(lambda connection: get_tenant(connection, name))
        if tenant.status in {"deleting", "deleted"}:
            raise ConflictError(f"tenant {tenant.slug} is {tenant.status}")
        return tenant

    def as_owner(self, work: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
        """Do the work on one connection of the owner, which is in no transaction yet."""

        async def connected() -> Result:
            async with owner_connection(self.addresses.require_owner()) as connection:
                return await work(connection)

        return run_async(connected())

    def in_transaction(self, work: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
        """As `as_owner`, in one transaction."""

        async def begun(connection: AsyncConnection) -> Result:
            async with connection.begin():
                return await work(connection)

        return self.as_owner(begun)


@contextmanager
def opened_database(*, upgrade: bool = False, prepare: bool = True) -> Iterator[Opened]:
    """Say where the database is, when it answers.

    An empty embedded one is initialised, if `prepare` allows; a given one is waited for. Raises
    `DatabaseUnreachableError`.
    """
    settings = load_settings()
    with database_addresses(settings) as addresses:
        if addresses.embedded is None:
            run_async(_wait_for_database(settings, addresses))
        if prepare and addresses.embedded is not None:
            # What migrates takes long to be imported, and no other database is migrated unasked.
            from metrics_service.tenants.initialise import prepare_embedded  # noqa: PLC0415

            for outcome in run_async(prepare_embedded(addresses, upgrade=upgrade)):
                if outcome.error is not None:
                    click.echo(f"{outcome.schema_name}: {outcome.error}", err=True)
        yield Opened(settings, addresses)


async def _wait_for_database(settings: Settings, addresses: Addresses) -> None:
    asked = set()
    for dsn in filter(None, (addresses.runtime, addresses.owner)):
        # Often one server: the owner's may be behind a pooler, or another port.
        if (where := servers_of(dsn)) in asked:
            continue
        asked.add(where)
        await wait_for_database(
            dsn,
            attempts=settings.db_retry_attempts,
            delay_ms=settings.db_retry_delay_ms,
            say=_say,
        )


def _say(line: str) -> None:
    click.echo(f"metrics-service: {line}", err=True)
