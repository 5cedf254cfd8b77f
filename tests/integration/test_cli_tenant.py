"""`metrics-service tenant` and `key`, as an operator's script sees them."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
from uuid import uuid4

import asyncpg
import click
import pytest
from command_line import CommandLine, on_database

from metrics_service.cli.commands import metrics_service
from metrics_service.db.addresses import Addresses
from metrics_service.tenants.keys import hash_key


@pytest.fixture(scope="module")
def line(addresses: Addresses) -> CommandLine:
    return on_database(addresses)


@pytest.fixture
def slug(line: CommandLine) -> str:
    name = new_slug()
    line.here("tenant", "create", name, "--json").json()
    return name


def new_slug() -> str:
    return f"c{uuid4().hex[:12]}"


def find_key(addresses: Addresses, tenant_id: str, prefix: str) -> asyncpg.Record | None:
    async def find() -> asyncpg.Record | None:
        connection = await asyncpg.connect(addresses.runtime)
        try:
            return await connection.fetchrow(
                "SELECT * FROM public.find_api_key($1::text::uuid, $2)", tenant_id, prefix
            )
        finally:
            await connection.close()

    return asyncio.run(find())


async def users_of(addresses: Addresses, tenant_id: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(addresses.runtime)
    try:
        async with connection.transaction():
            await connection.execute(f"SELECT shared.enter_tenant('{tenant_id}')")
            return await connection.fetch("SELECT id::text, email FROM users ORDER BY email")
    finally:
        await connection.close()


# -- tenant -----------------------------------------------------------------------------------------


def test_create_prints_the_tenant(line):
    slug = new_slug()

    made = line(
        "tenant", "create", slug, "--name", "Acme, Inc.", "--domain", f"M.{slug}.Example.",
        "--plan", "pro", "--json",
    ).json()  # fmt: skip

    assert list(made) == [
        "id", "slug", "name", "domain", "schema_name", "subscription_plan", "status",
    ]  # fmt: skip
    assert made["slug"] == slug
    assert made["name"] == "Acme, Inc."
    assert made["domain"] == f"m.{slug}.example"
    assert made["schema_name"].startswith("t_")
    assert (made["subscription_plan"], made["status"]) == ("pro", "active")


def test_the_slug_is_the_domain_when_none_is_given(line):
    slug = new_slug()

    made = line.here("tenant", "create", slug, "--json").json()

    assert (made["domain"], made["name"], made["subscription_plan"]) == (slug, slug, "basic")


def test_a_taken_slug_or_domain_is_a_conflict(line, slug):
    again = line("tenant", "create", slug)
    domain = line("tenant", "create", new_slug(), "--domain", f"{slug}.localhost")

    assert (again.code, again.out) == (4, "")
    assert again.err == f"metrics-service: slug {slug} is taken\n"
    assert domain.code == 4
    assert domain.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("Upper",),
        ("-a",),
        ("www",),
        ("a.b",),
        ("12345",),
        ("fine", "--plan", "gold"),
        ("fine", "--name", " "),
        ("fine", "--domain", "10.0.0.1"),
        ("fine", "--domain", "localhost"),
        ("fine", "--domain", "a/b"),
        (),
        ("fine", "--colour", "red"),
    ],
)
def test_an_invalid_name_or_usage_exits_with_2(line, arguments):
    ended = line.here("tenant", "create", *arguments)

    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("metrics-service: ")
    assert ended.err.count("\n") == 1


def test_a_tenant_is_named_by_slug_domain_or_id(line, slug):
    by_slug = line.here("tenant", "show", slug, "--json").json()

    assert line.here("tenant", "show", by_slug["id"], "--json").json() == by_slug
    assert line.here("tenant", "show", f"{slug}.localhost", "--json").json() == by_slug
    assert by_slug in line.here("tenant", "list", "--json").json()
    assert slug in line.here("tenant", "list").out


def test_an_unknown_tenant_exits_with_3(line):
    for command in (
        ("tenant", "show"),
        ("tenant", "suspend"),
        ("tenant", "resume"),
        ("tenant", "rename", "--name", "x"),
        ("tenant", "delete", "--yes"),
        ("tenant", "domain", "list"),
        ("key", "list"),
        ("key", "create", "--scope", "read"),
    ):
        ended = line.here(*command, "nobody-here")

        assert (ended.code, ended.err) == (3, "metrics-service: there is no tenant nobody-here\n")


def test_suspend_and_resume(line, slug):
    assert line.here("tenant", "suspend", slug, "--json").json()["status"] == "suspended"
    assert line.here("key", "create", slug, "--scope", "read", "--user", "a@b.example").code == 4
    assert line.here("tenant", "resume", slug, "--json").json()["status"] == "active"


def test_rename_keeps_schema_and_domain(line, slug):
    before = line.here("tenant", "show", slug, "--json").json()
    new = new_slug()

    renamed = line.here(
        "tenant", "rename", slug, "--name", "Ünïcode", "--slug", new, "--json"
    ).json()

    assert renamed == before | {"slug": new, "name": "Ünïcode"}
    other = line.here("tenant", "create", slug, "--domain", new_slug(), "--json").json()
    assert line.here("tenant", "rename", slug, "--slug", new).code == 4
    assert line.here("tenant", "show", slug, "--json").json() == other
    assert line.here("tenant", "rename", new, "--slug", "Not-Valid").code == 2
    assert line.here("tenant", "rename", new).code == 2


def test_domains_come_and_go(line, slug):
    host = f"metrics.{slug}.example"
    added = line.here("tenant", "domain", "add", slug, host.upper() + ".", "--json").json()
    other = new_slug()
    line.here("tenant", "create", other, "--json").json()

    assert added == {"domain": host, "is_first": False}
    assert line.here("tenant", "domain", "list", slug, "--json").json() == [
        {"domain": slug, "is_first": True},
        {"domain": host, "is_first": False},
    ]
    assert line.here("tenant", "show", host, "--json").json()["slug"] == slug
    assert line.here("tenant", "domain", "add", slug, host).code == 0
    assert line.here("tenant", "domain", "add", other, host).code == 4
    assert line.here("tenant", "domain", "add", slug, "not a host").code == 2
    assert line.here("tenant", "domain", "remove", other, host).code == 3
    assert line.here("tenant", "domain", "remove", slug, slug).code == 4
    assert line.here("tenant", "domain", "remove", slug, host).code == 0
    assert line.here("tenant", "show", host).code == 3


def test_delete_frees_the_names_and_kills_the_keys(line, slug, addresses):
    before = line.here("tenant", "show", slug, "--json").json()
    issued = line.here("key", "create", slug, "--scope", "read", "--json").json()
    assert line.here("tenant", "delete", slug).code == 2
    assert find_key(addresses, before["id"], issued["prefix"]) is not None

    deleted = line.here("tenant", "delete", slug, "--yes", "--json").json()

    assert deleted == before | {"status": "deleted"}
    assert line.here("tenant", "show", slug).code == 3
    again = line.here("tenant", "create", slug, "--json").json()
    assert again["id"] != before["id"]
    assert again["schema_name"] != before["schema_name"]
    assert find_key(addresses, before["id"], issued["prefix"]) is None
    assert find_key(addresses, again["id"], issued["prefix"]) is None
    assert line.here("key", "list", slug, "--json").json() == []


@pytest.mark.parametrize(("answer", "code", "found"), [("n", 1, 0), ("y", 0, 3)])
def test_delete_asks_on_a_terminal(line, slug, answer, code, found):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*line.command, "tenant", "delete", slug],
        env=line.environ,
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.write(ours, f"{answer}\n".encode())

    ended = process.wait(60)

    os.close(ours)
    os.close(theirs)
    assert ended == code
    assert line("tenant", "show", slug).code == found


# -- key --------------------------------------------------------------------------------------------


def test_key_create_prints_a_key_that_works(line, slug, addresses):
    tenant = line("tenant", "show", slug, "--json").json()

    issued = line(
        "key", "create", f"{slug}.localhost", "--scope", "read", "--scope", "ingest",
        "--expires-in", "90d", "--name", "ci", "--json",
    ).json()  # fmt: skip

    assert list(issued) == ["id", "key", "prefix", "scopes", "expires_at"]
    assert issued["scopes"] == ["read", "ingest"]
    stored = find_key(addresses, tenant["id"], issued["prefix"])
    assert stored["key_hash"] == hash_key(issued["key"])
    assert stored["name"] == "ci"
    listed = line("key", "list", slug, "--json")
    assert [key["id"] for key in listed.json()] == [issued["id"]]
    assert issued["key"] not in listed.out


def test_a_key_for_a_user_makes_the_user(line, slug, addresses):
    tenant = line.here("tenant", "show", slug, "--json").json()
    for email in ("Ada@Example.com", "ada@example.com", "bob@example.com"):
        line.here("key", "create", slug, "--scope", "read", "--user", email, "--json").json()

    keys = line.here("key", "list", slug, "--json").json()

    assert keys[0]["user_id"] == keys[1]["user_id"] != keys[2]["user_id"]
    users = asyncio.run(users_of(addresses, tenant["id"]))
    assert [(row["id"], row["email"]) for row in users] == [
        (keys[0]["user_id"], "ada@example.com"),
        (keys[2]["user_id"], "bob@example.com"),
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--scope", "everything"),
        ("--scope", "read", "--expires-in", "soon"),
        ("--scope", "read", "--expires-in", "0d"),
        ("--scope", "read", "--expires-in", "-1d"),
        ("--scope", "read", "--expires-in", "999999999w"),
        ("--scope", "read", "--user", "no-address"),
        ("--scope", "read", "--name", "a\nb"),
    ],
)
def test_wrong_options_of_a_key_exit_with_2(line, slug, arguments):
    assert line.here("key", "create", slug, *arguments).code == 2
    assert line.here("key", "list", slug, "--json").json() == []


def test_rotate_leaves_the_old_key_its_grace(line, slug, addresses):
    tenant_id = line.here("tenant", "show", slug, "--json").json()["id"]
    old = line.here("key", "create", slug, "--scope", "write", "--json").json()

    new = line.here("key", "rotate", old["id"], "--json").json()
    newest = line.here("key", "rotate", new["id"], "--grace", "0s", "--json").json()

    assert new["scopes"] == newest["scopes"] == ["write"]
    assert len({old["key"], new["key"], newest["key"]}) == 3
    assert find_key(addresses, tenant_id, old["prefix"]) is not None
    assert find_key(addresses, tenant_id, new["prefix"]) is None
    assert find_key(addresses, tenant_id, newest["prefix"]) is not None
    assert line.here("key", "rotate", new["id"]).code == 3


def test_revoke_asks_and_is_final(line, slug, addresses):
    tenant_id = line.here("tenant", "show", slug, "--json").json()["id"]
    issued = line.here("key", "create", slug, "--scope", "read", "--json").json()

    assert line.here("key", "revoke", issued["id"]).code == 2
    assert find_key(addresses, tenant_id, issued["prefix"]) is not None
    assert line.here("key", "revoke", issued["id"], "--yes").code == 0
    assert find_key(addresses, tenant_id, issued["prefix"]) is None
    assert line.here("key", "revoke", str(uuid4()), "--yes").code == 3
    assert line.here("key", "revoke", "not-an-id", "--yes").code == 2


# -- every command ------------------------------------------------------------------------------------


def test_an_unreachable_database_exits_with_5_and_keeps_the_password(line):
    dsn = "postgresql://someone:pass%20word@127.0.0.1:1/metrics"

    ended = line("tenant", "list", DATABASE_URL=dsn, DATABASE_OWNER_URL=dsn, DB_RETRY_ATTEMPTS="1")

    assert ended.code == 5
    assert ended.err.startswith("metrics-service: the database at 127.0.0.1:1 cannot be reached")
    assert ended.err.count("\n") == 1
    assert "pass" not in ended.err


def test_a_wrong_password_exits_with_5_and_is_not_shown(line):
    wrong = line.environ["DATABASE_OWNER_URL"].replace("only-for-tests", "hunter-two")
    is_trusted = line("tenant", "list", DATABASE_OWNER_URL=wrong)
    nobody = wrong.replace("app_migrator", "no_such_login")

    ended = line("tenant", "list", DATABASE_OWNER_URL=nobody)

    assert is_trusted.code in {0, 5}
    assert ended.code == 5
    assert "hunter" not in ended.err + is_trusted.err


@pytest.mark.parametrize(
    "environ",
    [
        {"METRICS_PORTT": "1"},
        {"METRICS_PORT": "high"},
        {"DATABASE_URL": "mysql://a@b/c"},
        {"DATABASE_URL": "postgresql://a:b@c:d/e"},
        {"DATABASE_OWNER_URL": ""},
        {"METRICS_BASE_DOMAIN": "a b"},
    ],
)
def test_a_wrong_setting_exits_with_2_and_is_named(line, environ):
    ended = line.here("tenant", "create", "x", **environ)

    assert ended.code == 2
    assert next(iter(environ)) in ended.err
    assert ended.err.count("\n") == 1


def test_a_database_that_is_not_initialised_says_so(line, new_database):
    empty = new_database()

    ended = line.here("tenant", "list", DATABASE_OWNER_URL=empty.owner, DATABASE_URL=empty.runtime)

    assert ended.code == 1
    assert "not initialised" in ended.err


def test_a_traceback_is_for_debugging_only(line):
    ended = line("tenant", "show", "nobody-here", METRICS_LOG_LEVEL="debug")

    assert ended.code == 3
    assert "Traceback" in ended.err


def every_command(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(command, click.Group):
        return [path]
    inner = [every_command(one, (*path, name)) for name, one in command.commands.items()]
    return [path, *(found for some in inner for found in some)]


def test_every_command_explains_itself(line):
    for path in every_command(metrics_service):
        command = metrics_service
        for word in path:
            command = command.commands[word]

        assert command.help, path
        assert all(option.help for option in command.params if isinstance(option, click.Option)), (
            path
        )
    # Settings are wrong, help is not.
    assert line("tenant", "create", "--help", METRICS_PORT="high").code == 0
