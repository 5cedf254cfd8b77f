"""All SQL of identities and their rules. No `tenant_id` in sight: row security filters by it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

import msgspec
from asyncpg import Record

from metrics_service.db.listing import keyset
from metrics_service.db.pages import Position
from metrics_service.db.statements import Where
from metrics_service.db.tenancy import ContextConnection
from metrics_service.identities.schemas import (
    IdentityQuery,
    IdentityView,
    Person,
    RuleView,
    Unclaimed,
)
from metrics_service.ingest.claims import EMAIL, Claim
from metrics_service.ingest.known_people import read_people
from metrics_service.ingest.rows import as_json

COLUMNS = """
    i.id, i.kind, i.value, i.created_at, i.assigned_at, i.assigned_by, v.sessions,
    v.first_session_at, v.last_session_at
"""
FROM = """
    user_identities i
    LEFT JOIN LATERAL (
        SELECT count(*) AS sessions, min(s.started_at) AS first_session_at,
               max(s.started_at) AS last_session_at
        FROM metrics_sessions s
        WHERE s.tenant_id = i.tenant_id AND s.user_key_kind = i.kind AND s.user_key = i.value
    ) v ON true
"""
FILTERS = {
    "kind": "i.kind = ?",
    "value": "i.value = ?",
    "user_id": "coalesce(i.assigned_user_id, i.user_id) = ?",
    "is_assigned": "(i.assigned_user_id IS NOT NULL) = ?",
}

PEOPLE = """
SELECT id, email, name FROM users
WHERE id IN (SELECT value::uuid FROM json_array_elements_text($1::json))
"""

ASSIGN = """
UPDATE user_identities SET
    assigned_user_id = $2::uuid,
    assigned_by = CASE WHEN $2::uuid IS NULL THEN NULL ELSE $3::uuid END,
    assigned_at = CASE WHEN $2::uuid IS NULL THEN NULL ELSE now() END
WHERE id = $1 RETURNING kind, value
"""

RULES = "SELECT r.id, r.kind, r.value, r.user_id, r.to_domain, r.created_by, r.created_at"

ADD_RULE = """
INSERT INTO identity_rules (kind, value, user_id, to_domain, created_by)
VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant_id, kind, value) DO NOTHING RETURNING id
"""

UNCLAIMED = """
SELECT claims ->> 'ingest.key' AS key_id, user_source, count(*) AS sessions,
       min(started_at) AS first_session_at, max(started_at) AS last_session_at
FROM metrics_sessions
WHERE user_key_kind IS NULL AND telemetry IS NOT NULL
GROUP BY 1, 2 ORDER BY 3 DESC, 1 LIMIT 500
"""


def _where(query: IdentityQuery) -> Where:
    where = Where()
    for name, condition in FILTERS.items():
        if (value := getattr(query, name)) is not None:
            where.add(condition, value)
    return where


async def fetch_identities(
    connection: ContextConnection,
    query: IdentityQuery,
    *,
    after: Position | None,
    limit: int,
    offset: int,
) -> Sequence[Record]:
    where = _where(query)
    order = keyset(where, "i", query.sort, after)
    rows: Sequence[Record] = await connection.fetch(
        f"""
        SELECT {COLUMNS} FROM {FROM} {where} {order}
        LIMIT {where.bind(limit)} OFFSET {where.bind(offset)}
        """,
        *where.values,
    )
    return rows


async def count_identities(connection: ContextConnection, query: IdentityQuery) -> int:
    where = _where(query)
    return int(
        await connection.fetchval(f"SELECT count(*) FROM user_identities i {where}", *where.values)
    )


async def find_identity(connection: ContextConnection, identity_id: UUID) -> IdentityView | None:
    row = await connection.fetchrow(f"SELECT {COLUMNS} FROM {FROM} WHERE i.id = $1", identity_id)
    return None if row is None else (await identity_views(connection, [row]))[0]


async def identity_views(
    connection: ContextConnection, rows: Sequence[Record]
) -> list[IdentityView]:
    """The rows with whom they are matched to, and by what."""
    claims = [Claim(row["kind"], row["value"]) for row in rows]
    people = await read_people(connection, claims)
    matched = [people.who({_attribute(claim): (0, claim.value)}) for claim in claims]
    users = await people_of(connection, {known.user_id for known in matched if known is not None})
    return [
        msgspec.convert(
            {
                **dict(row),
                "user": users.get(known.user_id) if known is not None else None,
                "user_source": known.source if known is not None else None,
                "rule_id": known.rule_id if known is not None else None,
            },
            IdentityView,
        )
        for row, known in zip(rows, matched, strict=True)
    ]


def _attribute(claim: Claim) -> str:
    """What says the claim, as sessions have it."""
    return "@user.email" if claim.kind == EMAIL else f"@{claim.kind}"


async def people_of(connection: ContextConnection, user_ids: Iterable[UUID]) -> dict[UUID, Person]:
    rows = await connection.fetch(PEOPLE, as_json([str(user_id) for user_id in user_ids]))
    return {row["id"]: Person(row["id"], row["email"], row["name"]) for row in rows}


async def assign(
    connection: ContextConnection, identity_id: UUID, user_id: UUID | None, by: UUID | None
) -> Claim | None:
    """Say whose the identity is; returns its claim, None when there is no such identity."""
    row = await connection.fetchrow(ASSIGN, identity_id, user_id, by)
    return None if row is None else Claim(row["kind"], row["value"])


async def fetch_unclaimed(connection: ContextConnection) -> list[Unclaimed]:
    """Those who claim nobody; at most 500 lines, the greatest first."""
    return [msgspec.convert(dict(row), Unclaimed) for row in await connection.fetch(UNCLAIMED)]


async def fetch_rules(
    connection: ContextConnection, *, after: Position | None, limit: int, offset: int
) -> Sequence[Record]:
    where = Where()
    order = keyset(where, "r", "-created_at", after)
    rows: Sequence[Record] = await connection.fetch(
        f"""
        {RULES} FROM identity_rules r {where} {order}
        LIMIT {where.bind(limit)} OFFSET {where.bind(offset)}
        """,
        *where.values,
    )
    return rows


async def count_rules(connection: ContextConnection) -> int:
    return int(await connection.fetchval("SELECT count(*) FROM identity_rules"))


async def rule_views(connection: ContextConnection, rows: Sequence[Record]) -> list[RuleView]:
    users = await people_of(connection, {row["user_id"] for row in rows if row["user_id"]})
    return [
        msgspec.convert({**dict(row), "user": users.get(row["user_id"])}, RuleView) for row in rows
    ]


async def find_rule(connection: ContextConnection, kind: str, value: str) -> Record | None:
    row: Record | None = await connection.fetchrow(
        f"{RULES} FROM identity_rules r WHERE r.kind = $1 AND r.value = $2", kind, value
    )
    return row


async def add_rule(
    connection: ContextConnection,
    kind: str,
    value: str,
    *,
    user_id: UUID | None,
    to_domain: str | None,
    by: UUID | None,
) -> bool:
    """False when there is a rule for this already."""
    added = await connection.fetchval(ADD_RULE, kind, value, user_id, to_domain, by)
    return added is not None


async def drop_rule(connection: ContextConnection, rule_id: UUID) -> Record | None:
    """Remove a rule; returns what it was about, None when there is none."""
    row: Record | None = await connection.fetchrow(
        "DELETE FROM identity_rules WHERE id = $1 RETURNING kind, value", rule_id
    )
    return row


async def has_key(connection: ContextConnection, key_id: UUID) -> bool:
    """Whether the tenant has, or had, this key."""
    found = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM shared.list_api_keys() k WHERE k.id = $1)", key_id
    )
    return bool(found)


async def has_named(connection: ContextConnection, rule_id: UUID) -> bool:
    """Whether there are sessions that are whose they are by this rule, though it may be gone."""
    found = await connection.fetchval(
        """
        SELECT EXISTS (
            SELECT FROM metrics_sessions WHERE telemetry -> 'known' ->> 'rule_id' = $1)
        """,
        str(rule_id),
    )
    return bool(found)
