"""Taking in one OTLP request, however it came: read, then stored in one transaction."""

from __future__ import annotations

import time

from metrics_service.http.dependencies import Caller
from metrics_service.ingest.telemetry import Telemetry
from metrics_service.otlp.decode import Reading, read_request
from metrics_service.otlp.decoded import Signal


async def receive(caller: Caller, signal: Signal, body: bytes, *, is_json: bool) -> Reading:
    """Store what a request says; what was refused is in the answer, the rest is committed.

    Raises `MalformedRequestError`, `ForbiddenError`, and what the database has to say.
    """
    keeps_content = await caller.database.tenant_settings.keeps_content(caller.tenant_id)
    out = Telemetry(caller.tenant_id, keeps_content=keeps_content)
    reading = read_request(signal, body, is_json=is_json, received_ns=time.time_ns(), out=out)
    if out.is_empty:
        return reading
    writer = caller.database.telemetry
    async with caller.writing() as connection:
        names = await writer.write(connection, out, owner=caller.principal.user_id)
    writer.remember(caller.tenant_id, names)
    return reading
