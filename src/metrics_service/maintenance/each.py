"""Does one thing for every tenant: where one refuses, that is told, and the others have their turn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.db.failures import driver_error
from metrics_service.maintenance.place import Housed, housed_tenants, in_schema
from metrics_service.observability.work import name_of

log = structlog.get_logger(__name__)


class Turn(msgspec.Struct):
    """What became of one turn."""

    tenants: int = 0
    left_out: int = 0
    """Tenants whose tables were locked, or gone: their turn comes again."""
    rows: int = 0


async def each_tenant(
    connection: AsyncConnection, do: Callable[[AsyncConnection, Housed], Awaitable[int]]
) -> Turn:
    """Call `do` in a transaction of each tenant; it says how many rows it wrote or deleted."""
    turn = Turn()
    for housed in await housed_tenants(connection):
        try:
            async with in_schema(connection, housed):
                rows = await do(connection, housed)
        except DBAPIError as error:
            if connection.invalidated:
                raise
            turn.left_out += 1
            log.warning(
                "tenant left out of maintenance",
                tenant_id=str(housed.tenant_id),
                reason=name_of(driver_error(error)),
            )
        else:
            turn.tenants += 1
            turn.rows += rows
    return turn
