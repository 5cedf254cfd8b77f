"""What a process does, piece by piece: whose child a span is, and who is told of what."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from metrics_service.observability import work as module
from metrics_service.observability.slow import MAX_SLOW, SlowStatement, tell_slow
from metrics_service.observability.statements import describe
from metrics_service.observability.work import (
    MAX_SPANS,
    Span,
    Work,
    begin,
    current,
    end,
    inside,
    keep_spans,
    span,
    working,
)


@pytest.fixture
def taken() -> Iterator[list[Work]]:
    """The works that were handed over; every one is sampled."""
    works: list[Work] = []
    stop = keep_spans(lambda _, __: True, works.append)
    yield works
    stop()


@pytest.fixture
def told() -> Iterator[list[tuple[Work | None, list[SlowStatement]]]]:
    heard: list[tuple[Work | None, list[SlowStatement]]] = []
    stop = tell_slow(lambda work, slow: heard.append((work, slow)))
    yield heard
    stop()


def named(work: Work, name: str) -> Span:
    (found,) = [one for one in work.spans if one.name == name]
    return found


def slow_statement() -> SlowStatement:
    return SlowStatement(
        id=uuid4(),
        at=datetime.now(UTC),
        text="SELECT 1",
        statement=describe("SELECT 1"),
        duration_ms=1.0,
        wait_ms=None,
        row_count=1,
        tenant_id=None,
        is_planned_as=None,
        error=None,
    )


def test_spans_are_children_of_what_is_open(taken: list[Work]) -> None:
    with working("job") as work, span("outer"):
        with span("first", records=3) as first:
            first.note(inserted=2)
        with span("second"):
            pass

    outer, first_span, second = (named(work, name) for name in ("outer", "first", "second"))
    assert outer.parent_id == work.span_id
    assert first_span.parent_id == second.parent_id == outer.span_id
    assert len({work.span_id, *(one.span_id for one in work.spans)}) == 4
    assert first_span.attributes == {"records": 3, "inserted": 2}
    assert work.started <= outer.started <= first_span.started <= first_span.ended <= outer.ended
    assert taken == [work]


async def test_tasks_beside_each_other_in_one_work_do_not_mix_up_their_spans(
    taken: list[Work],
) -> None:
    async def one(name: str) -> None:
        with span(f"{name} outside"):
            await asyncio.sleep(0)
            with span(f"{name} inside"):
                await asyncio.sleep(0)

    with working("job") as work, span("all"):
        await asyncio.gather(*(one(str(number)) for number in range(20)))

    around = named(work, "all")
    for number in range(20):
        outside = named(work, f"{number} outside")
        assert outside.parent_id == around.span_id
        assert named(work, f"{number} inside").parent_id == outside.span_id
    assert taken == [work]


async def test_works_beside_each_other_keep_their_own_spans(taken: list[Work]) -> None:
    async def one(number: int) -> Work:
        with working(f"job {number}") as work:
            for _ in range(3):
                with span(f"step of {number}"):
                    await asyncio.sleep(0)
        return work

    works = await asyncio.gather(*(one(number) for number in range(10)))

    for number, work in enumerate(works):
        assert [step.name for step in work.spans] == [f"step of {number}"] * 3
        assert {step.parent_id for step in work.spans} == {work.span_id}
    assert len({work.trace_id for work in works}) == 10
    assert len(taken) == 10


async def test_what_outlives_its_work_adds_nothing_to_it(
    taken: list[Work], told: list[tuple[Work | None, list[SlowStatement]]]
) -> None:
    may_go_on = asyncio.Event()

    async def later() -> Work | None:
        await may_go_on.wait()
        with span("too late"):
            return current()

    with working("job") as work:
        task = asyncio.create_task(later())
        assert current() is work
    may_go_on.set()

    assert await task is None
    assert work.spans == []
    late = slow_statement()
    work.note_slow(late)
    assert told == [(work, [late])]
    assert taken == [work]


def test_nothing_is_kept_where_nothing_is_sampled() -> None:
    with working("job") as work, span("step", records=1) as step:
        step.note(inserted=1)

    assert not work.is_sampled
    assert (work.trace_id, work.span_id) == (b"", b"")
    assert work.spans == []
    with span("outside of any work"):
        assert current() is None


def test_an_exception_marks_what_it_passes_without_its_text(taken: list[Work]) -> None:
    with pytest.raises(KeyError), working("job") as work, span("step"):
        raise KeyError("secret-value-4711")

    assert (work.error, named(work, "step").error) == ("KeyError", "KeyError")
    assert "secret-value-4711" not in repr(taken)


def test_spans_over_the_limit_are_counted(taken: list[Work]) -> None:
    with working("job") as work:
        for _ in range(MAX_SPANS + 7):
            with span("step"):
                pass

    assert len(work.spans) == MAX_SPANS
    assert work.dropped_spans == 7
    assert len(taken) == 1


def test_the_sampler_is_told_what_the_caller_said() -> None:
    asked: list[tuple[bytes, bool | None]] = []

    def sampler(trace_id: bytes, caller: bool | None) -> bool:
        asked.append((trace_id, caller))
        return caller is True

    works: list[Work] = []
    stop = keep_spans(sampler, works.append)
    given = bytes(range(16))
    for is_sampled in (True, False, None):
        work = begin("request", trace_id=given, is_sampled_by_caller=is_sampled)
        with inside(work):
            pass
        end(work)
    end(begin("our own export", is_own_export=True))
    stop()
    end(begin("afterwards"))

    assert asked == [(given, True), (given, False), (given, None)]
    assert [work.trace_id for work in works] == [given]


def test_slow_statements_are_told_when_their_work_is_known(
    told: list[tuple[Work | None, list[SlowStatement]]],
) -> None:
    slow = slow_statement()
    with working("job", route="the job") as work:
        work.note_slow(slow)
        assert told == []

    assert told == [(work, [slow])]
    with working("quick job"):
        pass
    assert len(told) == 1


def test_a_work_that_does_not_end_tells_of_many_slow_statements_before(
    told: list[tuple[Work | None, list[SlowStatement]]],
) -> None:
    with working("stream") as work:
        for _ in range(MAX_SLOW + 1):
            work.note_slow(slow_statement())
        assert [len(slow) for _, slow in told] == [MAX_SLOW]

    assert [len(slow) for _, slow in told] == [MAX_SLOW, 1]


def test_a_clock_that_jumps_bends_no_span(
    taken: list[Work], monkeypatch: pytest.MonkeyPatch
) -> None:
    with working("job") as work:
        monkeypatch.setattr(module.time, "time_ns", lambda: 5)
        with span("step"):
            pass

    step = taken[0].spans[0]
    began, ended = work.unix_ns(step.started), work.unix_ns(step.ended)
    assert work.started_ns <= began <= ended <= work.unix_ns(work.ended or 0)
    assert ended - work.started_ns < 10**9
