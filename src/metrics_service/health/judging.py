"""What each look finds: figures against thresholds, in words that an operator understands at night."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from metrics_service.cache.link import LinkState
from metrics_service.db.breaker import BreakerFigures
from metrics_service.db.pool import PoolFigures
from metrics_service.db.probe import ServerState
from metrics_service.health.standing import Finding
from metrics_service.observability.export.delivery import ExportState
from metrics_service.observability.export.settings import Kind
from metrics_service.tenants.check import check_version
from metrics_service.tenants.revisions import is_behind

SHOWN_AT_MOST = 5
# A disk that is nearly full stops the embedded server at once.
NEARLY_FULL = 5
"""The share of METRICS_HEALTH_DISK_FREE_PERCENT from where on it is."""


class Schemas(msgspec.Struct, frozen=True):
    """The ledger of migrations, counted."""

    registry: str | None
    schemas: int
    behind: int
    failed: int


def judge_server(state: ServerState) -> Finding:
    if state.is_standby:
        return Finding("unhealthy", "the server is a standby: it takes no writes", state.latency_ms)
    where = "" if state.address is None else f" at {state.address}:{state.port}"
    return Finding("healthy", f"answers{where}", state.latency_ms)


def judge_latency(state: ServerState, threshold_ms: int) -> Finding:
    is_slow = state.latency_ms >= threshold_ms
    detail = f"answers in {state.latency_ms:.1f} ms; {threshold_ms} ms is slow"
    return Finding("degraded" if is_slow else "healthy", detail, state.latency_ms)


def judge_version(state: ServerState) -> Finding:
    """A note: nothing that anybody should be woken for."""
    return Finding("healthy", check_version(state.version_number).detail)


def judge_cache(*, hears: bool, deafness: str | None) -> Finding:
    if hears:
        return Finding("healthy", "changes are heard; look-ups are remembered")
    why = "" if deafness is None else f" ({deafness})"
    return Finding(
        "degraded",
        f"changes are not heard{why}: look-ups are remembered for a second, pages stand still",
    )


def judge_redis(state: LinkState) -> Finding:
    return Finding("healthy" if state.is_well else "degraded", state.finding)


def judge_schemas(found: Schemas) -> Finding:
    if is_behind("registry", found.registry):
        return Finding("unhealthy", f"the registry is behind this release ({found.registry})")
    if found.behind or found.failed:
        return Finding(
            "degraded",
            f"{found.behind} of {found.schemas} tenant schemas behind, {found.failed} failed;"
            " these tenants are answered 503",
        )
    return Finding("healthy", f"the registry and {found.schemas} tenant schemas are at head")


def judge_tables(missing: Sequence[str], latency_ms: float) -> Finding:
    if missing:
        return Finding("degraded", f"missing: {some(missing)}", latency_ms)
    return Finding("healthy", "every tenant has all tables", latency_ms)


def judge_coverage(holes: Sequence[str], latency_ms: float) -> Finding:
    if holes:
        return Finding("unhealthy", f"holes in the wall between tenants: {some(holes)}", latency_ms)
    return Finding("healthy", "no hole in the wall between tenants", latency_ms)


def judge_pool(now: PoolFigures, before: PoolFigures, busy_percent: int) -> Finding:
    detail = f"{now.in_use} of {now.size} connections in use, {now.waiting} wait for one"
    given_up = now.timeouts - before.timeouts
    if given_up > 0:
        return Finding("unhealthy", f"{detail}; {given_up} got none in time")
    is_busy = now.in_use * 100 >= now.size * busy_percent
    return Finding("degraded" if is_busy else "healthy", detail)


def judge_breaker(now: BreakerFigures) -> Finding:
    times = f"opened {now.openings} times since the start"
    if now.open_for_s is None:
        return Finding("healthy", f"closed; {times}")
    return Finding(
        "unhealthy",
        f"{now.state} for {now.open_for_s:.0f} s ({now.reason}): requests are answered 503; {times}",
    )


def judge_replica(state: ServerState, lag_ms: float | None, threshold_ms: int) -> Finding:
    if not state.is_standby:
        return Finding("degraded", "is no standby (any more)", state.latency_ms)
    if lag_ms is None:
        return Finding("degraded", "has replayed nothing yet", state.latency_ms)
    detail = f"at most {lag_ms / 1000:.1f} s behind"
    is_late = lag_ms >= threshold_ms
    return Finding("degraded" if is_late else "healthy", detail, state.latency_ms)


def judge_disk(*, free: int, total: int, threshold_percent: int) -> Finding:
    percent = 100 * free / total
    detail = f"{percent:.1f} % of the disk is free ({free // 2**20} MiB)"
    if percent < threshold_percent / NEARLY_FULL:
        return Finding("unhealthy", detail)
    return Finding("degraded" if percent < threshold_percent else "healthy", detail)


def judge_exports(states: Mapping[Kind, ExportState]) -> Finding:
    failing = {signal: state.failure for signal, state in states.items() if state.failure}
    dropped = sum(state.dropped for state in states.values())
    lost = f"; {dropped} dropped since the start" if dropped else ""
    if failing:
        told = ", ".join(f"{signal} ({reason})" for signal, reason in sorted(failing.items()))
        return Finding("degraded", f"the collector does not take: {told}{lost}")
    return Finding("healthy", f"the collector takes {', '.join(sorted(states))}{lost}")


def some(names: Sequence[str]) -> str:
    shown = "; ".join(names[:SHOWN_AT_MOST])
    more = len(names) - SHOWN_AT_MOST
    return f"{shown}; and {more} more" if more > 0 else shown
