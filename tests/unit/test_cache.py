"""What is remembered: for whom, for how long, how much of it, and how often it is fetched."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_service.cache import two_levels
from metrics_service.cache.flights import Flights
from metrics_service.cache.memory import TenantCache
from metrics_service.cache.sealed import Seals
from metrics_service.cache.second_level import SecondLevel
from metrics_service.cache.two_levels import ENTRY_BYTES, TwoLevels
from metrics_service.errors import SettingsError
from metrics_service.tenants import looked_up
from metrics_service.tenants.database_time import DatabaseTime, Moment
from metrics_service.tenants.looked_up import MAX_CHANGED, Found, LookUps

TENANT, OTHER = uuid4(), uuid4()
SECRET = b"a secret that only tests ever use"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Maker:
    """Makes answers, and counts how often."""

    def __init__(self) -> None:
        self.made = 0
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def __call__(self) -> bytes:
        self.made += 1
        number = self.made
        await self.may_go_on.wait()
        return b"answer %d" % number


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# -- a cache whose every key begins with a tenant -----------------------------------------------------


def test_the_same_key_of_another_tenant_is_another_key() -> None:
    cache: TenantCache[str] = TenantCache(10, lambda: 60.0)
    cache.put(TENANT, "key", "ours")

    assert cache.get(OTHER, "key") is None
    assert cache.get(TENANT, "key") == "ours"


def test_what_was_used_least_recently_goes_first() -> None:
    cache: TenantCache[int] = TenantCache(2, lambda: 60.0)
    cache.put(TENANT, "a", 1)
    cache.put(TENANT, "b", 2)

    cache.get(TENANT, "a")
    cache.put(OTHER, "c", 3)

    assert (cache.get(TENANT, "a"), cache.get(TENANT, "b"), cache.get(OTHER, "c")) == (1, None, 3)


# -- asked once for all who wait ----------------------------------------------------------------------


async def test_a_thousand_who_ask_at_once_ask_once() -> None:
    flights: Flights[str, bytes] = Flights()
    make = Maker()

    answers = await asyncio.gather(*(flights.join("key", make) for _ in range(1000)))

    assert make.made == 1
    assert set(answers) == {b"answer 1"}


async def test_who_asked_first_may_leave() -> None:
    flights: Flights[str, bytes] = Flights()
    make = Maker()
    make.may_go_on.clear()
    first = asyncio.create_task(flights.join("key", make))
    second = asyncio.create_task(flights.join("key", make))
    await settle()

    first.cancel()
    make.may_go_on.set()

    assert await second == b"answer 1"
    assert first.cancelled()


async def test_what_fails_fails_for_all_who_wait_and_is_tried_again_by_who_comes_then() -> None:
    flights: Flights[str, bytes] = Flights()
    asked = 0

    async def fail() -> bytes:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        raise LookupError

    answers = await asyncio.gather(
        *(flights.join("key", fail) for _ in range(3)), return_exceptions=True
    )

    assert [type(answer) for answer in answers] == [LookupError] * 3
    assert asked == 1
    with pytest.raises(LookupError):
        await flights.join("key", fail)
    assert asked == 2


async def test_nobody_joins_what_was_begun_before_a_change_or_too_long_ago() -> None:
    flights: Flights[str, bytes] = Flights(joined_for_s=0.05)
    make = Maker()
    make.may_go_on.clear()
    before = asyncio.create_task(flights.join("key", make))
    await settle()

    flights.part(lambda _: True)
    after = asyncio.create_task(flights.join("key", make))
    await asyncio.sleep(0.1)
    late = asyncio.create_task(flights.join("key", make))
    await settle()
    make.may_go_on.set()

    answers = [await one for one in (before, after, late)]
    assert answers == [b"answer 1", b"answer 2", b"answer 3"]
    assert "key" not in flights


# -- dear answers, in memory --------------------------------------------------------------------------


def levels(clock: Clock, max_bytes: int = 1_000_000) -> TwoLevels:
    return TwoLevels("tests", max_bytes=max_bytes, ttl_s=60.0, second=None, clock=clock)


async def test_an_answer_is_made_once_and_again_when_its_time_is_over() -> None:
    clock, make = Clock(), Maker()
    kept = levels(clock)

    first = [await kept.get(TENANT, "data", b"key", make) for _ in range(3)]
    clock.now += 60
    second = await kept.get(TENANT, "data", b"key", make)

    assert first == [b"answer 1"] * 3
    assert second == b"answer 2"


async def test_tenant_and_kind_and_key_each_make_another_answer() -> None:
    make = Maker()
    kept = levels(Clock())

    places = [(TENANT, "data", b"a"), (OTHER, "data", b"a"), (TENANT, "page", b"a")]
    answers = {await kept.get(*place, make) for place in (*places, (TENANT, "data", b"b"))}

    assert len(answers) == 4


async def test_it_holds_no_more_bytes_than_it_may_and_lets_go_of_what_was_not_used() -> None:
    kept = levels(Clock(), max_bytes=3 * (1000 + ENTRY_BYTES + 10))
    made: list[bytes] = []

    async def ask(key: bytes, size: int = 1000) -> None:
        async def make() -> bytes:
            made.append(key)
            return bytes(size)

        await kept.get(TENANT, "data", key, make)

    for key in (b"a", b"b", b"c", b"a", b"d"):
        await ask(key)
    made.clear()
    for key in (b"a", b"c", b"d", b"b"):
        await ask(key)
    assert made == [b"b"]

    # One that alone is too large drives nobody out.
    await ask(b"large", 100_000)
    made.clear()
    for key in (b"c", b"d", b"b", b"large"):
        await ask(key)
    assert made == [b"large"]
    assert kept._bytes <= 3 * (1000 + ENTRY_BYTES + 10)


async def test_what_could_not_be_made_is_not_kept() -> None:
    kept = levels(Clock())

    async def fail() -> bytes:
        raise LookupError

    with pytest.raises(LookupError):
        await kept.get(TENANT, "data", b"key", fail)

    assert await kept.get(TENANT, "data", b"key", Maker()) == b"answer 1"


def test_an_entry_takes_no_more_memory_than_it_is_counted_for() -> None:
    import tracemalloc

    kept = levels(Clock(), max_bytes=100_000_000)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(10_000):
        kept._keep((TENANT, "data", b"%032d" % number), bytes(1000))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert after - before <= kept._bytes
    assert two_levels.ENTRY_BYTES < 1000


# -- what Redis gets to see ---------------------------------------------------------------------------


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_a_value_opens_in_its_own_place_and_in_no_other(value: bytes, key: bytes) -> None:
    seals = Seals(SECRET)
    place = seals.place(TENANT, "kind", key)
    sealed = seals.seal(place, value)

    assert seals.open(place, sealed) == value
    for other in (
        seals.place(OTHER, "kind", key),
        seals.place(TENANT, "kinds", key),
        seals.place(TENANT, "kin", b"d" + key),
        seals.place(TENANT, "kind", key + b"x"),
    ):
        assert other.name != place.name
        assert seals.open(other, sealed) is None


@given(st.data())
def test_whatever_is_changed_in_a_value_opens_to_nothing(data: st.DataObject) -> None:
    seals = Seals(SECRET)
    place = seals.place(TENANT, "kind", b"key")
    sealed = bytearray(seals.seal(place, b"some value of ours"))
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))

    assert seals.open(place, bytes(sealed)) is None
    assert seals.open(place, bytes(sealed[:at])) is None


@pytest.mark.parametrize("said", [None, 1, "text", [b"a"], b"", b"short", 1.5, True])
def test_whatever_else_redis_says_is_nothing(said: object) -> None:
    seals = Seals(SECRET)

    assert seals.open(seals.place(TENANT, "kind", b"key"), said) is None


def test_with_another_secret_nothing_is_found_and_nothing_opens() -> None:
    ours, theirs = Seals(SECRET), Seals(b"another secret")
    place = ours.place(TENANT, "kind", b"key")

    assert theirs.place(TENANT, "kind", b"key").name != place.name
    assert theirs.open(place, ours.seal(place, b"value")) is None


def test_nothing_can_be_read_in_a_name_or_a_value() -> None:
    seals = Seals(SECRET)
    place = seals.place(TENANT, "hosts", b"acme.example.com")

    stored = place.name + seals.seal(place, b"plain text")

    for secret in (b"acme", b"hosts", b"plain", TENANT.bytes, TENANT.hex.encode()):
        assert secret not in stored


@pytest.mark.parametrize(
    "url", ["http://localhost", "localhost:6379", "redis://h:port", "redis://:hush@h:x/0", ""]
)
def test_an_address_that_is_none_is_refused_without_a_word_of_it(url: str) -> None:
    with pytest.raises(SettingsError, match="REDIS_URL") as refused:
        SecondLevel(url, secret=SECRET)

    assert "hush" not in str(refused.value)


async def test_who_is_not_kept_misses_and_leaves_out() -> None:
    second = SecondLevel("redis://127.0.0.1:1", secret=SECRET)

    await second.put(TENANT, "kind", b"key", b"value", ttl_s=1)
    second.soon(second.put(TENANT, "kind", b"key", b"value", ttl_s=1))

    assert await second.get(TENANT, "kind", b"key") is None
    assert await second.get_many(TENANT, "kind", [b"key"]) == {}
    assert await second.count(b"name", 1, window_s=60) is None
    assert not second.state.is_well


# -- whether another process's look-up still holds ----------------------------------------------------

SERVER = 100.0


class Situation:
    """A process that hears, and a database whose clock is far away from ours."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.ahead = 5_000.0
        self.server = SERVER
        self.time = DatabaseTime(self.clock)
        self.time.lose()
        self.passes(0.5)
        self.beats()

    def passes(self, seconds: float) -> None:
        self.clock.now += seconds

    def now(self) -> Moment:
        return Moment(self.clock.now + self.ahead, self.server)

    def beats(self, took: float = 0.01) -> None:
        asked_at = self.clock.now
        said = self.now()
        self.passes(took)
        self.time.note_heartbeat(asked_at=asked_at, said=said)

    def believes_what_is_looked_up_now(self) -> bool:
        moment = self.now()
        self.passes(0.001)
        return self.age(moment) is not None

    def age(self, moment: Moment, tenant_id: UUID = TENANT) -> float | None:
        return self.time.age_s(tenant_id, moment)


def test_a_look_up_after_everything_that_was_heard_is_believed_and_its_age_is_known() -> None:
    here = Situation()
    here.passes(0.2)
    looked_up = here.now()
    here.passes(0.3)

    assert here.age(looked_up) == pytest.approx(0.3, abs=0.001)


def test_a_look_up_from_before_this_process_heard_is_not_believed() -> None:
    here = Situation()
    looked_up = here.now()
    here.passes(0.1)
    here.time.lose()
    here.passes(0.1)
    during = here.now()

    assert here.age(looked_up) is None
    here.passes(0.1)
    here.beats()
    assert here.age(looked_up) is None
    assert here.age(during) is None
    here.passes(0.1)
    assert here.believes_what_is_looked_up_now()


def test_a_look_up_from_before_a_change_is_not_believed_nor_any_until_the_change_is_placed() -> (
    None
):
    here = Situation()
    here.passes(0.1)
    before = here.now()
    here.passes(0.1)

    here.time.note_change(TENANT)
    here.passes(0.1)
    after = here.now()

    assert here.age(before) is None
    assert here.age(after) is None
    assert here.age(before, OTHER) is not None
    here.beats()
    assert here.age(before) is None
    here.passes(0.1)
    assert here.believes_what_is_looked_up_now()


def test_a_change_heard_of_while_a_heartbeat_is_under_way_is_placed_by_the_next() -> None:
    here = Situation()
    here.passes(0.1)
    asked_at, said = here.clock.now, here.now()
    here.passes(0.1)
    here.time.note_change(TENANT)
    here.passes(0.1)

    here.time.note_heartbeat(asked_at=asked_at, said=said)
    here.passes(0.1)
    assert not here.believes_what_is_looked_up_now()

    here.beats()
    here.passes(0.1)
    assert here.believes_what_is_looked_up_now()


def test_after_the_clock_was_set_back_nothing_from_before_seems_to_be_later_than_a_change() -> None:
    here = Situation()
    here.passes(10)
    before = here.now()
    here.ahead -= 30
    here.passes(0.5)
    here.beats()

    here.time.note_change(TENANT)
    here.passes(0.5)
    here.beats()

    for _ in range(80):
        here.passes(0.5)
        here.beats()
        assert here.age(before) is None
    assert here.believes_what_is_looked_up_now()


def test_a_look_up_of_another_server_is_not_believed() -> None:
    here = Situation()
    here.passes(0.5)

    looked_up = here.now()
    here.passes(0.01)

    assert here.age(msgspec.structs.replace(looked_up, server=SERVER + 1)) is None
    assert here.believes_what_is_looked_up_now()


def test_a_look_up_from_the_future_is_not_believed() -> None:
    here = Situation()

    assert here.age(Moment(here.now().at + 1, SERVER)) is None


def test_changes_are_not_remembered_for_ever() -> None:
    here = Situation()
    for _ in range(1000):
        here.time.note_change(uuid4())
    here.passes(0.1)
    here.beats()

    here.passes(61)
    here.beats()
    here.time.forget_before(60)

    assert here.time._changed == {}


@given(st.lists(st.sampled_from(["pass", "beat", "change", "look up", "lose", "set"]), max_size=60))
def test_no_look_up_from_before_a_change_is_ever_believed(story: list[str]) -> None:
    here = Situation()
    kept: list[Moment] = []
    stale: list[Moment] = []

    for number, step in enumerate(story):
        here.passes(0.01)
        if step == "pass":
            here.passes(0.4)
        elif step == "beat":
            here.beats()
        elif step == "look up":
            kept.append(here.now())
        elif step == "change":
            stale, kept = stale + kept, []
            here.time.note_change(TENANT)
        elif step == "lose":
            # What changes meanwhile is not heard of.
            here.time.lose()
            stale, kept = stale + kept, []
        else:
            here.ahead += 7 if number % 2 else -7
            here.passes(0.01)
            here.beats()
        assert [moment for moment in stale if here.age(moment) is not None] == []


# -- what was looked up -------------------------------------------------------------------------------


class Somebody(msgspec.Struct, frozen=True):
    """What look-ups find here."""

    number: int


class Registry:
    """What is asked, and how often it was."""

    def __init__(self) -> None:
        self.asked = 0
        self.has = True
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self) -> Found[Somebody] | None:
        self.asked += 1
        found = Found(Somebody(self.asked), Moment(0.0, 0.0)) if self.has else None
        await self.may_answer.wait()
        return found


def look_ups(max_entries: int = 100) -> LookUps[Somebody]:
    return LookUps(
        "tests", Somebody, max_entries=max_entries, ttl_s=lambda: 600.0, refuse=lambda: None
    )


async def test_a_thousand_requests_for_what_nobody_knows_yet_ask_the_registry_once() -> None:
    known, registry = look_ups(), Registry()

    found = await asyncio.gather(*(known.find(TENANT, b"key", registry) for _ in range(1000)))

    assert registry.asked == 1
    assert found == [Somebody(1)] * 1000


async def test_a_change_is_forgotten_for_its_tenant_alone() -> None:
    known, registry = look_ups(), Registry()
    await known.find(TENANT, b"key", registry)
    await known.find(OTHER, b"key", registry)

    known.forget(TENANT)

    assert await known.find(OTHER, b"key", registry) == Somebody(2)
    assert await known.find(TENANT, b"key", registry) == Somebody(3)


async def test_what_was_asked_before_a_change_is_neither_remembered_nor_given_to_who_comes_after() -> (
    None
):
    known, registry = look_ups(), Registry()
    registry.may_answer.clear()
    before = asyncio.create_task(known.find(TENANT, b"key", registry))
    await settle()

    known.forget(TENANT)
    after = asyncio.create_task(known.find(TENANT, b"key", registry))
    await settle()
    registry.may_answer.set()

    assert (await before, await after) == (Somebody(1), Somebody(2))
    assert await known.find(TENANT, b"key", registry) == Somebody(2)


async def test_a_tenant_that_changes_all_the_time_keeps_no_others_look_ups_from_memory() -> None:
    known, registry = look_ups(), Registry()
    registry.may_answer.clear()
    first = asyncio.create_task(known.find(OTHER, b"key", registry))
    await settle()

    known.forget(TENANT)
    second = asyncio.create_task(known.find(OTHER, b"key", registry))
    await settle()
    registry.may_answer.set()

    assert (await first, await second) == (Somebody(1), Somebody(1))
    assert await known.find(OTHER, b"key", registry) == Somebody(1)


@pytest.mark.parametrize("others", [0, MAX_CHANGED, 2 * MAX_CHANGED])
async def test_a_change_counts_however_many_others_there_are_meanwhile(others: int) -> None:
    known, registry = look_ups(), Registry()
    registry.may_answer.clear()
    before = asyncio.create_task(known.find(TENANT, b"key", registry))
    await settle()

    known.forget(TENANT)
    for _ in range(others):
        known.forget(uuid4())
    registry.may_answer.set()
    await before

    assert await known.find(TENANT, b"key", registry) == Somebody(2)


async def test_what_is_not_there_is_asked_for_each_time() -> None:
    known, registry = look_ups(), Registry()
    registry.has = False

    assert [await known.find(TENANT, b"key", registry) for _ in range(2)] == [None, None]
    assert registry.asked == 2


async def test_what_is_older_than_a_minute_is_served_and_looked_up_again_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known, registry = look_ups(), Registry()
    await known.find(TENANT, b"key", registry)
    monkeypatch.setattr(looked_up, "FRESH_S", 0.0)

    served = [await known.find(TENANT, b"key", registry) for _ in range(3)]
    await settle()
    first = registry.asked
    monkeypatch.setattr(looked_up, "REFRESHED_EVERY_S", 0.0)
    registry.has = False
    refreshed = await known.find(TENANT, b"key", registry)
    await settle()

    assert served == [Somebody(1)] * 3
    # Not more often than once a second, the first being the look-up itself.
    assert first == 1
    assert refreshed == Somebody(1)
    assert await known.find(TENANT, b"key", registry) is None


async def test_what_was_looked_up_in_one_burst_is_not_looked_up_again_in_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known, registry = look_ups(), Registry()
    for number in range(50):
        await known.find(TENANT, b"%d" % number, registry)
    monkeypatch.setattr(looked_up, "FRESH_S", 0.0)
    monkeypatch.setattr(looked_up, "REFRESHED_EVERY_S", 0.0)
    registry.may_answer.clear()

    served = [await known.find(TENANT, b"%d" % number, registry) for number in range(50)]
    await settle()

    assert None not in served
    assert registry.asked - 50 == looked_up.MAX_REFRESHES


async def test_what_cannot_be_looked_up_again_is_served_on(monkeypatch: pytest.MonkeyPatch) -> None:
    known, registry = look_ups(), Registry()
    await known.find(TENANT, b"key", registry)
    monkeypatch.setattr(looked_up, "FRESH_S", 0.0)
    monkeypatch.setattr(looked_up, "REFRESHED_EVERY_S", 0.0)

    async def fail() -> Found[Somebody] | None:
        raise LookupError

    assert await known.find(TENANT, b"key", fail) == Somebody(1)
    await settle()
    assert await known.find(TENANT, b"key", fail) == Somebody(1)


async def test_look_ups_are_bounded_and_nothing_is_left_of_what_goes() -> None:
    known, registry = look_ups(max_entries=10), Registry()

    for number in range(100):
        await known.find(uuid4(), b"%d" % number, registry)

    assert len(known._remembered) == 10
    assert len(known._places_of) == 10
    known.forget(None)
    assert (len(known._remembered), len(known._places_of)) == (0, 0)


async def test_a_change_of_one_among_ten_thousand_tenants_takes_next_to_no_time() -> None:
    known, registry = look_ups(max_entries=10_000), Registry()
    tenants = [uuid4() for _ in range(10_000)]
    for tenant_id in tenants:
        await known.find(tenant_id, b"key", registry)

    times = []
    for tenant_id in tenants[:1000]:
        begun = time.perf_counter()
        known.forget(tenant_id)
        times.append(time.perf_counter() - begun)

    assert sorted(times)[500] < 0.0002
