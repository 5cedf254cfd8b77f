"""Who did it: from what telemetry claims to a user of the tenant.

A claim proves nothing: only the key that sent it does, so its owner comes first. Users whom only a
claim knows are made on first sight, and what people edited about them stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

import msgspec

from metrics_service.db.tenancy import ContextConnection
from metrics_service.ingest.people import users_by_email
from metrics_service.ingest.rows import as_json
from metrics_service.ingest.telemetry import row_id_of

OWNER = "key"
EMAIL = "email"
MAX_EMAIL = 254

_is_email = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+").fullmatch

FIND = """
WITH wanted AS MATERIALIZED (
    SELECT * FROM json_to_recordset($1::json) AS r(kind text, value text)
)
SELECT i.kind, i.value, i.user_id FROM user_identities i JOIN wanted USING (kind, value)
"""

ADD_USERS = """
INSERT INTO users (id, name)
SELECT id, value FROM json_to_recordset($1::json) AS r(id uuid, value text) ORDER BY id
ON CONFLICT (tenant_id, id) DO NOTHING
"""

ADD_IDENTITIES = """
INSERT INTO user_identities (kind, value, user_id)
SELECT kind, value, id FROM json_to_recordset($1::json) AS r(kind text, value text, id uuid)
ORDER BY kind, value
ON CONFLICT (tenant_id, kind, value) DO NOTHING
"""


class Claim(msgspec.Struct, frozen=True):
    """What names a person: by key, by email, or by the name of an attribute."""

    kind: str
    value: str


def best_claim(said: Mapping[str, tuple[int, Any]]) -> Claim | None:
    """The best claim among what was said of a session (`@` and the attribute's name)."""
    is_gateway = said.get("@identity.source", (0, ""))[1] == "gateway-oidc"
    for kind in _ORDER_AT_GATEWAY if is_gateway else _ORDER:
        found = said.get(f"@{kind}")
        if found is not None and found[1]:
            return _claim(kind, found[1])
    return None


# The best first; behind it nothing else is asked.
_ORDER = (
    OWNER,
    "user.email",
    "cursor.user.email",
    "enduser.id",
    "user.account_uuid",
    "user.account_id",
    "gen_ai.user.id",
    "cursor.user.id",
    "ai.telemetry.metadata.userId",
    "enduser.pseudo.id",
    "user.id",
    "installation.id",
)
# Behind a gateway the subject of the identity provider stands where an installation's id would be.
_ORDER_AT_GATEWAY = tuple(
    kind
    for known in _ORDER
    for kind in ((known, "user.id") if known == "user.account_uuid" else (known,))
)


def _claim(kind: str, value: str) -> Claim:
    if kind != OWNER and len(value) <= MAX_EMAIL and _is_email(value):
        return Claim(EMAIL, value.lower())
    return Claim(kind, value)


async def users_of(
    connection: ContextConnection, tenant_id: UUID, claims: Iterable[Claim]
) -> dict[Claim, UUID]:
    """The users of these claims; those that nobody has become users."""
    wanted = set(claims)
    users = {claim: UUID(claim.value) for claim in wanted if claim.kind == OWNER}
    emails = {claim.value for claim in wanted if claim.kind == EMAIL}
    by_email = await users_by_email(connection, emails)
    users |= {Claim(EMAIL, email): user_id for email, user_id in by_email.items()}
    if others := [claim for claim in wanted if claim.kind not in (OWNER, EMAIL)]:
        users |= await _identities(connection, tenant_id, others)
    return users


async def _identities(
    connection: ContextConnection, tenant_id: UUID, claims: list[Claim]
) -> dict[Claim, UUID]:
    found = await _find(connection, claims)
    if missing := [claim for claim in claims if claim not in found]:
        rows = as_json(
            [
                {
                    "id": UUID(int=_user_id(tenant_id, claim)),
                    "kind": claim.kind,
                    "value": claim.value,
                }
                for claim in missing
            ]
        )
        await connection.execute(ADD_USERS, rows)
        await connection.execute(ADD_IDENTITIES, rows)
        found |= await _find(connection, missing)
    return found


def _user_id(tenant_id: UUID, claim: Claim) -> int:
    # It follows from the claim, so that two who see it first in one moment make one user.
    return row_id_of(tenant_id.bytes, "user", f"{claim.kind}\0{claim.value}")


async def _find(connection: ContextConnection, claims: list[Claim]) -> dict[Claim, UUID]:
    rows = await connection.fetch(FIND, as_json(claims))
    return {Claim(row["kind"], row["value"]): row["user_id"] for row in rows}
