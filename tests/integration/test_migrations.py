"""Schemas and their revisions: the same everywhere, true in the ledger, whole after every kill."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import msgspec
import places
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from rolled import ROLLUPS
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from metrics_service.db import coverage
from metrics_service.db.addresses import MIGRATOR_LOGIN, RUNTIME_LOGIN, SUPERUSER, Addresses
from metrics_service.db.embedded import embedded_server
from metrics_service.db.engine import owner_connection, runtime_engine
from metrics_service.db.models import DashboardConfig, DashboardShare, DashboardVersion, User
from metrics_service.db.roles import BACKUP, OWNER, TENANTS
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.errors import MigrationError
from metrics_service.model_calls.repository import (
    MODEL_CALLS,
    model_call_view,
    summarise_model_calls,
)
from metrics_service.model_calls.schemas import ModelCallQuery, ModelSummaryQuery
from metrics_service.rollups.version import read_version
from metrics_service.sessions.repository import fetch_sessions, session_view
from metrics_service.sessions.schemas import SessionQuery
from metrics_service.tenants.initialise import initialise, target_of
from metrics_service.tenants.keys import create_key
from metrics_service.tenants.ledger import SchemaState, ledger
from metrics_service.tenants.migrate import migrate_alone
from metrics_service.tenants.new_tenant import NewTenant
from metrics_service.tenants.provision import create_tenant
from metrics_service.tenants.registry import Tenant
from metrics_service.tenants.resolve import TenantDirectory
from metrics_service.tenants.revisions import REGISTRY, head, is_behind, revisions
from metrics_service.tenants.steps import scripts
from metrics_service.tenants.upgrade import downgrade, upgrade_all
from metrics_service.tool_metrics.repository import (
    TOOL_METRICS,
    summarise_tool_metrics,
    tool_metric_view,
)
from metrics_service.tool_metrics.schemas import ToolMetricQuery, ToolSummaryQuery

ROOT = Path(__file__).parents[2]
MODELS = (User, DashboardConfig, DashboardVersion, DashboardShare)
TENANT_TABLES = {
    "users", "metrics_sessions", "session_tags", "tool_names", "tool_metrics", "model_calls",
    "dashboard_configs", "dashboard_versions", "dashboard_shares", "idempotency_keys",
    "user_identities", "identity_rules", "ingest_log", "ingest_refusals", "raw_requests",
    "user_passwords", "sign_ins",
    "tenant_settings", "trace_sessions", "tool_spans", "metric_streams", "counter_deltas",
    "session_events", "data_versions", *ROLLUPS,
}  # fmt: skip


class Place(msgspec.Struct, frozen=True):
    """A database of a test's own, because what it does to schemas would disturb others."""

    addresses: Addresses
    admin: str

    @property
    def target(self):
        return target_of(self.addresses)

    @asynccontextmanager
    async def as_owner(self) -> AsyncIterator[AsyncConnection]:
        owner = self.addresses.require_owner()
        async with owner_connection(owner) as connection, connection.begin():
            await connection.execute(text(f"SET LOCAL ROLE {OWNER}"))
            yield connection

    async def states(self) -> dict[str, SchemaState]:
        async with self.as_owner() as connection:
            return {state.schema_name: state for state in await ledger(connection)}

    async def tenants(self, count: int, *, at: str | None = None) -> list[Tenant]:
        """Make tenants, as the release of that revision did."""
        target = msgspec.structs.replace(self.target, to=at)
        async with owner_connection(self.addresses.require_owner()) as connection:
            return [await create_tenant(connection, some_tenant(), target) for _ in range(count)]

    async def taken_back(self, count: int) -> list[str]:
        """Schemas of as many tenants before their first revision."""
        made = await self.tenants(count, at=revisions("tenant")[0])
        schemas = [tenant.schema_name for tenant in made]
        await downgrade(msgspec.structs.replace(self.target, steps_back=True), schemas)
        return schemas

    async def taken_to(self, revision: str, schemas: list[str]) -> None:
        """Take schemas back to a revision, with what is in them."""
        back = msgspec.structs.replace(self.target, steps_back=True, to=revision)
        assert [outcome.error for outcome in await downgrade(back, schemas)] == [None] * len(
            schemas
        )


def some_tenant() -> NewTenant:
    return NewTenant.of(
        f"t{uuid4().hex[:16]}", name=None, domain=None, plan="basic", base_domain="localhost"
    )


async def make_place(
    new_database: Callable[[], Addresses], admin_url: Callable[[str], str]
) -> Place:
    addresses = await asyncio.to_thread(new_database)
    made = Place(addresses, admin_url(urlsplit(addresses.runtime).path.removeprefix("/")))
    await initialise(addresses, made.admin)
    return made


@pytest.fixture
async def place(new_database: Callable[[], Addresses], admin_url: Callable[[str], str]) -> Place:
    return await make_place(new_database, admin_url)


@pytest.fixture(scope="module")
async def kept_place(
    new_database: Callable[[], Addresses], admin_url: Callable[[str], str]
) -> Place:
    """A place for those that only look."""
    return await make_place(new_database, admin_url)


@pytest.fixture(scope="module")
async def kept_tenant(kept_place: Place) -> Tenant:
    return (await kept_place.tenants(2))[0]


async def tables_of(connection: AsyncConnection, schema: str) -> set[str]:
    rows = await connection.execute(
        text(
            """
            SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = :schema AND c.relkind IN ('r', 'p', 'v')
            """
        ),
        {"schema": schema},
    )
    return set(rows.scalars())


# -- what the migrations make -----------------------------------------------------------------------


async def test_the_models_say_what_the_migrations_make(kept_place, kept_tenant):
    schema = kept_tenant.schema_name
    ours = {model.__tablename__ for model in MODELS}

    def compare(connection):
        options = {
            "compare_type": True,
            # Keys and indexes are the migrations' own; the models only name columns.
            "include_object": lambda thing, name, kind, *_: (
                kind in {"table", "column"} or kind == "foreign_key_constraint"
            ),
            "include_name": lambda name, kind, _: kind != "table" or name in ours,
        }
        return compare_metadata(MigrationContext.configure(connection, opts=options), User.metadata)

    async with kept_place.as_owner() as connection:
        await connection.execute(text(f"SET LOCAL search_path = {schema}, shared, pg_temp"))
        differences = await connection.run_sync(compare)

    assert differences == []


async def test_the_models_name_the_columns_in_their_order_and_their_keys(kept_place, kept_tenant):
    schema = kept_tenant.schema_name

    async with kept_place.as_owner() as connection:
        for model in MODELS:
            rows = await connection.execute(
                text(
                    """
                    SELECT a.attname, NOT a.attnotnull AS is_nullable,
                           coalesce(a.attnum = ANY(k.conkey), false) AS is_key, a.atthasdef
                    FROM pg_attribute a
                    JOIN pg_constraint k ON k.conrelid = a.attrelid AND k.contype = 'p'
                    WHERE a.attrelid = CAST(:name AS regclass) AND a.attnum > 0
                      AND NOT a.attisdropped
                    ORDER BY a.attnum
                    """
                ),
                {"name": f"{schema}.{model.__tablename__}"},
            )
            stored = [tuple(row) for row in rows]
            assert stored == [
                (
                    column.name,
                    column.nullable,
                    column.primary_key,
                    column.server_default is not None,
                )
                for column in model.__table__.columns
                if not (
                    model is DashboardVersion
                    and column.name == "created_at"
                    and column.server_default is None
                )
            ]


async def test_all_tenants_have_the_same_columns_in_the_same_order(place):
    # A prepared statement that has served one tenant serves the next.
    await place.taken_back(1)
    older = [tenant.schema_name for tenant in await place.tenants(2)]
    await place.taken_to("tenant_0001", older)
    await upgrade_all(place.target, jobs=1)
    await place.tenants(1)

    async with place.as_owner() as connection:
        rows = await connection.execute(
            text(
                """
                SELECT n.nspname, c.relname, a.attname, a.atttypid, a.atttypmod, a.attnotnull,
                       a.attcollation, pg_get_expr(d.adbin, d.adrelid)
                FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
                JOIN pg_namespace n ON n.oid = c.relnamespace
                LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
                WHERE n.nspname ~ '^t_' AND c.relkind IN ('r', 'p') AND a.attnum > 0
                  -- What a step back dropped keeps its number, and is seen by no statement.
                  AND NOT a.attisdropped
                ORDER BY c.relname, a.attnum
                """
            )
        )
        columns = defaultdict(list)
        for schema, *column in rows:
            columns[schema].append(tuple(column))

    assert len(columns) == 4
    first, *others = columns.values()
    assert all(other == first for other in others)
    assert {column[0] for column in first} == TENANT_TABLES


async def test_no_column_has_a_type_of_a_tenants_own(kept_place, kept_tenant):
    async with kept_place.as_owner() as connection:
        types = await connection.scalar(
            text(
                """
                SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
                JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_type t ON t.oid = a.atttypid
                WHERE n.nspname ~ '^t_' AND a.attnum > 0 AND c.relkind IN ('r', 'p')
                  AND t.typnamespace <> 'pg_catalog'::regnamespace
                """
            )
        )
        others = await connection.scalar(
            text(
                """
                SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname ~ '^t_' AND c.relkind NOT IN ('r', 'i', 't')
                """
            )
        )

    assert (types, others) == (0, 0)


async def test_every_key_check_and_index_has_a_short_name_that_a_migration_gave_it(
    kept_place, kept_tenant
):
    written = "\n".join(file.read_text() for file in (ROOT / "alembic").rglob("*.py"))

    async with kept_place.as_owner() as connection:
        rows = await connection.execute(
            text(
                """
                SELECT c.relname, k.conname FROM pg_constraint k
                JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE (n.nspname ~ '^t_' OR n.nspname = 'public') AND k.contype <> 'n'
                UNION
                SELECT c.relname, i.relname FROM pg_index x
                JOIN pg_class c ON c.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid
                JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname ~ '^t_' OR n.nspname = 'public'
                """
            )
        )
        names = [tuple(row) for row in rows]

    assert len(names) > 30
    unnamed = [
        name
        for table, name in names
        if name not in {f"{table}_tenant", *_named_after(table)}
        and not re.search(rf"\b{re.escape(name)}\b", written)
    ]
    assert unnamed == []
    assert [name for _, name in names if len(name) > 50] == []


def _named_after(table: str) -> set[str]:
    """What one revision names after each of its tables."""
    return {f"{table}_key", f"{table}_cube"} if table in ROLLUPS else set()


# -- who may run what -------------------------------------------------------------------------------

TO_TENANTS = {
    "shared.current_tenant()",
    "shared.uuid_v7()",
    "shared.list_api_keys()",
    "shared.create_api_key(uuid,text,bytea,text,text[],uuid,timestamp with time zone)",
    "shared.revoke_api_key(uuid)",
    "shared.list_slow_queries(timestamp with time zone)",
}
TO_RUNTIME = {
    "public.tenant_ctx(uuid,integer)",
    "public.resolve_host(text)",
    "public.find_api_key(uuid,text)",
    "public.find_ended_api_key(uuid,text)",
    "public.schema_revision(text)",
    "shared.enter_tenant(uuid,uuid,integer)",
    "public.find_operator_key(text)",
    "public.operator_tenants(bytea)",
    "public.operator_activity(bytea,uuid)",
    "public.operator_schemas(bytea)",
    "public.operator_processes(bytea)",
    "public.operator_health_events(bytea,timestamp with time zone)",
    "public.operator_slow_queries(bytea,timestamp with time zone)",
    "public.operator_statements(bytea)",
    "public.operator_jobs(bytea)",
    "public.operator_audit_log(bytea)",
    "public.queue_job(bytea,uuid,text,jsonb,uuid)",
    "public.report_process(uuid,text,text,integer,text,timestamp with time zone,text,jsonb)",
    "public.leave_process(uuid)",
    "public.note_health_events(json)",
    "public.note_slow_queries(json)",
    "public.note_plan(uuid,text)",
    "public.note_activity(json)",
    "public.count_schemas(text[])",
}
TO_NOBODY = {
    "public.acting_tenant()",
    "public.acting_operator(bytea)",
    "public.statement_statistics()",
    "public.check_rows(json)",
    "public.plausible_time(timestamp with time zone,interval)",
}


async def test_functions_may_be_run_by_exactly_those_they_are_for(kept_place):
    async with kept_place.as_owner() as connection:
        await connection.execute(text("SET LOCAL search_path = ''"))
        rows = await connection.execute(
            text(
                """
                SELECT p.oid::regprocedure::text, coalesce(r.rolname, 'PUBLIC'),
                       acl.privilege_type, acl.is_grantable
                FROM pg_proc p,
                     LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) acl
                LEFT JOIN pg_roles r ON r.oid = acl.grantee
                WHERE p.pronamespace IN ('public'::regnamespace, 'shared'::regnamespace)
                """
            )
        )
        granted = {tuple(row) for row in rows}

    expected = {(name, OWNER) for name in TO_TENANTS | TO_RUNTIME | TO_NOBODY}
    expected |= {(name, TENANTS) for name in TO_TENANTS}
    expected |= {(name, kept_place.addresses.runtime_role) for name in TO_RUNTIME}
    assert granted == {(*one, "EXECUTE", False) for one in expected}


async def test_functions_above_the_registry_are_the_owners_with_a_path_of_their_own(kept_place):
    async with kept_place.as_owner() as connection:
        rows = await connection.execute(
            text(
                """
                SELECT p.proname, p.prosecdef, r.rolname, p.proconfig
                FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner
                WHERE p.pronamespace IN ('public'::regnamespace, 'shared'::regnamespace)
                """
            )
        )
        functions = {row[0]: tuple(row[1:]) for row in rows}

    invoker = {"current_tenant", "uuid_v7", "enter_tenant"}
    assert {name for name, (definer, *_) in functions.items() if not definer} == invoker
    for name, (definer, owner, settings) in functions.items():
        assert owner == OWNER, name
        assert not definer or settings == ["search_path=pg_catalog, pg_temp"], name


async def test_nobody_but_the_owner_has_a_right_on_the_registrys_tables(kept_place):
    async with kept_place.as_owner() as connection:
        rows = await connection.execute(
            text(
                """
                SELECT c.relname, coalesce(r.rolname, 'PUBLIC')
                FROM pg_class c,
                     LATERAL aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) acl
                LEFT JOIN pg_roles r ON r.oid = acl.grantee
                WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
                """
            )
        )
        granted = {tuple(row) for row in rows}

    assert {role for _, role in granted} <= {OWNER, BACKUP}
    assert len({table for table, _ in granted}) >= 5


async def test_a_tenants_role_has_four_rights_on_its_tables_and_no_other_role_has_any(
    kept_place, kept_tenant
):
    async with kept_place.as_owner() as connection:
        rows = await connection.execute(
            text(
                """
                SELECT DISTINCT coalesce(r.rolname, 'PUBLIC'), acl.privilege_type
                FROM pg_class c, LATERAL aclexplode(c.relacl) acl
                LEFT JOIN pg_roles r ON r.oid = acl.grantee
                WHERE c.relnamespace = CAST(:schema AS regnamespace) AND c.relkind = 'r'
                  AND acl.grantee <> c.relowner
                """
            ),
            {"schema": kept_tenant.schema_name},
        )
        granted = {tuple(row) for row in rows}

    four = {(kept_tenant.schema_name, right) for right in ("SELECT", "INSERT", "UPDATE", "DELETE")}
    assert granted - {(BACKUP, "SELECT")} == four


async def test_shared_has_no_table_and_the_registry_none_that_a_tenant_has_too(kept_place):
    async with kept_place.as_owner() as connection:
        shared, registry = [await tables_of(connection, name) for name in ("shared", REGISTRY)]

    assert shared == set()
    assert registry & TENANT_TABLES == set()


async def test_ids_made_by_the_database_are_of_version_7_and_in_order_of_time(kept_place):
    async with kept_place.as_owner() as connection:
        made = []
        for _ in range(20):
            made.append(await connection.scalar(text("SELECT shared.uuid_v7()")))
            await connection.execute(text("SELECT pg_sleep(0.002)"))

    assert {one.version for one in made} == {7}
    assert {one.variant for one in made} == {"specified in RFC 4122"}
    assert made == sorted(made)


# -- which there are ----------------------------------------------------------------------------------


@pytest.mark.parametrize("history", ["registry", "tenant"])
def test_revisions_are_read_in_the_order_in_which_they_follow_each_other(history):
    walked = scripts().walk_revisions("base", f"{history}@head")

    assert revisions(history) == tuple(reversed([script.revision for script in walked]))


# -- up and down ------------------------------------------------------------------------------------


async def test_an_empty_database_comes_to_head_and_the_second_time_changes_nothing(place):
    before = await place.states()

    notes = await initialise(place.addresses, place.admin)
    outcomes = await upgrade_all(place.target, jobs=1)

    assert await place.states() == before
    assert before == {REGISTRY: SchemaState(REGISTRY, head("registry"), "ready")}
    assert [outcome.error for outcome in outcomes] == [None]
    assert all("was not created" in note for note in notes)


async def test_a_tenant_goes_a_step_back_and_up_again(place):
    schema = (await place.tenants(1))[0].schema_name
    back = msgspec.structs.replace(place.target, steps_back=True)
    before = [*revisions("tenant")][-2:-1] or [None]

    outcomes = await downgrade(back, [schema])

    assert [(outcome.revision, outcome.error) for outcome in outcomes] == [(before[0], None)]
    state = (await place.states())[schema]
    assert (state.revision, state.status, state.is_behind) == (before[0], "ready", True)
    outcomes = await upgrade_all(place.target, jobs=1)
    assert [outcome.schema_name for outcome in outcomes] == [REGISTRY, schema]
    state = (await place.states())[schema]
    assert (state.revision, state.status, state.is_behind) == (head("tenant"), "ready", False)
    async with place.as_owner() as connection:
        assert await tables_of(connection, schema) == TENANT_TABLES
        assert await coverage.tenant_holes(connection) == []


async def test_a_tenant_goes_down_to_nothing_revision_by_revision(place):
    schema = (await place.tenants(1))[0].schema_name
    back = msgspec.structs.replace(place.target, steps_back=True)

    for _ in revisions("tenant"):
        assert [outcome.error for outcome in await downgrade(back, [schema])] == [None]

    async with place.as_owner() as connection:
        assert await tables_of(connection, schema) == set()
    await upgrade_all(place.target, jobs=1)
    async with place.as_owner() as connection:
        assert await tables_of(connection, schema) == TENANT_TABLES


async def test_the_registry_goes_a_step_back_and_up_again(place):
    back = msgspec.structs.replace(place.target, steps_back=True)

    for _ in revisions("registry"):
        assert [outcome.error for outcome in await downgrade(back, [REGISTRY])] == [None]

    async with place.as_owner() as connection:
        assert await tables_of(connection, REGISTRY) == set()
        assert await ledger(connection) == []
    await upgrade_all(place.target, jobs=1)
    assert (await place.states())[REGISTRY].revision == head("registry")
    async with place.as_owner() as connection:
        assert await coverage.role_holes(connection, place.addresses.runtime_role) == []


async def test_what_a_tenant_stored_is_there_after_an_upgrade_that_had_nothing_to_do(place):
    tenant = (await place.tenants(1))[0]
    engine = runtime_engine(place.addresses.runtime, pool_max=1)
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        await connection.execute("INSERT INTO tool_names (name) VALUES ('Bash')")

    outcomes = await upgrade_all(place.target, jobs=1)

    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        assert await connection.fetchval("SELECT name FROM tool_names") == "Bash"
    assert [outcome.schema_name for outcome in outcomes] == [REGISTRY]
    await engine.dispose()


OLD_ROWS = (
    """
    INSERT INTO users (id, email, name, role, team)
    VALUES ('01980000-0000-7000-8000-000000000001', 'ada@example.com', 'Ada', 'editor', 'engines')
    """,
    """
    INSERT INTO metrics_sessions
        (id, agent, external_id, session_type, started_at, ended_at, last_event_at, user_id,
         repository, branch, team, productivity_score, metadata, tool_call_count, tool_error_count,
         model_call_count, input_tokens, output_tokens, cost_usd_micros, lines_added, lines_removed)
    VALUES ('01980000-0000-8000-8000-000000000002', 'claude-code', 's-1', 'feature',
            '2026-03-02T09:00:00Z', '2026-03-02T10:00:00Z', '2026-03-02T10:00:00Z',
            '01980000-0000-7000-8000-000000000001', 'acme/engine', 'main', 'engines', 80.5,
            '{"a": [1]}', 2, 1, 1, 100, 20, 1234, 7, 3)
    """,
    """
    INSERT INTO session_tags (session_id, tag)
    VALUES ('01980000-0000-8000-8000-000000000002', 'urgent')
    """,
    "INSERT INTO tool_names (name) VALUES ('Bash')",
    """
    INSERT INTO tool_metrics
        (id, session_id, agent, user_id, tool_name, tool_category, started_at, duration_ms, wait_ms,
         status, error_type, cpu_ms, memory_bytes, input_bytes, output_bytes, metadata)
    VALUES ('01980000-0000-8000-8000-000000000003', '01980000-0000-8000-8000-000000000002',
            'claude-code', '01980000-0000-7000-8000-000000000001', 'Bash', 'shell',
            '2026-03-02T09:01:00Z', 12.5, 3, 'error', 'ShellError', 1, 2, 3, 4, '{"b": null}'),
           ('01980000-0000-8000-8000-000000000004', '01980000-0000-8000-8000-000000000002',
            'claude-code', NULL, 'Bash', NULL, '2026-03-02T09:02:00Z', NULL, NULL, 'success', NULL,
            NULL, NULL, NULL, NULL, NULL),
           ('01980000-0000-8000-8000-000000000005', NULL, NULL, NULL, 'Bash', NULL,
            '2026-03-02T09:03:00Z', 0, 0, 'timeout', NULL, NULL, NULL, NULL, NULL, NULL)
    """,
    """
    INSERT INTO model_calls
        (id, session_id, agent, user_id, started_at, duration_ms, ttft_ms, status, error_type,
         provider, request_model, response_model, input_tokens, input_uncached_tokens,
         cache_read_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_usd_micros,
         cost_source, attempts)
    VALUES ('01980000-0000-8000-8000-000000000006', '01980000-0000-8000-8000-000000000002',
            'claude-code', '01980000-0000-7000-8000-000000000001', '2026-03-02T09:01:30Z', 800, 90,
            'success', NULL, 'anthropic', 'sonnet', 'sonnet-1', 100, 60, 40, 0, 20, 5, 1234,
            'reported', 2),
           ('01980000-0000-8000-8000-000000000007', NULL, NULL, NULL, '2026-03-02T09:02:30Z', NULL,
            NULL, 'error', 'http_529', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
            'none', 1)
    """,
)
"""Rows as the release before telemetry stored them."""
OLD_TABLES = (
    "users", "metrics_sessions", "session_tags", "tool_names", "tool_metrics", "model_calls",
)  # fmt: skip

# What telemetry adds, and what the release before it has no place for.
NEW_ROWS = (
    "INSERT INTO users (id, name) VALUES ('01980000-0000-7000-8000-000000000011', 'Grace')",
    """
    INSERT INTO user_identities (kind, value, user_id)
    VALUES ('installation', 'i-1', '01980000-0000-7000-8000-000000000011')
    """,
    """
    INSERT INTO tool_metrics
        (id, agent, user_id, tool_name, started_at, status, signal, source_rank, is_counted, part)
    VALUES ('01980000-0000-8000-8000-000000000012', 'codex',
            '01980000-0000-7000-8000-000000000011', 'Bash', '2026-03-02T09:04:00Z', 'success',
            'logs', 4, true, 'result'),
           ('01980000-0000-8000-8000-000000000013', 'codex',
            '01980000-0000-7000-8000-000000000011', 'Bash', '2026-03-02T09:04:00Z', 'success',
            'traces', 3, false, 'span')
    """,
    """
    INSERT INTO model_calls
        (id, agent, started_at, status, signal, source_rank, is_counted, part)
    VALUES ('01980000-0000-8000-8000-000000000014', 'codex', '2026-03-02T09:05:00Z', 'success',
            'traces', 3, false, 'span')
    """,
)


@pytest.fixture
async def runtime(place: Place) -> AsyncIterator[AsyncEngine]:
    """What the service reads with."""
    engine = runtime_engine(place.addresses.runtime, pool_max=1)
    yield engine
    await engine.dispose()


async def stored(engine: AsyncEngine, tenant: Tenant) -> dict[str, list[dict[str, Any]]]:
    """Every row of the tables that were there before telemetry, in the order of their keys."""
    async with tenant_connection(engine, TenantContext(tenant.id, read_only=True)) as connection:
        return {
            table: [
                msgspec.json.decode(row[0])
                for row in await connection.fetch(
                    f"SELECT to_jsonb(t)::text FROM {table} t ORDER BY 1"
                )
            ]
            for table in OLD_TABLES
        }


async def store(engine: AsyncEngine, tenant: Tenant, statements: tuple[str, ...]) -> None:
    # The releases of old schemas noted no changes.
    context = TenantContext(tenant.id, notes_change=False)
    async with tenant_connection(engine, context) as connection:
        for statement in statements:
            await connection.execute(statement)


def keeps(after: dict[str, list[dict[str, Any]]], before: dict[str, list[dict[str, Any]]]) -> bool:
    """Whether every row is there still, with each value that it had."""
    return all(
        any(row.items() <= other.items() for other in _hashable(after[table]))
        for table, rows in before.items()
        for row in _hashable(rows)
    )


def _hashable(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [{name: repr(value) for name, value in row.items()} for row in rows]


async def test_an_upgrade_changes_the_version_of_those_tenants_whose_rows_it_may_change(
    place, runtime
):
    old, new = await place.tenants(2)
    before = [await version_of(runtime, tenant) for tenant in (old, new)]
    await place.taken_to("tenant_0006", [old.schema_name])

    await upgrade_all(place.target, jobs=1)

    after = [await version_of(runtime, tenant) for tenant in (old, new)]
    assert before == [0, 0]
    assert after[0] > 0
    assert after[1] == 0


async def version_of(engine: AsyncEngine, tenant: Tenant) -> int:
    async with tenant_connection(engine, TenantContext(tenant.id, read_only=True)) as connection:
        return await read_version(connection)


async def test_what_was_stored_before_telemetry_is_read_after_it(place, runtime):
    tenant = (await place.tenants(1, at="tenant_0001"))[0]
    await store(runtime, tenant, OLD_ROWS)
    before = await stored(runtime, tenant)

    outcomes = await upgrade_all(place.target, jobs=1)

    assert [outcome.error for outcome in outcomes] == [None, None]
    after = await stored(runtime, tenant)
    assert {table: len(rows) for table, rows in after.items()} == {
        "users": 1, "metrics_sessions": 1, "session_tags": 1, "tool_names": 1, "tool_metrics": 3,
        "model_calls": 2,
    }  # fmt: skip
    assert keeps(after, before)
    for row in after["tool_metrics"] + after["model_calls"]:
        assert (row["signal"], row["is_counted"], row["source_rank"]) == ("api", True, 4)
        # It was not telemetry: nothing that comes later is joined with it.
        assert row["part"] is row["parts"] is None
    async with tenant_connection(runtime, TenantContext(tenant.id, read_only=True)) as connection:
        page: dict[str, Any] = {"after": None, "limit": 10, "offset": 0}
        sessions = await fetch_sessions(connection, SessionQuery(), **page)
        tools = await TOOL_METRICS.fetch(connection, ToolMetricQuery(), session_id=None, **page)
        models = await MODEL_CALLS.fetch(connection, ModelCallQuery(), session_id=None, **page)
        year = {"from_": datetime(2026, 1, 1, tzinfo=UTC), "to": datetime(2027, 1, 1, tzinfo=UTC)}
        tool_sum = (await summarise_tool_metrics(connection, ToolSummaryQuery(**year))).data[0]
        model_sum = (await summarise_model_calls(connection, ModelSummaryQuery(**year))).data[0]
    (session,) = [session_view(row) for row in sessions]
    assert (session.external_id, session.user_email, session.tags) == (
        "s-1", "ada@example.com", ["urgent"],
    )  # fmt: skip
    assert (session.tool_call_count, session.cost_usd_micros, session.lines_added) == (2, 1234, 7)
    assert (session.signals, session.is_subagent, session.prompt_count) == ([], False, 0)
    assert [tool_metric_view(row).status for row in tools] == ["timeout", "success", "error"]
    assert {tool_metric_view(row).signal for row in tools} == {"api"}
    assert [model_call_view(row).input_tokens for row in models] == [None, 100]
    assert {model_call_view(row).signal for row in models} == {"api"}
    assert (tool_sum.count, tool_sum.error_count) == (3, 2)
    assert (model_sum.count, model_sum.input_tokens, model_sum.cost_usd_micros) == (2, 100, 1234)


async def test_what_the_release_before_telemetry_can_keep_is_kept_on_the_way_back(place, runtime):
    tenant = (await place.tenants(1, at="tenant_0001"))[0]
    await store(runtime, tenant, OLD_ROWS)
    before = await stored(runtime, tenant)
    await upgrade_all(place.target, jobs=1)
    await store(runtime, tenant, NEW_ROWS)

    await place.taken_to("tenant_0001", [tenant.schema_name])

    after = await stored(runtime, tenant)
    assert keeps(after, before)
    # No column says any more that they are told of elsewhere.
    assert [row["id"][-2:] for row in after["tool_metrics"]] == ["03", "04", "05", "12"]
    assert [row["id"][-2:] for row in after["model_calls"]] == ["06", "07"]
    assert [row.keys() for row in after["tool_metrics"]] == [before["tool_metrics"][0].keys()] * 4
    emails = {row["name"]: row["email"] for row in after["users"]}
    assert emails == {"Ada": "ada@example.com", "Grace": "01980000-0000-7000-8000-000000000011"}
    assert [one.error for one in await upgrade_all(place.target, jobs=1)] == [None, None]
    assert keeps(await stored(runtime, tenant), after)


async def test_an_upgrade_writes_no_table_anew_that_was_there(place, runtime):
    tenant = (await place.tenants(1, at="tenant_0001"))[0]
    await store(runtime, tenant, OLD_ROWS)

    async def files() -> dict[str, int]:
        async with place.as_owner() as connection:
            rows = await connection.execute(
                text(
                    """
                    SELECT c.relname, c.relfilenode FROM pg_class c
                    JOIN pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname = :schema AND c.relkind IN ('r', 'i')
                    """
                ),
                {"schema": tenant.schema_name},
            )
            return {row.relname: row.relfilenode for row in rows}

    before = await files()
    await upgrade_all(place.target, jobs=1)

    after = await files()
    assert len(before) > 20
    assert {name: after[name] for name in before} == before


async def test_schemas_that_have_tables_are_upgraded_side_by_side(place):
    await place.tenants(8, at="tenant_0001")

    outcomes = await upgrade_all(place.target, jobs=3)

    assert [outcome.error for outcome in outcomes] == [None] * 9


async def test_a_schema_of_a_newer_release_is_accepted_and_left_alone(place):
    tenant = (await place.tenants(1))[0]
    async with place.as_owner() as connection:
        await connection.execute(
            text("UPDATE tenant_schemas SET revision = 'tenant_9999' WHERE schema_name = :schema"),
            {"schema": tenant.schema_name},
        )

    outcomes = await upgrade_all(place.target, jobs=1)

    assert [outcome.schema_name for outcome in outcomes] == [REGISTRY]
    state = (await place.states())[tenant.schema_name]
    assert (state.revision, state.is_behind) == ("tenant_9999", False)
    assert not is_behind("tenant", "tenant_9999")
    engine = runtime_engine(place.addresses.runtime, pool_max=1)
    directory = TenantDirectory(engine, base_domain="localhost", ttl_s=lambda: 0)
    served = await directory.find(tenant.domain)
    assert served is not None
    assert served.schema_is_ready
    await engine.dispose()


async def test_a_schema_of_a_newer_release_is_not_taken_back(place):
    schema = (await place.tenants(1))[0].schema_name
    async with place.as_owner() as connection:
        await connection.execute(
            text("UPDATE tenant_schemas SET revision = 'tenant_9999' WHERE schema_name = :schema"),
            {"schema": schema},
        )
    back = msgspec.structs.replace(place.target, steps_back=True)

    outcomes = await downgrade(back, [schema])

    assert outcomes[0].error == "revision tenant_9999 is newer than this release"
    async with place.as_owner() as connection:
        assert await tables_of(connection, schema) == TENANT_TABLES


# -- when something is broken -----------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 2])
async def test_a_broken_schema_is_reported_and_the_others_go_on(place, jobs):
    schemas = await place.taken_back(7 if jobs > 1 else 3)
    broken = sorted(schemas)[1]
    async with place.as_owner() as connection:
        await connection.execute(text(f"CREATE TABLE {broken}.dashboard_configs (id int)"))

    outcomes = await upgrade_all(place.target, jobs=jobs)

    errors = {outcome.schema_name: outcome.error for outcome in outcomes if outcome.error}
    assert errors == {broken: 'relation "dashboard_configs" already exists'}
    states = await place.states()
    assert (states[broken].revision, states[broken].status) == (None, "failed")
    assert states[broken].last_error == errors[broken]
    whole = [states[schema] for schema in schemas if schema != broken]
    assert {(state.revision, state.status) for state in whole} == {(head("tenant"), "ready")}
    async with place.as_owner() as connection:
        # Nothing of the revision is left in the one that failed.
        assert await tables_of(connection, broken) == {"dashboard_configs"}


async def test_a_schema_that_was_mended_comes_to_head_with_the_next_upgrade(place):
    schema = (await place.taken_back(1))[0]
    async with place.as_owner() as connection:
        await connection.execute(text(f"CREATE TABLE {schema}.users (id int)"))
    await upgrade_all(place.target, jobs=1)
    async with place.as_owner() as connection:
        await connection.execute(text(f"DROP TABLE {schema}.users"))

    outcomes = await upgrade_all(place.target, jobs=1)

    assert [(one.schema_name, one.error) for one in outcomes] == [(REGISTRY, None), (schema, None)]
    assert (await place.states())[schema] == SchemaState(schema, head("tenant"), "ready")


async def test_a_schema_with_a_hole_fails_the_gate_and_is_not_ready(place):
    schema = (await place.tenants(1))[0].schema_name
    async with place.as_owner() as connection:
        await connection.execute(text(f"ALTER TABLE {schema}.users NO FORCE ROW LEVEL SECURITY"))

    outcome = await migrate_alone(schema, place.target)

    assert outcome.error == f"coverage gate: {schema}.users: row security is not forced"
    assert (await place.states())[schema].status == "failed"


async def test_a_schema_in_use_is_waited_for_a_moment_then_reported(place, monkeypatch):
    monkeypatch.setattr("metrics_service.tenants.migrate.LOCK_TIMEOUT_MS", 50)
    busy, idle = [tenant.schema_name for tenant in await place.tenants(2)]
    back = msgspec.structs.replace(place.target, steps_back=True, to="tenant_0001")
    reader = await asyncpg.connect(place.admin)
    transaction = reader.transaction()
    await transaction.start()
    await reader.execute(f"LOCK TABLE {busy}.users IN ACCESS SHARE MODE")

    outcomes = await downgrade(back, [busy, idle])

    assert [outcome.error for outcome in outcomes] == [
        "canceling statement due to lock timeout",
        None,
    ]
    states = await place.states()
    assert (states[busy].revision, states[busy].status) == (head("tenant"), "failed")
    await transaction.rollback()
    await reader.close()
    assert [outcome.error for outcome in await upgrade_all(place.target, jobs=1)] == [None] * 3
    async with place.as_owner() as connection:
        assert await tables_of(connection, busy) == TENANT_TABLES


async def test_two_upgrades_at_once_take_turns(place):
    schemas = await place.taken_back(3)

    first, second = await asyncio.gather(
        upgrade_all(place.target, jobs=1), upgrade_all(place.target, jobs=1)
    )

    done = [one.schema_name for one in [*first, *second] if one.schema_name != REGISTRY]
    assert sorted(done) == sorted(schemas)
    assert not [one for one in [*first, *second] if one.error]


async def test_a_registry_that_cannot_be_upgraded_stops_the_run(new_database, admin_url):
    addresses = await asyncio.to_thread(new_database)
    admin = await asyncpg.connect(admin_url(urlsplit(addresses.runtime).path.removeprefix("/")))
    await admin.execute("CREATE TABLE public.tenants (id int)")
    await admin.close()

    with pytest.raises(MigrationError, match='the registry: relation "tenants" already exists'):
        await initialise(addresses, admin_url(urlsplit(addresses.runtime).path.removeprefix("/")))


# -- kills ------------------------------------------------------------------------------------------

UPGRADE = """
import asyncio, json, sys, time
from metrics_service.tenants.migrate import Target
from metrics_service.tenants.upgrade import upgrade_all

def tell(outcome, total):
    print(outcome.schema_name, flush=True)

if __name__ == "__main__":
    owner, runtime, jobs = sys.argv[1:]
    asyncio.run(upgrade_all(Target(owner, runtime), jobs=int(jobs), on_outcome=tell))
    print("done", flush=True)
"""


@pytest.fixture
def upgrade_script(tmp_path: Path) -> Path:
    # A file, because worker processes import the main module again.
    script = tmp_path / "upgrade.py"
    script.write_text(UPGRADE)
    return script


@pytest.mark.parametrize(("jobs", "killed_after"), [(1, 3), (2, 3)])
async def test_an_upgrade_that_was_killed_is_finished_by_the_next(
    place, upgrade_script, jobs, killed_after
):
    schemas = await place.taken_back(7)
    process = subprocess.Popen(
        [
            sys.executable,
            upgrade_script,
            place.addresses.require_owner(),
            place.addresses.runtime_role,
            str(jobs),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    for _ in range(killed_after):
        await asyncio.to_thread(process.stdout.readline)
    # In the middle of a schema, most likely.
    await asyncio.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    rest = (await asyncio.to_thread(process.communicate))[0].split()

    states = await place.states()
    at_head = {name for name in schemas if states[name].revision == head("tenant")}
    async with place.as_owner() as connection:
        for schema in schemas:
            # What the ledger says is what is there: all of the tables, or none.
            there = await tables_of(connection, schema)
            if schema in at_head:
                assert there == TENANT_TABLES
    outcomes = await upgrade_all(place.target, jobs=1)

    assert "done" not in rest
    assert len(at_head) < len(schemas)
    assert not [outcome for outcome in outcomes if outcome.error]
    states = await place.states()
    assert {states[name] for name in schemas} == {
        SchemaState(name, head("tenant"), "ready") for name in schemas
    }
    async with place.as_owner() as connection:
        assert await coverage.tenant_holes(connection) == []
        for schema in schemas:
            assert await tables_of(connection, schema) == TENANT_TABLES


PROVISION = """
import asyncio, sys
from metrics_service.db.engine import owner_connection
from metrics_service.tenants.migrate import Target
from metrics_service.tenants.new_tenant import NewTenant
from metrics_service.tenants.provision import create_tenant

async def main(owner, runtime):
    async with owner_connection(owner) as connection:
        for number in range(1000):
            new = NewTenant.of(f"killed-{number}", name=None, domain=None, plan="basic",
                               base_domain="localhost")
            print(number, flush=True)
            await create_tenant(connection, new, Target(owner, runtime))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_provisioner_that_was_killed_leaves_whole_tenants_only(place):
    for round_ in range(3):
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                PROVISION.replace("killed-", f"killed-{round_}-"),
                place.addresses.require_owner(),
                place.addresses.runtime_role,
            ],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2):
            await asyncio.to_thread(process.stdout.readline)
        await asyncio.sleep(0.015 * (round_ + 1))
        process.kill()
        await asyncio.to_thread(process.communicate)
    # Backends of killed clients finish their statement before they notice.
    admin = await asyncpg.connect(place.admin)
    while await admin.fetchval(
        """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND usename = $1
        """,
        MIGRATOR_LOGIN,
    ):
        await asyncio.sleep(0.05)

    registered = {row[0] for row in await admin.fetch("SELECT schema_name FROM public.tenants")}
    schemas = {
        row[0]
        for row in await admin.fetch("SELECT nspname FROM pg_namespace WHERE nspname ~ '^t_'")
    }
    in_ledger = {
        row[0]
        for row in await admin.fetch("SELECT schema_name FROM public.tenant_schemas")
        if row[0] != REGISTRY
    }
    assert registered == schemas == in_ledger
    assert len(registered) >= 3
    async with place.as_owner() as connection:
        assert await coverage.tenant_holes(connection) == []
        for schema in schemas:
            assert await tables_of(connection, schema) == TENANT_TABLES
    await admin.close()


# -- an administrator who is no superuser -----------------------------------------------------------


def debian_servers() -> list[Path]:
    return sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


@pytest.fixture(params=["embedded", *(str(path.parents[1]) for path in debian_servers())])
def own_server(request: pytest.FixtureRequest) -> Iterator[Callable[[str, str], str]]:
    """A cluster of the test's own, because roles are shared by all databases of one.

    Gives the DSN of a login and a database.
    """
    with tempfile.TemporaryDirectory(prefix="own-", dir=places.for_data()) as directory:
        Path(directory).chmod(0o755)
        if request.param == "embedded":
            with embedded_server(Path(directory)) as server:
                yield server.dsn
            return
        data, binaries = Path(directory) / "data", Path(request.param) / "bin"
        account = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        data.mkdir(mode=0o700)
        if account:
            subprocess.run(["chown", "postgres:postgres", directory, data], check=True)
        subprocess.run(
            [binaries / "initdb", "-D", data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "-N"],
            check=True,
            capture_output=True,
            cwd="/",
            **account,
        )
        settings = ("listen_addresses=", f"unix_socket_directories={directory}", "fsync=off")
        options = [word for setting in settings for word in ("-c", setting)]
        process = subprocess.Popen(
            [binaries / "postgres", "-D", data, *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            **account,
        )
        try:
            while not (Path(directory) / ".s.PGSQL.5432").exists():
                assert process.poll() is None
                asyncio.run(asyncio.sleep(0.05))
            yield lambda login, database: f"postgresql://{login}@/{database}?host={directory}"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)


async def test_an_administrator_who_is_no_superuser_can_initialise(own_server):
    superuser = await _connected(own_server(SUPERUSER, "postgres"))
    await superuser.execute("CREATE ROLE administrator LOGIN CREATEROLE CREATEDB")
    await superuser.execute("CREATE DATABASE given OWNER administrator")
    await superuser.close()
    addresses = Addresses(
        runtime=own_server(RUNTIME_LOGIN, "given"),
        direct=own_server(RUNTIME_LOGIN, "given"),
        owner=own_server(MIGRATOR_LOGIN, "given"),
    )
    admin_dsn = own_server("administrator", "given")

    notes = await initialise(addresses, admin_dsn)
    again = await initialise(addresses, admin_dsn)

    assert notes == again == [f"{BACKUP} was not created: the administrator may not give BYPASSRLS"]
    place = Place(addresses, admin_dsn)
    a, b = await place.tenants(2)
    async with owner_connection(addresses.require_owner()) as connection, connection.begin():
        await create_key(connection, a.id, scopes=["read"], name="first")
        assert await coverage.tenant_holes(connection) == []
        assert await coverage.role_holes(connection, RUNTIME_LOGIN) == []
    engine = runtime_engine(addresses.runtime, pool_max=1)
    for tenant in (a, b):
        async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
            await connection.execute("INSERT INTO tool_names (name) VALUES ($1)", tenant.slug)
            assert await connection.fetch("SELECT name FROM tool_names") == [(tenant.slug,)]
            keys = await connection.fetch("SELECT name FROM shared.list_api_keys()")
            assert len(keys) == (1 if tenant is a else 0)
    await engine.dispose()


async def test_an_administrator_without_createrole_is_told_what_is_missing(own_server):
    superuser = await _connected(own_server(SUPERUSER, "postgres"))
    await superuser.execute("CREATE ROLE weak LOGIN")
    await superuser.execute("CREATE DATABASE weakly_given OWNER weak")
    await superuser.close()
    addresses = Addresses(
        runtime=own_server(RUNTIME_LOGIN, "weakly_given"),
        direct=own_server(RUNTIME_LOGIN, "weakly_given"),
        owner=own_server(MIGRATOR_LOGIN, "weakly_given"),
    )

    with pytest.raises(MigrationError, match="needs CREATEROLE and ownership of the database"):
        await initialise(addresses, own_server("weak", "weakly_given"))


async def _connected(dsn: str) -> asyncpg.Connection:
    for _ in range(100):
        try:
            return await asyncpg.connect(dsn)
        except (OSError, asyncpg.CannotConnectNowError):
            await asyncio.sleep(0.05)
    raise AssertionError(f"no server at {dsn}")
