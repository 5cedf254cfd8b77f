"""All SQL of users and their passwords. No `tenant_id` in sight: row security filters and fills it in."""

from __future__ import annotations

from uuid import UUID

from metrics_service.db.tenancy import ContextConnection
from metrics_service.users.schemas import Account, NewUser, UserRow

ROWS = """
SELECT u.id, u.email, u.name, u.role, u.team,
       p.user_id IS NOT NULL AND u.email IS NOT NULL AS can_sign_in, u.last_seen_at
FROM users u LEFT JOIN user_passwords p ON p.tenant_id = u.tenant_id AND p.user_id = u.id
"""
LIST = f"{ROWS} ORDER BY u.email, u.id"
GET = f"{ROWS} WHERE u.id = $1"

ACCOUNT = """
SELECT u.id, u.email, p.password_hash
FROM users u LEFT JOIN user_passwords p ON p.tenant_id = u.tenant_id AND p.user_id = u.id
WHERE u.email = $1
"""
ACCOUNT_BY_ID = """
SELECT u.id, u.email, p.password_hash
FROM users u LEFT JOIN user_passwords p ON p.tenant_id = u.tenant_id AND p.user_id = u.id
WHERE u.id = $1
"""

# Whoever telemetry named is a user already, and keeps what nobody says otherwise.
PUT = """
INSERT INTO users (email, role, name, team) VALUES ($1, coalesce($2, 'viewer'), $3, $4)
ON CONFLICT (tenant_id, email) DO UPDATE SET
    role = coalesce($2, users.role), name = coalesce($3, users.name),
    team = coalesce($4, users.team), updated_at = now()
RETURNING id
"""

GIVE_ROLE = "UPDATE users SET role = $2, updated_at = now() WHERE id = $1"

STORE = """
INSERT INTO user_passwords (user_id, password_hash) VALUES ($1, $2)
ON CONFLICT (tenant_id, user_id)
DO UPDATE SET password_hash = excluded.password_hash, updated_at = now()
"""
STORE_FIRST = """
INSERT INTO user_passwords (user_id, password_hash) VALUES ($1, $2)
ON CONFLICT (tenant_id, user_id) DO NOTHING RETURNING user_id
"""

# Held until the transaction ends, so that it stays the password while it opens a door.
STILL_IS = """
SELECT true FROM user_passwords WHERE user_id = $1 AND password_hash = $2 FOR UPDATE
"""


async def list_users(connection: ContextConnection) -> list[UserRow]:
    """All users, by their email; those who have none come last."""
    return [UserRow(*row) for row in await connection.fetch(LIST)]


async def get_user(connection: ContextConnection, user_id: UUID) -> UserRow:
    """One who is known to be there."""
    return UserRow(*await connection.fetchrow(GET, user_id))


async def find_account(connection: ContextConnection, email: str) -> Account | None:
    """Whose email this is, in lower case."""
    row = await connection.fetchrow(ACCOUNT, email)
    return None if row is None else Account(*row)


async def find_account_of(connection: ContextConnection, user_id: UUID) -> Account | None:
    row = await connection.fetchrow(ACCOUNT_BY_ID, user_id)
    return None if row is None else Account(*row)


async def put_user(connection: ContextConnection, user: NewUser) -> UUID:
    """Add a user, or change what is given of the one with this email."""
    user_id: UUID = await connection.fetchval(PUT, user.email, user.role, user.name, user.team)
    return user_id


async def set_role(connection: ContextConnection, user_id: UUID, role: str) -> None:
    await connection.execute(GIVE_ROLE, user_id, role)


async def set_password(connection: ContextConnection, user_id: UUID, password_hash: str) -> None:
    await connection.execute(STORE, user_id, password_hash)


async def add_password(connection: ContextConnection, user_id: UUID, password_hash: str) -> bool:
    """Give a user their first password; False when they have one."""
    added = await connection.fetchval(STORE_FIRST, user_id, password_hash)
    return added is not None


async def is_still_password(
    connection: ContextConnection, user_id: UUID, password_hash: str
) -> bool:
    """Whether what was compared outside of this transaction holds in it, and until it ends."""
    return bool(await connection.fetchval(STILL_IS, user_id, password_hash))
