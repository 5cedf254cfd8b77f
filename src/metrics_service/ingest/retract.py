"""Taking back rows that nothing tells of any more, with all that they added.

Sessions are held first, then the rows, as everybody does who writes them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from uuid import UUID

import msgspec
from asyncpg import Record

from metrics_service.db.tenancy import ContextConnection
from metrics_service.errors import UnavailableError
from metrics_service.ingest.call_tables import MODEL_CALLS, TOOL_METRICS, CallTable
from metrics_service.ingest.held_sessions import Held, hold_sessions, open_ledger, part_of
from metrics_service.ingest.parts import PartT
from metrics_service.ingest.rows import as_uuids
from metrics_service.ingest.session_state import (
    Figures,
    Tally,
    add,
    figures_of_model,
    figures_of_tool,
)
from metrics_service.ingest.telemetry import COUNT_OF
from metrics_service.ingest.telemetry_sessions import change_sessions
from metrics_service.ingest.write_again import EVENTS
from metrics_service.rollups.ledger import Ledger

# Of $1, ids: the sessions of rows that came at $2 or later.
SESSIONS_OF_ROWS = """
SELECT s.id, s.agent, s.external_id, s.started_at, s.last_event_at
FROM metrics_sessions s WHERE s.id IN (
    SELECT session_id FROM tool_metrics
    WHERE id = ANY ($1::text::uuid[]) AND part IS NOT NULL AND received_at >= $2
    UNION
    SELECT session_id FROM model_calls
    WHERE id = ANY ($1::text::uuid[]) AND part IS NOT NULL AND received_at >= $2
    UNION
    SELECT session_id FROM session_events
    WHERE id = ANY ($1::text::uuid[]) AND received_at >= $2)
"""
TOOLS = """
SELECT id, session_id, is_counted, status, lines_added, lines_removed FROM tool_metrics
WHERE id = ANY ($1::text::uuid[]) AND part IS NOT NULL AND received_at >= $2
ORDER BY id FOR UPDATE
"""
MODELS = """
SELECT id, session_id, is_counted, status, input_tokens, output_tokens, cache_read_tokens,
       cache_write_tokens, reasoning_tokens, cost_usd_micros
FROM model_calls
WHERE id = ANY ($1::text::uuid[]) AND part IS NOT NULL AND received_at >= $2
ORDER BY id FOR UPDATE
"""
DROP_TOOLS = "DELETE FROM tool_metrics WHERE id = ANY ($1::text::uuid[])"
DROP_MODELS = "DELETE FROM model_calls WHERE id = ANY ($1::text::uuid[])"
# Writers lock these before the session: whoever holds one waits for us, and goes on with it.
DROP_SPANS = """
DELETE FROM tool_spans WHERE id IN (
    SELECT id FROM tool_spans WHERE tool_metric_id = ANY ($1::text::uuid[])
    FOR UPDATE SKIP LOCKED)
"""
DROP_EVENTS = """
DELETE FROM session_events
WHERE id = ANY ($1::text::uuid[]) AND received_at >= $2
    AND (session_id IS NULL OR session_id = ANY ($3::uuid[]))
RETURNING session_id, kind, signal, coalesce(attributes ? 'message.uuid', false) AS has_common_name
"""
# A session of which nothing is left but its name.
EMPTY_SESSIONS = """
SELECT id FROM metrics_sessions s
WHERE id = ANY ($1::text::uuid[]) AND created_at >= $2 AND telemetry IS NOT NULL
  AND productivity_score IS NULL AND metadata = '{}'::jsonb
  AND NOT EXISTS (SELECT 1 FROM tool_metrics x WHERE x.session_id = s.id)
  AND NOT EXISTS (SELECT 1 FROM model_calls x WHERE x.session_id = s.id)
  AND NOT EXISTS (SELECT 1 FROM session_events x WHERE x.session_id = s.id)
  AND NOT EXISTS (SELECT 1 FROM counter_deltas x WHERE x.session_id = s.id)
  AND NOT EXISTS (SELECT 1 FROM session_tags x WHERE x.session_id = s.id)
ORDER BY id
"""
LOCK_SESSIONS = """
SELECT id FROM metrics_sessions WHERE id = ANY ($1::text::uuid[]) ORDER BY id FOR UPDATE
"""
DROP_TRACES = """
DELETE FROM trace_sessions WHERE trace_id IN (
    SELECT trace_id FROM trace_sessions WHERE session_id = ANY ($1::uuid[])
    FOR UPDATE SKIP LOCKED)
"""
DROP_SESSIONS = "DELETE FROM metrics_sessions WHERE id = ANY ($1::uuid[])"
# Told again while nobody looked.
STILL_TOLD = """
SELECT DISTINCT t.id FROM raw_requests r, unnest(r.row_ids) AS t(id)
WHERE r.received_at >= $2 AND t.id = ANY ($1::text::uuid[])
"""


class Stale(msgspec.Struct, frozen=True):
    """Ids that no request tells of any more, and what to know before they go."""

    ids: Sequence[int]
    kept_since: datetime
    """When the oldest kept request arrived: other rows may have been told of by those before it."""
    asked_at: datetime
    """Requests that arrived later were not asked yet whether they tell of them."""


async def retract(connection: ContextConnection, tenant_id: UUID, stale: Stale) -> Counter[str]:
    """Remove what of these is stored; return how many rows of which table that were."""
    ids = as_uuids(stale.ids)
    found = await connection.fetch(SESSIONS_OF_ROWS, ids, stale.kept_since)
    held = await hold_sessions(connection, [part_of(row) for row in found])
    if any(one.is_new for one in held.values()):
        # Deleted in this moment, and holding it has made it anew.
        raise UnavailableError
    told = await connection.fetch(STILL_TOLD, ids, stale.asked_at)
    ids = as_uuids(set(stale.ids) - {row["id"].int for row in told})
    ledger = open_ledger(held)
    rows = await connection.fetch(TOOLS, ids, stale.kept_since)
    tools = await _take_calls(connection, TOOL_METRICS, figures_of_tool, rows, held, ledger)
    await connection.execute(DROP_SPANS, as_uuids(tools))
    await connection.execute(DROP_TOOLS, as_uuids(tools))
    rows = await connection.fetch(MODELS, ids, stale.kept_since)
    models = await _take_calls(connection, MODEL_CALLS, figures_of_model, rows, held, ledger)
    await connection.execute(DROP_MODELS, as_uuids(models))
    events = await connection.fetch(DROP_EVENTS, ids, stale.kept_since, list(held))
    for event in events:
        _take_event(event, held)
    await change_sessions(connection, tenant_id, held.values(), {})
    await ledger.put_sessions(connection)
    await ledger.write(connection)
    return Counter(
        {
            TOOL_METRICS.source.table: len(tools),
            MODEL_CALLS.source.table: len(models),
            EVENTS: len(events),
        }
    )


async def _take_calls(
    connection: ContextConnection,
    table: CallTable[PartT],
    figures_of: Callable[[PartT], Figures],
    rows: Iterable[Record],
    held: dict[UUID, Held],
    ledger: Ledger,
) -> list[int]:
    """Take back what these calls add; return their ids."""
    # What was given to another session in this moment has been told of again.
    ours = [row for row in rows if row["session_id"] is None or row["session_id"] in held]
    await ledger.enter_rows(connection, table.source, [row["id"] for row in ours], sign=-1)
    for row in ours:
        if row["session_id"] is not None and row["is_counted"]:
            counted = table.kind(**{name: row[name] for name in table.counted})
            add(held[row["session_id"]].state.calls, figures_of(counted), -1)
    return [row["id"].int for row in ours]


def _take_event(event: Record, held: dict[UUID, Held]) -> None:
    name = COUNT_OF.get(event["kind"])
    if name is None or event["session_id"] is None:
        return
    tally = Tally()
    tally.count(name, event["signal"], has_common_name=event["has_common_name"], sign=-1)
    held[event["session_id"]].count(tally)


async def drop_empty_sessions(connection: ContextConnection, stale: Stale) -> int:
    """Remove the sessions among these of which nothing is left; return how many that were.

    In a transaction of its own: sessions are locked in one order.
    """
    ids = as_uuids(stale.ids)
    found = await connection.fetch(EMPTY_SESSIONS, ids, stale.kept_since)
    if not found:
        return 0
    locked = await connection.fetch(LOCK_SESSIONS, as_uuids(row["id"].int for row in found))
    told = await connection.fetch(STILL_TOLD, ids, stale.asked_at)
    asked = {row["id"].int for row in locked} - {row["id"].int for row in told}
    # Asked again: somebody may have filled one while it was not locked.
    empty = await connection.fetch(EMPTY_SESSIONS, as_uuids(asked), stale.kept_since)
    gone = [row["id"] for row in empty]
    ledger = Ledger()
    await ledger.take_sessions(connection, gone)
    await connection.execute(DROP_TRACES, gone)
    await connection.execute(DROP_SESSIONS, gone)
    await ledger.write(connection)
    return len(gone)
