"""Sign-ins against a database: whose they are, how long they hold, and where they end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
from argon2 import PasswordHasher

from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.errors import (
    ConflictError,
    InvalidBodyError,
    NotFoundError,
)
from metrics_service.seeds.companies import FORTIUM
from metrics_service.seeds.logins import ensure_login
from metrics_service.tenants.listener import RegistryListener
from metrics_service.tenants.passwords import Passwords
from metrics_service.tenants.sign_ins import (
    LIFETIME,
    MAX_OF_A_USER,
    SCOPES_OF_ROLE,
    SignIns,
    begin_sign_in,
    end_sign_in,
    end_sign_ins,
    hash_token,
    list_sign_ins,
)
from metrics_service.users.repository import find_account, list_users
from metrics_service.users.schemas import NewUser
from metrics_service.users.write import (
    People,
    change_password,
    change_role,
    create_user,
    email_of,
    new_password,
    reset_password,
    sign_in,
)

EMAIL = "ada@example.com"
PASSWORD = "a long sentence"
HOLDS_EVERYWHERE_AFTER_S = 2.0
FOR_EVER = 3600.0


@pytest.fixture(scope="module")
async def passwords() -> AsyncIterator[Passwords]:
    made = Passwords()
    yield made
    made.close()


@pytest.fixture
async def people(engine, new_tenant, passwords) -> People:
    return People(engine, (await new_tenant()).id, passwords)


@pytest.fixture
def sign_ins(engine) -> SignIns:
    """One that hears of nothing, and remembers for ever."""
    return SignIns(engine, ttl_s=lambda: FOR_EVER)


async def made(people: People, email: str = EMAIL, role: str = "viewer") -> UUID:
    return (await create_user(people, NewUser(email=email, role=role), PASSWORD)).id


async def entered(people: People, email: str = EMAIL, password: str = PASSWORD, agent="test"):
    return await sign_in(people, email=email, password=password, user_agent=agent)


async def run(people: People, statement: str, *values):
    async with people.writing() as connection:
        return await connection.fetch(statement, *values)


# -- whose ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["owner", "admin", "editor", "viewer"])
async def test_a_token_stands_for_a_person_with_the_rights_of_their_role(people, sign_ins, role):
    user = await create_user(people, NewUser(email=EMAIL, role=role, name="Ada"), PASSWORD)

    begun = await entered(people)
    principal = await sign_ins.find(people.tenant_id, begun.token)

    assert (principal.kind, principal.id, principal.user_id) == ("user", user.id, user.id)
    assert type(principal.id) is UUID
    assert (principal.name, principal.role, principal.user_role) == ("Ada", role, role)
    assert principal.scopes == SCOPES_OF_ROLE[role]
    assert principal.allows("write") == (role != "viewer")
    assert principal.allows("admin") == (role in ("owner", "admin"))
    left = principal.expires_at - datetime.now(UTC)
    assert LIFETIME - timedelta(minutes=1) < left <= LIFETIME


async def test_the_token_is_not_kept_only_its_hash(people):
    await made(people)

    begun = await entered(people)

    (row,) = await run(people, "SELECT * FROM sign_ins")
    assert row["token_hash"] == hash_token(begun.token)
    assert begun.token not in repr(tuple(row))
    assert len(begun.token) == 43


async def test_another_tenants_token_is_nobodys(people, sign_ins, new_tenant):
    await made(people)
    begun = await entered(people)
    other = await new_tenant()
    assert await sign_ins.find(people.tenant_id, begun.token) is not None

    assert await sign_ins.find(other.id, begun.token) is None
    await sign_ins.end(other.id, begun.token)

    assert await SignIns(people.engine, ttl_s=lambda: 0).find(people.tenant_id, begun.token)


async def test_other_tenants_see_no_passwords_and_no_sign_ins(people, engine, new_tenant):
    user_id = await made(people)
    await entered(people)
    other = await new_tenant()

    async with tenant_connection(engine, TenantContext(other.id)) as connection:
        for table in ("user_passwords", "sign_ins"):
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0
            assert await connection.execute(f"DELETE FROM {table}") == "DELETE 0"
    for statement in (
        "INSERT INTO user_passwords (tenant_id, user_id, password_hash) VALUES ($1, $2, 'x')",
        """
        INSERT INTO sign_ins (tenant_id, user_id, token_hash, expires_at)
        VALUES ($1, $2, 'x', now())
        """,
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with tenant_connection(engine, TenantContext(other.id)) as connection:
                await connection.execute(statement, people.tenant_id, user_id)


@pytest.mark.parametrize(
    "token", ["", "x", "x" * 42, "x" * 44, "x" * 43, "é" * 43, "x" * 42 + "\0", "x" * 10_000]
)
async def test_what_nobody_holds_finds_nobody(people, sign_ins, token):
    assert await sign_ins.find(people.tenant_id, token) is None


async def test_the_agent_is_cut_and_the_user_was_seen(people):
    user_id = await made(people)
    async with people.reading() as connection:
        assert [row.last_seen_at for row in await list_users(connection)] == [None]

    begun = await entered(people, agent="x" * 1000)

    async with people.reading() as connection:
        (listed,) = await list_sign_ins(connection, user_id, current=begun.token)
        (user,) = await list_users(connection)
    assert (listed.user_agent, listed.is_current) == ("x" * 255, True)
    assert datetime.now(UTC) - user.last_seen_at < timedelta(minutes=1)


# -- how long ---------------------------------------------------------------------------------------


async def test_one_that_expired_does_not_count_although_it_is_remembered(people, sign_ins):
    await made(people)
    begun = await entered(people)
    await run(people, "UPDATE sign_ins SET expires_at = now() + interval '0.3 s'")
    assert await sign_ins.find(people.tenant_id, begun.token) is not None

    await asyncio.sleep(0.35)

    assert await sign_ins.find(people.tenant_id, begun.token) is None
    sign_ins.forget(people.tenant_id)
    assert await sign_ins.find(people.tenant_id, begun.token) is None


async def test_those_that_expired_go_when_the_user_signs_in_again(people):
    user_id, other_id = await made(people), await made(people, "eve@example.com")
    for email in (EMAIL, EMAIL, "eve@example.com"):
        await entered(people, email)
    await run(people, "UPDATE sign_ins SET expires_at = now()")

    await entered(people)

    rows = await run(people, "SELECT user_id, expires_at > now() AS lives FROM sign_ins")
    assert sorted((row["user_id"], row["lives"]) for row in rows) == sorted(
        [(user_id, True), (other_id, False)]
    )


async def test_a_user_has_so_many_and_the_oldest_goes(people, sign_ins):
    user_id = await made(people)
    begun = []
    for _ in range(MAX_OF_A_USER + 2):
        async with people.writing() as connection:
            begun.append(await begin_sign_in(connection, user_id, user_agent=None))

    assert len(await run(people, "SELECT 1 FROM sign_ins")) == MAX_OF_A_USER
    found = [await sign_ins.find(people.tenant_id, one.token) is not None for one in begun]
    assert found == [False, False] + [True] * MAX_OF_A_USER


async def test_many_at_once_do_not_get_past_the_bound(people):
    user_id = await made(people)

    async def begin():
        async with people.writing() as connection:
            await begin_sign_in(connection, user_id, user_agent=None)

    await asyncio.gather(*(begin() for _ in range(MAX_OF_A_USER + 10)))

    assert len(await run(people, "SELECT 1 FROM sign_ins")) == MAX_OF_A_USER


# -- where they end ---------------------------------------------------------------------------------


@pytest.fixture
async def elsewhere(engine, addresses) -> AsyncIterator[SignIns]:
    """As another process has them: it learns of what happens here by the listener alone."""
    listener = RegistryListener(addresses.direct)
    found = SignIns(engine, ttl_s=listener.ttl_s)
    listener.tell(found.forget)
    listener.start()
    while listener.ttl_s() < 10:
        await asyncio.sleep(0.01)
    yield found
    await listener.stop()


async def seconds_until(check) -> float:
    begun = time.monotonic()
    while not await check():
        assert time.monotonic() - begun < 5
        await asyncio.sleep(0.01)
    return time.monotonic() - begun


async def _end(people, user_id, token):
    await SignIns(people.engine, ttl_s=lambda: 0).end(people.tenant_id, token)


async def _end_one(people, user_id, token):
    async with people.writing() as connection:
        (row,) = await list_sign_ins(connection, user_id, current=token)
        assert await end_sign_in(connection, user_id, row.id)


async def _end_all(people, user_id, token):
    async with people.writing() as connection:
        await end_sign_ins(connection, user_id)


async def _reset(people, user_id, token):
    await reset_password(people, EMAIL, "another long sentence")


async def _change(people, user_id, token):
    other = await entered(people)
    await change_password(
        people, user_id, current=PASSWORD, new="another long sentence", token=other.token
    )


@pytest.mark.parametrize("end", [_end, _end_one, _end_all, _reset, _change])
async def test_it_ends_in_every_process_within_two_seconds(people, elsewhere, end):
    user_id = await made(people)
    begun = await entered(people)
    assert await elsewhere.find(people.tenant_id, begun.token) is not None

    await end(people, user_id, begun.token)

    async def is_over():
        return await elsewhere.find(people.tenant_id, begun.token) is None

    assert await seconds_until(is_over) < HOLDS_EVERYWHERE_AFTER_S


async def test_a_lower_role_holds_in_every_process_within_two_seconds(people, elsewhere):
    await made(people, role="owner")
    begun = await entered(people)
    assert (await elsewhere.find(people.tenant_id, begun.token)).allows("admin")

    user = await change_role(people, EMAIL, "viewer")

    async def is_lower():
        return not (await elsewhere.find(people.tenant_id, begun.token)).allows("admin")

    assert await seconds_until(is_lower) < HOLDS_EVERYWHERE_AFTER_S
    assert user.role == "viewer"


async def test_who_is_deleted_is_signed_out_with_all_that_was_theirs(people):
    sign_ins = SignIns(people.engine, ttl_s=lambda: 0)
    user_id = await made(people)
    begun = await entered(people)
    assert await sign_ins.find(people.tenant_id, begun.token) is not None

    await run(people, "DELETE FROM users WHERE id = $1", user_id)
    await asyncio.sleep(0.001)

    assert await sign_ins.find(people.tenant_id, begun.token) is None
    for table in ("user_passwords", "sign_ins"):
        assert await run(people, f"SELECT 1 FROM {table}") == []


async def test_what_was_looked_up_while_it_ended_is_not_remembered(people, sign_ins, monkeypatch):
    await made(people)
    begun = await entered(people)
    look_up = sign_ins._look_up

    async def slow(tenant_id, token_hash):
        found = await look_up(tenant_id, token_hash)
        await SignIns(people.engine, ttl_s=lambda: 0).end(tenant_id, begun.token)
        sign_ins.forget(tenant_id)
        return found

    monkeypatch.setattr(sign_ins, "_look_up", slow)
    await sign_ins.find(people.tenant_id, begun.token)
    monkeypatch.undo()

    assert await sign_ins.find(people.tenant_id, begun.token) is None


async def test_nobody_ends_what_is_another_users(people):
    ada, eve = await made(people), await made(people, "eve@example.com")
    begun = await entered(people)

    async with people.writing() as connection:
        (row,) = await list_sign_ins(connection, ada, current=begun.token)
        assert not await end_sign_in(connection, eve, row.id)
        assert not await end_sign_in(connection, ada, uuid4())
        await end_sign_ins(connection, eve)
        assert len(await list_sign_ins(connection, ada, current="")) == 1


# -- passwords --------------------------------------------------------------------------------------


async def test_who_is_unknown_has_no_password_or_a_wrong_one_is_told_the_same(people):
    await made(people)
    await run(people, "INSERT INTO users (email) VALUES ('robot@example.com')")
    told = set()

    for email, password in [
        (EMAIL, "another sentence"),
        (EMAIL, ""),
        (EMAIL, "x" * 10_000),
        ("eve@example.com", PASSWORD),
        ("robot@example.com", PASSWORD),
        ("no email", PASSWORD),
        ("", ""),
        (f"{'x' * 300}@example.com", PASSWORD),
        ("nul\0@example.com", PASSWORD),
    ]:
        with pytest.raises(InvalidBodyError) as refused:
            await entered(people, email, password)
        told.add((str(refused.value), *refused.value.errors))

    assert len(told) == 1
    assert await run(people, "SELECT 1 FROM sign_ins") == []


async def test_an_unknown_email_is_hashed_for_as_a_known_one_is(people, monkeypatch):
    await made(people)
    compared = []
    verify = PasswordHasher.verify
    monkeypatch.setattr(
        PasswordHasher, "verify", lambda *given: compared.append(1) or verify(*given)
    )

    for email in (EMAIL, "eve@example.com", "no email"):
        with pytest.raises(InvalidBodyError):
            await entered(people, email, "another sentence")

    assert len(compared) == 3


async def test_the_email_is_found_however_it_is_written(people):
    await made(people)

    assert await entered(people, "  ADA@Example.COM ")


async def test_old_parameters_are_renewed_by_the_next_sign_in(people, passwords):
    user_id = await made(people)
    weak = PasswordHasher(time_cost=1, memory_cost=8192, parallelism=1).hash(PASSWORD)
    await run(people, "UPDATE user_passwords SET password_hash = $1", weak)

    await entered(people)

    async with people.reading() as connection:
        account = await find_account(connection, EMAIL)
    assert account.user_id == user_id
    assert not passwords.is_outdated(account.password_hash)
    assert await entered(people)


async def test_a_password_that_changes_while_it_is_compared_lets_nobody_in(people, monkeypatch):
    await made(people)
    matches = Passwords.matches

    async def slow(passwords, password, kept):
        is_right = await matches(passwords, password, kept)
        monkeypatch.undo()
        await reset_password(people, EMAIL, "another long sentence")
        return is_right

    monkeypatch.setattr(Passwords, "matches", slow)

    with pytest.raises(InvalidBodyError):
        await entered(people)
    assert await run(people, "SELECT 1 FROM sign_ins") == []


async def test_one_changes_their_own_password_and_stays_where_they_are(people, sign_ins):
    user_id = await made(people)
    here, there = await entered(people), await entered(people)
    new = "another long sentence"

    for current, wanted in ((PASSWORD + "!", new), (PASSWORD, "short"), (PASSWORD, EMAIL)):
        with pytest.raises(InvalidBodyError):
            await change_password(people, user_id, current=current, new=wanted, token=here.token)
    await change_password(people, user_id, current=PASSWORD, new=new, token=here.token)

    assert await sign_ins.find(people.tenant_id, here.token) is not None
    assert await sign_ins.find(people.tenant_id, there.token) is None
    with pytest.raises(InvalidBodyError):
        await entered(people)
    assert await entered(people, password=new)


async def test_whom_telemetry_made_is_given_name_role_and_password(people):
    await run(people, "INSERT INTO users (email, team) VALUES ($1, 'platform')", EMAIL)

    user = await create_user(people, NewUser(email=EMAIL, role="admin", name="Ada"), PASSWORD)

    assert (user.name, user.role, user.team, user.can_sign_in) == ("Ada", "admin", "platform", True)
    with pytest.raises(ConflictError):
        await create_user(people, NewUser(email=EMAIL, role="owner", name="Eve"), PASSWORD)
    async with people.reading() as connection:
        assert await list_users(connection) == [user]
    with pytest.raises(NotFoundError):
        await reset_password(people, "eve@example.com", PASSWORD)
    with pytest.raises(NotFoundError):
        await change_role(people, "eve@example.com", "viewer")


async def test_the_demonstration_has_a_login_that_stays_as_people_change_it(people, passwords):
    given = (people.engine, passwords, people.tenant_id, FORTIUM)

    first, second = await ensure_login(*given), await ensure_login(*given)
    assert first == second
    assert first.password == "metrics-demo-1"
    assert await entered(people, first.email, first.password)
    async with people.reading() as connection:
        (user,) = await list_users(connection)
    assert user.role == "owner"
    await reset_password(people, first.email, "chosen by somebody")

    third = await ensure_login(*given)

    assert (third.email, third.password) == (first.email, None)
    assert await entered(people, first.email, "chosen by somebody")


def test_a_password_of_ours_can_be_read_out_and_never_comes_twice():
    made_up = {new_password() for _ in range(1000)}

    assert len(made_up) == 1000
    assert all(len(one) == 20 and not set(one) & set("l1o0 ") for one in made_up)


@pytest.mark.parametrize(
    ("written", "email"),
    [("Ada@Example.com", EMAIL), (" ada@example.com\n", EMAIL), ("ada", None), ("", None)],
)
def test_emails_are_kept_in_lower_case(written, email):
    assert email_of(written) == email
