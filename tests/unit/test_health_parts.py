"""How findings become a status, and figures findings."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import msgspec
import pytest

from metrics_service.db import replica_lag
from metrics_service.db.pool import PoolFigures
from metrics_service.db.probe import ServerState
from metrics_service.db.replica_lag import Positions
from metrics_service.health import judging, wall
from metrics_service.health.readiness import Readiness
from metrics_service.health.standing import Finding, Standing
from metrics_service.http.ending import Ending
from metrics_service.observability.export.delivery import ExportState
from metrics_service.tenants.revisions import head

FIRST = ServerState(
    is_standby=False,
    address="192.0.2.1",
    port=5432,
    started_at=datetime(2026, 1, 1, tzinfo=UTC),
    version_number=180006,
    timeline="00000001",
    wal_position=1000,
    replayed_ago_s=None,
    latency_ms=1.0,
)
STANDBY = msgspec.structs.replace(FIRST, is_standby=True, timeline=None, replayed_ago_s=3600.0)

HEALTHY, DEGRADED, UNHEALTHY = (
    Finding(status, status) for status in ("healthy", "degraded", "unhealthy")
)


# -- when a finding is taken for true ---------------------------------------------------------------


def test_one_slow_look_is_no_trouble_and_two_in_a_row_are():
    standing = Standing("latency", looks_to_worsen=2)

    changes = [standing.take(one) for one in (DEGRADED, HEALTHY, DEGRADED, DEGRADED, DEGRADED)]

    assert changes == [None, None, None, "healthy", None]
    assert standing.status == "degraded"


def test_it_gets_better_at_once():
    standing = Standing("pool", looks_to_worsen=2)
    for one in (UNHEALTHY, UNHEALTHY):
        standing.take(one)

    assert standing.take(DEGRADED) == "unhealthy"
    assert standing.take(HEALTHY) == "degraded"


def test_of_two_looks_that_differ_the_milder_one_counts():
    standing = Standing("pool", looks_to_worsen=2)
    standing.take(UNHEALTHY)

    assert standing.take(DEGRADED) == "healthy"
    assert standing.status == "degraded"
    assert standing.take(UNHEALTHY) is None
    assert standing.take(UNHEALTHY) == "degraded"


def test_connectivity_is_believed_at_once():
    standing = Standing("database")

    assert standing.take(UNHEALTHY) == "healthy"


def test_since_when_is_when_the_status_changed_and_not_when_it_was_looked_at():
    standing = Standing("database")
    standing.take(UNHEALTHY)
    first = standing.report()
    standing.take(Finding("unhealthy", "still"))
    second = standing.report()

    assert second.since == first.since
    assert second.checked_at > first.checked_at
    assert second.detail == "still"


# -- figures against thresholds ----------------------------------------------------------------------


def figures(in_use: int, waiting: int = 0, timeouts: int = 0) -> PoolFigures:
    return PoolFigures(
        size=10,
        open=10,
        in_use=in_use,
        waiting=waiting,
        timeouts=timeouts,
        acquire_p50_ms=None,
        acquire_p95_ms=None,
    )


@pytest.mark.parametrize(
    ("now", "status"),
    [
        (figures(8), "healthy"),
        (figures(9), "degraded"),
        (figures(10, waiting=3), "degraded"),
        (figures(10, waiting=3, timeouts=7), "unhealthy"),
    ],
)
def test_a_pool_is_judged_by_its_use_and_by_who_got_nothing(now, status):
    assert (
        judging.judge_pool(now, figures(0, timeouts=4 if now.timeouts else 0), 90).status == status
    )


def test_who_gave_up_long_ago_is_no_trouble_of_now():
    assert (
        judging.judge_pool(figures(1, timeouts=7), figures(1, timeouts=7), 90).status == "healthy"
    )


@pytest.mark.parametrize(
    ("free", "status"), [(100, "healthy"), (99, "degraded"), (20, "degraded"), (19, "unhealthy")]
)
def test_a_disk_is_degraded_below_the_threshold_and_unhealthy_far_below(free, status):
    assert judging.judge_disk(free=free, total=1000, threshold_percent=10).status == status


def test_latency_has_its_threshold():
    at = msgspec.structs.replace(FIRST, latency_ms=250.0)

    assert judging.judge_latency(at, 250).status == "degraded"
    assert judging.judge_latency(at, 251).status == "healthy"


def test_an_old_server_is_a_note_that_wakes_nobody():
    found = judging.judge_version(msgspec.structs.replace(FIRST, version_number=180001))

    assert found.status == "healthy"
    assert "known holes before 18.6" in found.detail


def test_a_server_that_takes_no_writes_is_unhealthy():
    assert judging.judge_server(STANDBY).status == "unhealthy"


def test_a_registry_behind_is_worse_than_a_tenant_behind():
    at_head = judging.Schemas(registry=head("registry"), schemas=3, behind=0, failed=0)
    some_behind = msgspec.structs.replace(at_head, behind=1)
    registry_behind = msgspec.structs.replace(at_head, registry="registry_0001")

    statuses = [
        judging.judge_schemas(found).status for found in (at_head, some_behind, registry_behind)
    ]
    assert statuses == ["healthy", "degraded", "unhealthy"]


def test_a_collector_that_takes_nothing_is_degraded_and_named_by_its_signal():
    states = {"traces": ExportState(failure="refused", dropped=3), "metrics": ExportState()}

    found = judging.judge_exports(states)

    assert found.status == "degraded"
    assert found.detail == (
        "the collector does not take: traces (refused); 3 dropped since the start"
    )
    assert judging.judge_exports({"logs": ExportState()}).status == "healthy"


def test_of_many_holes_some_are_named():
    found = judging.judge_coverage([f"t_{n}.x: y" for n in range(2000)], 1.0)

    assert found.detail.endswith("t_4.x: y; and 1995 more")


# -- replicas -----------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(replica_lag, "monotonic", lambda: now[0])
    return now


def replayed(position: int, ago_s: float | None) -> ServerState:
    return msgspec.structs.replace(STANDBY, wal_position=position, replayed_ago_s=ago_s)


def test_a_replica_of_a_quiet_server_is_not_late(clock):
    positions = Positions()
    positions.note(FIRST)

    assert positions.lag_ms(replayed(1000, 86400.0)) == 0
    # Something that commits nothing was written since, and is not there yet.
    clock[0] += 10
    positions.note(msgspec.structs.replace(FIRST, wal_position=1050))
    assert positions.lag_ms(replayed(1000, 86400.0)) == 10_000


def test_a_replica_that_was_late_before_this_process_began_is_judged_by_its_clock(clock):
    positions = Positions()
    positions.note(FIRST)

    assert positions.lag_ms(replayed(10, 77.0)) == 77_000
    assert positions.lag_ms(replayed(10, None)) is None


def test_a_replicas_clock_may_be_wrong(clock):
    positions = Positions()
    positions.note(FIRST)

    assert positions.lag_ms(replayed(10, -5.0)) == 0


def test_after_a_promotion_positions_are_counted_anew(clock):
    positions = Positions()
    positions.note(msgspec.structs.replace(FIRST, wal_position=5000))
    positions.note(msgspec.structs.replace(FIRST, timeline="00000002", wal_position=2000))

    assert positions.lag_ms(replayed(2000, 1.0)) == 0


def test_positions_are_bounded(clock):
    positions = Positions()
    for number in range(2 * replica_lag.MAX_SAMPLES):
        clock[0] += 10
        positions.note(msgspec.structs.replace(FIRST, wal_position=number))

    assert len(positions._samples) == replica_lag.MAX_SAMPLES


# -- ready --------------------------------------------------------------------------------------------


async def test_it_is_asked_once_for_all_who_ask_within_a_second_even_if_the_first_leaves(
    monkeypatch,
):
    asked = 0
    is_slow = asyncio.Event()

    async def answer(engine: object) -> bool:
        nonlocal asked
        # An application that other tests share may ask for itself meanwhile.
        asked += engine is None
        await is_slow.wait()
        return True

    monkeypatch.setattr("metrics_service.health.readiness._is_database_ready", answer)
    readiness = Readiness(None, Ending(0))  # type: ignore[arg-type]
    leaving, *staying = [asyncio.create_task(readiness.ask()) for _ in range(50)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    leaving.cancel()
    is_slow.set()

    assert await asyncio.gather(*staying) == [True] * 49
    monkeypatch.setattr("metrics_service.health.readiness.REMEMBERED_S", 60.0)
    assert await readiness.ask()
    assert asked == 1
    monkeypatch.setattr("metrics_service.health.readiness.REMEMBERED_S", 0.0)
    assert await readiness.ask()
    assert asked == 2


# -- how often the wall is looked at ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("took_ms", "holes", "pause_s"),
    [(30, [], 300), (30, ["a hole"], 60), (300, ["a hole"], 150), (1300, [], 650)],
)
def test_the_wall_is_not_looked_at_for_more_than_two_thousandths_of_the_time(
    took_ms: float, holes: list[str], pause_s: float
) -> None:
    found = wall.Wall(missing=[], tables_ms=took_ms / 3, holes=holes, coverage_ms=took_ms * 2 / 3)

    assert found.pause_s == pytest.approx(pause_s)
