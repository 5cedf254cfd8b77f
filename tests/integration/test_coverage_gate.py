"""The coverage gate sees every hole: each is made in a schema of the test's own, and named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from metrics_service.db import coverage
from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection
from metrics_service.db.roles import OWNER
from metrics_service.tenants.initialise import initialise, target_of
from metrics_service.tenants.new_tenant import NewTenant
from metrics_service.tenants.provision import create_tenant

EXPRESSION = "tenant_id = (SELECT shared.current_tenant())"
CATALOGS = ("pg_class", "pg_namespace", "pg_policy", "pg_constraint", "pg_index", "pg_attribute")
WALL = f"USING ({EXPRESSION}) WITH CHECK ({EXPRESSION})"


@pytest.fixture(scope="module")
async def addresses(
    new_database: Callable[[], Addresses], admin_url: Callable[[str], str]
) -> Addresses:
    """A database of this module's own: to look for holes in all schemas takes as long as there are many."""
    made = await asyncio.to_thread(new_database)
    await initialise(made, admin_url(urlsplit(made.runtime).path.removeprefix("/")))
    return made


@pytest.fixture(scope="module")
async def schema(addresses: Addresses) -> str:
    new = NewTenant.of(
        f"t{uuid4().hex[:16]}", name=None, domain=None, plan="basic", base_domain="localhost"
    )
    async with owner_connection(addresses.require_owner()) as connection:
        return (await create_tenant(connection, new, target_of(addresses))).schema_name


@pytest.fixture
async def admin(
    addresses: Addresses, admin_url: Callable[[str], str], schema: str
) -> AsyncIterator[AsyncConnection]:
    """A transaction of the administrator that is rolled back, with the hole that a test made."""
    dsn = admin_url(urlsplit(addresses.runtime).path.removeprefix("/"))
    async with owner_connection(dsn) as connection:
        transaction = await connection.begin()
        await connection.execute(text(f"SET LOCAL search_path = {schema}, pg_temp"))
        yield connection
        await transaction.rollback()


async def make(connection: AsyncConnection, *statements: str) -> None:
    for statement in statements:
        await connection.exec_driver_sql(statement)


def table_with(extra: str, *more: str) -> tuple[str, ...]:
    """A table `t` with the whole wall, apart from what `extra` and `more` make of it."""
    return (
        f"""
        CREATE TABLE t (
            tenant_id uuid NOT NULL DEFAULT shared.current_tenant(), id uuid NOT NULL, {extra}
            CONSTRAINT t_pk PRIMARY KEY (tenant_id, id),
            CONSTRAINT t_tenant CHECK (tenant_id IN ('00000000-0000-4000-8000-000000000001'))
        )
        """,
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE t FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY guard ON t AS RESTRICTIVE {WALL}",
        f"CREATE POLICY access ON t {WALL}",
        *more,
    )


def policies(table: str, using: str, *, options: str = "") -> tuple[str, ...]:
    """Put a policy of this expression in the place of `access`."""
    return (
        f"DROP POLICY access ON {table}",
        f"CREATE POLICY access ON {table} {options} {using}",
    )


WEAK = "users: a policy is weaker than the tenant expression"

HOLES = {
    "row security is off": (
        ("ALTER TABLE users DISABLE ROW LEVEL SECURITY",),
        "users: row security is not enabled",
    ),
    "row security is not forced": (
        ("ALTER TABLE users NO FORCE ROW LEVEL SECURITY",),
        "users: row security is not forced",
    ),
    "the guard is gone": (
        ("DROP POLICY guard ON users",),
        "users: the guard policy is missing",
    ),
    "the access policy is gone": (
        ("DROP POLICY access ON users",),
        "users: the access policy is missing",
    ),
    "one more policy lets everything in": (
        ("CREATE POLICY stray ON users USING (true)",),
        WEAK,
    ),
    "access lets everything in": (policies("users", "USING (true) WITH CHECK (true)"), WEAK),
    "a policy says OR true": (
        policies("users", f"USING ({EXPRESSION} OR true) WITH CHECK ({EXPRESSION} OR true)"),
        WEAK,
    ),
    "a policy says true OR": (
        policies("users", f"USING (role = 'x' OR {EXPRESSION}) WITH CHECK ({EXPRESSION})"),
        WEAK,
    ),
    "a policy lets a row of nobody in": (
        policies("users", f"USING (coalesce({EXPRESSION}, true)) WITH CHECK ({EXPRESSION})"),
        WEAK,
    ),
    "a policy is for reading only": (
        policies("users", f"USING ({EXPRESSION})", options="FOR SELECT"),
        WEAK,
    ),
    "a policy is for one role only": (
        policies("users", f"TO {OWNER} {WALL}"),
        WEAK,
    ),
    "a policy checks nothing that is written": (policies("users", f"USING ({EXPRESSION})"), WEAK),
    "a policy asks another function": (
        (
            "CREATE FUNCTION current_tenant() RETURNS uuid LANGUAGE sql AS $$ SELECT NULL::uuid $$",
            *policies(
                "users",
                "USING (tenant_id = (SELECT current_tenant()))"
                " WITH CHECK (tenant_id = (SELECT current_tenant()))",
            ),
            "SET LOCAL search_path = pg_temp",
        ),
        WEAK,
    ),
    "the CHECK is gone": (
        ("ALTER TABLE users DROP CONSTRAINT users_tenant",),
        "users: the tenant CHECK is missing",
    ),
    "the CHECK is not validated": (
        (
            "ALTER TABLE users DROP CONSTRAINT users_tenant",
            "ALTER TABLE users ADD CONSTRAINT users_tenant CHECK"
            " (tenant_id IN ('00000000-0000-4000-8000-000000000001')) NOT VALID",
        ),
        "users: the tenant CHECK is missing",
    ),
    "the CHECK says OR true": (
        (
            "ALTER TABLE users DROP CONSTRAINT users_tenant",
            "ALTER TABLE users ADD CONSTRAINT users_tenant CHECK"
            " (tenant_id = '00000000-0000-4000-8000-000000000001' OR true)",
        ),
        "users: the tenant CHECK is missing",
    ),
    "there is no primary key": (
        ("ALTER TABLE users DROP CONSTRAINT users_pk CASCADE",),
        "users: there is no primary key",
    ),
    "a primary key is not led by the tenant": (
        (
            "ALTER TABLE users DROP CONSTRAINT users_pk CASCADE",
            "ALTER TABLE users ADD CONSTRAINT users_pk PRIMARY KEY (id, tenant_id)",
        ),
        "users: key users_pk is not led by tenant_id",
    ),
    "a unique key is not led by the tenant": (
        ("ALTER TABLE users ADD CONSTRAINT users_name_key UNIQUE (name)",),
        "users: key users_name_key is not led by tenant_id",
    ),
    "a unique index is not led by the tenant": (
        ("CREATE UNIQUE INDEX users_name_ix ON users (name)",),
        "users: unique index users_name_ix is not led by tenant_id",
    ),
    "a unique index is led by an expression": (
        ("CREATE UNIQUE INDEX users_name_ix ON users (lower(name), tenant_id)",),
        "users: unique index users_name_ix is not led by tenant_id",
    ),
    "an exclusion is not led by the tenant": (
        ("ALTER TABLE users ADD CONSTRAINT users_name_ex EXCLUDE (name WITH =)",),
        "users: key users_name_ex is not led by tenant_id",
    ),
    "a foreign key is not led by the tenant": (
        (
            "ALTER TABLE users ADD COLUMN other_id uuid",
            "CREATE UNIQUE INDEX users_other_ix ON users (id)",
            "ALTER TABLE users ADD CONSTRAINT users_other_fk FOREIGN KEY (other_id)"
            " REFERENCES users (id)",
        ),
        "users: key users_other_fk is not led by tenant_id",
    ),
    "a foreign key leaves the schema": (
        (
            "ALTER TABLE users ADD CONSTRAINT users_home_fk FOREIGN KEY (tenant_id)"
            " REFERENCES public.tenants (id)",
        ),
        "users: foreign key users_home_fk leads out of the schema",
    ),
    "a view runs as its owner": (
        ("CREATE VIEW v AS SELECT id FROM users",),
        "v: the view does not run as its caller",
    ),
    "a view is told to run as its owner": (
        ("CREATE VIEW v WITH (security_invoker = false) AS SELECT id FROM users",),
        "v: the view does not run as its caller",
    ),
    "a materialized view": (
        ("CREATE MATERIALIZED VIEW v AS SELECT id FROM users",),
        "v: materialized views do not belong in a tenant schema",
    ),
    "everybody may read": (
        ("GRANT SELECT ON users TO PUBLIC",),
        "users: privileges are granted to PUBLIC",
    ),
    "everybody may read a column": (
        ("GRANT SELECT (email) ON users TO PUBLIC",),
        "users: privileges are granted to PUBLIC",
    ),
    "somebody may truncate": (
        ("GRANT TRUNCATE ON users TO app_tenant",),
        "users: a role holds TRUNCATE, REFERENCES or TRIGGER on it",
    ),
    "somebody may refer to it": (
        ("GRANT REFERENCES ON users TO app_tenant",),
        "users: a role holds TRUNCATE, REFERENCES or TRIGGER on it",
    ),
    "a new table has no wall at all": (
        ("CREATE TABLE t (id uuid)",),
        "t: row security is not enabled",
    ),
    "a partition has grants": (
        (
            *table_with(""),
            "DROP TABLE t",
            "CREATE TABLE t (tenant_id uuid NOT NULL, id uuid NOT NULL, CONSTRAINT t_pk"
            " PRIMARY KEY (tenant_id, id)) PARTITION BY RANGE (tenant_id)",
            "CREATE TABLE t_1 PARTITION OF t DEFAULT",
            "GRANT SELECT ON t_1 TO app_tenant",
        ),
        "t_1: a partition has grants of its own",
    ),
    "a partition has no wall": (
        (
            "CREATE TABLE t (tenant_id uuid NOT NULL, id uuid NOT NULL, CONSTRAINT t_pk"
            " PRIMARY KEY (tenant_id, id)) PARTITION BY RANGE (tenant_id)",
            "CREATE TABLE t_1 PARTITION OF t DEFAULT",
        ),
        "t_1: row security is not enabled",
    ),
    "a foreign table": (
        (
            "CREATE FOREIGN DATA WRAPPER nowhere",
            "CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere",
            "CREATE FOREIGN TABLE t (id uuid) SERVER nowhere",
        ),
        "t: foreign tables have no row security",
    ),
}


@pytest.mark.parametrize("name", HOLES)
async def test_a_hole_in_a_tenants_tables_is_named(admin, schema, name):
    statements, reason = HOLES[name]

    await make(admin, *statements)

    assert f"{schema}.{reason}" in await coverage.tenant_holes(admin, schema)
    assert f"{schema}.{reason}" in await coverage.tenant_holes(admin)


async def test_a_clean_schema_has_no_hole(admin, schema):
    assert await coverage.tenant_holes(admin, schema) == []


async def test_a_table_with_the_whole_wall_is_no_hole(admin, schema):
    await make(admin, *table_with("name text,"))

    assert await coverage.tenant_holes(admin, schema) == []


async def test_the_form_of_the_expression_for_citus_is_no_hole(admin, schema):
    bare = "tenant_id = shared.current_tenant()"
    await make(
        admin,
        "DROP POLICY guard ON users",
        "DROP POLICY access ON users",
        f"CREATE POLICY guard ON users AS RESTRICTIVE USING ({bare}) WITH CHECK ({bare})",
        f"CREATE POLICY access ON users USING ({bare}) WITH CHECK ({bare})",
    )

    assert await coverage.tenant_holes(admin, schema) == []


async def test_the_gate_does_not_depend_on_the_path_of_who_asks(admin, schema):
    for path in ("''", "shared", f"{schema}, shared, pg_temp"):
        await make(admin, f"SET LOCAL search_path = {path}")

        assert await coverage.tenant_holes(admin, schema) == []


async def test_a_view_that_runs_as_its_caller_is_no_hole(admin, schema):
    await make(admin, "CREATE VIEW v WITH (security_invoker = true) AS SELECT id FROM users")

    assert await coverage.tenant_holes(admin, schema) == []


def readings(node: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """What the query made of the catalogs first, and how often it is read again."""
    if node["Node Type"] == "CTE Scan":
        yield node["CTE Name"], node["Actual Loops"]
    for child in node.get("Plans", ()):
        yield from readings(child)


@pytest.mark.parametrize("known", [(), *((one,) for one in CATALOGS), CATALOGS])
async def test_whatever_statistics_say_tables_are_not_gone_through_for_each_table(admin, known):
    # Where tenants were just made they are renewed for one catalog after the other.
    for catalog in CATALOGS:
        rows = 1000 if catalog in known else 0
        await admin.exec_driver_sql(
            f"UPDATE pg_class SET relpages = 1, reltuples = {rows}"
            f" WHERE oid = 'pg_catalog.{catalog}'::regclass"
        )

    asked = coverage.TABLES_AND_VIEWS.replace("$1", "NULL")
    found = await admin.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {asked}")
    plan = found.scalar_one()[0]["Plan"]

    assert {name for name, _ in readings(plan)} == {"relation", "tenant_table"}
    assert {times for _, times in readings(plan)} == {1}


async def test_a_hole_of_one_tenant_is_not_blamed_on_another(admin, addresses, schema):
    new = NewTenant.of(
        f"t{uuid4().hex[:16]}", name=None, domain=None, plan="basic", base_domain="localhost"
    )
    async with owner_connection(addresses.require_owner()) as connection:
        other = await create_tenant(connection, new, target_of(addresses))

    await make(admin, "ALTER TABLE users DISABLE ROW LEVEL SECURITY")

    assert await coverage.tenant_holes(admin, other.schema_name) == []


async def test_the_gate_of_one_tenant_waits_for_no_other(admin, admin_url, addresses, schema):
    # Two upgrades at once, each behind the locks of its own schema, would wait for each other.
    new = NewTenant.of(
        f"t{uuid4().hex[:16]}", name=None, domain=None, plan="basic", base_domain="localhost"
    )
    async with owner_connection(addresses.require_owner()) as connection:
        other = await create_tenant(connection, new, target_of(addresses))
    dsn = admin_url(urlsplit(addresses.runtime).path.removeprefix("/"))
    async with owner_connection(dsn) as busy, busy.begin():
        await make(busy, f"LOCK TABLE {other.schema_name}.users IN ACCESS EXCLUSIVE MODE")
        await make(admin, "SET LOCAL lock_timeout = 500")
        for setting in ("on", "off"):
            # Of the plans that there are, the one for many schemas too.
            await make(
                admin,
                f"SET LOCAL enable_indexscan = {setting}",
                f"SET LOCAL enable_bitmapscan = {setting}",
                f"SET LOCAL enable_nestloop = {setting}",
            )

            assert await coverage.tenant_holes(admin, schema) == []


# -- roles, functions, schemas ----------------------------------------------------------------------

DEFINER = "LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT 1'"

ROLE_HOLES = {
    "a definer function of a superuser": (
        (f"CREATE FUNCTION shared.f() RETURNS int {DEFINER}",),
        "f: a SECURITY DEFINER function is owned by a role above row security",
    ),
    "a definer function of a superuser in a tenant's schema": (
        (f"CREATE FUNCTION f() RETURNS int {DEFINER}",),
        "f: a SECURITY DEFINER function is owned by a role above row security",
    ),
    "a definer function of a role above row security": (
        (
            "CREATE ROLE above_the_wall BYPASSRLS",
            f"CREATE FUNCTION public.f() RETURNS int {DEFINER}",
            "GRANT CREATE ON SCHEMA public TO above_the_wall",
            "ALTER FUNCTION public.f() OWNER TO above_the_wall",
        ),
        "f: a SECURITY DEFINER function is owned by a role above row security",
    ),
    "a definer function without a path": (
        (
            f"SET LOCAL ROLE {OWNER}",
            "CREATE FUNCTION shared.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",
        ),
        "f: a SECURITY DEFINER function does not pin its search_path",
    ),
    "a definer function that everybody may run": (
        (
            f"SET LOCAL ROLE {OWNER}",
            f"CREATE FUNCTION shared.f() RETURNS int {DEFINER}",
            "GRANT EXECUTE ON FUNCTION shared.f() TO PUBLIC",
        ),
        "f: PUBLIC may run a SECURITY DEFINER function",
    ),
    "the runtime login is a member of a role above row security": (
        ("CREATE ROLE above_the_wall BYPASSRLS", "GRANT above_the_wall TO {runtime}"),
        "{runtime}: the runtime login can become a role above row security: above_the_wall",
    ),
    "the runtime login is a member of such a role through another": (
        (
            "CREATE ROLE above_the_wall BYPASSRLS",
            "CREATE ROLE between IN ROLE above_the_wall",
            "GRANT between TO {runtime}",
        ),
        "{runtime}: the runtime login can become a role above row security: above_the_wall",
    ),
    "the runtime login can become the owner": (
        (f"GRANT {OWNER} TO {{runtime}}",),
        f"{{runtime}}: the runtime login can become the owner: {OWNER}",
    ),
    "the runtime login is above row security": (
        ("ALTER ROLE {runtime} BYPASSRLS",),
        "{runtime}: the runtime login is above row security",
    ),
    "everybody may use the registry's schema": (
        ("GRANT USAGE ON SCHEMA public TO PUBLIC",),
        "public: PUBLIC has rights on the schema",
    ),
    "everybody may use a tenant's schema": (
        ("GRANT USAGE ON SCHEMA {schema} TO PUBLIC",),
        "{schema}: PUBLIC has rights on the schema",
    ),
}


@pytest.mark.parametrize("name", ROLE_HOLES)
async def test_a_hole_that_roles_and_functions_leave_is_named(admin, addresses, schema, name):
    statements, reason = ROLE_HOLES[name]
    names = {"runtime": addresses.runtime_role, "schema": schema}

    await make(admin, *(statement.format(**names) for statement in statements))

    assert reason.format(**names) in await coverage.role_holes(admin, addresses.runtime_role)


async def test_roles_and_functions_as_they_are_made_leave_no_hole(admin, addresses):
    assert await coverage.role_holes(admin, addresses.runtime_role) == []


async def test_the_runtime_login_itself_can_run_the_gate(addresses, schema):
    async with owner_connection(addresses.runtime) as runtime, runtime.begin():
        holes = await coverage.tenant_holes(runtime, schema)
        holes += await coverage.role_holes(runtime, addresses.runtime_role)

    assert holes == []
