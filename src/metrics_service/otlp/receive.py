"""Taking in one OTLP request, however it came: read, then stored in one transaction."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack

import structlog

from metrics_service.db.failures import VALUES_REFUSED
from metrics_service.errors import MalformedRequestError
from metrics_service.http.dependencies import Caller
from metrics_service.ingest.telemetry import Telemetry
from metrics_service.otlp.decode import Reading, read_in_turns
from metrics_service.otlp.decoded import Signal

# One at a time: several that are read side by side would all be in memory, parsed and not yet mapped.
LARGE_BYTES = 1024 * 1024

_log = structlog.get_logger()


async def receive(caller: Caller, signal: Signal, body: bytes, *, is_json: bool) -> Reading:
    """Store what a request says; what was refused is in the answer, the rest is committed.

    Raises `MalformedRequestError`, `BodyTooLargeError`, and what the database has to say.
    """
    database = caller.database
    keeps_content = await database.tenant_settings.keeps_content(caller.tenant_id)
    out = Telemetry(caller.tenant_id, keeps_content=keeps_content)
    async with AsyncExitStack() as stack:
        if len(body) > LARGE_BYTES:
            # First among the tenant's own, so that of many from one tenant one waits for the others'.
            await stack.enter_async_context(database.large_reads.take(caller.tenant_id))
            await stack.enter_async_context(database.large_read)
        reading = await read_in_turns(
            signal, body, is_json=is_json, received_ns=time.time_ns(), out=out
        )
    del body
    if out.is_empty:
        return reading
    try:
        async with database.turns.take(caller.tenant_id), caller.writing() as connection:
            names = await database.telemetry.write(connection, out, owner=caller.principal.user_id)
    except VALUES_REFUSED as error:
        # A mapper let something through that no row can hold; sent again it would be refused again.
        _log.error("telemetry refused by the database", exc_info=error)
        raise MalformedRequestError("an item has a value that cannot be stored") from None
    database.telemetry.remember(caller.tenant_id, names)
    return reading
