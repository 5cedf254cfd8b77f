"""One look at the server: whether it lets anybody in and answers, and which one it is."""

from __future__ import annotations

import asyncpg

from metrics_service.db.breaker import PATIENCE_S, Server
from metrics_service.db.hosts import Hosts
from metrics_service.db.probe import WHICH

NAME = "metrics-service-look"
"""What the connection is called at the server."""


async def look_at(hosts: Hosts) -> Server:
    """Raises what asyncpg does; bounded by whoever calls."""
    # Nothing is to be kept prepared for one question, nor is it to be found out whether it could be.
    connection: asyncpg.Connection = await hosts.connect(
        application_name=NAME, timeout=PATIENCE_S, prepared_statements="off"
    )
    try:
        # In one transaction, for a pooler gives each to another of its connections.
        async with connection.transaction(readonly=True):
            row = await connection.fetchrow(f"SELECT {WHICH}")
    finally:
        # It says good-bye and does not wait: a server that is away would let us wait.
        connection.terminate()
    return Server(**dict(row))
