"""How many requests a second a tenant may make, by one process and by several that count together."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from metrics_service.errors import TooManyRequestsError
from metrics_service.http import rate as rate_module
from metrics_service.http.rate import EXCHANGE_S, RateLimit

TENANT, OTHER = uuid4(), uuid4()


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Counters:
    """Counts as a second level does."""

    def __init__(self) -> None:
        self.counted: dict[bytes, int] = {}
        self.is_away = False

    async def count(self, name: bytes, by: int, *, window_s: int) -> int | None:
        assert by > 0
        assert window_s > rate_module.WINDOW_S
        if self.is_away:
            return None
        self.counted[name] = self.counted.get(name, 0) + by
        return self.counted[name]


def served(limit: RateLimit, tries: int, tenant: UUID = TENANT, kind: str = "api_key") -> int:
    count = 0
    for _ in range(tries):
        try:
            limit.take(tenant, kind)
        except TooManyRequestsError:
            continue
        count += 1
    return count


def test_a_burst_of_two_seconds_is_served_and_then_the_limit() -> None:
    clock = Clock()
    limit = RateLimit(10, clock=clock)

    burst = served(limit, 100)
    clock.now += 0.5
    later = served(limit, 100)
    clock.now += 3600
    after_an_hour = served(limit, 100)

    assert (burst, later, after_an_hour) == (20, 5, 20)


def test_each_tenant_and_each_kind_of_who_asks_has_a_limit_of_its_own() -> None:
    limit = RateLimit(10, clock=Clock())

    served(limit, 100)

    assert served(limit, 100, OTHER) == 20
    assert served(limit, 100, TENANT, "user") == 20
    assert served(limit, 100) == 0


def test_who_is_refused_is_told_when_to_come_again() -> None:
    clock = Clock()
    limit = RateLimit(1, clock=clock)
    served(limit, 2)

    with pytest.raises(TooManyRequestsError, match="1 requests a second") as refused:
        limit.take(TENANT, "api_key")
    clock.now += refused.value.retry_after_s

    assert refused.value.retry_after_s == 1
    assert served(limit, 2) == 1


def test_without_a_limit_nothing_is_counted() -> None:
    limit = RateLimit(0)

    assert served(limit, 10_000) == 10_000
    assert not vars(limit)["_buckets"]


def test_a_million_tenants_take_no_more_memory_and_the_loud_one_is_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rate_module, "MAX_BUCKETS", 10)
    limit = RateLimit(10, clock=Clock())
    served(limit, 20)

    for _ in range(100):
        served(limit, 1, uuid4())
        assert served(limit, 1) == 0

    assert len(vars(limit)["_buckets"]) == 10


async def play(limits: list[RateLimit], clock: Clock, counters: Counters, seconds: float) -> int:
    """Each process is asked for far more than the limit; returns how many were served."""
    count = 0
    until = clock.now + seconds
    while clock.now < until:
        clock.now += EXCHANGE_S
        for limit in limits:
            count += served(limit, 200)
        for limit in limits:
            await limit.exchange(counters, window=int(clock.now) // rate_module.WINDOW_S)
    return count


async def test_processes_that_count_together_keep_the_limit_together() -> None:
    clock, counters = Clock(), Counters()
    limits = [RateLimit(100, clock=clock) for _ in range(3)]
    await play(limits, clock, counters, 10)

    count = await play(limits, clock, counters, 100)

    assert 9_000 <= count <= 13_000
    assert served(limits[0], 500, OTHER) == 200


async def test_without_anybody_to_count_with_each_process_keeps_it_alone() -> None:
    clock, counters = Clock(), Counters()
    limits = [RateLimit(100, clock=clock) for _ in range(3)]
    counters.is_away = True
    await play(limits, clock, counters, 10)

    count = await play(limits, clock, counters, 100)

    assert count == pytest.approx(30_000, rel=0.02)


async def test_whoever_writes_wrong_numbers_into_the_counters_stops_nobody() -> None:
    class Liar(Counters):
        async def count(self, name: bytes, by: int, *, window_s: int) -> int | None:
            self.counted[name] = self.counted.get(name, 0) + by + 10**12
            return self.counted[name]

    clock = Clock()
    limit = RateLimit(100, clock=clock)
    await play([limit], clock, Liar(), 10)

    count = await play([limit], clock, Liar(), 100)

    assert count >= 1_000


async def test_counters_that_begin_anew_give_nobody_too_little() -> None:
    clock, counters = Clock(), Counters()
    limit = RateLimit(100, clock=clock)

    count = 0
    for _ in range(20):
        count += await play([limit], clock, counters, 5)
        counters.counted.clear()

    assert count >= 9_900


async def test_what_is_seldom_asked_for_is_not_told() -> None:
    clock, counters = Clock(), Counters()
    limit = RateLimit(500, clock=clock)
    for _ in range(10):
        served(limit, 1, uuid4())

    await limit.exchange(counters, window=1)

    assert counters.counted == {}
