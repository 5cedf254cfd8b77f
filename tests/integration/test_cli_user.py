"""`metrics-service user`: people who can sign in, made and changed by an operator."""

from __future__ import annotations

import asyncio
import re
import subprocess
from uuid import UUID, uuid4

import msgspec
import pytest
from command_line import CommandLine, Ended, on_database
from sqlalchemy import text

from metrics_service.cli.failures import CONFLICT, NOT_FOUND, WRONG_USAGE
from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection, runtime_engine
from metrics_service.db.roles import OWNER
from metrics_service.errors import InvalidBodyError
from metrics_service.tenants.passwords import Passwords
from metrics_service.tenants.sign_ins import SignIns
from metrics_service.users.write import People, sign_in

EMAIL = "ada@example.com"
CHOSEN = "a sentence of her own"


@pytest.fixture(scope="session")
def line(addresses: Addresses) -> CommandLine:
    return on_database(addresses)


@pytest.fixture
def tenant(line: CommandLine):
    return line.here("tenant", "create", f"t{uuid4().hex[:16]}", "--json").json()


@pytest.fixture
def slug(tenant) -> str:
    return tenant["slug"]


class Door(msgspec.Struct):
    """The tenant's page, as far as a password opens it; each question in a loop of its own."""

    addresses: Addresses
    tenant_id: UUID

    def enter(self, password: str) -> str | None:
        """The token that somebody gets by this password."""

        async def entered(people: People) -> str | None:
            try:
                begun = await sign_in(people, email=EMAIL, password=password, user_agent=None)
            except InvalidBodyError:
                return None
            return begun.token

        return self._ask(entered)

    def knows(self, token: str) -> bool:
        async def found(people: People) -> bool:
            sign_ins = SignIns(people.engine, ttl_s=lambda: 0)
            return await sign_ins.find(self.tenant_id, token) is not None

        return self._ask(found)

    def execute(self, statement: str, *values: str) -> None:
        async def executed(people: People) -> None:
            async with people.writing() as connection:
                await connection.execute(statement, *values)

        self._ask(executed)

    def _ask(self, work):
        async def asked():
            engine, passwords = runtime_engine(self.addresses.runtime, pool_max=1), Passwords()
            try:
                return await work(People(engine, self.tenant_id, passwords))
            finally:
                passwords.close()
                await engine.dispose()

        return asyncio.run(asked())


@pytest.fixture
def door(addresses: Addresses, tenant) -> Door:
    return Door(addresses, UUID(tenant["id"]))


def told(line: CommandLine, said: bytes, *arguments: str) -> Ended:
    """Run a command that reads from standard input."""
    done = subprocess.run(
        [*line.command, *arguments],
        env=line.environ,
        input=said,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def test_a_password_is_made_up_and_printed_once(line, slug, door):
    made = line.here(
        "user", "create", slug, "Ada@Example.COM", "--role", "admin", "--name", "Ada L",
        "--team", "platform", "--json",
    ).json()  # fmt: skip

    assert made.keys() == {"id", "email", "name", "role", "team", "password"}
    assert (made["email"], made["name"], made["role"], made["team"]) == (
        EMAIL, "Ada L", "admin", "platform",
    )  # fmt: skip
    assert re.fullmatch(r"[a-z2-9]{6}(-[a-z2-9]{6}){2}", made["password"])
    assert door.enter(made["password"])
    (listed,) = line.here("user", "list", slug, "--json").json()
    assert listed.keys() == {"email", "name", "role", "team", "can_sign_in", "last_seen_at"}
    assert listed["can_sign_in"] is True
    assert listed["last_seen_at"] is not None
    assert made["password"] not in line.here("user", "list", slug).out


def test_people_read_a_line_for_each_field(line, slug):
    made = line.here("user", "create", slug, EMAIL)

    assert made.code == 0, made.err
    fields = dict(re.split(r"  +", row, maxsplit=1) for row in made.out.splitlines())
    assert fields.keys() == {"id", "email", "name", "role", "team", "password"}
    assert (fields["email"], fields["role"], fields["name"]) == (EMAIL, "viewer", "-")


def test_a_password_is_read_from_standard_input_and_not_printed(line, slug, door):
    made = told(line, f"{CHOSEN}\r\nmore\n".encode(), "user", "create", slug, EMAIL,
                "--password-stdin", "--json")  # fmt: skip

    assert made.json()["password"] is None
    assert CHOSEN not in made.out + made.err
    assert door.enter(CHOSEN)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "the password must have 10 to 200 characters"),
        (b"short\n", "the password must have 10 to 200 characters"),
        (b"x" * 201, "the password must have 10 to 200 characters"),
        (EMAIL.encode(), "the password must not be the email"),
        (b"long enough \xff\xfe", "the password is not valid UTF-8"),
        (b"long enough \0", "the password must not contain U+0000"),
    ],
)
def test_a_password_that_is_not_taken_is_wrong_usage(line, slug, said, reason):
    made = told(line, said, "user", "create", slug, EMAIL, "--password-stdin")

    assert (made.code, made.err) == (WRONG_USAGE, f"metrics-service: {reason}\n")
    assert line.here("user", "list", slug, "--json").json() == []


def test_whom_telemetry_named_keeps_what_is_not_said(line, slug, door):
    door.execute("INSERT INTO users (email, team, role) VALUES ($1, 'infra', 'editor')", EMAIL)
    (before,) = line.here("user", "list", slug, "--json").json()

    made = line.here("user", "create", slug, EMAIL, "--name", "Ada", "--json").json()

    assert before["can_sign_in"] is False
    assert (made["name"], made["role"], made["team"]) == ("Ada", "editor", "infra")
    assert door.enter(made["password"])


def test_who_has_a_password_is_not_made_again(line, slug, door):
    made = line.here("user", "create", slug, EMAIL, "--json").json()

    again = line.here("user", "create", slug, EMAIL, "--role", "owner")

    assert again.code == CONFLICT
    assert "user password" in again.err
    assert door.enter(made["password"])
    (listed,) = line.here("user", "list", slug, "--json").json()
    assert listed["role"] == "viewer"


def test_a_service_signs_in_only_as_a_person(line, slug, door):
    door.execute("INSERT INTO users (email, role) VALUES ($1, 'service')", EMAIL)

    refused = line.here("user", "create", slug, EMAIL)
    made = line.here("user", "create", slug, EMAIL, "--role", "viewer", "--json")

    assert refused.code == CONFLICT
    assert "service" in refused.err
    assert door.enter(made.json()["password"])


def test_another_password_ends_the_old_one_and_all_sign_ins(line, slug, door):
    made = line.here("user", "create", slug, EMAIL, "--json").json()
    token = door.enter(made["password"])
    assert door.knows(token)

    changed = line.here("user", "password", slug, EMAIL, "--json").json()

    assert not door.knows(token)
    assert changed["password"] != made["password"]
    assert not door.enter(made["password"])
    assert door.enter(changed["password"])
    chosen = told(line, CHOSEN.encode(), "user", "password", slug, EMAIL, "--password-stdin")
    assert chosen.code == 0, chosen.err
    assert door.enter(CHOSEN)


def test_a_role_is_changed_to_one_of_those_of_people(line, slug):
    line.here("user", "create", slug, EMAIL)

    changed = line.here("user", "role", slug, EMAIL, "owner")

    assert (changed.code, changed.out) == (0, "")
    (listed,) = line.here("user", "list", slug, "--json").json()
    assert listed["role"] == "owner"
    for wrong in ("service", "root", ""):
        assert line.here("user", "role", slug, EMAIL, wrong).code == WRONG_USAGE
        assert line.here("user", "create", slug, "x@y.zz", "--role", wrong).code == WRONG_USAGE


def test_the_tenant_is_named_by_slug_domain_or_id(line, tenant):
    for name in (tenant["slug"], f"{tenant['domain']}.localhost", tenant["id"]):
        made = line.here("user", "create", name, f"u{uuid4().hex}@example.com")
        assert made.code == 0, made.err

    assert len(line.here("user", "list", tenant["slug"], "--json").json()) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "not an email"),
        ("create", f"{'x' * 300}@example.com"),
        ("create", EMAIL, "--name", "x" * 256),
        ("create", EMAIL, "--name", " "),
        ("create", EMAIL, "--team", "a\nb"),
        ("password", "@"),
        ("role", "@", "viewer"),
    ],
)
def test_values_that_are_wrong_are_named(line, slug, arguments):
    command, *rest = arguments

    ended = line.here("user", command, slug, *rest)

    assert ended.code == WRONG_USAGE
    assert any(word in ended.err for word in ("email", "name", "team")), ended.err
    assert line.here("user", "list", slug, "--json").json() == []


def test_what_is_not_there_is_not_found(line, slug):
    for command in (("create", EMAIL), ("list",), ("password", EMAIL), ("role", EMAIL, "viewer")):
        assert line.here("user", command[0], "nowhere", *command[1:]).code == NOT_FOUND
    for command in (("password", EMAIL), ("role", EMAIL, "viewer")):
        assert line.here("user", command[0], slug, *command[1:]).code == NOT_FOUND


def test_another_tenants_people_are_not_touched(line, slug):
    other = line.here("tenant", "create", f"t{uuid4().hex[:16]}", "--json").json()["slug"]
    line.here("user", "create", slug, EMAIL)
    before = line.here("user", "list", slug, "--json").json()

    assert line.here("user", "password", other, EMAIL).code == NOT_FOUND
    assert line.here("user", "create", other, EMAIL, "--role", "owner").code == 0
    assert line.here("user", "role", other, EMAIL, "admin").code == 0

    assert line.here("user", "list", slug, "--json").json() == before


def test_what_an_operator_does_is_in_the_audit_without_an_email(line, slug, tenant, addresses):
    made = line.here("user", "create", slug, EMAIL, "--json").json()
    line.here("user", "password", slug, EMAIL)
    line.here("user", "role", slug, EMAIL, "admin")

    async def audited():
        async with owner_connection(addresses.require_owner()) as connection:
            await connection.execute(text(f"SET ROLE {OWNER}"))
            return list(
                await connection.execute(
                    text(
                        """
                        SELECT action, detail FROM public.operator_audit
                        WHERE tenant_id = CAST(:id AS uuid) AND action LIKE 'user %'
                        ORDER BY action
                        """
                    ),
                    {"id": tenant["id"]},
                )
            )

    rows = asyncio.run(audited())
    assert [tuple(row) for row in rows] == [
        (action, {"user": made["id"]}) for action in ("user create", "user password", "user role")
    ]
