"""What every process says of itself in the registry, where operators look for it."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Self
from uuid import UUID, uuid4

import asyncpg
import msgspec

from metrics_service.fleet.views import HealthStatus, ProcessKind

REPORT = "SELECT public.report_process($1, $2, $3, $4, $5, $6, $7, $8)"
LEAVE = "SELECT public.leave_process($1)"


class ThisProcess(msgspec.Struct, frozen=True):
    """Which process speaks; made once, when it begins."""

    id: UUID
    kind: ProcessKind
    host: str
    pid: int
    version: str
    started_at: datetime

    @classmethod
    def of(cls, kind: ProcessKind) -> Self:
        return cls(
            id=uuid4(),
            kind=kind,
            host=socket.gethostname(),
            pid=os.getpid(),
            version=version("metrics-service"),
            started_at=datetime.now(UTC),
        )


async def report_process(
    connection: asyncpg.Connection[Any], process: ThisProcess, status: HealthStatus, report: object
) -> None:
    """Say how the process is; a report that is not renewed is forgotten after an hour."""
    await connection.execute(
        REPORT,
        process.id,
        process.kind,
        process.host,
        process.pid,
        process.version,
        process.started_at,
        status,
        msgspec.json.encode(report).decode(),
    )


async def leave_process(connection: asyncpg.Connection[Any], process: ThisProcess) -> None:
    """Say that the process has ended, as it should."""
    await connection.execute(LEAVE, process.id)
