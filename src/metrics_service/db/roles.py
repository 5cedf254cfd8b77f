"""The roles of a database: who owns, who migrates, who serves, who only backs up.

Works for an administrator with CREATEROLE who owns the database; no superuser is needed.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg
import msgspec

from metrics_service.db.connect import UNREACHABLE
from metrics_service.db.engine import CONNECT_TIMEOUT_S, unreachable
from metrics_service.errors import DatabaseUnreachableError, MigrationError

OWNER = "app_owner"
TENANTS = "app_tenant"
"""Every tenant role is a member: it holds the rights on `shared`, which are the same for all."""
BACKUP = "app_backup"

# What PostgreSQL says when two transactions change one role; it has no code of its own.
RACE_LOST = "tuple concurrently"
ALREADY_THERE = (asyncpg.UniqueViolationError, asyncpg.DuplicateObjectError)
RACES_LOST_AT_MOST = 50

RUNTIME_SETTINGS = {
    "search_path": "''",
    # asyncpg's first type look-up takes over a second with JIT.
    "jit": "off",
    "lock_timeout": "'5s'",
    "idle_in_transaction_session_timeout": "'60s'",
}

IS_COUNTED = """
    SELECT EXISTS (SELECT FROM pg_settings WHERE name = 'pg_stat_statements.max')
       AND EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_stat_statements')
"""
# It comes with rights for PUBLIC; and whoever serves tenants has no business with all their statements.
STATISTICS = (
    "CREATE EXTENSION IF NOT EXISTS pg_stat_statements SCHEMA public",
    """
    DO $$
    DECLARE found record;
    BEGIN
        FOR found IN
            SELECT d.objid::regclass AS name FROM pg_depend d
            JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_stat_statements'
            WHERE d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_class'::regclass
        LOOP
            EXECUTE format('REVOKE ALL ON %s FROM PUBLIC', found.name);
            EXECUTE format('GRANT SELECT ON %s TO app_owner', found.name);
        END LOOP;
        FOR found IN
            SELECT p.oid::regprocedure AS name FROM pg_depend d
            JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_stat_statements'
            JOIN pg_proc p ON p.oid = d.objid AND p.proname <> 'pg_stat_statements_reset'
            WHERE d.refclassid = 'pg_extension'::regclass AND d.classid = 'pg_proc'::regclass
        LOOP
            EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', found.name);
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO app_owner', found.name);
        END LOOP;
    END $$
    """,
    f"GRANT pg_read_all_stats TO {OWNER}",
)
NOT_COUNTED = (
    "pg_stat_statements is loaded, but the administrator may not create it, or not give "
    f"pg_read_all_stats to {OWNER}: slow queries are shown without its counts. Run `db init` once "
    "more with a superuser as --admin-url to have them"
)


class Login(msgspec.Struct, frozen=True):
    """A login as a DSN names it."""

    name: str
    password: str | None

    @classmethod
    def of(cls, dsn: str) -> Login:
        parts = urlsplit(dsn)
        return cls(
            name=unquote(parts.username or ""),
            password=unquote(parts.password) if parts.password else None,
        )


async def create_roles(admin_dsn: str, *, runtime: Login, migrator: Login) -> list[str]:
    """Create what is missing, bring the rest in line; return what an operator should know.

    Raises `DatabaseUnreachableError`, and `MigrationError` when the administrator may not.
    """
    try:
        connection = await asyncpg.connect(admin_dsn, timeout=CONNECT_TIMEOUT_S)
    except UNREACHABLE as error:
        raise DatabaseUnreachableError(unreachable(error)) from error
    try:
        return await _in_turn(connection, runtime, migrator)
    except asyncpg.InsufficientPrivilegeError as error:
        raise MigrationError(
            f"the administrator's login needs CREATEROLE and ownership of the database: {error}"
        ) from error
    finally:
        await connection.close()


async def _in_turn(
    connection: asyncpg.Connection[Any], runtime: Login, migrator: Login
) -> list[str]:
    """Roles belong to the whole server, locks to one database: its neighbours may get in between."""
    for _ in range(RACES_LOST_AT_MOST):
        try:
            async with connection.transaction():
                await connection.execute(
                    "SELECT pg_advisory_xact_lock(hashtextextended('db init', 0))"
                )
                return await _create_roles(connection, runtime, migrator)
        except (asyncpg.InternalServerError, *ALREADY_THERE) as error:
            if isinstance(error, asyncpg.InternalServerError) and RACE_LOST not in str(error):
                raise
            await asyncio.sleep(random.uniform(0.01, 0.2))  # noqa: S311  # only to spread them
    raise MigrationError("another database of this server is being initialised; try again")


async def _create_roles(
    connection: asyncpg.Connection[Any], runtime: Login, migrator: Login
) -> list[str]:
    quoted = await _quoted(connection, runtime.name, migrator.name)
    database = await connection.fetchval("SELECT format('%I', current_database())")
    await _ensure(connection, OWNER, "NOLOGIN")
    await _ensure(connection, TENANTS, "NOLOGIN")
    await _ensure(connection, runtime.name, "LOGIN NOINHERIT", runtime.password)
    await _ensure(connection, migrator.name, "LOGIN CREATEROLE", migrator.password)
    as_runtime, as_migrator = quoted
    for name, value in RUNTIME_SETTINGS.items():
        await connection.execute(f"ALTER ROLE {as_runtime} SET {name} = {value}")
    for statement in (
        f"GRANT {OWNER} TO {as_migrator}",
        f"GRANT {TENANTS} TO {as_migrator} WITH ADMIN OPTION",
        "REVOKE ALL ON SCHEMA public FROM PUBLIC",
        f"GRANT USAGE, CREATE ON SCHEMA public TO {OWNER}",
        f"GRANT USAGE ON SCHEMA public TO {as_runtime}",
        f"REVOKE ALL ON DATABASE {database} FROM PUBLIC",
        f"GRANT CREATE ON DATABASE {database} TO {OWNER}",
        f"GRANT CONNECT ON DATABASE {database} TO {as_migrator}, {as_runtime}",
    ):
        await connection.execute(statement)
    return [
        *await _backup_role(connection, database),
        *await _statement_statistics(connection),
    ]


async def _backup_role(connection: asyncpg.Connection[Any], database: str) -> list[str]:
    may = await connection.fetchval(
        """
        SELECT rolsuper OR (rolbypassrls AND current_setting('server_version_num')::int >= 160000)
        FROM pg_roles WHERE rolname = current_user
        """
    )
    if not may:
        return [f"{BACKUP} was not created: the administrator may not give BYPASSRLS"]
    await _ensure(connection, BACKUP, "LOGIN BYPASSRLS")
    await connection.execute(f"GRANT CONNECT ON DATABASE {database} TO {BACKUP}")
    return []


async def _statement_statistics(connection: asyncpg.Connection[Any]) -> list[str]:
    """Let the owner read what the server counts of statements, where it does; nobody else may."""
    # Its settings are there when it was loaded at the start, which is when it counts.
    if not await connection.fetchval(IS_COUNTED):
        return []
    try:
        async with connection.transaction():
            for statement in STATISTICS:
                await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError:
        return [NOT_COUNTED]
    return []


async def _ensure(
    connection: asyncpg.Connection[Any], name: str, attributes: str, password: str | None = None
) -> None:
    exists = await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", name)
    statement = await connection.fetchval(
        """
        SELECT format('%s ROLE %I %s', $1::text, $2::text, $3::text)
               || CASE WHEN $4::text IS NULL THEN '' ELSE format(' PASSWORD %L', $4) END
        """,
        "ALTER" if exists else "CREATE",
        name,
        attributes,
        password,
    )
    await connection.execute(statement)


async def _quoted(connection: asyncpg.Connection[Any], *names: str) -> list[str]:
    return [await connection.fetchval("SELECT format('%I', $1::text)", name) for name in names]
