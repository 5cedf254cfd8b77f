"""`db seed` against a database: complete, repeatable, and never half."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import msgspec
import pytest
from rolled import check_rollups
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection, runtime_engine
from metrics_service.db.roles import OWNER
from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.errors import ConflictError
from metrics_service.ingest.people import users_by_email
from metrics_service.ingest.records import SessionRecord
from metrics_service.ingest.write import write_sessions
from metrics_service.seeds.seed import SeedReport, seed
from metrics_service.tenants.initialise import initialise, target_of
from metrics_service.tenants.lifecycle import suspend
from metrics_service.tenants.new_tenant import NewTenant
from metrics_service.tenants.provision import create_tenant
from metrics_service.tenants.registry import find_tenant, list_tenants

NOW = datetime(2026, 3, 12, 15, 30, tzinfo=UTC)
TEST_SLUGS = ["fortium-test", "larkspur-test", "cindermoor-test"]
TABLES = (
    "users", "metrics_sessions", "session_tags", "tool_metrics", "model_calls", "session_events",
    "counter_deltas", "dashboard_configs", "dashboard_versions",
)  # fmt: skip


class Database(msgspec.Struct):
    """A database of one test's own, because seeded tenants have fixed names."""

    addresses: Addresses
    engine: AsyncEngine

    async def seed(self, environment="test", *, now=NOW, on_progress=None, **flags) -> SeedReport:
        return await seed(
            self.addresses,
            environment,
            force=flags.get("force", False),
            clear=flags.get("clear", False),
            on_progress=on_progress or (lambda label, done, total: None),
            base_domain="localhost",
            now=now,
        )

    async def tenant(self, slug: str):
        async with owner_connection(self.addresses.require_owner()) as owner:
            return await find_tenant(owner, slug)

    async def fetch(self, slug: str, query: str, *values):
        tenant = await self.tenant(slug)
        async with tenant_connection(self.engine, TenantContext(tenant.id)) as connection:
            return await connection.fetch(query, *values)

    async def counts(self, slug: str) -> dict[str, int]:
        columns = ", ".join(f"(SELECT count(*) FROM {table}) AS {table}" for table in TABLES)
        return dict((await self.fetch(slug, f"SELECT {columns}"))[0])


@asynccontextmanager
async def new_one(
    new_database: Callable[[], Addresses], admin_url: Callable[[str], str]
) -> AsyncIterator[Database]:
    # It runs a loop of its own.
    addresses = await asyncio.to_thread(new_database)
    name = urlsplit(addresses.runtime).path.removeprefix("/")
    await initialise(addresses, admin_url(name))
    engine = runtime_engine(addresses.runtime, pool_max=1)
    yield Database(addresses, engine)
    await engine.dispose()


@pytest.fixture
async def database(
    new_database: Callable[[], Addresses], admin_url: Callable[[str], str]
) -> AsyncIterator[Database]:
    async with new_one(new_database, admin_url) as made:
        yield made


@pytest.fixture(scope="module")
async def seeded(
    new_database: Callable[[], Addresses], admin_url: Callable[[str], str]
) -> AsyncIterator[tuple[Database, SeedReport]]:
    """One that was seeded once, for tests that only look."""
    async with new_one(new_database, admin_url) as made:
        yield made, await made.seed()


async def test_development_has_three_tenants_with_a_month_behind_them(database):
    told = []

    report = await database.seed("development", on_progress=lambda *step: told.append(step))

    assert [tenant.slug for tenant in report.tenants] == [
        "fortium-demo", "larkspur-demo", "cindermoor-demo",
    ]  # fmt: skip
    for tenant, least in zip(report.tenants, (100, 320, 750), strict=True):
        assert tenant.created
        assert tenant.domain == tenant.slug
        assert tenant.users == 5
        assert tenant.sessions >= least
        assert tenant.tool_metrics >= 5 * tenant.sessions
        assert tenant.dashboards in (2, 3)
        steps = [(done, total) for label, done, total in told if label == tenant.slug]
        assert len(steps) > 20
        assert steps[-1] == (30, 30)
        assert steps == sorted(steps)
    for tenant in report.tenants:
        shapes = await database.fetch(
            tenant.slug,
            """
            SELECT count(*) FILTER (WHERE ended_at IS NULL AND last_event_at > $1) AS going_on,
                   count(*) FILTER (WHERE is_subagent) AS subagents,
                   count(*) FILTER (WHERE is_subagent AND NOT EXISTS (
                       SELECT FROM metrics_sessions p WHERE p.id = s.parent_session_id
                           AND p.started_at <= s.started_at AND p.user_id = s.user_id
                   )) AS orphans
            FROM metrics_sessions s
            """,
            NOW - timedelta(minutes=5),
        )
        assert shapes[0]["going_on"] == 1
        assert shapes[0]["subagents"] > 0
        assert shapes[0]["orphans"] == 0
    plans = [(await database.tenant(t.slug)).subscription_plan for t in report.tenants]
    assert plans == ["basic", "pro", "enterprise"]


async def test_the_numbers_told_are_the_rows_stored(seeded):
    database, report = seeded

    assert [tenant.slug for tenant in report.tenants] == TEST_SLUGS
    for tenant in report.tenants:
        counts = await database.counts(tenant.slug)
        assert tenant.users == counts["users"] == 5
        assert tenant.sessions == counts["metrics_sessions"] == 5
        assert tenant.tool_metrics == counts["tool_metrics"]
        assert tenant.model_calls == counts["model_calls"]
        assert tenant.dashboards == counts["dashboard_configs"] == counts["dashboard_versions"]


async def test_session_totals_are_what_a_recount_gives(database):
    await database.seed()
    await database.seed(force=True)

    for slug in TEST_SLUGS:
        wrong = await database.fetch(
            slug,
            """
            SELECT s.id FROM metrics_sessions s,
            LATERAL (SELECT count(*) AS calls,
                            count(*) FILTER (WHERE status IN ('error', 'timeout')) AS errors,
                            coalesce(sum(lines_added), 0) AS added,
                            coalesce(sum(lines_removed), 0) AS removed,
                            count(git_commit_id) AS commits
                     FROM tool_metrics WHERE session_id = s.id) t,
            LATERAL (SELECT count(*) FILTER (WHERE kind = 'prompt') AS prompts,
                            count(*) FILTER (WHERE kind = 'turn') AS turns,
                            count(*) FILTER (WHERE kind = 'compaction') AS compactions
                     FROM session_events WHERE session_id = s.id) e,
            LATERAL (SELECT count(*) AS calls, sum(input_tokens) AS input,
                            sum(output_tokens) AS output,
                            coalesce(sum(cost_usd_micros), 0) AS cost
                     FROM model_calls WHERE session_id = s.id) m
            WHERE (s.tool_call_count, s.tool_error_count, s.model_call_count, s.input_tokens,
                   s.output_tokens, s.cost_usd_micros, s.lines_added, s.lines_removed, s.commits,
                   s.prompt_count, s.turn_count, s.compactions)
                  IS DISTINCT FROM
                  (t.calls, t.errors, m.calls, m.input, m.output, m.cost, t.added, t.removed,
                   t.commits, e.prompts, e.turns, e.compactions)
               OR s.user_id IS NULL OR s.last_event_at < s.started_at
               OR s.last_event_at > s.ended_at
            """,
        )
        assert wrong == []


async def test_rollups_stay_in_step_and_have_what_was_decided(database):
    for flags in ({}, {"force": True}, {"clear": True}):
        await database.seed(**flags)

        for slug in TEST_SLUGS:
            tenant = await database.tenant(slug)
            async with tenant_connection(database.engine, TenantContext(tenant.id)) as connection:
                await check_rollups(connection)
            decided = await database.fetch(
                slug,
                """
                SELECT (SELECT count(*) FROM tool_metrics WHERE decision IS NOT NULL) AS stored,
                       sum(decision_accept + decision_modify + decision_reject) AS rolled_up
                FROM tool_metrics_daily WHERE cube = 'agent'
                """,
            )
            assert 0 < decided[0]["stored"] == decided[0]["rolled_up"]


async def test_who_was_asked_decided_and_what_failed_says_why(seeded):
    database, _ = seeded

    for slug in TEST_SLUGS:
        silent = await database.fetch(
            slug,
            """
            SELECT id FROM tool_metrics
            WHERE (wait_ms IS NULL) <> (decision IS NULL)
               OR (status = 'rejected') IS DISTINCT FROM (decision IS NOT DISTINCT FROM 'reject')
               OR (status IN ('error', 'timeout')) <> (error_message IS NOT NULL)
            UNION ALL
            SELECT id FROM model_calls WHERE (status = 'error') <> (error_message IS NOT NULL)
            UNION ALL
            SELECT id FROM metrics_sessions
            WHERE agent_version IS NULL OR active_seconds_agent = 0 OR prompt_count = 0
            UNION ALL
            SELECT id FROM session_events WHERE content IS NOT NULL
            """,
        )
        assert silent == []


async def test_seeding_again_leaves_everything_alone(database):
    await database.seed()
    before = [await database.counts(slug) for slug in TEST_SLUGS]

    started = asyncio.get_running_loop().time()
    report = await database.seed(now=NOW + timedelta(days=40))

    assert asyncio.get_running_loop().time() - started < 1
    assert [await database.counts(slug) for slug in TEST_SLUGS] == before
    for tenant in report.tenants:
        assert tenant.already_seeded
        assert not tenant.created
        assert tenant.sessions == tenant.tool_metrics == tenant.users == tenant.dashboards == 0


async def test_force_on_the_same_day_adds_nothing(database):
    await database.seed()
    before = [await database.counts(slug) for slug in TEST_SLUGS]

    report = await database.seed(force=True)

    assert [await database.counts(slug) for slug in TEST_SLUGS] == before
    for tenant in report.tenants:
        assert not tenant.already_seeded
        assert tenant.sessions == tenant.tool_metrics == tenant.model_calls == 0


async def test_force_on_a_later_day_adds_the_days_since(database):
    await database.seed()

    report = await database.seed(now=NOW + timedelta(days=12), force=True)

    for tenant in report.tenants:
        counts = await database.counts(tenant.slug)
        assert tenant.sessions in (2, 3)
        assert counts["metrics_sessions"] == 5 + tenant.sessions
        assert counts["users"] == 5


async def test_clear_makes_it_as_it_was_and_keeps_what_is_not_ours(database):
    await database.seed()
    before = await database.counts("fortium-test")
    tenant = await database.tenant("fortium-test")
    async with tenant_connection(database.engine, TenantContext(tenant.id)) as connection:
        await users_by_email(connection, ["somebody@example.com"])
        own = SessionRecord(agent="codex", external_id="mine", started_at=NOW, tags=["own"])
        await write_sessions(connection, tenant.id, [own])
        await connection.execute("UPDATE dashboard_configs SET name = 'Changed', version = 2")
        await connection.execute("DELETE FROM tool_metrics WHERE status = 'success'")

    report = await database.seed(clear=True)

    assert (report.tenants[0].sessions, report.tenants[0].users) == (5, 5)
    assert await database.counts("fortium-test") == before | {
        "users": 6,
        "metrics_sessions": 6,
        "session_tags": before["session_tags"] + 1,
    }
    renamed = await database.fetch(
        "fortium-test", "SELECT 1 FROM dashboard_configs WHERE name = 'Changed'"
    )
    assert renamed == []


async def test_clear_gives_people_and_dashboards_their_ids_again(database):
    query = "SELECT id FROM users UNION ALL SELECT id FROM dashboard_configs ORDER BY id"
    await database.seed()
    before = await database.fetch("larkspur-test", query)

    await database.seed(clear=True)

    assert await database.fetch("larkspur-test", query) == before


async def test_tenants_share_no_row(seeded):
    database, _ = seeded

    ids = [
        {row["id"] for row in await database.fetch(slug, f"SELECT id FROM {table}")}
        for slug in TEST_SLUGS
        for table in ("users", "metrics_sessions", "tool_metrics", "model_calls",
                      "dashboard_configs")
    ]  # fmt: skip
    assert len(set().union(*ids)) == sum(len(each) for each in ids)
    for slug in TEST_SLUGS:
        company = slug.removesuffix("-test")
        emails = await database.fetch(slug, "SELECT email FROM users")
        assert all(row["email"].endswith(f"@{company}.example") for row in emails)


async def test_dashboards_have_an_owner_and_a_first_version(seeded):
    database, _ = seeded

    rows = await database.fetch(
        "cindermoor-test",
        """
        SELECT d.name, u.role, d.layout::text, d.widgets::text
        FROM dashboard_configs d
        JOIN users u ON u.id = d.owner_id
        JOIN dashboard_versions v ON v.dashboard_id = d.id AND v.version = d.version
        WHERE (v.name, v.layout, v.widgets, v.tags) = (d.name, d.layout, d.widgets, d.tags)
        """,
    )
    assert {row["role"] for row in rows} == {"owner", "admin", "editor"}
    for row in rows:
        layout, widgets = msgspec.json.decode(row["layout"]), msgspec.json.decode(row["widgets"])
        assert list(layout) and set(layout) == {widget["id"] for widget in widgets}
        assert all(widget["query"]["source"] and widget["query"]["measures"] for widget in widgets)
        # Half of the history, so that there is a period before.
        assert all(widget["query"]["range"]["last"] == "14d" for widget in widgets)


async def test_a_run_that_is_cut_off_leaves_no_half_history(database):
    def give_up(label, done, total):
        if label == "larkspur-test" and done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await database.seed(on_progress=give_up)

    assert (await database.counts("fortium-test"))["metrics_sessions"] == 5
    assert set((await database.counts("larkspur-test")).values()) == {0}
    again = await database.seed()
    assert [tenant.already_seeded for tenant in again.tenants] == [True, False, False]
    assert [tenant.created for tenant in again.tenants] == [False, False, True]
    assert [tenant.sessions for tenant in again.tenants] == [0, 5, 5]


async def test_a_kill_before_the_mark_is_mended_by_the_next_run(database):
    await database.seed()
    before = await database.counts("fortium-test")
    async with owner_connection(database.addresses.require_owner()) as owner, owner.begin():
        await owner.execute(text(f"SET LOCAL ROLE {OWNER}"))
        await owner.execute(text("UPDATE public.tenants SET metadata = metadata - 'seed'"))

    report = await database.seed()

    assert not report.tenants[0].already_seeded
    assert await database.counts("fortium-test") == before


async def test_two_runs_at_once_take_turns(database):
    reports = await asyncio.gather(database.seed(), database.seed())

    done = [[tenant.already_seeded for tenant in report.tenants] for report in reports]
    assert sorted(done) == [[False] * 3, [True] * 3]
    assert (await database.counts("fortium-test"))["metrics_sessions"] == 5


async def test_production_is_not_seeded(database):
    report = await database.seed("production", force=True)

    assert report.tenants == []
    async with owner_connection(database.addresses.require_owner()) as owner:
        assert await list_tenants(owner) == []


async def test_production_is_not_cleared(database):
    with pytest.raises(ConflictError, match="production"):
        await database.seed("production", clear=True)


async def test_a_suspended_tenant_is_in_the_way(database):
    await database.seed()
    async with owner_connection(database.addresses.require_owner()) as owner:
        await suspend(owner, "fortium-test")

    with pytest.raises(ConflictError, match="fortium-test is suspended"):
        await database.seed(force=True)


async def test_somebody_elses_domain_is_in_the_way(database):
    new = NewTenant.of(
        "other", name=None, domain="fortium-test", plan="basic", base_domain="localhost"
    )
    async with owner_connection(database.addresses.require_owner()) as owner:
        await create_tenant(owner, new, target_of(database.addresses))

    with pytest.raises(ConflictError, match="fortium-test"):
        await database.seed()

    assert set((await database.counts("other")).values()) == {0}
