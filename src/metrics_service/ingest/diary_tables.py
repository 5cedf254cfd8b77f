"""How the diary is written: counts are added to what is there, so that every process may add its own."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from metrics_service.db.tenancy import ContextConnection
from metrics_service.ingest.diary_page import (
    MAX_LINES,
    MAX_REASONS,
    MAX_STRANGERS_LINES,
    OTHER,
    DiaryPage,
    Line,
)

KNOWN = "SELECT id, key_id IS NULL AS is_strangers FROM ingest_log WHERE client <> 'other'"

# In the order of ids, so that two processes never wait for each other in a circle. Whoever comes second
# waits here, and so finds the first one's refusals.
ADD_LINES = """
INSERT INTO ingest_log AS l
    (id, key_id, signal, encoding, client, client_version, agent, agent_version, accepted_requests,
     accepted_items, refused_requests, refused_items, first_at, last_at, last_accepted_at,
     last_accepted_items, last_refused_at)
SELECT id, key_id, signal, encoding, client, client_version, agent, agent_version, accepted_requests,
       accepted_items, refused_requests, refused_items, first_at, last_at, last_accepted_at,
       last_accepted_items, last_refused_at
FROM json_to_recordset($1::json) AS r(
    id uuid, key_id uuid, signal text, encoding text, client text, client_version text, agent text,
    agent_version text, accepted_requests bigint, accepted_items bigint, refused_requests bigint,
    refused_items bigint, first_at timestamptz, last_at timestamptz, last_accepted_at timestamptz,
    last_accepted_items bigint, last_refused_at timestamptz)
ORDER BY id
ON CONFLICT (tenant_id, id) DO UPDATE SET
    client_version = CASE WHEN excluded.last_at >= l.last_at
        THEN coalesce(excluded.client_version, l.client_version) ELSE l.client_version END,
    agent = CASE WHEN excluded.last_at >= l.last_at
        THEN coalesce(excluded.agent, l.agent) ELSE coalesce(l.agent, excluded.agent) END,
    agent_version = CASE
        WHEN excluded.agent IS NULL THEN l.agent_version
        WHEN excluded.agent = l.agent AND excluded.last_at >= l.last_at
            THEN coalesce(excluded.agent_version, l.agent_version)
        WHEN excluded.agent = l.agent THEN coalesce(l.agent_version, excluded.agent_version)
        WHEN l.agent IS NULL OR excluded.last_at >= l.last_at THEN excluded.agent_version
        ELSE l.agent_version END,
    accepted_requests = l.accepted_requests + excluded.accepted_requests,
    accepted_items = l.accepted_items + excluded.accepted_items,
    refused_requests = l.refused_requests + excluded.refused_requests,
    refused_items = l.refused_items + excluded.refused_items,
    first_at = least(l.first_at, excluded.first_at),
    last_at = greatest(l.last_at, excluded.last_at),
    last_accepted_items = CASE
        WHEN l.last_accepted_at IS NULL OR excluded.last_accepted_at >= l.last_accepted_at
            THEN excluded.last_accepted_items
        ELSE l.last_accepted_items END,
    last_accepted_at = greatest(l.last_accepted_at, excluded.last_accepted_at),
    last_refused_at = greatest(l.last_refused_at, excluded.last_refused_at)
"""

ADD_REFUSALS = """
INSERT INTO ingest_refusals AS f (log_id, status, reason, refused, first_at, last_at)
SELECT log_id, status, reason, refused, first_at, last_at
FROM json_to_recordset($1::json) AS r(
    log_id uuid, status integer, reason text, refused bigint, first_at timestamptz,
    last_at timestamptz)
ORDER BY log_id, status, reason
ON CONFLICT (tenant_id, log_id, status, reason) DO UPDATE SET
    refused = f.refused + excluded.refused,
    first_at = least(f.first_at, excluded.first_at),
    last_at = greatest(f.last_at, excluded.last_at)
"""

# Those that were not heard for longest are counted together: what goes wrong now is what one looks for.
JOIN_OLD_REFUSALS = """
WITH ranked AS MATERIALIZED (
    SELECT log_id, status, reason,
           row_number() OVER (PARTITION BY log_id ORDER BY last_at DESC, status, reason) AS place
    FROM ingest_refusals WHERE log_id = ANY($1::uuid[]) AND reason <> 'other'
), gone AS MATERIALIZED (
    DELETE FROM ingest_refusals f USING ranked r
    WHERE r.place > $2 AND f.log_id = r.log_id AND f.status = r.status AND f.reason = r.reason
    RETURNING f.log_id, f.status, f.refused, f.first_at, f.last_at
), joined AS MATERIALIZED (
    SELECT log_id, status, sum(refused)::bigint AS refused, min(first_at) AS first_at,
           max(last_at) AS last_at
    FROM gone GROUP BY log_id, status
)
INSERT INTO ingest_refusals AS f (log_id, status, reason, refused, first_at, last_at)
SELECT log_id, status, 'other', refused, first_at, last_at FROM joined ORDER BY log_id, status
ON CONFLICT (tenant_id, log_id, status, reason) DO UPDATE SET
    refused = f.refused + excluded.refused,
    first_at = least(f.first_at, excluded.first_at),
    last_at = greatest(f.last_at, excluded.last_at)
"""


async def write_page(
    connection: ContextConnection, page: DiaryPage, known: frozenset[UUID]
) -> frozenset[UUID]:
    """Add all that a page counts, in the caller's transaction; the page itself stays as it is.

    `known` are lines that are there; returned are these and those that are there now.
    """
    lines = {line.sender.id: line for line in page.lines}
    if not known.issuperset(lines):
        lines = _fitting(page, await connection.fetch(KNOWN))
    rows = [_row(line_id, line) for line_id, line in lines.items()]
    await connection.execute(ADD_LINES, msgspec.json.encode(rows).decode())
    refusals = [row for line_id, line in lines.items() for row in _refusals(line_id, line)]
    if refusals:
        await connection.execute(ADD_REFUSALS, msgspec.json.encode(refusals).decode())
        refused = sorted({row["log_id"] for row in refusals})
        await connection.execute(JOIN_OLD_REFUSALS, refused, MAX_REASONS)
    return known.union(lines)


def _fitting(page: DiaryPage, known: list[Any]) -> dict[UUID, Line]:
    """The lines by id; those for which the table has no room go without their client's name."""
    ids = {row["id"] for row in known}
    strangers = sum(row["is_strangers"] for row in known)
    room = {True: MAX_STRANGERS_LINES - strangers, False: MAX_LINES - (len(known) - strangers)}
    fitting: dict[UUID, Line] = {}
    for line in page.lines:
        sender, is_strangers = line.sender, line.sender.key_id is None
        if sender.client != OTHER and sender.id not in ids:
            room[is_strangers] -= 1
            if room[is_strangers] < 0:
                sender = sender.without_name()
        own = fitting.get(sender.id)
        if own is None:
            own = fitting[sender.id] = Line(sender, line.first_at, line.last_at)
        own.add(line)
        own.sender = sender
    return fitting


def _row(line_id: UUID, line: Line) -> dict[str, Any]:
    row = {**msgspec.structs.asdict(line.sender), **msgspec.structs.asdict(line), "id": line_id}
    del row["sender"], row["refusals"]
    return row


def _refusals(line_id: UUID, line: Line) -> list[dict[str, Any]]:
    return [
        {"log_id": line_id, "status": status, "reason": reason, **msgspec.structs.asdict(refused)}
        for (status, reason), refused in line.refusals.items()
    ]
