"""Storing what clients state about sessions."""

from __future__ import annotations

from uuid import UUID

from metrics_service.db.tenancy import ContextConnection
from metrics_service.errors import FieldError, InvalidBodyError, NotFoundError
from metrics_service.fields import now
from metrics_service.http.batches import Batch, BatchQuery, BatchReceipt
from metrics_service.http.dependencies import Caller
from metrics_service.ingest.people import unknown_users
from metrics_service.ingest.records import SessionRecord, session_id_of
from metrics_service.ingest.write import admit_sessions, write_sessions
from metrics_service.sessions.repository import change_session, find_session
from metrics_service.sessions.schemas import SessionPatch, SessionView, patch_errors, session_error


async def state_session(caller: Caller, record: SessionRecord) -> tuple[SessionView, bool]:
    """Create or update one session; return it and whether it is new."""
    if (error := session_error(record, now())) is not None:
        raise InvalidBodyError([error])
    async with caller.writing() as connection:
        refused = await admit_sessions(connection, [record])
        if refused:
            raise InvalidBodyError(list(refused.values()))
        known = await write_sessions(connection, caller.tenant_id, [record])
        session_id = session_id_of(caller.tenant_id, record.agent, record.external_id)
        view = await get_session(connection, session_id)
    caller.database.changes.note(caller.tenant_id, [session_id])
    return view, known[session_id]


async def state_sessions(
    caller: Caller, batch: Batch[SessionRecord], query: BatchQuery
) -> BatchReceipt:
    """Create or update many; a session that was there, or stands twice, counts as a duplicate."""
    batch.settle(query)
    async with caller.writing() as connection:
        batch.reject(await admit_sessions(connection, batch.items))
        batch.settle(query)
        known = await write_sessions(connection, caller.tenant_id, batch.items)
    caller.database.changes.note(caller.tenant_id, known)
    inserted = sum(known.values())
    return batch.receipt(query, inserted=inserted, duplicates=len(batch.items) - inserted)


async def patch_session(caller: Caller, session_id: UUID, patch: SessionPatch) -> SessionView:
    """Change fields by hand. Raises `NotFoundError`, `InvalidBodyError`."""
    if errors := patch_errors(patch):
        raise InvalidBodyError(errors)
    async with caller.writing() as connection:
        await _refuse_unknown_user(connection, patch)
        if not await change_session(connection, session_id, patch):
            raise NotFoundError("session", session_id)
        view = await get_session(connection, session_id)
        if view.ended_at is not None and view.ended_at < view.started_at:
            raise InvalidBodyError([FieldError("is before started_at", field="ended_at")])
    caller.database.changes.note(caller.tenant_id, [session_id])
    return view


async def _refuse_unknown_user(connection: ContextConnection, patch: SessionPatch) -> None:
    user_id = patch.given().get("user_id")
    if user_id is not None and await unknown_users(connection, [user_id]):
        raise InvalidBodyError([FieldError("there is no such user", field="user_id")])


async def get_session(connection: ContextConnection, session_id: UUID) -> SessionView:
    """Raises `NotFoundError`."""
    view = await find_session(connection, session_id)
    if view is None:
        raise NotFoundError("session", session_id)
    return view
