"""Rows that turn out to be another session's, or another user's, than they were stored as."""

from __future__ import annotations

from uuid import UUID

from metrics_service.db.tenancy import ContextConnection
from metrics_service.ingest.call_tables import MODEL_CALLS, TOOL_METRICS
from metrics_service.ingest.held_sessions import Held
from metrics_service.ingest.rows import as_json
from metrics_service.ingest.traces import Adoption
from metrics_service.rollups.ledger import Ledger

ADOPT_EVENTS = """
UPDATE session_events t SET session_id = r.new_id, agent = r.agent
FROM json_to_recordset($1::json) AS r(old_id uuid, new_id uuid, agent text)
WHERE t.session_id = r.old_id
"""
ADOPT_DELTAS = """
UPDATE counter_deltas t SET session_id = r.new_id, agent = r.agent
FROM json_to_recordset($1::json) AS r(old_id uuid, new_id uuid, agent text)
WHERE t.session_id = r.old_id
"""
ADOPT_TAGS = """
WITH gone AS MATERIALIZED (
    DELETE FROM session_tags t
    USING json_to_recordset($1::json) AS r(old_id uuid, new_id uuid)
    WHERE t.session_id = r.old_id RETURNING r.new_id, t.tag
)
INSERT INTO session_tags (session_id, tag)
SELECT DISTINCT new_id, tag FROM gone ORDER BY new_id, tag
ON CONFLICT (tenant_id, session_id, tag) DO NOTHING
"""
ATTRIBUTE_EVENTS = """
UPDATE session_events t SET user_id = r.user_id
FROM json_to_recordset($1::json) AS r(session_id uuid, user_id uuid)
WHERE t.session_id = r.session_id AND t.user_id IS DISTINCT FROM r.user_id
"""
ATTRIBUTE_DELTAS = """
UPDATE counter_deltas t SET user_id = r.user_id
FROM json_to_recordset($1::json) AS r(session_id uuid, user_id uuid)
WHERE t.session_id = r.session_id AND t.user_id IS DISTINCT FROM r.user_id
"""


async def hand_over(
    connection: ContextConnection,
    held: dict[UUID, Held],
    adoptions: list[Adoption],
    ledger: Ledger,
) -> None:
    """Give rows that are there already to the session, and the user, they turned out to be of."""
    adopting = {one.new_id for one in adoptions}
    adopted = {one.old_id for one in adoptions}
    changed = [
        one
        for one in held.values()
        if one.id not in adopted
        and (
            (one.id in adopting and one.user_id is not None)
            or (one.is_known and one.user_id != one.row["user_id"])
        )
    ]
    concerned = adopting | {one.id for one in changed}
    if not concerned:
        return
    await ledger.enter_facts(connection, concerned | adopted, sign=-1)
    if adoptions:
        pairs = as_json(adoptions)
        for statement in (
            TOOL_METRICS.adopt,
            MODEL_CALLS.adopt,
            ADOPT_EVENTS,
            ADOPT_DELTAS,
            ADOPT_TAGS,
        ):
            await connection.execute(statement, pairs)
    if changed:
        owners = as_json([{"session_id": one.id, "user_id": one.user_id} for one in changed])
        for statement in (
            TOOL_METRICS.attribute,
            MODEL_CALLS.attribute,
            ATTRIBUTE_EVENTS,
            ATTRIBUTE_DELTAS,
        ):
            await connection.execute(statement, owners)
    await ledger.enter_facts(connection, concerned, sign=1)
