"""Users as telemetry names them: by email, made on first sight."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from metrics_service.db.tenancy import ContextConnection
from metrics_service.ingest.rows import as_json

FIND = """
SELECT email, id FROM users
WHERE email IN (SELECT value FROM json_array_elements_text($1::json))
"""

ADD = """
INSERT INTO users (email)
SELECT value FROM json_array_elements_text($1::json) ORDER BY value
ON CONFLICT (tenant_id, email) DO NOTHING
"""

UNKNOWN = """
SELECT value::uuid AS id FROM json_array_elements_text($1::json)
EXCEPT SELECT id FROM users
"""


async def users_by_email(connection: ContextConnection, emails: Iterable[str]) -> dict[str, UUID]:
    """The ids of these emails, in lower case; unknown ones become users."""
    wanted = set(emails)
    if not wanted:
        return {}
    found = await _find(connection, wanted)
    if missing := wanted - found.keys():
        await connection.execute(ADD, as_json(sorted(missing)))
        # Asked again, because another transaction may have added them in the same moment.
        found |= await _find(connection, missing)
    return found


async def unknown_users(connection: ContextConnection, user_ids: Iterable[UUID]) -> set[UUID]:
    """Those of the ids that no user of this tenant has."""
    wanted = set(user_ids)
    if not wanted:
        return set()
    return {
        row["id"]
        for row in await connection.fetch(UNKNOWN, as_json([str(user_id) for user_id in wanted]))
    }


async def _find(connection: ContextConnection, emails: set[str]) -> dict[str, UUID]:
    rows = await connection.fetch(FIND, as_json(sorted(emails)))
    return {row["email"]: row["id"] for row in rows}
