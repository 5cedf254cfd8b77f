"""A whole session at a glance: when people asked, models answered, tools ran, and calls waited.

Summed up by the database into stretches too short to be told apart in a picture, so that a session of
fifty thousand calls is drawn from a few hundred rows.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec

from metrics_service.db.tenancy import ContextConnection

Lane = Literal["prompts", "models", "tools", "waits"]

# By how long a session lasted, in seconds: how long a stretch is.
STRETCHES_S = ((20 * 60, 1), (2 * 3600, 5), (8 * 3600, 15), (48 * 3600, 60))
LONGEST_STRETCH_S = 300
# A clock that was wrong draws no line through the whole picture.
LONGEST_CALL = "interval '1 day'"
MAX_STRETCHES = 8_000

_STRIP = f"""
WITH happened AS (
    SELECT 'prompts' AS lane, occurred_at AS at, occurred_at AS until, false AS has_failed
    FROM session_events WHERE session_id = $1 AND kind = 'prompt'
    UNION ALL
    SELECT 'models', started_at,
        started_at + coalesce(duration_ms, 0) * interval '1 millisecond', status = 'error'
    FROM model_calls WHERE session_id = $1 AND is_counted
    UNION ALL
    SELECT 'tools', started_at + coalesce(wait_ms, 0) * interval '1 millisecond',
        started_at + greatest(total_ms, coalesce(wait_ms, 0) + coalesce(duration_ms, 0))
            * interval '1 millisecond',
        status IN ('error', 'timeout')
    FROM tool_metrics WHERE session_id = $1 AND is_counted
    UNION ALL
    SELECT 'waits', started_at, started_at + wait_ms * interval '1 millisecond', false
    FROM tool_metrics WHERE session_id = $1 AND is_counted AND wait_ms > 0
)
SELECT lane, min(at) AS start, max(least(until, at + {LONGEST_CALL})) AS until, count(*) AS count,
       count(*) FILTER (WHERE has_failed) AS failed,
       min(at) FILTER (WHERE has_failed) AS failed_at
FROM happened
GROUP BY lane, floor(extract(epoch FROM at) / $2::int)
ORDER BY start LIMIT {MAX_STRETCHES}
"""


class Stretch(msgspec.Struct, frozen=True):
    """What happened in one lane from one moment to another."""

    lane: Lane
    start: datetime
    until: datetime
    count: int
    failed: int
    failed_at: datetime | None


async def fetch_strip(
    connection: ContextConnection, session_id: UUID, *, lasted_s: float
) -> list[Stretch]:
    """All of a session, by the time at which it began."""
    stretch_s = next((s for most, s in STRETCHES_S if lasted_s <= most), LONGEST_STRETCH_S)
    return [Stretch(*row) for row in await connection.fetch(_STRIP, session_id, stretch_s)]
