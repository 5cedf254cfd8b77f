"""Storing a `Telemetry` in one transaction, so that any order of requests gives the same tables."""

from __future__ import annotations

from uuid import UUID

from metrics_service.db.tenancy import ContextConnection
from metrics_service.ingest.telemetry import Telemetry
from metrics_service.ingest.tool_names import ToolNames


async def write_telemetry(
    connection: ContextConnection, out: Telemetry, *, owner: UUID | None, tool_names: ToolNames
) -> None:
    """Store everything; the caller's transaction commits.

    `owner` is the user whose personal key sent it.
    """
    raise NotImplementedError
