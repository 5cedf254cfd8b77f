"""When the breaker opens and closes: a server that the test answers for."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import asyncpg
import pytest

from metrics_service.db import breaker as module
from metrics_service.db.breaker import Breaker, Server
from metrics_service.errors import UnavailableError

HERE = Server(address="10.0.0.1", port=5432, started_at=datetime.now(UTC), timeline="00000001")
THERE = Server(address="10.0.0.2", port=5432, started_at=datetime.now(UTC), timeline="00000002")


class Place:
    """Where the server is, or is not."""

    def __init__(self) -> None:
        self.answer: Server | BaseException | None = HERE
        """None: it never answers."""
        self.looks: list[float] = []
        self.unanswered = 0
        self.begun_anew = 0

    def begin_anew(self) -> None:
        self.begun_anew += 1

    async def look(self) -> Server:
        self.looks.append(time.perf_counter())
        await asyncio.sleep(0)
        if self.answer is None:
            self.unanswered += 1
            await asyncio.Event().wait()
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class Connection:
    """What a breaker knows of one."""

    def __init__(self, context: object = None) -> None:
        self.context = context
        self.came_at = self.heard_at = time.perf_counter()
        self.is_outdated = self._is_closed = False

    def is_closed(self) -> bool:
        return self._is_closed

    def terminate(self) -> None:
        self._is_closed = True


@pytest.fixture
def place() -> Place:
    return Place()


@pytest.fixture
async def breaker(place, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 0.1)
    monkeypatch.setattr(module, "QUIET_S", 0.1)
    monkeypatch.setattr(module, "WATCH_EVERY_S", 0.02)
    monkeypatch.setattr(module, "AGAIN_AFTER_S", (0.02, 0.04))
    monkeypatch.setattr(module, "GRACE_S", 0.1)
    monkeypatch.setattr(module, "APART_S", 0.02)
    made = Breaker(place.look, begin_anew=place.begin_anew)
    yield made
    made.rest()


async def until(condition, within_s: float = 2.0) -> None:
    give_up_at = time.perf_counter() + within_s
    while not condition():
        assert time.perf_counter() < give_up_at, "it does not come to that"
        await asyncio.sleep(0.005)


async def test_a_suspicion_that_is_not_borne_out_changes_nothing(breaker, place):
    for _ in range(100):
        breaker.suspect()
    await until(lambda: not breaker.is_doubtful)

    breaker.refuse()
    assert len(place.looks) == 1
    assert breaker.figures().openings == 0


@pytest.mark.parametrize(
    "answer", [ConnectionRefusedError(), asyncpg.CannotConnectNowError("starting"), None]
)
async def test_it_opens_when_a_look_fails_and_closes_when_one_succeeds(breaker, place, answer):
    place.answer = answer
    breaker.suspect()
    await until(lambda: breaker.is_open)
    with pytest.raises(UnavailableError) as refused:
        breaker.refuse()
    await until(lambda: len(place.looks) > 3)
    still = breaker.figures()
    place.answer = HERE
    await until(lambda: not breaker.is_open)
    breaker.refuse()

    assert refused.value.retry_after_s >= 1
    assert still.openings == 1 and still.open_for_s > 0
    assert breaker.figures().state == "closed"
    assert breaker.figures().open_for_s is None


async def test_it_is_half_open_while_it_looks_and_refuses_all_the_same(breaker, place):
    place.answer = ConnectionRefusedError()
    breaker.suspect()
    await until(lambda: breaker.is_open)
    place.answer = None
    await until(lambda: breaker.state == "half-open")

    with pytest.raises(UnavailableError):
        breaker.refuse()


async def test_a_server_without_a_connection_to_spare_is_there(breaker, place):
    place.answer = asyncpg.TooManyConnectionsError("too many clients already")
    breaker.suspect()
    await until(lambda: not breaker.is_doubtful)

    assert not breaker.is_open


async def test_it_stays_closed_while_anybody_is_answered(breaker, place):
    place.answer = None
    busy = Connection(context="somebody")
    breaker.guard(busy)

    async def be_answered() -> None:
        while True:
            busy.heard_at = time.perf_counter()
            await asyncio.sleep(0.01)

    answered = asyncio.create_task(be_answered())
    breaker.suspect()
    await until(lambda: not breaker.is_doubtful)
    answered.cancel()

    assert not breaker.is_open


async def test_a_look_that_ended_late_because_the_process_was_busy_says_nothing(
    breaker, place, monkeypatch
):
    monkeypatch.setattr(module, "LATE_S", 0.05)
    place.answer = None
    breaker.suspect()
    await until(lambda: place.unanswered == 1)
    place.answer = HERE
    time.sleep(0.3)  # noqa: ASYNC251  # this is what is tried
    await until(lambda: not breaker.is_doubtful)

    assert breaker.figures().openings == 0
    assert len(place.looks) == 2


async def test_nobody_answered_for_long_is_a_reason_to_look(breaker, place):
    async with breaker.kept():
        await until(lambda: len(place.looks) == 1 and not breaker.is_doubtful)
        await asyncio.sleep(0.2)
        assert len(place.looks) == 1, "nobody waits"
        stuck = Connection(context="somebody")
        breaker.guard(stuck)
        place.answer = None
        await until(lambda: breaker.is_open)
        await until(stuck.is_closed)


async def test_who_connects_for_long_is_a_reason_to_look_and_gives_up_when_it_is_away(
    breaker, place
):
    async with breaker.kept():
        await until(lambda: len(place.looks) == 1 and not breaker.is_doubtful)
        place.answer = None
        begun = time.perf_counter()
        with pytest.raises(TimeoutError):
            async with breaker.connecting(60):
                await asyncio.Event().wait()
        assert breaker.is_open
        assert time.perf_counter() - begun < 2
        with pytest.raises(UnavailableError):
            async with breaker.connecting(60):
                pass


async def test_who_was_answered_after_it_opened_is_left_alone(breaker, place):
    silent, idle = Connection(context="somebody"), Connection()
    breaker.guard(silent)
    breaker.guard(idle)
    lively = Connection(context="somebody")
    breaker.guard(lively)
    place.answer = ConnectionRefusedError()
    breaker.suspect()
    await until(lambda: breaker.is_open)
    lively.heard_at = time.perf_counter()
    await until(silent.is_closed)

    assert not lively.is_closed()
    assert not idle.is_closed()


async def test_when_it_closes_no_connection_is_used_again_that_was_made_before(breaker, place):
    out, idle = Connection(context="somebody"), Connection()
    breaker.guard(out)
    breaker.guard(idle)
    place.answer = ConnectionRefusedError()
    breaker.suspect()
    await until(lambda: breaker.is_open)
    place.answer = HERE
    await until(lambda: not breaker.is_open)

    assert idle.is_closed()
    assert out.is_outdated and not out.is_closed()


async def test_another_server_is_noticed_without_that_anything_was_away(breaker, place):
    breaker.suspect()
    await until(lambda: not breaker.is_doubtful)
    idle = Connection()
    breaker.guard(idle)
    breaker.suspect()
    await until(lambda: len(place.looks) == 2 and not breaker.is_doubtful)
    before = idle.is_closed()
    place.answer = THERE
    breaker.suspect()
    await until(idle.is_closed)

    assert not before
    assert breaker.figures().openings == 0


async def test_many_who_write_in_vain_renew_once(breaker, place):
    for _ in range(5):
        breaker.note_wrong_server()

    assert place.begun_anew == 1


async def test_an_event_loop_that_ended_does_not_leave_it_open_for_ever(place):
    made = Breaker(place.look, begin_anew=place.begin_anew)
    place.answer = ConnectionRefusedError()
    made.suspect()
    await until(lambda: made.is_open)
    made._looking.cancel()
    await asyncio.gather(made._looking, return_exceptions=True)
    place.answer = HERE

    with pytest.raises(UnavailableError):
        made.refuse()
    await until(lambda: not made.is_open)
