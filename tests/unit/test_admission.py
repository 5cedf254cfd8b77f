"""Who may go to the database, in which order, and who is told at once that it is too much."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, nullcontext
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_service.errors import UnavailableError
from metrics_service.http import admission as admission_module
from metrics_service.http.admission import HOPELESS_S, Admission, Purpose
from metrics_service.http.congestion import TARGET_S, Congestion

READ, LONG_READ, WRITE = Purpose


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Crowd:
    """Tasks that take a turn, and keep it until they are told to end."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self.served: list[str] = []
        """Who had a turn, in this order."""
        self.inside: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def _go(self, name: str, tenant: str, purpose: Purpose) -> None:
        async with self._admission.turn(tenant, purpose, nullcontext()):
            self.served.append(name)
            self.inside[name] = asyncio.Event()
            try:
                await self.inside[name].wait()
            finally:
                del self.inside[name]

    async def come(self, *names: str, purpose: Purpose = READ) -> None:
        """Each name begins with its tenant's letter."""
        for name in names:
            self.tasks[name] = asyncio.create_task(self._go(name, name[0], purpose))
        await rest()

    async def end(self, *names: str) -> None:
        for name in names:
            self.inside[name].set()
            await rest()

    async def end_all(self) -> None:
        while self.inside:
            await self.end(next(iter(self.inside)))
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


async def rest() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def nothing_is_left(admission: Admission, places: int) -> bool:
    state = vars(admission)
    return (
        not state["_tenants"]
        and not state["_ring"]
        and state["_free"] == places
        and admission.waiting == 0
    )


async def test_lines_are_served_in_turn_so_a_loud_tenant_does_not_stand_before_a_quiet_one() -> (
    None
):
    admission = Admission(2)
    crowd = Crowd(admission)
    await crowd.come("x1", "y1")

    await crowd.come(*(f"l{number}" for number in range(20)))
    await crowd.come("q1", "r1")
    await crowd.end("x1", "y1", "l0", "q1")

    assert crowd.served == ["x1", "y1", "l0", "q1", "r1", "l1"]
    await crowd.end_all()
    assert nothing_is_left(admission, 2)


async def test_one_tenant_takes_half_of_the_places_for_one_purpose_and_never_all() -> None:
    admission = Admission(10)
    crowd = Crowd(admission)

    await crowd.come(*(f"w{number}" for number in range(8)), purpose=WRITE)
    writes = len(crowd.inside)
    await crowd.come(*(f"wl{number}" for number in range(8)), purpose=LONG_READ)
    with_long_reads = len(crowd.inside)
    await crowd.come("o1", "o2", "o3")

    assert (writes, with_long_reads) == (5, 7)
    assert {"o1", "o2", "o3"} <= crowd.inside.keys()
    await crowd.end_all()
    assert nothing_is_left(admission, 10)


async def test_long_reads_of_a_tenant_take_a_third() -> None:
    crowd = Crowd(Admission(10))

    await crowd.come(*(f"a{number}" for number in range(9)), purpose=LONG_READ)

    assert len(crowd.inside) == 3
    await crowd.end_all()


async def test_who_is_stuck_with_his_writes_can_still_read() -> None:
    crowd = Crowd(Admission(4))
    await crowd.come(*(f"a{number}" for number in range(6)), purpose=WRITE)

    await crowd.come("ar")

    assert sorted(crowd.inside) == ["a0", "a1", "ar"]
    await crowd.end_all()


@pytest.mark.parametrize("places", [1, 2, 3])
async def test_the_smallest_pools_serve_everybody(places: int) -> None:
    admission = Admission(places)
    crowd = Crowd(admission)

    for purpose in Purpose:
        await crowd.come(*(f"{tenant}{purpose}" for tenant in "abc"), purpose=purpose)
    await crowd.end_all()

    assert len(crowd.served) == 9
    assert nothing_is_left(admission, places)


async def test_a_turn_that_does_not_come_is_not_waited_for() -> None:
    admission = Admission(1, patience_s=0.05)
    crowd = Crowd(admission)
    await crowd.come("a")

    with pytest.raises(UnavailableError) as refused:
        async with admission.turn("b", READ, nullcontext()):
            pass
    await crowd.end_all()

    assert refused.value.retry_after_s == 1
    assert nothing_is_left(admission, 1)


async def test_a_line_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_module, "MAX_WAITING_OF_A_TENANT", 3)
    monkeypatch.setattr(admission_module, "MAX_WAITING", 5)
    admission = Admission(1)
    crowd = Crowd(admission)
    await crowd.come("x")

    await crowd.come("a1", "a2", "a3", "a4", "b1", "b2", "b3")

    refused = [name for name, task in crowd.tasks.items() if task.done()]
    assert refused == ["a4", "b3"]
    for name in refused:
        assert isinstance(crowd.tasks[name].exception(), UnavailableError)
    await crowd.end_all()
    assert nothing_is_left(admission, 1)


async def test_who_is_quiet_waits_too_where_loud_ones_have_taken_all_the_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(admission_module, "MAX_WAITING", 6)
    admission = Admission(1)
    crowd = Crowd(admission)
    await crowd.come("x")
    await crowd.come("a1", "a2", "a3", "b1", "b2", "b3")

    await crowd.come("a4", "c1", "d1", "d2")
    refused = [name for name, task in crowd.tasks.items() if task.done()]
    await crowd.end("x")
    for _ in range(4):
        await crowd.end(*crowd.inside)

    assert refused == ["a4", "d2"]
    assert crowd.served[:5] == ["x", "a1", "b1", "c1", "d1"]
    await crowd.end_all()
    assert nothing_is_left(admission, 1)


async def test_whoever_leaves_while_waiting_or_inside_costs_no_turn() -> None:
    admission = Admission(1)
    crowd = Crowd(admission)
    await crowd.come("a1", "a2", "b1", "c1")

    crowd.tasks["a2"].cancel()
    crowd.tasks["a1"].cancel()
    await asyncio.sleep(0)
    # The turn is already given on to this one, who has not yet noticed.
    crowd.tasks["b1"].cancel()
    await rest()

    assert crowd.served == ["a1", "c1"]
    await crowd.end_all()
    assert nothing_is_left(admission, 1)


async def test_a_turn_is_given_back_when_the_door_does_not_open_or_what_is_inside_fails() -> None:
    admission = Admission(1)

    @asynccontextmanager
    async def shut() -> AsyncIterator[None]:
        if admission.waiting == 0:
            raise KeyError
        yield

    for _ in range(3):
        with pytest.raises(KeyError):
            async with admission.turn("a", READ, shut()):
                pass
        with pytest.raises(ValueError, match="inside"):
            async with admission.turn("a", READ, nullcontext()):
                raise ValueError("inside")

    assert nothing_is_left(admission, 1)


@given(
    places=st.integers(1, 6),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["come", "end", "cancel"]),
            st.integers(0, 30),
            st.sampled_from("abc"),
            st.sampled_from(Purpose),
        ),
        max_size=60,
    ),
)
@settings(deadline=None, max_examples=60)
def test_whatever_comes_and_goes_no_place_is_lost_and_nobody_has_too_many(
    places: int, steps: list[Any]
) -> None:
    async def play() -> None:
        admission = Admission(places)
        crowd = Crowd(admission)
        half = max(1, places // 2)
        for number, (what, which, tenant, purpose) in enumerate(steps):
            if what == "come":
                await crowd.come(f"{tenant}{purpose.value}{number}", purpose=purpose)
            elif what == "end" and crowd.inside:
                names = list(crowd.inside)
                await crowd.end(names[which % len(names)])
            elif what == "cancel" and crowd.tasks:
                names = list(crowd.tasks)
                crowd.tasks[names[which % len(names)]].cancel()
                if which % 2:
                    await rest()
            assert len(crowd.inside) <= places
            for letter in "abc":
                kinds = [name[1] for name in crowd.inside if name[0] == letter]
                assert all(kinds.count(kind) <= half for kind in kinds)
        await crowd.end_all()
        assert nothing_is_left(admission, places)

    asyncio.run(play())


def test_a_turn_that_is_free_costs_little() -> None:
    async def take_many() -> float:
        admission, door = Admission(10), nullcontext()
        best = 1.0
        for _ in range(5):
            begun = perf_counter()
            for _ in range(2000):
                async with admission.turn("a", READ, door):
                    pass
            plain = perf_counter()
            for _ in range(2000):
                async with door:
                    pass
            ended = perf_counter()
            best = min(best, (plain - begun - (ended - plain)) / 2000)
        return best

    # One to two microseconds on a machine of its own.
    assert asyncio.run(take_many()) < 20e-6


# -- too much ----------------------------------------------------------------------------------------


def flow(line: Congestion, clock: Clock, *, seconds: float, waited_s: float, gap_s: float) -> None:
    """Somebody is served every `gap_s`, after so long a wait."""
    until = clock.now + seconds
    while clock.now < until:
        clock.now += gap_s
        line.move(waited_s, clock.now)


def test_a_burst_is_waited_for_and_a_line_that_stands_is_not() -> None:
    clock = Clock()
    line = Congestion(clock.now)

    flow(line, clock, seconds=TARGET_S, waited_s=0.4, gap_s=0.01)
    in_a_burst = line.refuses(50, clock.now, patience_s=5)
    flow(line, clock, seconds=1, waited_s=0.4, gap_s=0.01)
    behind_many = line.refuses(50, clock.now, patience_s=5)
    behind_few = line.refuses(5, clock.now, patience_s=5)
    flow(line, clock, seconds=0.1, waited_s=0.1, gap_s=0.01)
    when_it_is_short_again = line.refuses(50, clock.now, patience_s=5)

    assert (in_a_burst, behind_many, behind_few) == (False, True, False)
    assert not when_it_is_short_again


def test_who_would_not_be_served_in_time_is_told_at_once() -> None:
    clock = Clock()
    line = Congestion(clock.now)

    flow(line, clock, seconds=2, waited_s=0.01, gap_s=0.1)

    assert line.refuses(60, clock.now, patience_s=5)
    assert not line.refuses(40, clock.now, patience_s=5)


def refusal_after(admission: Admission, tenant: str, purpose: Purpose, clock: Clock) -> float:
    """For how many seconds of asking ten times in each nobody is refused; raises after ten."""
    began = clock.now
    while clock.now < began + 10:
        try:
            admission.check(tenant, purpose)
        except UnavailableError:
            return clock.now - began
        clock.now += 0.1
    raise AssertionError("nobody is refused")


async def test_a_process_that_stood_still_for_a_moment_refuses_nobody() -> None:
    clock = Clock()
    admission = Admission(2, clock=clock)
    crowd = Crowd(admission)
    await crowd.come("a1", "b1", "c1")

    clock.now += 2

    for _ in range(10):
        admission.check("d", READ)
    await crowd.end_all()


async def test_a_tenant_whose_line_does_not_move_is_refused_early_and_no_other_is() -> None:
    clock = Clock()
    admission = Admission(4, clock=clock)
    crowd = Crowd(admission)
    await crowd.come(*(f"a{number}" for number in range(5)), purpose=WRITE)

    assert refusal_after(admission, "a", WRITE, clock) > TARGET_S
    with pytest.raises(UnavailableError):
        admission.check("a", WRITE)
    admission.check("a", READ)
    admission.check("b", WRITE)
    await crowd.end_all()
    admission.check("a", WRITE)


async def test_when_all_places_are_stuck_everybody_who_had_to_wait_is_refused() -> None:
    clock = Clock()
    admission = Admission(2, clock=clock)
    crowd = Crowd(admission)
    await crowd.come("a1", "b1", "c1")

    assert refusal_after(admission, "d", READ, clock) > TARGET_S
    await crowd.end("a1")
    await crowd.end("b1")
    admission.check("d", READ)
    await crowd.end_all()


# -- a whole process, in a time of its own -----------------------------------------------------------

PLACES = 10
# What a page costs, in seconds of the one processor: to be refused, and to be served.
REFUSING_S, BEFORE_S, STEP_S, STEPS, AFTER_S = 0.00025, 0.0004, 0.0003, 4, 0.0002
CAPACITY = 1 / (REFUSING_S + BEFORE_S + STEPS * STEP_S + AFTER_S)
ANSWER_OF_DATABASE_S = 0.001


class Hurrying(selectors.SelectSelector):
    """Lets a loop's time pass without waiting for it."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


class OwnTime(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.hurrying = Hurrying()
        super().__init__(self.hurrying)

    def time(self) -> float:
        return self.hurrying.now

    def work(self, seconds: float) -> None:
        """Take processor time, as long as which nothing else is done."""
        self.hurrying.now += seconds


def in_own_time(play: Coroutine[Any, Any, None], loop: OwnTime) -> None:
    try:
        loop.run_until_complete(play)
    finally:
        loop.close()


class Served:
    """What became of requests that came when they were due, served by one process."""

    def __init__(self, loop: OwnTime, admission: Admission) -> None:
        self._loop = loop
        self._admission = admission
        self._tasks: set[asyncio.Task[None]] = set()
        self.took: dict[int, list[float]] = {}
        self.refused: dict[int, int] = {}

    async def serve(self, tenant: int, due: float) -> None:
        loop = self._loop
        loop.work(REFUSING_S)
        try:
            self._admission.check(tenant, READ)
            loop.work(BEFORE_S)
            async with self._admission.turn(tenant, READ, nullcontext()):
                for _ in range(STEPS):
                    await asyncio.sleep(ANSWER_OF_DATABASE_S)
                    loop.work(STEP_S)
        except UnavailableError:
            self.refused[tenant] = self.refused.get(tenant, 0) + 1
            return
        loop.work(AFTER_S)
        self.took.setdefault(tenant, []).append(loop.time() - due)

    def begin(self, tenant: int, due: float) -> None:
        task = self._loop.create_task(self.serve(tenant, due))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def offer(self, times: float, weights: list[float], seconds: float) -> None:
        chance, due = random.Random(1), 0.0
        while due < seconds:
            due += chance.expovariate(times * CAPACITY)
            (tenant,) = chance.choices(range(len(weights)), weights)
            self._loop.call_at(due, self.begin, tenant, due)
        await asyncio.sleep(seconds)
        while self._tasks:
            await asyncio.sleep(0.1)

    @property
    def good(self) -> int:
        return sum(1 for took in self.took.values() for one in took if one <= 1)


def served_of(times: float, weights: list[float], *, seconds: float = 10) -> Served:
    loop = OwnTime()
    served = Served(loop, Admission(PLACES, clock=loop.time))
    in_own_time(served.offer(times, weights, seconds), loop)
    return served


@pytest.mark.parametrize("tenants", [1, 30, 1000])
def test_under_twice_the_load_most_of_what_can_be_done_is_still_done_in_time(tenants: int) -> None:
    best = served_of(1, [1] * tenants).good

    under_load = served_of(2, [1] * tenants)

    assert best > CAPACITY * 10 * 0.9
    assert under_load.good > best * 0.8
    assert sum(under_load.refused.values()) > best * 0.5


@pytest.mark.parametrize("tenants", [1, 30, 1000])
def test_under_any_load_who_is_served_is_served_in_time(tenants: int) -> None:
    served = served_of(4, [1] * tenants, seconds=6)

    assert max(one for took in served.took.values() for one in took) < 0.9
    assert served.good > CAPACITY * 6 * 0.5


def test_a_line_that_stood_still_once_refuses_nobody_who_came_meanwhile() -> None:
    line, now = Congestion(0.0), 0.0
    for _ in range(100):
        now += 0.005
        line.move(0.01, now)
    stood_until = now + 0.2
    waiting = 0
    while now < stood_until:
        now += 0.005
        waiting += 1
        assert not line.refuses(waiting, now, patience_s=HOPELESS_S), waiting
    line.move(0.2, now)

    assert not line.refuses(waiting - 1, now, patience_s=HOPELESS_S)
    # But one that moves so slowly all the time does.
    for _ in range(5):
        now += 0.3
        line.move(0.3, now)
    assert line.refuses(waiting, now, patience_s=HOPELESS_S)


def test_under_half_the_load_nobody_is_refused() -> None:
    served = served_of(0.5, [1] * 30)

    assert served.refused == {}
    assert max(one for took in served.took.values() for one in took) < 0.1


def test_a_quiet_tenant_does_not_feel_that_another_asks_for_twice_what_can_be_done() -> None:
    served = served_of(2, [0.98, 0.01, 0.01])

    assert served.refused.keys() == {0}
    for tenant in (1, 2):
        took = sorted(served.took[tenant])
        assert took[int(len(took) * 0.99)] < 0.05
