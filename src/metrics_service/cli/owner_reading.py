"""Reads as the owner what the service's own functions read: on asyncpg's connection itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.cli.connect import Opened

Result = TypeVar("Result")


def read_as_owner(
    opened: Opened, work: Callable[[asyncpg.Connection[Any]], Awaitable[Result]]
) -> Result:
    """Do the work in a transaction of the owner that cannot write."""

    async def connected(connection: AsyncConnection) -> Result:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        async with driver.transaction(readonly=True):
            return await work(driver)

    return opened.as_owner(connected)
