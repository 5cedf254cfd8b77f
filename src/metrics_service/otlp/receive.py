"""Taking in one OTLP request, however it came: read, then stored in one transaction."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from uuid import UUID

import structlog

from metrics_service.db.attempts import moment_ns
from metrics_service.db.failures import VALUES_REFUSED
from metrics_service.errors import MalformedRequestError
from metrics_service.fields import Signal
from metrics_service.http.admission import Purpose
from metrics_service.http.dependencies import Caller
from metrics_service.ingest.raw_requests import RawRequest, compressed, told_by
from metrics_service.ingest.telemetry import Telemetry
from metrics_service.observability.work import span
from metrics_service.otlp.decode import Reading, read_in_turns

# One at a time: several that are read side by side would all be in memory, parsed and not yet mapped.
LARGE_BYTES = 1024 * 1024

_log = structlog.get_logger()


async def receive(caller: Caller, signal: Signal, body: bytes, *, is_json: bool) -> Reading:
    """Store what a request says; what was refused is in the answer, the rest is committed.

    Raises `MalformedRequestError`, `BodyTooLargeError`, and what the database has to say.
    """
    database = caller.database
    allowed = await database.tenant_settings.allowed(caller.tenant_id)
    out = Telemetry(caller.tenant_id, keeps_content=allowed.keeps_content)
    # As exactly as it is kept: mapped again, now or later, an item without a time must get the same one.
    received_ns = moment_ns()
    is_large = len(body) > LARGE_BYTES
    async with (
        database.large_bodies.turn(caller.tenant_id, Purpose.WRITE, nullcontext())
        if is_large
        else nullcontext()
    ):
        with span("ingest.decode", signal=signal, bytes=len(body)) as stage:
            reading = await read_in_turns(
                signal, body, is_json=is_json, received_ns=received_ns, out=out
            )
            stage.note(records=reading.accepted, refused=reading.rejected)
    raw = None
    if allowed.raw_hours:
        with span("ingest.compress"):
            raw = await _raw(caller, signal, body, is_json=is_json, received_ns=received_ns)
    del body
    if out.is_empty and raw is None:
        return reading
    try:
        names = await _store(caller, out, raw)
        if not out.is_empty:
            database.changes.note(caller.tenant_id, _sessions_of(out))
        if raw is not None:
            door, hours = caller.writing, allowed.raw_hours
            await database.raw_sweeper.sweep(door, caller.tenant_id, hours)
    except VALUES_REFUSED as error:
        # A mapper let something through that no row can hold; sent again it would be refused again.
        _log.error("telemetry refused by the database", exc_info=error)
        raise MalformedRequestError("an item has a value that cannot be stored") from None
    database.telemetry.remember(caller.tenant_id, names)
    return reading


async def _raw(
    caller: Caller, signal: Signal, body: bytes, *, is_json: bool, received_ns: int
) -> RawRequest:
    return RawRequest(
        signal,
        is_json,
        received_ns,
        owner_id=caller.principal.user_id,
        key_id=caller.principal.id,
        body=await compressed(body),
        body_bytes=len(body),
    )


async def _store(caller: Caller, out: Telemetry, raw: RawRequest | None) -> set[str]:
    # Before it is written, which finds other names for some of it.
    told = told_by(out) if raw is not None else set()
    names: set[str] = set()
    async with caller.ingesting() as connection:
        if not out.is_empty:
            writer = caller.database.telemetry
            sender = caller.principal
            names = await writer.write(connection, out, owner=sender.user_id, key_id=sender.id)
        if raw is not None:
            with span("ingest.keep_raw"):
                await raw.keep(connection, told)
    return names


def _sessions_of(out: Telemetry) -> Iterable[UUID] | None:
    # Whose calls the spans are inside of, only the database knows.
    return None if out.inside else (session.id for session in out.sessions.values())
