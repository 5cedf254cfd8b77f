"""Storing a batch of tool metrics."""

from __future__ import annotations

from uuid import UUID

from metrics_service.http.batches import Batch, BatchQuery, BatchReceipt
from metrics_service.http.dependencies import Caller
from metrics_service.ingest.records import ToolMetricRecord, session_id_of
from metrics_service.ingest.write import admit_facts, write_facts
from metrics_service.tenants.changed import MAX_SESSIONS


async def store_batch(
    caller: Caller, batch: Batch[ToolMetricRecord], query: BatchQuery
) -> BatchReceipt:
    """One transaction: all of the batch, or with `on_error=skip` all that is valid of it."""
    batch.settle(query)
    tool_names = caller.database.tool_names
    async with caller.writing() as connection:
        batch.reject(await admit_facts(connection, caller.tenant_id, batch.items, tool_names))
        batch.settle(query)
        names = {item.tool_name for item in batch.items}
        sessions = _sessions_of(caller.tenant_id, batch.items)
        receipt = await write_facts(connection, caller.tenant_id, batch.items)
    tool_names.remember(caller.tenant_id, names)
    if receipt.inserted:
        caller.database.changes.note(caller.tenant_id, sessions)
    return batch.receipt(query, inserted=receipt.inserted, duplicates=receipt.duplicates)


def _sessions_of(tenant_id: UUID, items: list[ToolMetricRecord]) -> set[UUID] | None:
    """The sessions that the items name; None when they are too many to be told one by one."""
    stated = {item.session_id for item in items}
    named = {(item.agent, item.external_session_id) for item in items}
    if len(stated) + len(named) > MAX_SESSIONS:
        return None
    sessions = {session_id for session_id in stated if session_id is not None}
    for agent, external_id in named:
        if agent is not None and external_id is not None:
            sessions.add(session_id_of(tenant_id, agent, external_id))
    return sessions
