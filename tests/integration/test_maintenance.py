"""The process that owns the schemas: jobs, figures, and what has had its time."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest
from command_line import CommandLine, on_database, running
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection, runtime_engine
from metrics_service.db.roles import OWNER
from metrics_service.db.tenancy import TenantContext, registry_writing, tenant_connection
from metrics_service.errors import ConflictError
from metrics_service.fleet.jobs import Job, Provision, Resume, Suspend, Upgrade, Wanted, queue_job
from metrics_service.maintenance import jobs as jobs_module
from metrics_service.maintenance.jobs import MAX_ATTEMPTS, do_job
from metrics_service.maintenance.place import Place, as_owner
from metrics_service.maintenance.process import Done, Maintenance
from metrics_service.maintenance.queue import JobLostError, finish_job, take_job
from metrics_service.tenants.initialise import initialise, target_of
from metrics_service.tenants.migrate import Target
from metrics_service.tenants.new_tenant import NewTenant
from metrics_service.tenants.provision import create_tenant
from metrics_service.tenants.registry import Tenant
from metrics_service.tenants.revisions import head
from metrics_service.tenants.upgrade import downgrade

OPERATORS_DOMAIN = "ops.example.com"
KEY_HASH = hashlib.sha256(b"an operator's key").digest()
NewTenantHere = Callable[[], Awaitable[Tenant]]


# -- a database of these tests' own: its queue and its lock are one for all --------------------------


@pytest.fixture(scope="module")
def addresses(new_database, admin_url) -> Addresses:
    made = new_database()
    asyncio.run(initialise(made, admin_url(urlsplit(made.runtime).path.removeprefix("/"))))
    return made


@pytest.fixture(scope="module")
def line(addresses) -> CommandLine:
    made = on_database(addresses)
    return CommandLine(made.environ | {"METRICS_OPERATOR_DOMAIN": OPERATORS_DOMAIN})


@pytest.fixture
def place(addresses) -> Place:
    return Place(
        owner_dsn=addresses.require_owner(),
        direct_dsn=addresses.direct,
        runtime_dsn=addresses.runtime,
        runtime_role=addresses.runtime_role,
        base_domain="localhost",
        operator_domain=OPERATORS_DOMAIN,
    )


@pytest.fixture
def maintenance(place) -> Maintenance:
    return Maintenance(place)


@pytest.fixture
async def engine(addresses) -> AsyncIterator[AsyncEngine]:
    made = runtime_engine(addresses.runtime, pool_max=2)
    yield made
    await made.dispose()


@pytest.fixture
async def owner(addresses) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(addresses.require_owner())
    await connection.execute(f"SET ROLE {OWNER}")
    yield connection
    await connection.close()


@pytest.fixture
def new_tenant(addresses) -> NewTenantHere:
    async def make() -> Tenant:
        slug = f"t{uuid4().hex[:16]}"
        new = NewTenant.of(slug, name=None, domain=None, plan="basic", base_domain="localhost")
        async with owner_connection(addresses.require_owner()) as connection:
            return await create_tenant(connection, new, target_of(addresses))

    return make


@pytest.fixture
async def queue(engine, owner) -> Callable[[Wanted], Awaitable[UUID]]:
    """Queue as the operator's API does: as the runtime login, with an operator's key."""
    await owner.execute("DELETE FROM public.fleet_jobs")
    await owner.execute(
        """
        INSERT INTO public.operator_keys (id, prefix, key_hash, name)
        VALUES ($1, 'prefix', $2, 'Ada') ON CONFLICT DO NOTHING
        """,
        uuid4(),
        KEY_HASH,
    )

    async def put(wanted: Wanted) -> UUID:
        async with registry_writing(engine) as connection:
            return await queue_job(connection, KEY_HASH, wanted)

    return put


@pytest.fixture
def job_of(owner) -> Callable[[UUID], Awaitable[Job]]:
    async def find(job_id: UUID) -> Job:
        row = await owner.fetchrow(
            """
            SELECT id, kind, arguments, status, queued_by, queued_at, started_at, finished_at, done,
                   total, result, error FROM public.fleet_jobs WHERE id = $1
            """,
            job_id,
        )
        values = dict(row) | {"id": UUID(str(row["id"]))}
        for name in ("arguments", "result"):
            values[name] = None if values[name] is None else msgspec.json.decode(values[name])
        return Job(**values)

    return find


def provision(slug: str | None = None, **changed: str) -> Provision:
    slug = slug or f"p{uuid4().hex[:16]}"
    wanted = Provision(slug=slug, name=slug.title(), domain=slug, plan="pro")
    return msgspec.structs.replace(wanted, **changed)


async def schemas_of_tenants(owner: asyncpg.Connection) -> set[str]:
    """Those of this database; roles, which are made in the same transaction, are everybody's."""
    rows = await owner.fetch("SELECT nspname FROM pg_namespace WHERE nspname LIKE 't\\_%'")
    return {row["nspname"] for row in rows}


# -- jobs ----------------------------------------------------------------------------------------------


async def test_a_queued_provisioning_makes_a_tenant_that_can_be_served(
    queue, job_of, maintenance, engine
):
    wanted = provision()
    job_id = await queue(wanted)

    done = await maintenance.once()

    job = await job_of(job_id)
    assert (done.jobs_done, done.jobs_failed) == (1, 0)
    assert (job.status, job.error, job.done, job.total) == ("done", None, 1, 1)
    assert job.queued_by == "Ada"
    assert job.started_at <= job.finished_at
    assert job.result["slug"] == wanted.slug
    context = TenantContext(UUID(job.result["tenant_id"]))
    async with tenant_connection(engine, context) as connection:
        assert await connection.fetchval("SELECT count(*) FROM metrics_sessions") == 0


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (provision(domain=OPERATORS_DOMAIN), "domain ops.example.com is the operators'"),
        (provision(slug="Not A Slug"), "slug must be"),
        (provision(plan="gold"), "plan: 'gold' is none of"),
        (provision(domain="localhost"), "base domain"),
        (Suspend(tenant_id=UUID(int=7)), "there is no tenant"),
        (Upgrade(schema="t_nobody"), "there is no schema t_nobody"),
        (Upgrade(schema="x; DROP SCHEMA public CASCADE; --"), "there is no schema x; DROP"),
    ],
)
async def test_what_cannot_be_done_fails_with_its_reason_and_leaves_nothing(
    queue, job_of, maintenance, owner, wanted, reason
):
    before = await schemas_of_tenants(owner)
    job_id = await queue(wanted)

    done = await maintenance.once()

    job = await job_of(job_id)
    assert (done.jobs_done, done.jobs_failed) == (0, 1)
    assert job.status == "failed"
    assert reason in job.error
    assert job.finished_at is not None
    assert await schemas_of_tenants(owner) == before


async def test_a_taken_slug_or_domain_fails_and_the_next_job_is_done(
    queue, job_of, maintenance, new_tenant, owner
):
    taken = await new_tenant()
    before = await schemas_of_tenants(owner)
    same_slug = await queue(provision(slug=taken.slug, domain=f"other-{taken.slug}"))
    same_domain = await queue(provision(domain=taken.domain))
    good = await queue(provision())

    done = await maintenance.once()

    assert (done.jobs_done, done.jobs_failed) == (1, 2)
    assert (await job_of(same_slug)).error == f"slug {taken.slug} is taken"
    assert (await job_of(same_domain)).error == f"domain {taken.domain} is taken"
    made = (await job_of(good)).result["schema_name"]
    assert await schemas_of_tenants(owner) == before | {made}


async def test_a_job_whose_arguments_nobody_understands_fails(queue, job_of, maintenance, owner):
    job_id = await queue(provision())
    await owner.execute("UPDATE public.fleet_jobs SET arguments = '{\"slug\": 7}'")

    await maintenance.once()

    job = await job_of(job_id)
    assert job.status == "failed"
    assert job.error.startswith("arguments: ")


async def test_a_tenant_is_suspended_and_resumed_by_its_id_alone(
    queue, job_of, maintenance, new_tenant, addresses, owner
):
    tenant, stranger = await new_tenant(), await new_tenant()
    # Somebody calls himself by another tenant's id: commands would find him first.
    await owner.execute(
        "UPDATE public.tenants SET slug = $1 WHERE id = $2", str(tenant.id), stranger.id
    )
    statuses = "SELECT status FROM public.tenants WHERE id = ANY ($1) ORDER BY id = $2"
    ids = ([tenant.id, stranger.id], tenant.id)

    suspended = await queue(Suspend(tenant_id=tenant.id))
    await maintenance.once()
    while_suspended = [row["status"] for row in await owner.fetch(statuses, *ids)]
    resumed = await queue(Resume(tenant_id=tenant.id))
    await maintenance.once()
    afterwards = [row["status"] for row in await owner.fetch(statuses, *ids)]

    assert (await job_of(suspended)).status == (await job_of(resumed)).status == "done"
    assert while_suspended == ["active", "suspended"]
    assert afterwards == ["active", "active"]


async def test_servers_are_told_of_a_suspension(queue, maintenance, new_tenant, addresses):
    tenant = await new_tenant()
    listening = await asyncpg.connect(addresses.direct)
    heard: asyncio.Queue[str] = asyncio.Queue()
    await listening.add_listener("metrics_registry", lambda *told: heard.put_nowait(told[-1]))
    await queue(Suspend(tenant_id=tenant.id))

    await maintenance.once()

    assert await asyncio.wait_for(heard.get(), 5) == str(tenant.id)
    await listening.close()


# -- upgrades ------------------------------------------------------------------------------------------


async def step_back(addresses: Addresses, *schemas: str) -> None:
    target = target_of(addresses)
    back = Target(target.owner_dsn, target.runtime_role, steps_back=True)
    outcomes = await downgrade(back, list(schemas))
    assert all(outcome.error is None for outcome in outcomes)


async def state_of(owner: asyncpg.Connection, schema: str) -> tuple[str, str]:
    row = await owner.fetchrow(
        "SELECT revision, status FROM public.tenant_schemas WHERE schema_name = $1", schema
    )
    return (row["revision"], row["status"])


async def test_an_upgrade_brings_what_is_behind_to_head_and_counts_it(
    queue, job_of, maintenance, new_tenant, addresses, owner
):
    one, two, _ = [await new_tenant() for _ in range(3)]
    await step_back(addresses, one.schema_name, two.schema_name)
    job_id = await queue(Upgrade())

    await maintenance.once()

    job = await job_of(job_id)
    # The registry is the third.
    assert (job.status, job.done, job.total, job.result["upgraded"]) == ("done", 3, 3, 3)
    for tenant in (one, two):
        assert await state_of(owner, tenant.schema_name) == (head("tenant"), "ready")


async def test_one_schema_alone_can_be_upgraded(
    queue, job_of, maintenance, new_tenant, addresses, owner
):
    wanted, other = await new_tenant(), await new_tenant()
    await step_back(addresses, wanted.schema_name, other.schema_name)
    job_id = await queue(Upgrade(schema=wanted.schema_name))

    await maintenance.once()

    assert (await job_of(job_id)).status == "done"
    assert await state_of(owner, wanted.schema_name) == (head("tenant"), "ready")
    assert (await state_of(owner, other.schema_name))[0] != head("tenant")
    await queue(Upgrade())
    await maintenance.once()
    assert await state_of(owner, other.schema_name) == (head("tenant"), "ready")


async def test_a_schema_that_cannot_be_upgraded_is_named_and_the_others_are_upgraded(
    queue, job_of, maintenance, new_tenant, addresses, owner
):
    broken, whole = await new_tenant(), await new_tenant()
    await step_back(addresses, broken.schema_name, whole.schema_name)
    await owner.execute(f"CREATE TABLE {broken.schema_name}.hole (tenant_id uuid)")
    job_id = await queue(Upgrade())

    await maintenance.once()

    job = await job_of(job_id)
    assert (job.status, job.error) == (
        "failed",
        "1 schema could not be upgraded: the ledger says why",
    )
    assert [one["schema_name"] for one in job.result["failed"]] == [broken.schema_name]
    assert "hole" in job.result["failed"][0]["error"]
    assert await state_of(owner, whole.schema_name) == (head("tenant"), "ready")
    await owner.execute(f"DROP TABLE {broken.schema_name}.hole")
    await queue(Upgrade())
    await maintenance.once()
    assert await state_of(owner, broken.schema_name) == (head("tenant"), "ready")


# -- who does them -------------------------------------------------------------------------------------


@asynccontextmanager
async def blocked(addresses: Addresses, table: str, mode: str) -> AsyncIterator[None]:
    """Keep others from a table while this is open."""
    connection = await asyncpg.connect(addresses.require_owner())
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL ROLE {OWNER}; LOCK TABLE {table} IN {mode} MODE")
            yield
    finally:
        await connection.close()


async def until(is_true: Callable[[], Awaitable[object]], *, within_s: float = 20) -> None:
    give_up_at = time.monotonic() + within_s
    while not await is_true():
        assert time.monotonic() < give_up_at, "it did not happen in time"
        await asyncio.sleep(0.02)


async def wait_for_lock(owner: asyncpg.Connection, table: str) -> None:
    """Until somebody waits for a lock on the table."""
    await until(
        lambda: owner.fetchval(
            "SELECT count(*) FROM pg_locks WHERE relation = $1::regclass AND NOT granted", table
        )
    )


async def test_killed_while_provisioning_leaves_nothing_and_the_job_is_found_again(
    queue, job_of, owner, addresses, line, maintenance
):
    before = await schemas_of_tenants(owner)
    wanted = provision()
    job_id = await queue(wanted)

    # Role, schema and tables are made by then; the registry's row is not.
    async with blocked(addresses, "public.tenant_domains", "SHARE"):
        with running(line, "maintain") as (process, _):
            await wait_for_lock(owner, "public.tenant_domains")
            process.send_signal(signal.SIGKILL)
            process.wait()
    await until(lambda: nobody_works(owner))
    killed = await job_of(job_id)
    left = (
        await schemas_of_tenants(owner),
        await owner.fetchval("SELECT count(*) FROM public.tenants WHERE slug = $1", wanted.slug),
    )
    done = await maintenance.once()

    assert left == (before, 0)
    assert killed.status == "running"
    assert (done.jobs_done, done.jobs_failed) == (1, 0)
    job = await job_of(job_id)
    assert (job.status, job.result["attempts"]) == ("done", 2)
    assert await schemas_of_tenants(owner) == before | {job.result["schema_name"]}


async def nobody_works(owner: asyncpg.Connection) -> bool:
    return not await owner.fetchval(
        """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
          AND state <> 'idle'
        """
    )


async def test_killed_while_upgrading_leaves_each_schema_whole_and_the_rest_is_done_later(
    queue, job_of, owner, addresses, line, maintenance, new_tenant
):
    tenants = sorted([await new_tenant() for _ in range(2)], key=lambda one: one.schema_name)
    first, second = (tenant.schema_name for tenant in tenants)
    # As far as a revision that waits for who writes users.
    for _ in range(2):
        await step_back(addresses, first, second)
    behind = await state_of(owner, second)
    job_id = await queue(Upgrade())

    async with blocked(addresses, f"{second}.users", "ROW EXCLUSIVE"):
        with running(line, "maintain") as (process, _):
            await wait_for_lock(owner, f"{second}.users")
            halfway = await job_of(job_id)
            process.send_signal(signal.SIGKILL)
            process.wait()
    await until(lambda: nobody_works(owner))
    states = [await state_of(owner, first), await state_of(owner, second)]
    await maintenance.once()

    assert (halfway.status, halfway.done, halfway.total) == ("running", 2, 3)
    assert states == [(head("tenant"), "ready"), behind]
    job = await job_of(job_id)
    assert (job.status, job.result["attempts"]) == ("done", 2)
    assert await state_of(owner, second) == (head("tenant"), "ready")


async def test_told_to_end_it_puts_the_job_back_within_five_seconds(
    queue, job_of, owner, addresses, line, maintenance
):
    before = await schemas_of_tenants(owner)
    job_id = await queue(provision())

    async with blocked(addresses, "public.tenant_domains", "SHARE"):
        with running(line, "maintain") as (process, output):
            await wait_for_lock(owner, "public.tenant_domains")
            told_at = time.monotonic()
            process.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(output.wait_for_end, within_s=10)
            took_s = time.monotonic() - told_at

    assert (code, took_s < 5) == (0, True)
    job = await job_of(job_id)
    assert (job.status, job.started_at, job.result) == ("queued", None, {"attempts": 0})
    assert await schemas_of_tenants(owner) == before
    await maintenance.once()
    assert (await job_of(job_id)).result["attempts"] == 1


async def test_a_job_that_ends_whoever_does_it_is_given_up(queue, job_of, owner, maintenance):
    job_id = await queue(provision())
    await owner.execute(
        "UPDATE public.fleet_jobs SET status = 'running', result = $1::jsonb WHERE id = $2",
        msgspec.json.encode({"attempts": MAX_ATTEMPTS}).decode(),
        job_id,
    )
    next_id = await queue(provision())

    done = await maintenance.once()

    job = await job_of(job_id)
    assert (done.jobs_done, done.jobs_failed) == (1, 1)
    assert (job.status, job.error) == (
        "failed",
        "begun 3 times, and each time whoever did it ended first",
    )
    assert (await job_of(next_id)).status == "done"


async def test_who_lost_a_job_to_another_changes_nothing(queue, job_of, owner, place, addresses):
    job_id = await queue(wanted := provision())
    before = await schemas_of_tenants(owner)
    async with owner_connection(place.owner_dsn) as connection:
        believed_dead = await take_job(connection)
        other = await take_job(connection)

        is_done = await do_job(connection, believed_dead, place)
        with pytest.raises(JobLostError):
            async with as_owner(connection):
                await connection.execute(
                    text("UPDATE public.tenants SET name = 'touched' WHERE slug = :slug"),
                    {"slug": wanted.slug},
                )
                await finish_job(connection, believed_dead, {})

        assert not is_done
        assert (other.id, other.attempt) == (believed_dead.id, 2)
        assert (await job_of(job_id)).status == "running"
        assert await schemas_of_tenants(owner) == before
        assert await do_job(connection, other, place)
    assert (await job_of(job_id)).status == "done"


async def test_what_nobody_foresaw_fails_the_job_and_its_text_stays_in_the_log(
    queue, job_of, maintenance, monkeypatch
):
    job_id = await queue(Suspend(tenant_id=uuid4()))

    async def break_down(*_: object, **__: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(jobs_module, "set_served", break_down)
    await maintenance.once()

    job = await job_of(job_id)
    assert (job.status, job.error) == ("failed", "unexpected RuntimeError; the log says more")


@asynccontextmanager
async def maintaining(maintenance: Maintenance) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(maintenance.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def leads(maintenance: Maintenance) -> bool:
    return maintenance.is_leading


async def test_a_job_is_done_as_soon_as_it_is_queued(queue, job_of, maintenance):
    async with maintaining(maintenance):
        await until(lambda: leads(maintenance))
        # The first look at the queue is over, and the next one is far away.
        await asyncio.sleep(0.5)
        job_id = await queue(provision())

        async def is_done() -> bool:
            return (await job_of(job_id)).status == "done"

        await until(is_done, within_s=4)


async def test_one_leads_and_another_takes_over(place, maintenance):
    other = Maintenance(place)
    async with maintaining(maintenance) as first:
        await until(lambda: leads(maintenance))
        async with maintaining(other):

            async def waits() -> bool:
                return other.standing.report().detail == "another process leads"

            await until(waits)
            with pytest.raises(ConflictError):
                await Maintenance(place).once()
            assert not other.is_leading
            first.cancel()
            await until(lambda: leads(other), within_s=10)


async def test_who_loses_the_lock_stops_and_leads_again(queue, job_of, owner, maintenance, place):
    async with maintaining(maintenance):
        await until(lambda: leads(maintenance))
        # A login may end its own connections.
        holder = await asyncpg.connect(place.direct_dsn)
        await holder.execute(
            """
            SELECT pg_terminate_backend(l.pid) FROM pg_locks l
            WHERE l.locktype = 'advisory' AND l.pid <> pg_backend_pid()
              AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            """
        )
        await holder.close()

        async def is_unhealthy() -> bool:
            return maintenance.standing.report().status == "unhealthy"

        await until(is_unhealthy)
        assert not maintenance.is_leading
        await until(lambda: leads(maintenance))
        job_id = await queue(provision())

        async def is_done() -> bool:
            return (await job_of(job_id)).status == "done"

        await until(is_done)


async def test_operators_see_that_it_runs_and_leads(owner, line):
    find = """
        SELECT status, report FROM public.service_processes WHERE kind = 'maintenance' AND pid = $1
    """
    with running(
        CommandLine(line.environ | {"METRICS_HEALTH_INTERVAL_MS": "100"}), "maintain", "--json"
    ) as (process, output):

        async def is_leading() -> bool:
            row = await owner.fetchrow(find, process.pid)
            return row is not None and msgspec.json.decode(row["report"])["is_ready"]

        await until(is_leading)
        row = await owner.fetchrow(find, process.pid)
        process.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(output.wait_for_end)

    report = msgspec.json.decode(row["report"])
    assert (code, row["status"]) == (0, "healthy")
    assert [(one["name"], one["detail"]) for one in report["checks"]] == [("maintenance", "leads")]
    assert report["memory"]["rss_bytes"] > 0
    # Who ends in order leaves.
    assert await owner.fetchrow(find, process.pid) is None
    assert any('"event":"maintenance leads"' in one for one in output.text.splitlines())


async def test_a_tenant_knows_nothing_of_jobs_and_sizes(engine, new_tenant, queue):
    tenant = await new_tenant()
    await queue(provision())

    for table in ("public.fleet_jobs", "public.tenant_sizes"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
                await connection.fetch(f"SELECT * FROM {table}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with registry_writing(engine) as connection:
                await connection.fetch(f"SELECT * FROM {table}")


# -- figures -------------------------------------------------------------------------------------------

ADD_SESSIONS = """
INSERT INTO metrics_sessions (id, agent, external_id, started_at, last_event_at)
SELECT gen_random_uuid(), 'codex', 'session-' || n, $1::timestamptz, $1::timestamptz FROM generate_series(1, $2::integer) n
"""


async def sizes(owner: asyncpg.Connection) -> dict[UUID, asyncpg.Record]:
    rows = await owner.fetch("SELECT * FROM public.tenant_sizes")
    return {UUID(str(row["tenant_id"])): row for row in rows}


async def add_sessions(engine: AsyncEngine, tenant: Tenant, *, today: int, before: int) -> None:
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        now = await connection.fetchval(
            "SELECT date_trunc('day', now(), 'UTC') + interval '1 hour'"
        )
        await connection.execute(ADD_SESSIONS, now, today)
        await connection.execute(
            ADD_SESSIONS.replace("'session-'", "'earlier-'"),
            await connection.fetchval("SELECT $1::timestamptz - interval '2 hours'", now),
            before,
        )


async def test_each_tenant_is_measured_by_its_own_rows(engine, owner, maintenance, new_tenant):
    busy, quiet, suspended = [await new_tenant() for _ in range(3)]
    await add_sessions(engine, busy, today=30, before=500)
    await add_sessions(engine, suspended, today=2, before=1)
    await owner.execute(
        "UPDATE public.tenants SET status = 'suspended' WHERE id = $1", suspended.id
    )

    done = await maintenance.once()

    found = await sizes(owner)
    assert done.tenants_left_out == 0
    assert done.tenants_measured == len(found)
    sessions = {
        name: (found[one.id]["sessions"], found[one.id]["sessions_today"])
        for name, one in (("busy", busy), ("quiet", quiet), ("suspended", suspended))
    }
    assert sessions == {"busy": (530, 30), "quiet": (0, 0), "suspended": (3, 2)}
    assert found[busy.id]["bytes"] > found[quiet.id]["bytes"] > 0
    await owner.execute(f"ANALYZE {busy.schema_name}.metrics_sessions")
    await maintenance.once()
    again = (await sizes(owner))[busy.id]
    assert again["row_count"] >= 530
    assert again["measured_at"] > found[busy.id]["measured_at"]


async def test_a_tenant_whose_tables_are_locked_is_left_out_and_the_others_are_measured(
    owner, maintenance, new_tenant, addresses
):
    locked, free = await new_tenant(), await new_tenant()

    async with blocked(addresses, f"{locked.schema_name}.users", "ACCESS EXCLUSIVE"):
        done = await maintenance.once()

    found = await sizes(owner)
    assert done.tenants_left_out == 1
    assert locked.id not in found
    assert free.id in found


# -- what has had its time ------------------------------------------------------------------------------


async def fill(engine: AsyncEngine, tenant: Tenant) -> None:
    """Of each kind one that is over and one that is not."""
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        user_id = await connection.fetchval(
            "INSERT INTO users (email, role) VALUES ('ada@example.com', 'viewer') RETURNING id"
        )
        await connection.execute(
            """
            INSERT INTO sign_ins (token_hash, user_id, expires_at)
            VALUES ('\\x01', $1, now() - interval '1 second'), ('\\x02', $1, now() + interval '1 hour')
            """,
            user_id,
        )
        await connection.execute(
            """
            INSERT INTO idempotency_keys (principal_id, key, fingerprint, sealed_answer, created_at)
            SELECT $1, key, '\\x00', '\\x00', now() - age FROM (VALUES
                ('over', interval '25 hours'), ('kept', interval '23 hours')) v (key, age)
            """,
            user_id,
        )
        await connection.execute(
            """
            INSERT INTO ingest_log (id, key_id, signal, encoding, client, first_at, last_at)
            SELECT gen_random_uuid(), key_id, 'logs', 'json', client, now() - age, now() - age
            FROM (VALUES (NULL, 'old stranger', interval '31 days'),
                         (NULL, 'stranger', interval '29 days'),
                         ($1::uuid, 'old key', interval '31 days')) v (key_id, client, age)
            """,
            user_id,
        )
        await connection.execute(
            """
            INSERT INTO ingest_refusals (log_id, status, reason, refused, first_at, last_at)
            SELECT id, 401, 'no key', 1, first_at, last_at FROM ingest_log WHERE key_id IS NULL
            """
        )


async def left_of(engine: AsyncEngine, tenant: Tenant) -> list[object]:
    async with tenant_connection(engine, TenantContext(tenant.id)) as connection:
        return [
            await connection.fetchval("SELECT array_agg(token_hash) FROM sign_ins"),
            await connection.fetchval("SELECT array_agg(key) FROM idempotency_keys"),
            await connection.fetchval("SELECT array_agg(client ORDER BY client) FROM ingest_log"),
            await connection.fetchval("SELECT count(*) FROM ingest_refusals"),
        ]


async def test_what_is_over_goes_in_every_tenant_and_nothing_else(
    engine, owner, maintenance, new_tenant, queue
):
    tenants = [await new_tenant(), await new_tenant()]
    for tenant in tenants:
        await fill(engine, tenant)
    await queue(provision())
    await maintenance.once()
    for tenant in tenants:
        assert await left_of(engine, tenant) == [[b"\x02"], ["kept"], ["old key", "stranger"], 1]

    await owner.execute("UPDATE public.fleet_jobs SET finished_at = now() - interval '29 days'")
    kept = await maintenance.once()
    await owner.execute("UPDATE public.fleet_jobs SET finished_at = now() - interval '31 days'")
    pruned = await maintenance.once()

    assert (kept.rows_pruned, pruned.rows_pruned) == (0, 1)
    assert await owner.fetchval("SELECT count(*) FROM public.fleet_jobs") == 0


async def test_a_schema_that_is_behind_is_measured_and_not_pruned(
    engine, owner, maintenance, new_tenant, addresses, queue
):
    tenant = await new_tenant()
    await step_back(addresses, tenant.schema_name)

    done = await maintenance.once()

    assert done.tenants_left_out == 0
    assert tenant.id in await sizes(owner)
    await queue(Upgrade())
    assert isinstance(await maintenance.once(), Done)
