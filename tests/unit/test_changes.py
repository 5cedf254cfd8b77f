"""Changes on their way: noted, spelt for NOTIFY, gathered for the streams of a tenant."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_service.db.engine import runtime_engine
from metrics_service.errors import TenantSuspendedError, TooManyRequestsError, UnavailableError
from metrics_service.http import changes as changes_module
from metrics_service.http.changes import Changes
from metrics_service.tenants.authenticate import Principal
from metrics_service.tenants.changed import (
    MAX_PAYLOAD_BYTES,
    MAX_SESSIONS,
    Changed,
    payloads_of,
    read_payload,
)
from metrics_service.web.live import streams as streams_module
from metrics_service.web.live.streams import Hub, Stream

A, B = UUID(int=1), UUID(int=2)
PERSON = UUID(int=3)
SOON_S = 0.05

ids = st.sets(st.uuids(), max_size=MAX_SESSIONS + 2)


def ids_of(count: int) -> list[UUID]:
    return [UUID(int=number + 1) for number in range(count)]


# -- spelt and read -----------------------------------------------------------------------------------


@given(st.dictionaries(st.uuids(), ids, max_size=20))
def test_what_is_spelt_is_read_and_every_payload_fits(noted: dict[UUID, set[UUID]]) -> None:
    changed = {tenant_id: Changed() for tenant_id in noted}
    for tenant_id, sessions in noted.items():
        changed[tenant_id].add(sessions)

    payloads = payloads_of(changed)

    assert all(len(payload.encode()) < MAX_PAYLOAD_BYTES for payload in payloads)
    assert {one: what for payload in payloads for one, what in read_payload(payload)} == changed


def test_few_tenants_share_a_payload() -> None:
    noted = {uuid4(): Changed({uuid4()}) for _ in range(100)}

    assert len(payloads_of(noted)) == 1


@pytest.mark.parametrize("payload", ["", "x", f"{A.hex},x", f"{A.hex}\n", f"{A.hex},*,*"])
def test_what_is_no_payload_is_refused(payload: str) -> None:
    with pytest.raises(ValueError, match="hexadecimal"):
        list(read_payload(payload))


def test_sessions_are_named_up_to_a_number_and_then_are_many() -> None:
    changed = Changed()
    changed.add(ids_of(MAX_SESSIONS))
    at_first = (len(changed.sessions), changed.is_many)
    changed.add([UUID(int=MAX_SESSIONS + 1)])
    changed.add([UUID(int=1)])

    assert at_first == (MAX_SESSIONS, False)
    assert (changed.sessions, changed.is_many) == (set(), True)


def test_of_a_million_sessions_no_more_is_looked_at_than_is_named() -> None:
    looked_at = []
    changed = Changed()

    changed.add(looked_at.append(one) or one for one in ids_of(1000))

    assert changed.is_many
    assert len(looked_at) == MAX_SESSIONS + 1


# -- noted and told -----------------------------------------------------------------------------------


@asynccontextmanager
async def away() -> AsyncIterator[Changes]:
    """Changes to be told to a database that is not there."""
    engine = runtime_engine("postgresql://nobody@127.0.0.1:1/nothing")
    yield Changes(engine)
    await engine.dispose()


async def test_what_cannot_be_told_is_kept_and_joined_with_what_follows() -> None:
    async with away() as changes:
        async with changes.told():
            changes.note(A, ids_of(1))
            await asyncio.sleep(SOON_S)
            changes.note(A, ids_of(2))
            changes.note(B, None)

        # After the last attempt.
        assert vars(changes)["_noted"] == {A: Changed(set(ids_of(2))), B: Changed(is_many=True)}


async def test_memory_is_bounded_while_the_database_is_away_and_the_oldest_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(changes_module, "MAX_TENANTS", 3)
    monkeypatch.setattr(changes_module, "TOLD_EVERY_S", 0.01)
    tenants = ids_of(10)
    async with away() as changes:
        async with changes.told():
            for tenant_id in tenants:
                changes.note(tenant_id, None)
                await asyncio.sleep(0.02)

        assert list(vars(changes)["_noted"]) == tenants[-3:]


async def test_the_end_is_not_put_off_by_a_database_that_is_away() -> None:
    async with away() as changes, asyncio.timeout(3), changes.told():
        changes.note(A, None)


# -- streams ------------------------------------------------------------------------------------------


class Browser:
    """The other end of a stream, which may leave, or take nothing."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.takes = asyncio.Event()
        self.takes.set()
        self.left = asyncio.Event()
        self.is_broken = False
        self.is_finished = False

    async def receive(self) -> Any:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        await self.takes.wait()
        if self.is_broken:
            raise BrokenPipeError
        self.heard.append(message["body"])
        self.is_finished = not message["more_body"]

    def events(self) -> list[tuple[str, Any]]:
        found = []
        for line in b"".join(self.heard).decode().split("\n\n"):
            kind, _, data = line.partition("\ndata: ")
            if kind.startswith("event: "):
                found.append((kind.removeprefix("event: "), json.loads(data)))
        return found


class People:
    """Whose tokens are good."""

    def __init__(self) -> None:
        self.known: dict[str, Principal] = {}
        self.trouble: Exception | None = None
        self.asked: list[str] = []

    def sign_in(self, token: str, *, scopes: frozenset[str] = frozenset({"read"})) -> None:
        self.known[token] = Principal("user", uuid4(), token, scopes)

    async def find(self, _: UUID, token: str) -> Principal | None:
        self.asked.append(token)
        if self.trouble is not None:
            raise self.trouble
        return self.known.get(token)


class Place:
    """A hub that hears, or does not, with browsers."""

    def __init__(self, *, max_streams: int = 100) -> None:
        self.hears = True
        self.people = People()
        self.hub = Hub(max_streams=max_streams, hears=lambda: self.hears, find=self.people.find)
        self.tasks: list[asyncio.Task[None]] = []

    async def open(
        self,
        tenant_id: UUID,
        token: str = "token",
        ends_at: datetime | None = None,
        *,
        person_id: UUID = PERSON,
    ) -> Browser:
        browser = Browser()
        person = Principal("user", person_id, token, frozenset({"read"}), expires_at=ends_at)

        async def serve() -> None:
            with self.hub.joined(tenant_id, person, token) as stream:
                await stream.run(browser.receive, browser.send, self.hub.first_words())

        task = asyncio.create_task(serve())
        self.tasks.append(task)
        await asyncio.sleep(0.01)
        if task.done():
            await task
        return browser


@pytest.fixture
async def place(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(streams_module, "APART_S", 0.02)
    monkeypatch.setattr(streams_module, "TICK_S", 0.01)
    made = Place()
    async with made.hub.kept():
        yield made
    await asyncio.gather(*made.tasks)


async def test_only_the_tenants_own_streams_hear_of_a_change(place: Place) -> None:
    ada, bob = await place.open(A), await place.open(B)
    session_id = uuid4()

    place.hub.changed(A, Changed({session_id}))
    await asyncio.sleep(SOON_S)

    assert ada.events() == [("changed", {"sessions": [str(session_id)], "within": 0})]
    assert bob.events() == []


async def test_what_comes_fast_is_told_together(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_module, "APART_S", 0.2)
    ada = await place.open(A)

    place.hub.changed(A, Changed({UUID(int=1)}))
    await asyncio.sleep(SOON_S)
    place.hub.changed(A, Changed({UUID(int=2)}))
    place.hub.changed(A, Changed({UUID(int=3)}))
    await asyncio.sleep(SOON_S)
    at_first = ada.events()
    await asyncio.sleep(0.2)

    (first, second) = ada.events()
    assert at_first == [first]
    assert set(second[1]["sessions"]) == {str(UUID(int=2)), str(UUID(int=3))}


async def test_the_more_listen_the_more_time_they_take(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_module, "FETCHES_A_SECOND", 2)
    browsers = [await place.open(A) for _ in range(7)]
    other = await place.open(B)

    place.hub.changed(None, None)
    await asyncio.sleep(SOON_S)

    assert all(one.events() == [("changed", {"many": True, "within": 3})] for one in browsers)
    assert other.events() == [("changed", {"many": True, "within": 0})]


async def test_whoever_takes_nothing_holds_one_message_and_nobody_up(place: Place) -> None:
    slow, quick = await place.open(A), await place.open(A)
    slow.takes.clear()
    for number in range(4):
        place.hub.changed(A, Changed({UUID(int=number)}))
        await asyncio.sleep(SOON_S)
    slow.takes.set()
    await asyncio.sleep(SOON_S)

    assert len(quick.events()) == 4
    first, rest = slow.events()
    assert first[1]["sessions"] == [str(UUID(int=0))]
    assert rest[1]["many"] is True


async def test_whoever_takes_nothing_is_not_waited_for_at_the_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_module, "LAST_WORDS_S", 0.05)
    slow = await place.open(A)
    slow.takes.clear()
    place.hub.changed(A, Changed())
    await asyncio.sleep(SOON_S)

    place.hub.end()

    async with asyncio.timeout(1):
        await asyncio.gather(*place.tasks)


async def test_silence_is_broken_and_news_are_no_silence(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_module, "BEAT_S", 0.1)
    ada = await place.open(A)
    ada.heard.clear()
    await asyncio.sleep(0.25)

    assert 1 <= len(ada.heard) <= 3
    assert set(ada.heard) == {streams_module.BEAT}


async def test_streams_are_told_when_nothing_is_heard_and_when_it_is_again(place: Place) -> None:
    ada = await place.open(A)
    place.hears = False
    await asyncio.sleep(SOON_S)
    late = await place.open(A)
    at_first = (ada.events(), late.events())
    place.hears = True
    await asyncio.sleep(SOON_S)

    again = ("changed", {"many": True, "within": 0})
    assert at_first == ([("deaf", {})], [("deaf", {})])
    assert ada.events() == late.events() == [("deaf", {}), again]


async def test_who_leaves_is_forgotten(place: Place) -> None:
    ada = await place.open(A)
    place.hub.changed(A, Changed())
    ada.left.set()
    await asyncio.sleep(SOON_S)

    assert place.tasks[0].done()
    assert not ada.is_finished
    assert (vars(place.hub)["_rooms"], vars(place.hub)["_count"]) == ({}, 0)


async def test_who_cannot_be_written_to_has_left(place: Place) -> None:
    ada = await place.open(A)
    ada.is_broken = True
    place.hub.changed(A, Changed())
    await asyncio.sleep(SOON_S)

    assert place.tasks[0].done()
    assert vars(place.hub)["_rooms"] == {}


async def test_a_tenant_takes_half_and_all_take_no_more_than_there_are() -> None:
    place = Place(max_streams=4)
    async with place.hub.kept():
        first = await place.open(A)
        await place.open(A)
        with pytest.raises(UnavailableError):
            await place.open(A)
        await place.open(B)
        await place.open(B)
        with pytest.raises(UnavailableError) as refused:
            await place.open(uuid4())
        first.left.set()
        await asyncio.sleep(SOON_S)
        await place.open(uuid4())
    assert refused.value.retry_after_s == 60
    with suppress(UnavailableError):
        await asyncio.gather(*place.tasks)


async def test_one_person_leaves_places_to_colleagues(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams_module, "MAX_OF_A_PERSON", 2)
    first = await place.open(A, "one browser")
    await place.open(A, "another")
    with pytest.raises(TooManyRequestsError):
        await place.open(A, "a third")
    place.tasks.pop()
    await place.open(A, "a colleague's", person_id=uuid4())

    first.left.set()
    await asyncio.sleep(SOON_S)
    await place.open(A, "a third")


async def test_a_change_of_people_ends_the_streams_of_those_who_are_gone(place: Place) -> None:
    for token in ("stays", "other"):
        place.people.sign_in(token)
    place.people.sign_in("robot", scopes=frozenset({"ingest"}))
    browsers = {token: await place.open(A, token) for token in ("stays", "gone", "robot")}
    other = await place.open(B, "other")

    place.hub.check(A)
    await asyncio.sleep(SOON_S)

    assert sorted(place.people.asked) == ["gone", "robot", "stays"]
    ended = {token: browser.events() for token, browser in browsers.items()}
    assert ended == {"stays": [], "gone": [("gone", {})], "robot": [("gone", {})]}
    assert browsers["gone"].is_finished
    assert not browsers["stays"].is_finished
    assert other.events() == []


async def test_after_a_gap_everybody_is_looked_up(place: Place) -> None:
    await place.open(A, "a")
    await place.open(B, "b")

    place.hub.check(None)
    await asyncio.sleep(SOON_S)

    assert sorted(place.people.asked) == ["a", "b"]


async def test_streams_of_a_suspended_tenant_end(place: Place) -> None:
    ada = await place.open(A)
    place.people.trouble = TenantSuspendedError()

    place.hub.check(A)
    await asyncio.sleep(SOON_S)

    assert ada.events() == [("gone", {})]


@pytest.mark.parametrize("trouble", [UnavailableError(), RuntimeError("a bug")])
async def test_what_cannot_be_looked_up_now_is_looked_up_later(
    place: Place, trouble: Exception
) -> None:
    ada = await place.open(A)
    place.people.trouble = trouble
    place.hub.check(A)
    await asyncio.sleep(SOON_S)
    at_first = ada.events()
    place.people.trouble = None
    await asyncio.sleep(SOON_S)

    assert at_first == []
    assert ada.events() == [("gone", {})]


async def test_a_stream_ends_when_its_sign_in_does(place: Place) -> None:
    ends_at = datetime.now(UTC) + timedelta(milliseconds=80)
    ada = await place.open(A, ends_at=ends_at)
    at_first = ada.events()
    await asyncio.sleep(0.15)

    assert at_first == []
    assert ada.events() == [("gone", {})]


async def test_all_end_at_once_and_none_begins_after(place: Place) -> None:
    browsers = [await place.open(A) for _ in range(5)]

    place.hub.end()
    await asyncio.sleep(SOON_S)

    assert all(browser.is_finished for browser in browsers)
    with pytest.raises(UnavailableError):
        await place.open(A)
    place.tasks.pop()


async def test_a_stream_that_is_over_writes_nothing() -> None:
    person = Principal("user", PERSON, "Ada", frozenset({"read"}))
    stream, browser = Stream(A, person, "token"), Browser()
    stream.end(None)
    await stream.run(browser.receive, browser.send, b"first")
    stream.tell(b"more")
    await asyncio.sleep(SOON_S)

    assert browser.heard == []
