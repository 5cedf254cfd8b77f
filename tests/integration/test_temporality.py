"""Data points become deltas by the rules of their temporality: each growth is counted once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from typing import Any
from uuid import uuid4

import pytest
from inbox import Inbox, Request, claude_metrics, ns
from sqlalchemy.ext.asyncio import AsyncEngine

from metrics_service.db.addresses import Addresses
from metrics_service.db.engine import owner_connection, runtime_engine
from metrics_service.tenants.initialise import target_of
from metrics_service.tenants.new_tenant import NewTenant
from metrics_service.tenants.provision import create_tenant

DAY_S = 86_400
COMMITS = "claude_code.commit.count"
LATENCY = "some.latency"
NO_RECORDED_VALUE = 1
DELTA, CUMULATIVE = 1, 2

Sum = tuple[float | None, float, float | None]
"""Start and time in seconds, None where it is not known; the value, None where it says that it has none."""
Histogram = tuple[float, float, float, int, Sequence[float], Sequence[int]]
"""Start, time, sum, count, bounds, buckets."""


@pytest.fixture(scope="module")
async def inbox(addresses: Addresses, engine: AsyncEngine) -> Inbox:
    new = NewTenant.of(
        f"t{uuid4().hex[:16]}", name=None, domain=None, plan="basic", base_domain="localhost"
    )
    async with owner_connection(addresses.require_owner()) as connection:
        tenant = await create_tenant(connection, new, target_of(addresses))
    return Inbox(engine, tenant.id)


@pytest.fixture
def session() -> str:
    """A session of the test's own: its points are streams that no other test has."""
    return uuid4().hex


@pytest.fixture
async def crowd_engine(addresses: Addresses) -> AsyncIterator[AsyncEngine]:
    """A pool in which eight writers do not wait for each other."""
    engine = runtime_engine(addresses.runtime, pool_max=8)
    yield engine
    await engine.dispose()


def sums(
    session: str,
    *points: Sum,
    metric: str = COMMITS,
    temporality: int = CUMULATIVE,
    is_monotonic: bool = True,
) -> Request:
    data = []
    for start, at, value in points:
        point: dict[str, Any] = {**_times(start, at), "attributes": _named(session)}
        if value is None:
            point["flags"] = NO_RECORDED_VALUE
        else:
            point["asDouble"] = value
        data.append(point)
    about = {"aggregationTemporality": temporality, "isMonotonic": is_monotonic}
    return claude_metrics({"name": metric, "unit": "1", "sum": {**about, "dataPoints": data}})


def histograms(session: str, *points: Histogram, temporality: int = CUMULATIVE) -> Request:
    data = [
        {
            **_times(start, at),
            "attributes": _named(session),
            "sum": total,
            "count": str(count),
            "explicitBounds": list(bounds),
            "bucketCounts": [str(bucket) for bucket in buckets],
        }
        for start, at, total, count, bounds, buckets in points
    ]
    about = {"aggregationTemporality": temporality}
    return claude_metrics(
        {"name": LATENCY, "unit": "ms", "histogram": {**about, "dataPoints": data}}
    )


def _times(start: float | None, at: float) -> dict[str, str]:
    begun = {} if start is None else {"startTimeUnixNano": str(ns(start))}
    return {**begun, "timeUnixNano": str(ns(at))}


def _named(session: str) -> list[dict[str, Any]]:
    names = ("session.id", "gen_ai.conversation.id")
    return [{"key": name, "value": {"stringValue": session}} for name in names]


async def deltas(inbox: Inbox, session: str, *columns: str) -> list[tuple[Any, ...]]:
    """What is stored of the session's points, in order; times in seconds after T0."""
    rows = await inbox.fetch(
        "SELECT * FROM counter_deltas WHERE session_id = $1 ORDER BY window_end, window_start",
        inbox.session_id(session),
    )
    return [
        (
            None if row["window_start"] is None else _seconds(row["window_start"]),
            _seconds(row["window_end"]),
            *(row[column] for column in columns or ("value",)),
        )
        for row in rows
    ]


def _seconds(moment: Any) -> float:
    return round(moment.timestamp() - ns(0) / 1e9, 3)


# -- sums -------------------------------------------------------------------------------------------

OLD = 20 - 30 * DAY_S

SUMS: dict[str, tuple[list[Sum], list[tuple[float | None, float, float]]]] = {
    "a first point with a true start counts in full": (
        [(10, 20, 5)],
        [(10, 20, 5)],
    ),
    "with the same start, what it grew by counts": (
        [(10, 20, 5), (10, 30, 8), (10, 40, 8.5)],
        [(10, 20, 5), (20, 30, 3), (30, 40, 0.5)],
    ),
    "what says that it has no value is nothing": (
        [(10, 20, 5), (10, 30, None), (10, 40, 8)],
        [(10, 20, 5), (20, 40, 3)],
    ),
    "a stream that begins with no value has not begun": (
        [(10, 20, None), (10, 30, 8)],
        [(10, 30, 8)],
    ),
    "a first point whose start is exactly as old as a stream is remembered counts": (
        [(OLD, 20, 5)],
        [(OLD, 20, 5)],
    ),
    "a first point whose start is older is where we begin": (
        [(OLD - 0.001, 20, 5), (OLD - 0.001, 30, 8)],
        [(20, 30, 3)],
    ),
    "a first point without a start is where we begin": (
        [(None, 20, 5), (None, 30, 8)],
        [(20, 30, 3)],
    ),
    "a first point that starts when it is, is where we begin": (
        [(20, 20, 5), (20, 30, 8)],
        [(20, 30, 3)],
    ),
    "a first point that starts after it is, is where we begin": (
        [(30, 20, 5), (30, 40, 8)],
        [(20, 40, 3)],
    ),
    "the same point again is nothing": (
        [(10, 20, 5), (10, 20, 5), (10, 30, 8), (10, 30, 8), (10, 30, 8)],
        [(10, 20, 5), (20, 30, 3)],
    ),
    "less with the same start is a reset: it counts in full": (
        [(10, 20, 5), (10, 30, 2), (10, 40, 6)],
        [(10, 20, 5), (10, 30, 2), (30, 40, 4)],
    ),
    "a later start is a reset: it counts in full": (
        [(10, 20, 5), (25, 30, 7), (25, 40, 9)],
        [(10, 20, 5), (25, 30, 7), (30, 40, 2)],
    ),
    "a later start is a reset though it says less": (
        [(10, 20, 5), (25, 30, 1)],
        [(10, 20, 5), (25, 30, 1)],
    ),
    "a later start is a reset though it is when it is": (
        [(10, 20, 5), (30, 30, 7)],
        [(10, 20, 5), (30, 30, 7)],
    ),
    "an earlier start is another writer's: it is dropped and changes nothing": (
        [(10, 20, 5), (5, 30, 90), (10, 40, 8), (None, 50, 91), (10, 60, 9)],
        [(10, 20, 5), (20, 40, 3), (40, 60, 1)],
    ),
    "what did not grow is no delta, and remembered": (
        [(10, 20, 0), (10, 30, 4), (10, 40, 4), (10, 50, 6)],
        [(20, 30, 4), (40, 50, 2)],
    ),
    "resets, repetitions and growth in one stream": (
        [(10, 20, 5), (10, 30, 8), (10, 30, 8), (10, 40, 2), (45, 50, 4)],
        [(10, 20, 5), (20, 30, 3), (10, 40, 2), (45, 50, 4)],
    ),
}


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in one request"])
@pytest.mark.parametrize("name", SUMS)
async def test_cumulative_sums(inbox, session, name, together):
    points, expected = SUMS[name]

    if together:
        await inbox.send(sums(session, *points))
    else:
        await inbox.send(*(sums(session, point) for point in points))

    assert await deltas(inbox, session) == expected
    assert (await inbox.session(session)).commits == round(sum(value for *_, value in expected))


@pytest.mark.parametrize("name", SUMS)
async def test_cumulative_sums_sent_twice_are_counted_once(inbox, session, name):
    points, expected = SUMS[name]
    requests = [sums(session, point) for point in points]

    await inbox.send(*requests, *requests, sums(session, *points))

    assert await deltas(inbox, session) == expected


async def test_a_point_that_comes_late_is_dropped_and_its_growth_was_counted(inbox, session):
    early, late, between = (10, 20, 5), (10, 40, 9), (10, 30, 7)

    await inbox.send(*(sums(session, point) for point in (early, late, between)))

    assert await deltas(inbox, session) == [(10, 20, 5), (20, 40, 4)]


async def test_points_of_one_request_are_taken_in_the_order_of_their_times(inbox, session):
    await inbox.send(sums(session, (10, 40, 9), (10, 20, 5), (10, 30, 7)))

    assert await deltas(inbox, session) == [(10, 20, 5), (20, 30, 2), (30, 40, 2)]


async def test_another_value_for_a_time_that_was_told_is_dropped(inbox, session):
    await inbox.send(*(sums(session, point) for point in [(10, 20, 5), (10, 20, 6), (10, 30, 8)]))

    assert await deltas(inbox, session) == [(10, 20, 5), (20, 30, 3)]


async def test_points_that_differ_in_what_names_a_stream_are_streams_of_their_own(inbox, session):
    one, other = sums(session, (10, 20, 5)), sums(session, (10, 20, 7), metric="commits")
    restarted = claude_metrics(
        {
            "name": COMMITS,
            "unit": "1",
            "sum": {
                "aggregationTemporality": CUMULATIVE,
                "isMonotonic": True,
                "dataPoints": [
                    {**_times(10, 20), "attributes": _named(session), "asDouble": 2.0},
                ],
            },
        },
        service="claude-code-desktop",
    )

    await inbox.send(one, other, restarted, sums(session, (10, 30, 6)))

    rows = await deltas(inbox, session, "metric", "value")
    assert sorted(rows) == [
        (10, 20, "commit.count", 2),
        (10, 20, "commit.count", 5),
        (10, 20, "commits", 7),
        (20, 30, "commit.count", 1),
    ]


# -- histograms -------------------------------------------------------------------------------------

B = (1.0, 2.5)

HISTOGRAMS: dict[str, tuple[list[Histogram], list[tuple[Any, ...]]]] = {
    "a first point with a true start counts in full": (
        [(10, 20, 6.5, 3, B, (1, 1, 1))],
        [(10, 20, 6.5, 3, [1, 1, 1])],
    ),
    "sum, count and each bucket count by what they grew": (
        [(10, 20, 6.5, 3, B, (1, 1, 1)), (10, 30, 10.0, 5, B, (1, 2, 2))],
        [(10, 20, 6.5, 3, [1, 1, 1]), (20, 30, 3.5, 2, [0, 1, 1])],
    ),
    "a first point without a true start is where we begin": (
        [(20, 20, 6.5, 3, B, (1, 1, 1)), (20, 30, 10.0, 5, B, (1, 2, 2))],
        [(20, 30, 3.5, 2, [0, 1, 1])],
    ),
    "the same point again is nothing": (
        [(10, 20, 6.5, 3, B, (1, 1, 1)), (10, 20, 6.5, 3, B, (1, 1, 1))],
        [(10, 20, 6.5, 3, [1, 1, 1])],
    ),
    "a smaller count is a reset": (
        [(10, 20, 6.5, 3, B, (1, 1, 1)), (10, 30, 2.0, 2, B, (1, 1, 0))],
        [(10, 20, 6.5, 3, [1, 1, 1]), (10, 30, 2.0, 2, [1, 1, 0])],
    ),
    "one smaller bucket is a reset though the count grew": (
        [(10, 20, 6.5, 3, B, (1, 1, 1)), (10, 30, 9.0, 4, B, (0, 3, 1))],
        [(10, 20, 6.5, 3, [1, 1, 1]), (10, 30, 9.0, 4, [0, 3, 1])],
    ),
    "a smaller sum is none: what was measured may be negative": (
        [(10, 20, 6.5, 3, B, (1, 1, 1)), (10, 30, 4.5, 4, B, (2, 1, 1))],
        [(10, 20, 6.5, 3, [1, 1, 1]), (20, 30, -2.0, 1, [1, 0, 0])],
    ),
    "other bounds are a reset": (
        [(10, 20, 6.5, 3, B, (1, 1, 1)), (10, 30, 9.0, 5, (1.0, 3.0), (2, 2, 1))],
        [(10, 20, 6.5, 3, [1, 1, 1]), (10, 30, 9.0, 5, [2, 2, 1])],
    ),
    "more bounds are a reset": (
        [(10, 20, 6.5, 3, B, (1, 1, 1)), (10, 30, 9.0, 5, (*B, 4.0), (2, 1, 1, 1))],
        [(10, 20, 6.5, 3, [1, 1, 1]), (10, 30, 9.0, 5, [2, 1, 1, 1])],
    ),
    "a later start is a reset": (
        [(10, 20, 6.5, 3, B, (1, 1, 1)), (25, 30, 9.0, 5, B, (2, 2, 1))],
        [(10, 20, 6.5, 3, [1, 1, 1]), (25, 30, 9.0, 5, [2, 2, 1])],
    ),
    "an earlier start is another writer's": (
        [
            (10, 20, 6.5, 3, B, (1, 1, 1)),
            (5, 30, 90.0, 50, B, (20, 20, 10)),
            (10, 40, 7.5, 4, B, (2, 1, 1)),
        ],
        [(10, 20, 6.5, 3, [1, 1, 1]), (20, 40, 1.0, 1, [1, 0, 0])],
    ),
    "without buckets sum and count grow": (
        [(10, 20, 6.5, 3, (), ()), (10, 30, 8.0, 4, (), ())],
        [(10, 20, 6.5, 3, []), (20, 30, 1.5, 1, [])],
    ),
}


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "in one request"])
@pytest.mark.parametrize("name", HISTOGRAMS)
async def test_cumulative_histograms(inbox, session, name, together):
    points, expected = HISTOGRAMS[name]

    if together:
        await inbox.send(histograms(session, *points))
    else:
        await inbox.send(*(histograms(session, point) for point in points))

    rows = await deltas(inbox, session, "value", "count", "buckets")
    assert [(*row[:-1], row[-1] or []) for row in rows] == expected


# -- what is not converted --------------------------------------------------------------------------


async def test_deltas_count_as_they_are_and_an_exact_repetition_once(inbox, session):
    points = [(10, 20, 5), (20, 30, 5), (20, 30, 5), (10, 20, 5), (None, 40, 2), (None, 40, 2)]

    await inbox.send(*(sums(session, point, temporality=DELTA) for point in points))
    await inbox.send(sums(session, *points, temporality=DELTA))

    assert await deltas(inbox, session) == [(10, 20, 5), (20, 30, 5), (None, 40, 2)]
    assert (await inbox.session(session)).commits == 12


async def test_histograms_of_deltas_count_as_they_are(inbox, session):
    points = [(10, 20, 6.5, 3, B, (1, 1, 1)), (20, 30, 2.0, 1, B, (0, 1, 0))]

    await inbox.send(*(histograms(session, point, temporality=DELTA) for point in points))
    await inbox.send(histograms(session, *points, temporality=DELTA))

    assert await deltas(inbox, session, "value", "count", "buckets", "is_delta") == [
        (10, 20, 6.5, 3, [1, 1, 1], True),
        (20, 30, 2.0, 1, [0, 1, 0], True),
    ]


async def test_a_sum_that_may_fall_is_kept_as_it_is_and_never_summed(inbox, session):
    points = [(10, 20, 5.0), (10, 30, 3.0), (10, 40, 8.0)]

    await inbox.send(*(sums(session, point, is_monotonic=False) for point in points))
    await inbox.send(sums(session, *points, is_monotonic=False))

    rows = await deltas(inbox, session, "value", "is_delta")
    assert rows == [(10, 20, 5, False), (10, 30, 3, False), (10, 40, 8, False)]
    assert (await inbox.session(session)).commits == 0


async def test_a_gauge_is_kept_as_it_is_and_never_summed(inbox, session):
    data = [
        {**_times(None, at), "attributes": _named(session), "asInt": str(value)}
        for at, value in [(20, 5), (30, 3)]
    ]
    request = claude_metrics({"name": COMMITS, "unit": "1", "gauge": {"dataPoints": data}})

    await inbox.send(request, request)

    rows = await deltas(inbox, session, "value", "instrument", "is_delta")
    assert rows == [(None, 20, 5, "gauge", False), (None, 30, 3, "gauge", False)]
    assert (await inbox.session(session)).commits == 0


async def test_exponential_histograms_and_summaries_are_kept_and_never_subtracted(inbox, session):
    exponential = [
        {
            **_times(10, at),
            "attributes": _named(session),
            "sum": 6.5 * at,
            "count": str(at),
            "scale": 2,
            "zeroCount": "0",
            "positive": {"offset": 1, "bucketCounts": [str(at)]},
        }
        for at in (20, 30)
    ]
    quantiles = [{"quantile": 0.5, "value": 1.0}]
    summary = {
        **_times(10, 20), "attributes": _named(session), "sum": 9.0, "count": "4",
        "quantileValues": quantiles,
    }  # fmt: skip
    request = claude_metrics(
        {
            "name": "some.sizes",
            "unit": "By",
            "exponentialHistogram": {
                "aggregationTemporality": CUMULATIVE,
                "dataPoints": exponential,
            },
        },
        {"name": "some.summary", "unit": "s", "summary": {"dataPoints": [summary]}},
    )

    await inbox.send(request, request)

    rows = await deltas(inbox, session, "metric", "instrument", "value", "count", "is_delta")
    assert sorted(rows) == [
        (10, 20, "some.sizes", "exponential_histogram", 130, 20, False),
        (10, 20, "some.summary", "summary", 9, 4, False),
        (10, 30, "some.sizes", "exponential_histogram", 195, 30, False),
    ]


# -- many at once -----------------------------------------------------------------------------------

WRITERS = 8


async def test_eight_writers_of_one_stream_count_each_growth_once(crowd_engine, inbox, session):
    crowd = Inbox(crowd_engine, inbox.tenant_id, is_alone=False)
    points: list[Sum] = [(10, 20 + number, number * 1.0) for number in range(1, 161)]

    async def write(writer: int) -> None:
        mine = points[writer::WRITERS]
        for place in range(0, len(mine), 4):
            await crowd.send(sums(session, *mine[place : place + 4]))

    await asyncio.gather(*(write(writer) for writer in range(WRITERS)))

    rows = await deltas(inbox, session)
    assert sum(value for *_, value in rows) == 160
    assert (await inbox.session(session)).commits == 160
    # Each window begins where the one before it ended.
    assert rows[0][0] == 10
    assert all(before[1] == after[0] for before, after in pairwise(rows))


async def test_writers_of_two_streams_in_opposite_order_do_not_wait_for_each_other(
    crowd_engine, inbox, session
):
    crowd = Inbox(crowd_engine, inbox.tenant_id, is_alone=False)

    def request(number: int, *, is_turned: bool) -> Request:
        metrics = [
            {
                "name": name,
                "unit": "1",
                "sum": {
                    "aggregationTemporality": CUMULATIVE,
                    "isMonotonic": True,
                    "dataPoints": [
                        {
                            **_times(10, 20 + number),
                            "attributes": _named(session),
                            "asDouble": number * factor,
                        }
                    ],
                },
            }
            for name, factor in [(COMMITS, 1.0), ("claude_code.pull_request.count", 3.0)]
        ]
        return claude_metrics(*(reversed(metrics) if is_turned else metrics))

    async def write(writer: int) -> None:
        for number in range(1 + writer, 81, WRITERS):
            await crowd.send(request(number, is_turned=writer % 2 == 0))

    await asyncio.gather(*(write(writer) for writer in range(WRITERS)))

    found = await inbox.session(session)
    assert (found.commits, found.pull_requests) == (80, 240)
