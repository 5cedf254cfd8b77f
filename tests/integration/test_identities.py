"""Who is who: assigned by hand or by rule, past rows follow, and all of it can be taken back."""

from __future__ import annotations

import asyncio
from itertools import permutations
from uuid import UUID, uuid4

import pytest
from inbox import CLAUDE, Inbox, claude_logs, everything, log, prompt
from rolled import check_rollups

from metrics_service.db.tenancy import TenantContext, tenant_connection
from metrics_service.ingest import past_sessions
from metrics_service.ingest.claims import Claim
from metrics_service.ingest.known_people import read_people
from metrics_service.ingest.past_sessions import Concerned, follow
from metrics_service.sessions.repository import change_session
from metrics_service.sessions.schemas import SessionPatch

FIRST = UUID(int=0)
ADA, EVE = "ada@old.example.com", "eve@example.com"
OF_USERS = ("metrics_sessions", "tool_metrics", "model_calls", "session_events", "counter_deltas")


@pytest.fixture
async def inbox(engine, new_tenant) -> Inbox:
    return Inbox(engine, (await new_tenant()).id)


async def walk(inbox: Inbox, concerned: Concerned) -> int:
    """Let the past follow, as the service does; return how many sessions moved."""
    after, moved = FIRST, 0
    while after is not None:
        async with tenant_connection(inbox.engine, TenantContext(inbox.tenant_id)) as connection:
            step = await follow(connection, inbox.tenant_id, concerned, after)
            await check_rollups(connection)
        after, moved = step.last_id, moved + step.moved
    return moved


async def assign(inbox: Inbox, kind: str, value: str, user_id: UUID | None) -> int:
    await inbox.execute(
        "UPDATE user_identities SET assigned_user_id = $3 WHERE kind = $1 AND value = $2",
        kind, value, user_id,
    )  # fmt: skip
    return await walk(inbox, Concerned("identity", value, kind))


async def rule(inbox: Inbox, kind: str, value: str, user_id=None, to_domain=None) -> int:
    await inbox.execute(
        "INSERT INTO identity_rules (kind, value, user_id, to_domain) VALUES ($1, $2, $3, $4)",
        kind, value, user_id, to_domain,
    )  # fmt: skip
    return await walk(inbox, Concerned(kind, value))


async def without_rules(inbox: Inbox, kind: str, value: str) -> int:
    await inbox.execute("DELETE FROM identity_rules")
    return await walk(inbox, Concerned(kind, value))


async def owners(inbox: Inbox, session: str = "s") -> set[str | None]:
    """By the rows of every table, whose a session is."""
    found: set[str | None] = set()
    for table in OF_USERS:
        column = "id" if table == "metrics_sessions" else "session_id"
        rows = await inbox.fetch(
            f"""SELECT u.email, u.name FROM {table} t LEFT JOIN users u ON u.id = t.user_id
                WHERE t.{column} = $1""",
            inbox.session_id(session),
        )
        assert rows, table
        found |= {row["email"] or row["name"] for row in rows}
    return found


async def source(inbox: Inbox, session: str = "s") -> str | None:
    return (await inbox.session(session)).user_source


# -- what is known by itself -------------------------------------------------------------------------


async def test_every_best_claim_is_an_identity_once(inbox):
    await inbox.send(*everything("a", user__email=ADA), *everything("b", user__email=ADA.upper()))
    await inbox.send(*everything("c", installation__id="i-1"), *everything("d"))

    rows = await inbox.fetch("SELECT kind, value FROM user_identities ORDER BY kind")

    assert rows == [{"kind": "email", "value": ADA}, {"kind": "installation.id", "value": "i-1"}]
    assert [await source(inbox, name) for name in "abcd"] == ["claim", "claim", "claim", None]


async def test_who_owns_the_key_is_known_by_the_key(inbox):
    owner = await inbox.add_user(EVE)

    for request in everything(user__email=ADA):
        await inbox.send(request, owner=owner)

    assert await source(inbox) == "key"


async def test_a_user_whom_somebody_stated_stays_stated(inbox):
    await inbox.send(*everything(user__email=ADA))
    eve = await inbox.add_user(EVE)
    async with tenant_connection(inbox.engine, TenantContext(inbox.tenant_id)) as connection:
        await change_session(connection, inbox.session_id("s"), SessionPatch(user_id=eve))

    await inbox.send(prompt(at_s=9, user__email=ADA))
    await assign(inbox, "email", ADA, await inbox.add_user("x@example.com"))

    found = await inbox.session("s")
    assert (found.user_id, found.user_source) == (eve, "stated")


# -- by hand -----------------------------------------------------------------------------------------


async def test_past_rows_follow_an_assignment_and_come_back(inbox):
    await inbox.send(*everything(installation__id="i-1"), *everything("other", user__id="u-2"))
    eve = await inbox.add_user(EVE)

    assert await assign(inbox, "installation.id", "i-1", eve) == 1
    assigned = await owners(inbox), await source(inbox)
    assert await assign(inbox, "installation.id", "i-1", None) == 1

    assert assigned == ({EVE}, "assigned")
    assert (await owners(inbox), await source(inbox)) == ({"i-1"}, "claim")
    assert await owners(inbox, "other") == {"u-2"}


async def test_what_comes_after_an_assignment_is_the_users_at_once(inbox):
    await inbox.send(*everything("before", user__email=ADA))
    eve = await inbox.add_user(EVE)
    await assign(inbox, "email", ADA, eve)

    await inbox.send(*everything("after", user__email=ADA))
    # The claim stands in an earlier request of the session.
    await inbox.send(prompt("before", at_s=20))

    assert await owners(inbox, "after") == await owners(inbox, "before") == {EVE}
    assert await source(inbox, "before") == "assigned"


async def test_a_key_proves_more_than_somebody_assigned(inbox):
    owner, eve = await inbox.add_user("owner@example.com"), await inbox.add_user(EVE)
    for request in everything(user__email=ADA):
        await inbox.send(request, owner=owner)
    await inbox.send(*everything("other", user__email=ADA))

    await assign(inbox, "email", ADA, eve)

    assert await owners(inbox) == {"owner@example.com"}
    assert await owners(inbox, "other") == {EVE}


async def test_walking_twice_changes_nothing(inbox):
    await inbox.send(*everything(user__email=ADA))
    eve = await inbox.add_user(EVE)
    await assign(inbox, "email", ADA, eve)
    before = await inbox.stored()

    assert await walk(inbox, Concerned("identity", ADA, "email")) == 0

    assert await inbox.stored() == before


async def test_many_sessions_follow_step_by_step(inbox, monkeypatch):
    monkeypatch.setattr(past_sessions, "WALK", past_sessions.WALK.replace("LIMIT 100", "LIMIT 3"))
    for number in range(10):
        await inbox.send(prompt(f"s{number}", at_s=number, user__email=ADA))
    eve = await inbox.add_user(EVE)

    assert await assign(inbox, "email", ADA, eve) == 10

    rows = await inbox.fetch("SELECT DISTINCT user_id FROM session_events")
    assert rows == [{"user_id": eve}]


async def test_a_session_that_is_deleted_meanwhile_does_not_come_back(inbox, monkeypatch):
    await inbox.send(*everything("a", user__email=ADA), *everything("b", user__email=ADA))
    real = past_sessions.look_up_people

    async def look_up(connection, *given):
        # Between the reading of a step and its locks.
        await inbox.execute("DELETE FROM metrics_sessions WHERE external_id = 'a'")
        return await real(connection, *given)

    monkeypatch.setattr(past_sessions, "look_up_people", look_up)
    async with tenant_connection(inbox.engine, TenantContext(inbox.tenant_id)) as connection:
        await follow(connection, inbox.tenant_id, Concerned("identity", ADA, "email"), FIRST)

    assert await inbox.session_names() == ["b"]


async def test_what_is_claimed_meanwhile_is_not_taken_for_nobodys(inbox, monkeypatch):
    await inbox.send(*everything(installation__id="i-1"))
    real = past_sessions.look_up_people

    async def look_up(connection, *given):
        found = await real(connection, *given)
        # Between the looking up and the locks.
        await inbox.send(prompt(at_s=9, user__email=ADA))
        return found

    monkeypatch.setattr(past_sessions, "look_up_people", look_up)
    concerned = Concerned("identity", "i-1", "installation.id")
    async with tenant_connection(inbox.engine, TenantContext(inbox.tenant_id)) as connection:
        await follow(connection, inbox.tenant_id, concerned, FIRST)

    assert (await owners(inbox), await source(inbox)) == ({ADA}, "claim")


# -- by rule -----------------------------------------------------------------------------------------


async def test_a_domain_stands_for_another(inbox):
    await inbox.send(*everything(user__email=ADA))

    assert await rule(inbox, "email_domain", "old.example.com", to_domain="example.com") == 1
    await inbox.send(*everything("after", user__email="bob@old.example.com"))
    ruled = [await owners(inbox), await owners(inbox, "after"), await source(inbox, "after")]
    assert await without_rules(inbox, "email_domain", "old.example.com") == 2

    assert ruled == [{"ada@example.com"}, {"bob@example.com"}, "rule"]
    assert await owners(inbox) == {ADA}
    assert await owners(inbox, "after") == {"bob@old.example.com"}


async def test_a_domain_is_one_users(inbox):
    await inbox.send(*everything(user__email=ADA), *everything("other", user__email=EVE))
    robot = await inbox.add_user("robot@example.com")

    assert await rule(inbox, "email_domain", "old.example.com", robot) == 1

    assert await owners(inbox) == {"robot@example.com"}
    assert await owners(inbox, "other") == {EVE}


@pytest.mark.parametrize("name", ["user.account_uuid", "user.account_id"])
async def test_an_account_is_a_users_also_behind_a_better_claim(inbox, name):
    said = {name.replace(".", "__"): "a-1", "user__email": ADA}
    await inbox.send(*everything(**said), *everything("other", user__email=ADA))
    eve = await inbox.add_user(EVE)

    assert await rule(inbox, "account_id", "a-1", eve) == 1
    await inbox.send(*everything("after", **said))

    assert await owners(inbox) == await owners(inbox, "after") == {EVE}
    assert await owners(inbox, "other") == {ADA}


async def test_a_key_without_owner_is_a_users(inbox):
    key_id = uuid4()
    for request in everything():
        await inbox.send(request, key_id=key_id)
    robot = await inbox.add_user("robot@example.com")
    nobody = await owners(inbox)

    assert await rule(inbox, "key", str(key_id), robot) == 1
    ruled = await owners(inbox), await source(inbox)
    assert await without_rules(inbox, "key", str(key_id)) == 1

    assert nobody == {None}
    assert ruled == ({"robot@example.com"}, "rule")
    assert (await owners(inbox), await source(inbox)) == ({None}, None)


async def test_the_most_exact_rule_decides_whichever_was_made_first(inbox):
    users = {kind: await inbox.add_user(f"{kind}@example.com")
             for kind in ("account_id", "email_domain", "key")}  # fmt: skip
    key_id = uuid4()
    values = {"account_id": "a-1", "email_domain": "old.example.com", "key": str(key_id)}
    for number, order in enumerate(permutations(values)):
        await inbox.execute("DELETE FROM identity_rules")
        for kind in order:
            await rule(inbox, kind, values[kind], users[kind])

        both = {"user__account_id": "a-1", "user__email": ADA}
        await inbox.send(prompt(f"a{number}", **both), key_id=key_id)
        await inbox.send(prompt(f"b{number}", user__email=ADA), key_id=key_id)
        await inbox.send(prompt(f"c{number}"), key_id=key_id)

        found = [(await inbox.session(f"{name}{number}")).user_id for name in "abc"]
        assert found == [users["account_id"], users["email_domain"], users["key"]]


async def test_a_hand_is_above_every_rule(inbox):
    await inbox.send(*everything(user__email=ADA))
    robot, eve = await inbox.add_user("robot@example.com"), await inbox.add_user(EVE)
    await rule(inbox, "email_domain", "old.example.com", robot)

    await assign(inbox, "email", ADA, eve)

    assert (await owners(inbox), await source(inbox)) == ({EVE}, "assigned")


async def test_whom_a_rule_names_gets_no_user_of_their_own(inbox):
    robot = await inbox.add_user("robot@example.com")
    await rule(inbox, "email_domain", "old.example.com", robot)

    await inbox.send(*everything(user__email=ADA))

    assert await inbox.fetch("SELECT email FROM users") == [{"email": "robot@example.com"}]
    assert await inbox.fetch("SELECT value, user_id FROM user_identities") == [
        {"value": ADA, "user_id": None}
    ]
    # And is one as soon as the rule is gone.
    await without_rules(inbox, "email_domain", "old.example.com")
    assert await owners(inbox) == {ADA}


# -- together ----------------------------------------------------------------------------------------


async def test_ingest_and_the_walk_do_not_wait_for_each_other_in_a_circle(inbox, engine):
    crowd = Inbox(engine, inbox.tenant_id, is_alone=False)
    for number in range(6):
        await crowd.send(*everything(f"s{number}", user__email=ADA))
    users = [await crowd.add_user(f"u{number}@example.com") for number in range(4)]

    async def write(part: int):
        for number in range(6):
            await crowd.send(*everything(f"s{(number + part) % 6}", user__email=ADA,
                                         user__account_id=f"a-{part}"))  # fmt: skip

    async def change(user_id):
        await crowd.execute(
            "UPDATE user_identities SET assigned_user_id = $1 WHERE kind = 'email'", user_id
        )
        concerned = Concerned("identity", ADA, "email")
        async with tenant_connection(engine, TenantContext(inbox.tenant_id)) as connection:
            await follow(connection, inbox.tenant_id, concerned, FIRST)

    await asyncio.gather(*(write(part) for part in range(2)), *(change(user) for user in users))

    await walk(inbox, Concerned("identity", ADA, "email"))
    (row,) = await inbox.fetch("SELECT assigned_user_id FROM user_identities")
    rows = await inbox.fetch("SELECT DISTINCT user_id, user_source FROM metrics_sessions")
    assert rows == [{"user_id": row["assigned_user_id"], "user_source": "assigned"}]
    assert await inbox.fetch("SELECT DISTINCT user_id FROM tool_metrics") == [
        {"user_id": row["assigned_user_id"]}
    ]


async def test_another_tenants_rules_and_assignments_do_nothing_here(inbox, engine, new_tenant):
    other = Inbox(engine, (await new_tenant()).id)
    for one in (inbox, other):
        await one.send(*everything(user__email=ADA, user__account_id="a-1"))
    eve = await other.add_user(EVE)
    await assign(other, "email", ADA, eve)
    await rule(other, "account_id", "a-1", eve)

    assert await walk(inbox, Concerned("identity", ADA, "email")) == 0
    assert await walk(inbox, Concerned("account_id", "a-1")) == 0
    await inbox.send(*everything("more", user__email=ADA, user__account_id="a-1"))

    assert await owners(inbox) == await owners(inbox, "more") == {ADA}
    async with tenant_connection(engine, TenantContext(inbox.tenant_id)) as connection:
        people = await read_people(connection, [Claim("email", ADA)])
    assert (people.assigned, people.rules) == ({}, [])


async def test_somebody_who_is_adopted_by_a_session_is_found_by_rule(inbox):
    # The claim comes with the trace, before any item names the session.
    eve = await inbox.add_user(EVE)
    await rule(inbox, "account_id", "a-1", eve)
    await inbox.send(claude_logs(log("user_prompt", "s", 1, event__sequence=1)))
    await inbox.send(
        claude_logs(log("user_prompt", "s", 2, event__sequence=2, user__account_id="a-1"))
    )

    found = await inbox.session("s", CLAUDE)
    assert (found.user_id, found.user_source) == (eve, "rule")
