"""Sessions that are there already follow when their people become known otherwise.

Step by step in transactions of their own, each of some sessions and all their rows: whoever writes to
one of them waits for one step, and a step that was cut off is done again by whoever begins anew.
"""

from __future__ import annotations

from uuid import UUID

import msgspec

from metrics_service.db.tenancy import ContextConnection, lock_key
from metrics_service.ingest.handing_over import hand_over
from metrics_service.ingest.held_sessions import Held, hold_sessions, identify, open_ledger, part_of
from metrics_service.ingest.known_people import PEOPLE_LOCK, look_up_people
from metrics_service.ingest.rows import as_json
from metrics_service.ingest.session_state import State
from metrics_service.ingest.telemetry_sessions import change_sessions

SESSIONS_A_STEP = 100
CALLS_A_STEP = 20_000

# A page of the walk; those of one step are its beginning that together is not too much to rewrite.
WALK = f"""
WITH page AS (
    SELECT id, telemetry, tool_call_count + model_call_count AS calls
    FROM metrics_sessions
    WHERE id > $1 AND telemetry IS NOT NULL AND (
        CASE $2
            WHEN 'identity' THEN user_key_kind = $3 AND user_key = $4
            WHEN 'email_domain' THEN user_key_kind = 'email' AND split_part(user_key, '@', 2) = $4
            WHEN 'account_id' THEN $4 IN (claims ->> 'user.account_uuid', claims ->> 'user.account_id')
            WHEN 'key' THEN claims ->> 'ingest.key' = $4
            WHEN 'rule' THEN telemetry -> 'known' ->> 'rule_id' = $4
        END)
    ORDER BY id LIMIT {SESSIONS_A_STEP}
)
SELECT id, telemetry::text AS telemetry
FROM (SELECT id, telemetry, sum(calls) OVER (ORDER BY id) - calls AS before FROM page) p
WHERE before < {CALLS_A_STEP} ORDER BY id
"""

LOCK = """
SELECT id, agent, external_id, started_at, last_event_at FROM metrics_sessions
WHERE id IN (SELECT value::uuid FROM json_array_elements_text($1::json)) ORDER BY id FOR UPDATE
"""


class Concerned(msgspec.Struct, frozen=True):
    """Which sessions a change is about: those of one identity, or those that a rule may name."""

    what: str
    """`identity`, the kind of a rule, or `rule` for those that one has named already."""
    value: str
    kind: str | None = None
    """Of the identity."""


class Step(msgspec.Struct, frozen=True):
    """What one step did; `last_id` is None when it was the last."""

    last_id: UUID | None
    moved: int
    """Sessions that are another user's now."""


async def wait_for_ingest(connection: ContextConnection, tenant_id: UUID) -> None:
    """Wait for all who may have looked people up before a change that is committed now.

    They would write down what held before, behind the back of whoever follows the change.
    """
    await connection.execute("SELECT pg_advisory_xact_lock($1)", lock_key(tenant_id, PEOPLE_LOCK))


async def follow(
    connection: ContextConnection, tenant_id: UUID, concerned: Concerned, after: UUID
) -> Step:
    """Settle anew whose the next of these sessions are; the caller's transaction commits."""
    rows = await connection.fetch(WALK, after, concerned.what, concerned.kind, concerned.value)
    if not rows:
        return Step(None, 0)
    states = [msgspec.json.decode(row["telemetry"], type=State) for row in rows]
    # Users before sessions, as everybody locks them.
    people = await look_up_people(connection, tenant_id, [state.said for state in states])
    ids = as_json([str(row["id"]) for row in rows])
    # One that was deleted since must not be made again.
    there = await connection.fetch(LOCK, ids)
    held = await hold_sessions(connection, [part_of(row) for row in there])
    for one in held.values():
        # What was claimed since it was read was looked up by whoever stored it.
        identify(one, people, settles=people.has_read(one.state.said))
    held = {session_id: one for session_id, one in held.items() if _has_changed(one)}
    ledger = open_ledger(held)
    await hand_over(connection, held, [], ledger)
    await change_sessions(connection, tenant_id, held.values(), {})
    await ledger.put_sessions(connection)
    await ledger.write(connection)
    moved = sum(one.user_id != one.row["user_id"] for one in held.values())
    return Step(rows[-1]["id"], moved)


def _has_changed(held: Held) -> bool:
    return held.state.known != held.before.known or held.user_source != held.row["user_source"]
