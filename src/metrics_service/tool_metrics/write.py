"""Storing a batch of tool metrics."""

from __future__ import annotations

from metrics_service.http.batches import Batch, BatchQuery, BatchReceipt
from metrics_service.http.dependencies import Caller
from metrics_service.ingest.records import ToolMetricRecord
from metrics_service.ingest.write import admit_facts, write_facts


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
        receipt = await write_facts(connection, caller.tenant_id, batch.items)
    tool_names.remember(caller.tenant_id, names)
    return batch.receipt(query, inserted=receipt.inserted, duplicates=receipt.duplicates)
