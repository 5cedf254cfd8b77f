"""What is counted where somebody takes too much, waits, or is answered from memory."""

from __future__ import annotations

import asyncio
import threading
from contextlib import nullcontext
from uuid import uuid4

import pytest

from metrics_service.cache.memory import TenantCache
from metrics_service.cache.two_levels import TwoLevels
from metrics_service.errors import TooManyRequestsError, UnavailableError
from metrics_service.http.admission import Admission, Purpose
from metrics_service.http.in_flight import HeldBytes, InFlight
from metrics_service.http.throttle import FailureThrottle
from metrics_service.observability import catalog
from metrics_service.tenants import passwords as passwords_module
from metrics_service.tenants.authenticate import Principal
from metrics_service.tenants.passwords import Passwords
from metrics_service.web import answers as answers_module
from metrics_service.web.answers import Answers
from metrics_service.web.live import streams as streams_module
from metrics_service.web.live.streams import Hub

TENANT = uuid4()


def stands(instrument, *values: str) -> float:
    return sum(point.value for point in instrument.points() if point.values == values)


@pytest.fixture
def refused():
    """How many were refused by a rule since the test began."""
    before = {point.values: point.value for point in catalog.REFUSALS.points()}

    def more(rule: str) -> float:
        return stands(catalog.REFUSALS, rule) - before.get((rule,), 0)

    return more


def test_failed_authentications_and_those_under_way_are_counted_apart(refused) -> None:
    throttle = FailureThrottle(1)

    with pytest.raises(UnavailableError):
        throttle.check("192.0.2.1", "a", under_way=1)
    throttle.record_failure("192.0.2.1", "a")
    with pytest.raises(TooManyRequestsError):
        throttle.check("192.0.2.1", "a")

    assert refused("authentications_under_way") == 1
    assert refused("failed_authentications") == 1


def test_requests_and_bytes_in_flight_are_counted_when_they_are_too_many(refused) -> None:
    requests, held = InFlight(1), HeldBytes(10)

    with requests.hold(TENANT), pytest.raises(TooManyRequestsError), requests.hold(TENANT):
        pass
    with held.request(TENANT) as hold, pytest.raises(TooManyRequestsError):
        hold(11)

    assert refused("requests_in_flight") == 1
    assert refused("bytes_in_flight") == 1


async def test_who_waits_for_a_turn_is_known_and_who_gets_none_counted(refused) -> None:
    admission = Admission(1, patience_s=0.05)

    async def wait() -> None:
        async with admission.turn(TENANT, Purpose.READ, nullcontext()):
            pass

    with admission.read():
        before = stands(catalog.TURNS_WAITING)
        async with admission.turn(TENANT, Purpose.READ, nullcontext()):
            waiting = asyncio.create_task(wait())
            await asyncio.sleep(0.01)
            known = stands(catalog.TURNS_WAITING) - before
            with pytest.raises(UnavailableError):
                await waiting
        after = stands(catalog.TURNS_WAITING) - before

    assert known == 1
    assert after == 0
    assert refused("database_turns") == 1


async def test_how_long_a_turn_was_waited_for_is_timed() -> None:
    admission = Admission(1)
    (before,) = catalog.TURN_WAIT_TIME.points() or (None,)

    async def take() -> None:
        async with admission.turn(TENANT, Purpose.READ, nullcontext()):
            await asyncio.sleep(0.01)

    await asyncio.gather(take(), take(), take())
    (after,) = catalog.TURN_WAIT_TIME.points()

    assert after.count - (before.count if before else 0) == 2
    assert after.total - (before.total if before else 0) >= 0.02


async def find(*_) -> None:
    return None


def person() -> Principal:
    return Principal(kind="user", id=uuid4(), name="Ada", scopes=frozenset({"read"}))


async def test_open_streams_are_known_and_those_that_are_too_many_counted(
    refused, monkeypatch
) -> None:
    monkeypatch.setattr(streams_module, "MAX_OF_A_PERSON", 1)
    hub = Hub(max_streams=4, hears=lambda: True, find=find)
    before = stands(catalog.STREAMS_OPEN)
    ada, grace, mary = person(), person(), person()

    with hub.joined(TENANT, ada, "a"), hub.joined(TENANT, grace, "b"):
        opened = stands(catalog.STREAMS_OPEN) - before
        with pytest.raises(TooManyRequestsError), hub.joined(TENANT, ada, "a"):
            pass
        with pytest.raises(UnavailableError), hub.joined(TENANT, mary, "c"):
            pass

    assert opened == 2
    assert stands(catalog.STREAMS_OPEN) == before
    assert refused("streams_of_a_person") == 1
    assert refused("streams") == 1


async def test_passwords_that_wait_are_known_and_those_that_are_too_many_counted(
    refused, monkeypatch
) -> None:
    monkeypatch.setattr(passwords_module, "WAITING_AT_MOST", 1)
    passwords, go_on = Passwords(), threading.Event()
    monkeypatch.setattr(passwords, "_hash", lambda _: str(go_on.wait(10)))
    before = stands(catalog.PASSWORDS_WAITING)

    looked_at = [asyncio.create_task(passwords.hash("a password")) for _ in range(3)]
    await asyncio.sleep(0.05)
    waiting = stands(catalog.PASSWORDS_WAITING) - before
    with pytest.raises(UnavailableError):
        await passwords.hash("a password")
    go_on.set()
    await asyncio.gather(*looked_at)
    passwords.close()

    assert waiting == 3
    assert stands(catalog.PASSWORDS_WAITING) == before
    assert refused("passwords") == 1


def remembering() -> Answers:
    return Answers(TwoLevels("answers", max_bytes=100_000, ttl_s=60, second=None))


async def test_answers_are_counted_as_they_were_found_made_or_waited_for() -> None:
    answers = remembering()
    lookups = catalog.CACHE_LOOKUPS
    hits, misses = stands(lookups, "answers", "hit"), stands(lookups, "answers", "miss")
    entries = stands(catalog.CACHE_ENTRIES, "answers")

    async def make() -> str:
        await asyncio.sleep(0)
        return "<p>"

    async def look() -> int:
        return 1

    async def ask(question: str) -> None:
        await answers.get(TENANT, (question,), make, look=look)

    await asyncio.gather(*(ask("a page") for _ in range(3)))
    await ask("a page")
    await ask("another")

    assert stands(lookups, "answers", "miss") - misses == 2
    assert stands(lookups, "answers", "hit") - hits == 3
    assert stands(catalog.CACHE_ENTRIES, "answers") - entries == 2


async def test_a_version_is_looked_at_once_for_all_pages_and_a_change_shows_when_it_is_again(
    monkeypatch,
) -> None:
    answers = remembering()
    versions, looks = {"now": 1}, []

    async def look() -> int:
        looks.append(versions["now"])
        await asyncio.sleep(0)
        return versions["now"]

    async def make() -> str:
        return f"<p>{versions['now']}"

    async def ask(question: str) -> str:
        return await answers.get(TENANT, (question,), make, look=look)

    first = await asyncio.gather(*(ask(question) for question in "aab"))
    versions["now"] = 2
    at_once = await ask("a")
    monkeypatch.setattr(answers_module, "FRESH_S", 0.0)
    later = await ask("a")

    assert first == ["<p>1"] * 3
    assert (at_once, later) == ("<p>1", "<p>2")
    assert looks == [1, 2]


def test_a_cache_says_how_much_it_holds() -> None:
    cache: TenantCache[str] = TenantCache(2, lambda: 60.0)

    for key in ("a", "b", "c"):
        cache.put(TENANT, key, key)

    assert len(cache) == 2
