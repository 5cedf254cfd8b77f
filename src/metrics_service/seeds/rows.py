"""Puts a company's seeds into its tenant, and takes them out again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from metrics_service.db.tenancy import ContextConnection
from metrics_service.errors import ConflictError
from metrics_service.ingest.people import users_by_email
from metrics_service.ingest.prices import Prices
from metrics_service.ingest.records import ModelCallRecord, ToolMetricRecord
from metrics_service.ingest.tool_names import ToolNames
from metrics_service.ingest.write import admit_facts, write_facts, write_sessions
from metrics_service.ingest.write_telemetry import TelemetryWriter
from metrics_service.rollups.ledger import Ledger, Place
from metrics_service.rollups.sources import TOOL_METRICS
from metrics_service.rollups.statements import contributions
from metrics_service.seeds.companies import Company
from metrics_service.seeds.dashboards import BY_PLAN, Dashboard
from metrics_service.seeds.telling import Telling
from metrics_service.seeds.work import EXTERNAL_ID_PREFIX, Work
from metrics_service.tenants.sign_ins import announce

FactT = TypeVar("FactT", ToolMetricRecord, ModelCallRecord)

ADD_USERS = """
INSERT INTO users (id, email, name, role, team)
SELECT id, email, name, role, team
FROM json_to_recordset($1::json) AS r(id uuid, email text, name text, role text, team text)
ORDER BY email
ON CONFLICT (tenant_id, email) DO NOTHING RETURNING id
"""

ADD_DASHBOARDS = """
WITH item AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1::json) AS r(
        id uuid, name text, description text, layout jsonb, widgets jsonb, visibility text,
        tags jsonb, owner_id uuid)
)
INSERT INTO dashboard_configs (id, name, description, layout, widgets, visibility, tags, owner_id)
SELECT id, name, description, layout, widgets, visibility,
       ARRAY(SELECT jsonb_array_elements_text(tags)), owner_id
FROM item ORDER BY id
ON CONFLICT (tenant_id, id) DO NOTHING RETURNING id
"""

# Of the rows themselves, so that the first version is what the dashboard was made as.
ADD_VERSIONS = """
WITH made AS MATERIALIZED (
    SELECT id, version, name, description, layout, widgets, visibility, tags, owner_id
    FROM dashboard_configs WHERE id = ANY ($1::uuid[])
)
INSERT INTO dashboard_versions
    (dashboard_id, version, name, description, layout, widgets, visibility, tags, author_id)
SELECT id, version, name, description, layout, widgets, visibility, tags, owner_id FROM made
ON CONFLICT (tenant_id, dashboard_id, version) DO NOTHING
"""

SEEDED_SESSIONS = """
SELECT id FROM metrics_sessions WHERE starts_with(external_id, $1) ORDER BY id FOR UPDATE
"""
CLEAR_SESSIONS = tuple(
    f"DELETE FROM {table} WHERE {key} IN (SELECT value::uuid FROM json_array_elements_text($1::json))"
    for table, key in (
        ("tool_metrics", "session_id"),
        ("model_calls", "session_id"),
        ("session_events", "session_id"),
        ("counter_deltas", "session_id"),
        ("session_tags", "session_id"),
        ("metrics_sessions", "id"),
    )
)
CLEAR_BY_ID = (
    "DELETE FROM dashboard_configs WHERE id = ANY ($1::uuid[])",
    "DELETE FROM users WHERE id = ANY ($1::uuid[])",
)


_TOLD = """
session_id uuid, started_at timestamptz, tool_name text, wait_ms double precision, decision text,
decision_mode text, error_message text, exit_code integer, lines_added integer,
lines_removed integer, git_commit_id text"""
# A decision adds to rollups; so what its call was without it is taken out of them.
_UNDECIDED = ", ".join(
    "NULL::text AS decision" if name == "decision" else name for name in TOOL_METRICS.needs
)
_DECIDED = ", ".join(TOOL_METRICS.needs)
# Each call is told of once: what says something of it already is left alone.
TELL_OF_TOOLS = f"""
WITH found AS MATERIALIZED (
    -- One by one: who plans it takes nearly all calls for told of, and would compare each with each.
    SELECT c.id, r.decision, r.decision_mode, r.error_message, r.exit_code, r.lines_added,
           r.lines_removed, r.git_commit_id
    FROM json_to_recordset($1::json) AS r({_TOLD}), LATERAL (
        SELECT t.id FROM tool_metrics t
        WHERE t.session_id = r.session_id AND t.started_at = r.started_at
            AND t.tool_name = r.tool_name AND t.wait_ms IS NOT DISTINCT FROM r.wait_ms
            AND num_nonnulls(t.decision, t.error_message, t.lines_added, t.git_commit_id) = 0
        OFFSET 0
    ) c
), changed AS (
    UPDATE tool_metrics t SET
        decision = r.decision, decision_mode = r.decision_mode, error_message = r.error_message,
        exit_code = r.exit_code, lines_added = r.lines_added, lines_removed = r.lines_removed,
        git_commit_id = r.git_commit_id
    FROM found r WHERE t.id = r.id
    RETURNING {TOOL_METRICS.needed("t")}
), decided AS (SELECT {_DECIDED} FROM changed WHERE decision IS NOT NULL),
undecided AS (SELECT {_UNDECIDED} FROM decided)
SELECT 1 AS sign, c.session_id, c.rows FROM ({contributions(TOOL_METRICS, "decided")}) c
UNION ALL
SELECT -1, c.session_id, c.rows FROM ({contributions(TOOL_METRICS, "undecided")}) c
"""

TELL_OF_MODELS = """
UPDATE model_calls t SET error_message = r.error_message, http_status = r.http_status
FROM json_to_recordset($1::json) AS r(
    session_id uuid, started_at timestamptz, error_message text, http_status integer)
WHERE t.session_id = r.session_id AND t.started_at = r.started_at AND t.status = 'error'
    AND t.error_message IS NULL
"""


class Written(msgspec.Struct):
    """How many rows are new."""

    users: int = 0
    sessions: int = 0
    tool_metrics: int = 0
    model_calls: int = 0
    dashboards: int = 0


def seed_id(tenant_id: UUID, what: str) -> UUID:
    """The id of a seeded row: the same every time, and another one in every tenant."""
    digest = hashlib.blake2b(f"seed:{what}".encode(), digest_size=16, key=tenant_id.bytes)
    # Version and variant of RFC 9562's free form.
    value = int.from_bytes(digest.digest()) & ~(0xF << 76) | 8 << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)


async def add_users(connection: ContextConnection, tenant_id: UUID, company: Company) -> int:
    rows = [
        {
            "id": _user_id(tenant_id, person.email),
            "email": person.email,
            "name": person.name,
            "role": person.role,
            "team": person.team,
        }
        for person in company.people
    ]
    return len(await connection.fetch(ADD_USERS, _json(rows)))


async def add_work(
    connection: ContextConnection, tenant_id: UUID, works: Sequence[Work], written: Written
) -> None:
    """Store sessions and what happened in them, the way that agents' own data goes."""
    works = [one for work in works for one in (work, *work.subagents)]
    telling = Telling(tenant_id)
    for work in works:
        telling.tell(work)
    stated = await write_sessions(connection, tenant_id, [work.session for work in works])
    tool_metrics = [metric for work in works for metric in work.tool_metrics]
    model_calls = [call for work in works for call in work.model_calls]
    written.sessions += sum(stated.values())
    written.tool_metrics += await _add_facts(connection, tenant_id, tool_metrics)
    written.model_calls += await _add_facts(connection, tenant_id, model_calls)
    await _add_told(connection, telling)


async def _add_told(connection: ContextConnection, telling: Telling) -> None:
    ledger = Ledger()
    places = {one.session_id: Place(one.team, one.repository) for one in telling.tools}
    for found in await connection.fetch(TELL_OF_TOOLS, _json(telling.tools)):
        session_id = found["session_id"]
        ledger.enter(
            TOOL_METRICS,
            session_id,
            found["rows"],
            sign=found["sign"],
            place=places[session_id],
        )
    await ledger.write(connection)
    await connection.execute(TELL_OF_MODELS, _json(telling.models))
    # No model call is among it, so no price is asked for.
    writer = TelemetryWriter(ToolNames(), Prices("none", []))
    await writer.write(connection, telling.telemetry, owner=None)


async def _add_facts(connection: ContextConnection, tenant_id: UUID, facts: list[FactT]) -> int:
    refused = await admit_facts(connection, tenant_id, facts, ToolNames())
    if refused:
        raise ConflictError(next(iter(refused.values())).reason)
    return (await write_facts(connection, tenant_id, facts)).inserted


async def add_dashboards(connection: ContextConnection, tenant_id: UUID, company: Company) -> int:
    # Asked, because somebody else may have made a user of that address.
    users = await users_by_email(connection, [person.email for person in company.people])
    owners = {person.role: users[person.email] for person in company.people}
    rows = [
        {
            "id": _dashboard_id(tenant_id, dashboard),
            "name": dashboard.template.title,
            "description": dashboard.template.description,
            "layout": dashboard.template.layout(),
            "widgets": dashboard.template.widgets(),
            "visibility": dashboard.visibility,
            "tags": dashboard.template.tags,
            "owner_id": owners[dashboard.owner_role],
        }
        for dashboard in BY_PLAN[company.plan]
    ]
    added = [row["id"] for row in await connection.fetch(ADD_DASHBOARDS, _json(rows))]
    await connection.execute(ADD_VERSIONS, added)
    return len(added)


async def clear(connection: ContextConnection, tenant_id: UUID, company: Company) -> None:
    """Remove what was seeded; what anybody else sent to the tenant stays."""
    seeded = [row["id"] for row in await connection.fetch(SEEDED_SESSIONS, EXTERNAL_ID_PREFIX)]
    ledger = Ledger()
    await ledger.take_sessions(connection, seeded)
    await ledger.enter_facts(connection, seeded, sign=-1)
    for statement in CLEAR_SESSIONS:
        await connection.execute(statement, _json(seeded))
    await ledger.write(connection)
    for statement, ids in zip(CLEAR_BY_ID, _ids(tenant_id, company), strict=True):
        await connection.execute(statement, ids)
    # Whoever was signed in as one of them is not any more.
    await announce(connection)


def _ids(tenant_id: UUID, company: Company) -> Iterator[list[UUID]]:
    yield [_dashboard_id(tenant_id, dashboard) for dashboard in BY_PLAN[company.plan]]
    yield [_user_id(tenant_id, person.email) for person in company.people]


def _user_id(tenant_id: UUID, email: str) -> UUID:
    return seed_id(tenant_id, f"user:{email}")


def _dashboard_id(tenant_id: UUID, dashboard: Dashboard) -> UUID:
    return seed_id(tenant_id, f"dashboard:{dashboard.key}")


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
