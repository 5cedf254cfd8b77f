"""`metrics-service db`: from an empty database to a checked one, through crashes, and back."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import msgspec
import pytest
from command_line import (
    eventually,
    kill_group,
    new_data_dir,
    on_database,
    on_directory,
)

from metrics_service.cli.psql import split_password
from metrics_service.db.addresses import SUPERUSER, Addresses
from metrics_service.db.embedded import embedded_server
from metrics_service.tenants import revisions, steps
from metrics_service.tenants.check import check_version
from metrics_service.tenants.initialise import initialise, target_of
from metrics_service.tenants.upgrade import upgrade_all

*_, BEFORE_HEAD, HEAD = revisions.revisions("tenant")


class Database:
    """A database of the test's own, with the command line on it."""

    def __init__(self, addresses: Addresses, admin: str) -> None:
        self.addresses = addresses
        self.admin = admin
        self.line = on_database(addresses)

    def sql(self, statement: str) -> list[asyncpg.Record]:
        async def run() -> list[asyncpg.Record]:
            connection = await asyncpg.connect(self.admin)
            try:
                return await connection.fetch(statement)
            finally:
                await connection.close()

        return asyncio.run(run())

    def new_schemas(self, count: int) -> list[str]:
        made = [
            self.line.here("tenant", "create", f"d{uuid4().hex[:12]}", "--json").json()
            for _ in range(count)
        ]
        return [tenant["schema_name"] for tenant in made]

    def status_of(self) -> dict[str, dict[str, Any]]:
        status = self.line.here("db", "status", "--json").json()
        return {schema["schema_name"]: schema for schema in status["schemas"]}


@pytest.fixture
def empty(
    new_database: Callable[[], Addresses], admin_url: Callable[[str], str]
) -> Iterator[Database]:
    made = new_database()
    name = urlsplit(made.runtime).path.removeprefix("/")
    database = Database(made, admin_url(name))
    yield database
    # Roles belong to the server: those of a database that is gone would stay.
    database.line.here("db", "reset", "--yes")


@pytest.fixture
def ready(empty: Database) -> Database:
    asyncio.run(initialise(empty.addresses, empty.admin))
    return empty


@pytest.fixture
def own_server() -> Iterator[Path]:
    with new_data_dir() as made:
        yield made


# -- init -------------------------------------------------------------------------------------------


def test_init_makes_roles_and_registry_and_can_be_repeated(empty):
    line = empty.line
    assert line.here("db", "status").code in {1, 5}  # without registry, or without its logins
    assert line.here("db", "init").code == 2

    first = line("db", "init", "--admin-url", empty.admin, "--json").json()

    assert first["revision"] == revisions.head("registry")
    assert line.here("db", "init", "--admin-url", empty.admin, "--json").json() == first
    assert list(empty.status_of()) == ["public"]
    assert empty.new_schemas(1)


def test_the_administrator_must_name_the_same_database(empty):
    other = urlunsplit(urlsplit(empty.admin)._replace(path="/postgres"))

    assert empty.line.here("db", "init", "--admin-url", other).code == 2
    assert empty.line.here("db", "init", "--admin-url", "not a dsn").code == 2


def test_several_inits_at_once_make_one_registry(empty):
    with ThreadPoolExecutor(4) as pool:
        ended = list(
            pool.map(lambda _: empty.line("db", "init", "--admin-url", empty.admin), range(4))
        )

    assert [(one.code, one.err) for one in ended] == [(0, "")] * 4
    assert list(empty.status_of()) == ["public"]


def test_an_administrator_needs_no_superuser(own_server):
    with embedded_server(own_server) as server:

        async def prepare() -> None:
            connection = await asyncpg.connect(server.dsn(SUPERUSER))
            await connection.execute("CREATE ROLE boss LOGIN CREATEROLE")
            await connection.execute("CREATE DATABASE plain OWNER boss")
            await connection.close()

        asyncio.run(prepare())
        addresses = Addresses(
            runtime=server.dsn("serving", "plain"),
            direct=server.dsn("serving", "plain"),
            owner=server.dsn("migrating", "plain"),
        )
        database = Database(addresses, server.dsn("boss", "plain"))

        made = database.line.here("db", "init", "--admin-url", database.admin, "--json").json()
        again = database.line.here("db", "init", "--admin-url", database.admin)
        database.new_schemas(1)
        checked = database.line.here("db", "check", "--json").json()

        assert any("app_backup was not created" in note for note in made["notes"])
        assert [f"note: {note}" for note in made["notes"]] == again.out.splitlines()[1:]
        assert checked["status"] in {"ok", "warning"}


def test_the_embedded_database_needs_no_administrator(own_server):
    line = on_directory(own_server)

    assert line("db", "init", "--json").json()["revision"] == revisions.head("registry")
    # Held here, else each of them would start it and stop it.
    with embedded_server(own_server):
        assert line.here("tenant", "create", "acme", "--json").json()["slug"] == "acme"
        slugs = line("db", "shell", "--owner", "--", "-Atc", "SELECT slug FROM tenants")
        assert slugs.out == "acme\n"
        assert line.here("db", "reset").code == 2
        assert line.here("db", "reset", "--yes").code == 0
        assert line.here("tenant", "list", "--json").json() == []
        assert line.here("db", "check").code == 0


# -- upgrade and downgrade -----------------------------------------------------------------------------


def test_a_schema_goes_back_and_forth(ready):
    one, other = ready.new_schemas(2)
    assert ready.line.here("db", "downgrade", "--schema", one).code == 2

    back = ready.line.here("db", "downgrade", "--schema", one, "--yes", "--json").json()

    assert back == [{"schema_name": one, "revision": BEFORE_HEAD, "error": None}]
    assert ready.status_of()[one]["is_behind"]
    assert not ready.status_of()[other]["is_behind"]
    assert ready.line.here("db", "check").code == 1
    assert ready.line.here("db", "upgrade").code == 0
    assert ready.status_of()[one]["revision"] == HEAD
    assert ready.line.here("db", "check").code == 0


def test_downgrade_names_what_is_not_there(ready):
    assert ready.line.here("db", "downgrade", "--yes").code == 3
    ready.new_schemas(1)

    assert ready.line.here("db", "downgrade", "--schema", "t_nothing", "--yes").code == 3
    assert ready.line.here("db", "downgrade", "--to", "tenant_9999", "--yes").code == 3
    # Back to the first revision it may; below it there would be no tenants to belong to.
    for _ in revisions.revisions("registry")[1:]:
        assert ready.line.here("db", "downgrade", "--schema", "public", "--yes").code == 0
    assert ready.line.here("db", "downgrade", "--schema", "public", "--yes").code == 4
    assert ready.line.here("db", "upgrade").code == 0


def test_upgrade_goes_on_past_a_broken_schema(ready):
    broken, behind, fine = ready.new_schemas(3)
    # The table that the revision makes is there already.
    ready.sql(f"UPDATE tenant_schemas SET revision = NULL WHERE schema_name = '{broken}'")
    ready.line.here("db", "downgrade", "--schema", behind, "--yes", "--json").json()

    upgraded = ready.line.here("db", "upgrade", "--jobs", "1", "--json")

    assert upgraded.code == 1
    assert broken in upgraded.err
    assert "already exists" in upgraded.err
    assert upgraded.err.count("\n") == 1
    status = ready.status_of()
    assert status[broken]["status"] == "failed"
    assert "already exists" in status[broken]["last_error"]
    assert (status[behind]["status"], status[behind]["revision"]) == ("ready", HEAD)
    assert status[fine]["status"] == "ready"
    ready.sql(f"UPDATE tenant_schemas SET revision = '{HEAD}' WHERE schema_name = '{broken}'")
    assert ready.line.here("db", "upgrade").code == 0
    assert ready.status_of()[broken]["status"] == "ready"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("ALTER TABLE {0}.users NO FORCE ROW LEVEL SECURITY", "row security is not forced"),
        ("ALTER TABLE {0}.users DISABLE ROW LEVEL SECURITY", "row security is not enabled"),
        ("DROP POLICY guard ON {0}.users", "the guard policy is missing"),
        ("ALTER TABLE {0}.users DROP CONSTRAINT users_tenant", "the tenant CHECK is missing"),
        ("CREATE UNIQUE INDEX odd ON {0}.users (email)", "not led by tenant_id"),
        ("GRANT SELECT ON {0}.users TO PUBLIC", "PUBLIC"),
    ],
)
def test_a_hole_in_the_wall_fails_upgrade_and_check(ready, damage, reason):
    (schema,) = ready.new_schemas(1)
    assert ready.line.here("db", "check").code == 0

    ready.sql(damage.format(schema))

    for command in ("upgrade", "check"):
        ended = ready.line.here("db", command)
        assert ended.code == 1
        assert f"{schema}.users" in ended.err
        assert reason in ended.err


def test_rights_of_public_on_a_schema_fail_upgrade_and_check(ready):
    ready.sql("GRANT USAGE ON SCHEMA shared TO PUBLIC")

    for command in ("upgrade", "check"):
        ended = ready.line.here("db", command)
        assert ended.code == 1
        assert "shared: PUBLIC has rights on the schema" in ended.err


def test_an_upgrade_that_was_killed_is_finished_by_the_next(ready):
    schemas = ready.new_schemas(8)
    ready.line.here("db", "downgrade", "--yes", "--json").json()

    def at_head() -> int:
        return len(ready.sql(f"SELECT 1 FROM tenant_schemas WHERE revision = '{HEAD}'"))

    process = ready.line.start("db", "upgrade", "--jobs", "2")
    try:
        eventually(lambda: at_head() > 0)
        # The parent alone: its workers must notice, and leave no lock behind.
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

        again = ready.line("db", "upgrade", "--jobs", "2", "--json")

        assert again.code == 0, again.err
        assert at_head() == len(schemas)
        assert not ready.sql(
            "SELECT pid FROM pg_stat_activity WHERE usename = 'app_migrator'"
            " AND datname = current_database() AND state <> 'idle'"
        )
    finally:
        kill_group(process)


def test_two_upgrades_at_once_take_turns(ready):
    ready.new_schemas(4)
    ready.line.here("db", "downgrade", "--yes", "--json").json()

    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda _: ready.line("db", "upgrade", "--json"), range(2)))

    assert [one.code for one in ended] == [0, 0]
    assert sorted(len(one.json()["schemas"]) for one in ended) == [1, 5]


SECOND_REVISION = '''
from alembic import op

revision = "tenant_next"
down_revision = "{head}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        CREATE TABLE notes (
            tenant_id uuid NOT NULL DEFAULT shared.current_tenant(),
            id uuid NOT NULL, CONSTRAINT notes_pk PRIMARY KEY (tenant_id, id)
        )
    """)
    {protection}


def downgrade() -> None:
    op.execute("DROP TABLE notes")
'''


@pytest.fixture
def next_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], None]]:
    """Give the tenant history another revision, as the next release will."""

    def add(protection: str) -> None:
        root = tmp_path / "alembic"
        shutil.copytree(revisions.directory(), root)
        text = SECOND_REVISION.format(head=HEAD, protection=protection)
        (root / "tenant" / "next.py").write_text(text)
        for module in (revisions, steps):
            monkeypatch.setattr(module, "directory", lambda: root)
        forget()

    def forget() -> None:
        revisions.revisions.cache_clear()
        steps.scripts.cache_clear()

    yield add
    monkeypatch.undo()
    forget()


def test_the_next_revision_reaches_every_schema_and_leaves_again(ready, next_release):
    schemas = ready.new_schemas(2)
    next_release('op.protect_tenant_table("notes")')

    behind = ready.status_of()
    upgraded = ready.line.here("db", "upgrade", "--jobs", "1", "--json").json()

    assert all(behind[schema]["is_behind"] for schema in schemas)
    assert {one["schema_name"] for one in upgraded["schemas"]} == {"public", *schemas}
    assert all(ready.status_of()[schema]["revision"] == "tenant_next" for schema in schemas)
    assert ready.line.here("db", "downgrade", "--yes").code == 0
    assert all(ready.status_of()[schema]["revision"] == HEAD for schema in schemas)


def test_a_revision_that_forgets_the_wall_is_refused(ready, next_release):
    (schema,) = ready.new_schemas(1)
    next_release("")

    outcomes = asyncio.run(upgrade_all(target_of(ready.addresses), jobs=1))

    assert outcomes[1].revision == HEAD
    assert f"{schema}.notes: row security is not enabled" in outcomes[1].error
    assert not ready.sql(f"SELECT 1 WHERE to_regclass('{schema}.notes') IS NOT NULL")


def test_a_revision_that_stumbles_over_data_stops_that_schema_alone(ready, next_release):
    ready.new_schemas(2)
    next_release('raise ValueError("odd data")')

    ended = ready.line.here("db", "upgrade", "--jobs", "1")

    assert ended.code == 1
    assert ended.err.count("tenant_next: ValueError: odd data") == 2


# -- check, shell, reset --------------------------------------------------------------------------------


def test_check_tells_what_it_looked_at(ready):
    ready.new_schemas(1)

    report = ready.line.here("db", "check", "--json").json()

    assert report["status"] in {"ok", "warning"}
    assert [check["name"] for check in report["checks"]] == [
        "secret key", "connect as runtime", "connect as owner", "server version", "logins",
        "registry", "tenant schemas", "tables", "tenant tables", "roles and functions",
    ]  # fmt: skip


def test_check_names_a_table_that_is_gone(ready):
    (schema,) = ready.new_schemas(1)
    ready.sql(f"ALTER TABLE {schema}.tool_spans RENAME TO gone")

    ended = ready.line.here("db", "check", "--json")
    ready.sql(f"ALTER TABLE {schema}.gone RENAME TO tool_spans")

    assert ended.code == 1
    (failed,) = [
        one for one in msgspec.json.decode(ended.out)["checks"] if one["status"] == "failed"
    ]
    assert (failed["name"], failed["detail"]) == ("tables", f"missing: {schema}.tool_spans")


def test_check_fails_without_secret_and_without_database(ready):
    closed = "postgresql://app_runtime:hunter-two@127.0.0.1:1/metrics"

    assert ready.line.here("db", "check", METRICS_SECRET_KEY="").code == 1
    away = ready.line.here("db", "check", DATABASE_URL=closed)

    assert away.code == 5
    assert "hunter" not in away.err + away.out


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (140020, "failed"), (150018, "warning"), (150020, "ok"), (160015, "warning"),
        (160016, "ok"), (170011, "warning"), (170012, "ok"), (180004, "warning"), (180006, "ok"),
        (190000, "failed"),
    ],
)  # fmt: skip
def test_servers_with_known_holes_are_warned_about(number, status):
    assert check_version(number).status == status


def test_shell_is_the_runtime_login_unless_told_otherwise(ready):
    who = ("--", "-Atc", "SELECT current_user, current_database()")
    database = urlsplit(ready.admin).path.removeprefix("/")

    runtime = ready.line("db", "shell", *who)
    owner = ready.line("db", "shell", "--owner", *who, PGPORT="1", PGUSER="nobody")

    assert runtime.out == f"app_runtime|{database}\n"
    assert owner.out == f"app_migrator|{database}\n"
    assert ready.line("db", "shell", "--", "-c", "SELECT nonsense").code != 0


def test_shell_hands_the_password_over_in_the_environment():
    assert split_password("postgresql://me:s%40fe@host:5/db?sslmode=require") == (
        "postgresql://me@host:5/db?sslmode=require",
        "s@fe",
    )
    assert split_password("postgresql://me@/db?host=%2Frun%2Fpg&password=x") == (
        "postgresql://me@/db?host=%2Frun%2Fpg",
        "x",
    )


def test_reset_leaves_a_database_that_init_accepts(ready):
    schemas = ready.new_schemas(3)
    assert ready.line("db", "reset").code == 2
    ready.sql("CREATE TABLE public.somebody_elses (id int)")

    reset = ready.line("db", "reset", "--yes")

    assert reset.code == 0, reset.err
    roles = ready.sql(f"SELECT 1 FROM pg_roles WHERE rolname = ANY('{{{','.join(schemas)}}}')")
    assert roles == []
    left = ready.sql("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace")
    assert [row["relname"] for row in left] == ["somebody_elses"]
    assert ready.line("tenant", "list").code == 1
    assert ready.line("db", "init", "--admin-url", ready.admin).code == 0
    assert ready.new_schemas(1)
    assert ready.line("db", "check").code == 0


def test_a_second_reset_finishes_what_the_first_began(ready):
    one, _ = ready.new_schemas(2)
    ready.sql(f"DROP SCHEMA {one} CASCADE")

    assert ready.line.here("db", "reset", "--yes").code == 0
    assert ready.line.here("db", "reset", "--yes").code == 0


def test_seed_says_what_it_did(ready):
    done = ready.line("db", "seed", "--env", "production", "--json")

    assert done.json() == {"tenants": []}
    assert ready.line.here("db", "seed", "--env", "staging").code == 2
