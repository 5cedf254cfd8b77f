"""The write path, one for every way in: dedupe, insert, extend sessions, inside one transaction.

Only rows that were really inserted are counted, so a batch sent twice, in any split, changes nothing
the second time. The caller's transaction commits; nothing is acknowledged before that.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Any, TypeVar, cast
from uuid import UUID

import msgspec

from metrics_service.db.tenancy import ContextConnection
from metrics_service.errors import FieldError
from metrics_service.ingest.people import unknown_users, users_by_email
from metrics_service.ingest.records import (
    ModelCallRecord,
    Receipt,
    SessionRecord,
    ToolMetricRecord,
    content_id,
    session_id_of,
)
from metrics_service.ingest.sessions import (
    Extent,
    SessionName,
    extend_sessions,
    find_named,
    state_sessions,
)
from metrics_service.ingest.tool_names import MAX_TOOL_NAMES, ToolNames

Fact = ToolMetricRecord | ModelCallRecord
FactT = TypeVar("FactT", ToolMetricRecord, ModelCallRecord)

# PostgreSQL parses one JSON parameter of this many rows faster than one of ten thousand.
ROWS_A_STATEMENT = 2000

INSERT_TOOL_METRICS = """
WITH item AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1::json) AS r(
        id uuid, session_id uuid, agent text, user_id uuid, tool_name text, tool_category text,
        started_at timestamptz, duration_ms double precision, wait_ms double precision, status text,
        error_type text, cpu_ms double precision, memory_bytes bigint, input_bytes bigint,
        output_bytes bigint, metadata jsonb)
), stored AS (
    INSERT INTO tool_metrics
        (id, session_id, agent, user_id, tool_name, tool_category, started_at, duration_ms, wait_ms,
         status, error_type, cpu_ms, memory_bytes, input_bytes, output_bytes, metadata)
    SELECT id, session_id, agent, user_id, tool_name, tool_category, started_at, duration_ms, wait_ms,
           coalesce(status, 'success'), error_type, cpu_ms, memory_bytes, input_bytes, output_bytes,
           metadata
    FROM item
    ON CONFLICT (tenant_id, id) DO NOTHING
    RETURNING session_id, started_at, duration_ms, status
)
SELECT session_id, count(*) AS tool_call_count,
       count(*) FILTER (WHERE status IN ('error', 'timeout')) AS tool_error_count,
       min(started_at) AS started_at,
       max(started_at + coalesce(duration_ms, 0) * interval '1 millisecond') AS last_event_at
FROM stored GROUP BY session_id
"""

INSERT_MODEL_CALLS = """
WITH item AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1::json) AS r(
        id uuid, session_id uuid, agent text, user_id uuid, started_at timestamptz,
        duration_ms double precision, ttft_ms double precision, status text, error_type text,
        provider text, request_model text, response_model text, input_tokens bigint,
        input_uncached_tokens bigint, cache_read_tokens bigint, cache_write_tokens bigint,
        output_tokens bigint, reasoning_tokens bigint, cost_usd_micros bigint, cost_source text,
        attempts integer)
), stored AS (
    INSERT INTO model_calls
        (id, session_id, agent, user_id, started_at, duration_ms, ttft_ms, status, error_type,
         provider, request_model, response_model, input_tokens, input_uncached_tokens,
         cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_usd_micros,
         cost_source, attempts)
    SELECT id, session_id, agent, user_id, started_at, duration_ms, ttft_ms,
           coalesce(status, 'success'), error_type, provider, request_model, response_model,
           input_tokens, input_uncached_tokens, cache_read_tokens, cache_write_tokens, output_tokens,
           reasoning_tokens, cost_usd_micros, coalesce(cost_source, 'none'), coalesce(attempts, 1)
    FROM item
    ON CONFLICT (tenant_id, id) DO NOTHING
    RETURNING session_id, started_at, duration_ms, input_tokens, output_tokens, cost_usd_micros
)
SELECT session_id, count(*) AS model_call_count,
       coalesce(sum(input_tokens), 0)::bigint AS input_tokens,
       coalesce(sum(output_tokens), 0)::bigint AS output_tokens,
       coalesce(sum(cost_usd_micros), 0)::bigint AS cost_usd_micros,
       min(started_at) AS started_at,
       max(started_at + coalesce(duration_ms, 0) * interval '1 millisecond') AS last_event_at
FROM stored GROUP BY session_id
"""

COUNT = {ToolMetricRecord: "tool_call_count", ModelCallRecord: "model_call_count"}
INSERT = {ToolMetricRecord: INSERT_TOOL_METRICS, ModelCallRecord: INSERT_MODEL_CALLS}

# Keys of metadata in one order, whatever order the client's dictionary had this time.
_content = msgspec.json.Encoder(order="deterministic")


async def admit_facts(
    connection: ContextConnection,
    tenant_id: UUID,
    facts: Sequence[FactT],
    tool_names: ToolNames,
) -> dict[int, FieldError]:
    """Check what only the database knows; return the refused items by their place in `facts`."""
    named = {fact.session_id for fact in facts if fact.session_id is not None}
    known = await find_named(connection, named)
    refused = {
        place: FieldError("there is no such session", field="session_id", index=place)
        for place, fact in enumerate(facts)
        if fact.session_id is not None and fact.session_id not in known
    }
    tool_metrics = {
        place: fact
        for place, fact in enumerate(cast("Sequence[Fact]", facts))
        if isinstance(fact, ToolMetricRecord)
    }
    names = {fact.tool_name for place, fact in tool_metrics.items() if place not in refused}
    too_many = await tool_names.admit(connection, tenant_id, names) if names else set()
    if too_many:
        reason = f"a tenant has at most {MAX_TOOL_NAMES} distinct tool names"
        for place, fact in tool_metrics.items():
            if fact.tool_name in too_many:
                refused.setdefault(place, FieldError(reason, field="tool_name", index=place))
    return refused


async def write_facts(
    connection: ContextConnection, tenant_id: UUID, facts: Sequence[FactT]
) -> Receipt:
    """Store tool metrics or model calls that were admitted; the facts are normalised in place.

    Users and sessions that they name come into being with them.
    """
    if not facts:
        return Receipt(inserted=0, duplicates=0)
    kind = type(facts[0])
    emails = {fact.user_email.lower() for fact in facts if fact.user_email is not None}
    users = await users_by_email(connection, emails)
    named = await find_named(
        connection, {fact.session_id for fact in facts if fact.session_id is not None}
    )
    batch = _Batch(tenant_id, users, named)
    rows = sorted([batch.row(fact) for fact in facts])
    extents: dict[UUID, Extent] = {}
    inserted = 0
    for start in range(0, len(rows), ROWS_A_STATEMENT):
        piece = b",".join([row for _, row in rows[start : start + ROWS_A_STATEMENT]])
        for found in await connection.fetch(INSERT[kind], f"[{piece.decode()}]"):
            inserted += found[COUNT[kind]]
            if found["session_id"] is not None:
                _add(extents, found, batch)
    await extend_sessions(connection, extents.values())
    return Receipt(inserted=inserted, duplicates=len(facts) - inserted)


class _Batch:
    """Turns the facts of one batch into rows, remembering which sessions they name."""

    def __init__(
        self, tenant_id: UUID, users: dict[str, UUID], named: dict[UUID, SessionName]
    ) -> None:
        self.tenant_id = tenant_id
        self.users = users
        self.names = named
        self.session_users: dict[UUID, UUID] = {}
        self._ids: dict[tuple[str, str], UUID] = {}

    def row(self, fact: Fact) -> tuple[str, bytes]:
        """Return the row's id and the row as JSON: what names it, then its canonical content."""
        agent, session_id = fact.agent, fact.session_id
        if fact.external_session_id is not None and agent is not None:
            session_id = self._session_id(agent, fact.external_session_id)
        elif session_id is not None:
            agent = self.names[session_id].agent
        if fact.started_at.tzinfo is not UTC:
            fact.started_at = fact.started_at.astimezone(UTC)
        row_id = fact.id.hex if fact.id is not None else None
        email = fact.user_email
        fact.id = fact.external_session_id = None
        fact.session_id = session_id
        if session_id is not None:
            # The session says it; so both ways to name a session give the same content.
            fact.agent = None
        if email is not None:
            fact.user_email = email = email.lower()
        content = _content.encode(fact)
        if row_id is None:
            row_id = content_id(self.tenant_id, fact.started_at, content)
        head = f'{{"id":"{row_id}",'
        if session_id is not None and agent is not None:
            head += f'"agent":{msgspec.json.encode(agent).decode()},'
        if email is not None:
            user_id = self.users[email]
            head += f'"user_id":"{user_id}",'
            if session_id is not None:
                self.session_users.setdefault(session_id, user_id)
        return row_id, head.encode() + content[1:]

    def _session_id(self, agent: str, external_id: str) -> UUID:
        session_id = self._ids.get((agent, external_id))
        if session_id is None:
            session_id = session_id_of(self.tenant_id, agent, external_id)
            self._ids[agent, external_id] = session_id
            self.names[session_id] = SessionName(agent, external_id)
        return session_id


def _add(extents: dict[UUID, Extent], found: Any, batch: _Batch) -> None:
    session_id = found["session_id"]
    name = batch.names[session_id]
    extent = extents.get(session_id)
    if extent is None:
        extent = extents[session_id] = Extent(
            session_id,
            name.agent,
            name.external_id,
            found["started_at"],
            found["last_event_at"],
            batch.session_users.get(session_id),
        )
    extent.started_at = min(extent.started_at, found["started_at"])
    extent.last_event_at = max(extent.last_event_at, found["last_event_at"])
    for column, value in found.items():
        if column not in ("session_id", "started_at", "last_event_at"):
            setattr(extent, column, getattr(extent, column) + value)


async def admit_sessions(
    connection: ContextConnection, records: Sequence[SessionRecord]
) -> dict[int, FieldError]:
    """As `admit_facts`, for sessions."""
    unknown = await unknown_users(
        connection, {record.user_id for record in records if record.user_id is not None}
    )
    return {
        place: FieldError("there is no such user", field="user_id", index=place)
        for place, record in enumerate(records)
        if record.user_id in unknown
    }


async def write_sessions(
    connection: ContextConnection, tenant_id: UUID, records: list[SessionRecord]
) -> dict[UUID, bool]:
    """Create or update sessions as stated; return their ids, each with whether it is new."""
    if not records:
        return {}
    for record in records:
        if record.user_email is not None:
            record.user_email = record.user_email.lower()
    emails = {record.user_email for record in records if record.user_email is not None}
    users = await users_by_email(connection, emails)
    return await state_sessions(connection, tenant_id, records, users)
