"""What there is to filter sessions by: the values that the latest of them have."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from metrics_service.db.tenancy import ContextConnection

# So many sessions have all values that matter, and are read in milliseconds.
LOOKED_AT = 5_000
MAX_CHOICES = 100

COLUMNS = ("agent", "team", "repository", "session_type")
_LATEST = """
WITH latest AS MATERIALIZED (
    SELECT id, agent, team, repository, session_type, user_id FROM metrics_sessions
    WHERE started_at >= $1 AND started_at < $2 ORDER BY started_at DESC, id DESC LIMIT $3
), found AS (
    {found}
), ranked AS (
    SELECT what, value, label, row_number() OVER (PARTITION BY what ORDER BY n DESC, value) AS place
    FROM found WHERE value IS NOT NULL
)
SELECT what, value, label FROM ranked WHERE place <= $4 ORDER BY what, lower(coalesce(label, value))
"""
_FOUND = [
    *(
        f"SELECT '{column}' AS what, {column} AS value, NULL::text AS label, count(*) AS n"
        f" FROM latest GROUP BY {column}"
        for column in COLUMNS
    ),
    """SELECT 'tag', t.tag, NULL, count(*) FROM latest l
       JOIN session_tags t ON t.session_id = l.id GROUP BY t.tag""",
]
_FOUND_PEOPLE = """SELECT 'user_id', l.user_id::text, coalesce(u.name, u.email), count(*) FROM latest l
    JOIN users u ON u.id = l.user_id GROUP BY l.user_id, u.name, u.email"""


class Choice(msgspec.Struct, frozen=True):
    value: str
    label: str


async def fetch_choices(
    connection: ContextConnection, start: datetime, end: datetime, *, sees_people: bool
) -> dict[str, list[Choice]]:
    """By filter: its most frequent values, in the order of the alphabet."""
    found = [*_FOUND, *([_FOUND_PEOPLE] if sees_people else [])]
    rows = await connection.fetch(
        _LATEST.format(found=" UNION ALL ".join(found)), start, end, LOOKED_AT, MAX_CHOICES
    )
    choices: dict[str, list[Choice]] = {what: [] for what in (*COLUMNS, "tag", "user_id")}
    for row in rows:
        label = row["label"]
        if label is None:
            label = f"person {row['value'][:8]}" if row["what"] == "user_id" else row["value"]
        choices[row["what"]].append(Choice(row["value"], label))
    return choices


def with_chosen(choices: Sequence[Choice], value: str | None, label: str | None) -> list[Choice]:
    """What is chosen is always among them."""
    if value is None or any(choice.value == value for choice in choices):
        return list(choices)
    return [Choice(value, label or value), *choices]
