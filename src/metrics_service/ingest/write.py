"""The write path: dedupe, insert, extend sessions, roll up, inside one transaction.

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
from metrics_service.errors import FieldError, UnavailableError
from metrics_service.ingest.people import unknown_users, users_by_email
from metrics_service.ingest.records import (
    ModelCallRecord,
    Receipt,
    SessionRecord,
    ToolMetricRecord,
    content_id,
    session_id_of,
)
from metrics_service.ingest.rows import ROWS_A_STATEMENT
from metrics_service.ingest.sessions import (
    Extent,
    SessionName,
    extend_sessions,
    find_named,
    state_sessions,
)
from metrics_service.ingest.tool_names import MAX_TOOL_NAMES, ToolNames
from metrics_service.observability.work import span
from metrics_service.rollups.ledger import Ledger
from metrics_service.rollups.sources import MODEL_CALLS, TOOL_METRICS
from metrics_service.rollups.statements import contributions

Fact = ToolMetricRecord | ModelCallRecord
FactT = TypeVar("FactT", ToolMetricRecord, ModelCallRecord)

INSERT_TOOL_METRICS = f"""
WITH item AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1::json) AS r(
        id uuid, session_id uuid, agent text, user_id uuid, tool_name text, tool_category text,
        started_at timestamptz, duration_ms double precision, wait_ms double precision, status text,
        error_type text, cpu_ms double precision, memory_bytes bigint, input_bytes bigint,
        output_bytes bigint, metadata jsonb)
), stored AS (
    INSERT INTO tool_metrics AS t
        (id, session_id, agent, user_id, tool_name, tool_category, started_at, duration_ms, wait_ms,
         status, error_type, cpu_ms, memory_bytes, input_bytes, output_bytes, metadata)
    SELECT id, session_id, agent, user_id, tool_name, tool_category, started_at, duration_ms, wait_ms,
           coalesce(status, 'success'), error_type, cpu_ms, memory_bytes, input_bytes, output_bytes,
           metadata
    FROM item
    ON CONFLICT (tenant_id, id) DO NOTHING
    RETURNING {TOOL_METRICS.needed("t")}
), extent AS (
    SELECT session_id, count(*) AS tool_call_count,
           count(*) FILTER (WHERE status IN ('error', 'timeout')) AS tool_error_count,
           count(*) FILTER (WHERE status = 'rejected') AS tool_reject_count,
           min(started_at) AS started_at,
           max(started_at + coalesce(duration_ms, 0) * interval '1 millisecond') AS last_event_at
    FROM stored GROUP BY session_id
), contribution AS ({contributions(TOOL_METRICS, "stored")})
SELECT e.session_id, e.tool_call_count, e.tool_error_count, e.tool_reject_count, e.started_at,
       e.last_event_at, c.rows
FROM extent e, contribution c WHERE e.session_id IS NOT DISTINCT FROM c.session_id
"""

INSERT_MODEL_CALLS = f"""
WITH item AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1::json) AS r(
        id uuid, session_id uuid, agent text, user_id uuid, started_at timestamptz,
        duration_ms double precision, ttft_ms double precision, status text, error_type text,
        provider text, request_model text, response_model text, input_tokens bigint,
        input_uncached_tokens bigint, cache_read_tokens bigint, cache_write_tokens bigint,
        output_tokens bigint, reasoning_tokens bigint, cost_usd_micros bigint, cost_source text,
        attempts integer)
), stored AS (
    INSERT INTO model_calls AS t
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
    RETURNING {MODEL_CALLS.needed("t")}
), extent AS (
    SELECT session_id, count(*) AS model_call_count,
           count(*) FILTER (WHERE status = 'error') AS model_error_count,
           coalesce(sum(input_tokens), 0)::bigint AS input_tokens,
           coalesce(sum(output_tokens), 0)::bigint AS output_tokens,
           coalesce(sum(cache_read_tokens), 0)::bigint AS cache_read_tokens,
           coalesce(sum(cache_write_tokens), 0)::bigint AS cache_write_tokens,
           coalesce(sum(reasoning_tokens), 0)::bigint AS reasoning_tokens,
           coalesce(sum(cost_usd_micros), 0)::bigint AS cost_usd_micros,
           min(started_at) AS started_at,
           max(started_at + coalesce(duration_ms, 0) * interval '1 millisecond') AS last_event_at
    FROM stored GROUP BY session_id
), contribution AS ({contributions(MODEL_CALLS, "stored")})
SELECT e.session_id, e.model_call_count, e.model_error_count, e.input_tokens, e.output_tokens,
       e.cache_read_tokens, e.cache_write_tokens, e.reasoning_tokens, e.cost_usd_micros,
       e.started_at, e.last_event_at, c.rows
FROM extent e, contribution c WHERE e.session_id IS NOT DISTINCT FROM c.session_id
"""

COUNT = {ToolMetricRecord: "tool_call_count", ModelCallRecord: "model_call_count"}
INSERT = {ToolMetricRecord: INSERT_TOOL_METRICS, ModelCallRecord: INSERT_MODEL_CALLS}
SOURCE = {ToolMetricRecord: TOOL_METRICS, ModelCallRecord: MODEL_CALLS}

# Keys of metadata in one order, whatever order the client's dictionary had this time.
_content = msgspec.json.Encoder(order="deterministic")


async def admit_facts(
    connection: ContextConnection,
    tenant_id: UUID,
    facts: Sequence[FactT],
    tool_names: ToolNames,
) -> dict[int, FieldError]:
    """Check what only the database knows; return the refused items by their place in `facts`."""
    with span("ingest.admit", records=len(facts)):
        return await _refused(connection, tenant_id, facts, tool_names)


async def _refused(
    connection: ContextConnection,
    tenant_id: UUID,
    facts: Sequence[FactT],
    tool_names: ToolNames,
) -> dict[int, FieldError]:
    named = {fact.session_id for fact in facts if fact.session_id is not None}
    refused = {}
    if unknown := named - (await find_named(connection, named)).keys():
        refused = {
            place: FieldError("there is no such session", field="session_id")
            for place, fact in enumerate(facts)
            if fact.session_id in unknown
        }
    names = {
        fact.tool_name
        for place, fact in enumerate(cast("Sequence[Fact]", facts))
        if isinstance(fact, ToolMetricRecord) and place not in refused
    }
    too_many = await tool_names.admit(connection, tenant_id, names) if names else set()
    if too_many:
        reason = f"a tenant has at most {MAX_TOOL_NAMES} distinct tool names"
        for place, fact in enumerate(cast("Sequence[Fact]", facts)):
            if isinstance(fact, ToolMetricRecord) and fact.tool_name in too_many:
                refused.setdefault(place, FieldError(reason, field="tool_name"))
    return refused


async def write_facts(
    connection: ContextConnection, tenant_id: UUID, facts: list[FactT]
) -> Receipt:
    """Store tool metrics or model calls that were admitted; `facts` is empty afterwards.

    Users and sessions that they name come into being with them.
    """
    if not facts:
        return Receipt(inserted=0, duplicates=0)
    kind = type(facts[0])
    with span("ingest.people"):
        emails = {fact.user_email for fact in facts if fact.user_email is not None}
        users = await users_by_email(connection, {email.lower() for email in emails})
        wanted = {fact.session_id for fact in facts if fact.session_id is not None}
        named = await find_named(connection, wanted)
    if len(named) < len(wanted):
        raise UnavailableError("a session was deleted in this very moment")
    batch = _Batch(tenant_id, users, named)
    count = len(facts)
    # Each fact goes as its row comes: a batch of 20 MiB is never there twice.
    with span("ingest.rows", records=count):
        facts.reverse()
        rows = sorted([batch.row(facts.pop()) for _ in range(count)])
    extents: dict[UUID, Extent] = {}
    ledger = Ledger()
    inserted = 0
    with span("ingest.insert", records=count) as stage:
        while rows:
            piece = rows[:ROWS_A_STATEMENT]
            del rows[:ROWS_A_STATEMENT]
            for found in await connection.fetch(INSERT[kind], _array(piece)):
                inserted += found[COUNT[kind]]
                ledger.enter(SOURCE[kind], found["session_id"], found["rows"])
                if found["session_id"] is not None:
                    _add(extents, found, batch)
        stage.note(inserted=inserted, duplicates=count - inserted)
    with span("ingest.sessions", sessions=len(extents)):
        await extend_sessions(connection, extents.values(), ledger)
    with span("ingest.rollup"):
        await ledger.write(connection)
    return Receipt(inserted=inserted, duplicates=count - inserted)


def _array(rows: list[tuple[int, bytes]]) -> str:
    text = (b"[%b]" % b",".join([row for _, row in rows])).decode()
    rows.clear()
    return text


class _Session(msgspec.Struct):
    """A session that the batch names, and how each of its rows begins."""

    id: UUID
    name: SessionName
    head: bytes
    user_id: UUID | None = None
    """The first user that the batch knows of."""


class _User(msgspec.Struct):
    id: UUID
    email: str
    head: bytes


class _Batch:
    """Turns the facts of one batch into rows, remembering which sessions they name.

    What a thousand rows have in common, their sessions and users, is looked up and encoded once.
    """

    def __init__(
        self, tenant_id: UUID, users: dict[str, UUID], named: dict[UUID, SessionName]
    ) -> None:
        self.tenant_id = tenant_id
        self._tenant = tenant_id.bytes
        self.sessions = {
            session_id: _session(session_id, name) for session_id, name in named.items()
        }
        self._ids = users
        self._users: dict[str, _User] = {}
        self._sessions: dict[tuple[str, str], _Session] = {}

    def row(self, fact: Fact) -> tuple[int, bytes]:
        """Return the row's id and the row as JSON: what names it, then its canonical content."""
        agent, external_id = fact.agent, fact.external_session_id
        session = None
        head = b"{"
        if external_id is not None and agent is not None:
            session = self._sessions.get((agent, external_id)) or self._name(agent, external_id)
            fact.session_id = session.id
            fact.external_session_id = None
        elif fact.session_id is not None:
            session = self.sessions[fact.session_id]
        if session is not None:
            # The session says it; so both ways to name a session give the same content.
            fact.agent = None
            head = session.head
        if fact.user_email is not None:
            user = self._users.get(fact.user_email) or self._user(fact.user_email)
            fact.user_email = user.email
            head += user.head
            if session is not None and session.user_id is None:
                session.user_id = user.id
        if fact.started_at.tzinfo is not UTC:
            fact.started_at = fact.started_at.astimezone(UTC)
        content = _content.encode(fact)
        if fact.id is not None:
            return fact.id.int, head + content[1:]
        row_id = content_id(self._tenant, fact.started_at, content)
        return int(row_id, 16), b'%b"id":"%b",%b' % (head, row_id.encode(), content[1:])

    def _name(self, agent: str, external_id: str) -> _Session:
        session_id = session_id_of(self.tenant_id, agent, external_id)
        session = self.sessions.get(session_id)
        if session is None:
            session = _session(session_id, SessionName(agent, external_id))
            self.sessions[session_id] = session
        self._sessions[agent, external_id] = session
        return session

    def _user(self, given: str) -> _User:
        email = given.lower()
        user_id = self._ids[email]
        user = self._users[given] = _User(
            user_id, email, b'"user_id":"%b",' % str(user_id).encode()
        )
        return user


def _session(session_id: UUID, name: SessionName) -> _Session:
    return _Session(session_id, name, b'{"agent":%b,' % msgspec.json.encode(name.agent))


def _add(extents: dict[UUID, Extent], found: Any, batch: _Batch) -> None:
    session_id = found["session_id"]
    session = batch.sessions[session_id]
    extent = extents.get(session_id)
    if extent is None:
        extent = extents[session_id] = Extent(
            session_id,
            session.name.agent,
            session.name.external_id,
            found["started_at"],
            found["last_event_at"],
            session.user_id,
        )
    extent.started_at = min(extent.started_at, found["started_at"])
    extent.last_event_at = max(extent.last_event_at, found["last_event_at"])
    for column, value in found.items():
        if column not in ("session_id", "started_at", "last_event_at", "rows"):
            setattr(extent, column, getattr(extent, column) + value)


async def admit_sessions(
    connection: ContextConnection, records: Sequence[SessionRecord]
) -> dict[int, FieldError]:
    """As `admit_facts`, for sessions."""
    with span("ingest.admit", records=len(records)):
        unknown = await unknown_users(
            connection, {record.user_id for record in records if record.user_id is not None}
        )
    return {
        place: FieldError("there is no such user", field="user_id")
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
    with span("ingest.people"):
        users = await users_by_email(connection, emails)
    ledger = Ledger()
    with span("ingest.sessions", sessions=len(records)):
        known = await state_sessions(connection, tenant_id, records, users, ledger)
    with span("ingest.rollup"):
        await ledger.write(connection)
    return known
