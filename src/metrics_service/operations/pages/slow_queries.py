"""`/slow-queries` and `/slow-queries/{fingerprint}`: which statements take long, where, and how they run."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from litestar import Response, get
from litestar.params import FromPath
from msgspec import Meta

from metrics_service.errors import NotFoundError
from metrics_service.fields import now as moment_now
from metrics_service.fleet.plan_tree import PlanNode, tree_of
from metrics_service.fleet.reading import find_slugs
from metrics_service.fleet.slow_queries import (
    FleetSlowQuerySummary,
    SlowQueryFilter,
    SlowQuerySort,
    SummarySort,
    find_slow_queries,
    of_operator,
    summarise_slow_queries,
    with_statistics,
)
from metrics_service.fleet.statement_statistics import fetch_statistics
from metrics_service.fleet.views import FleetQuery
from metrics_service.operations.dependencies import OperatorRequest, reading
from metrics_service.operations.pages.asked import Asked
from metrics_service.operations.pages.page import REFRESH_S, page
from metrics_service.web.query import page_query

PATH = "/slow-queries"
LISTED = 100
SLUGS_LISTED = 500

Since = Literal["1h", "24h", "7d", "14d"]
_HOURS = {"1h": 1, "24h": 24, "7d": 7 * 24, "14d": 14 * 24}
_LABELS: dict[str | None, str] = {
    "1h": "1 hour",
    None: "24 hours",
    "7d": "7 days",
    "14d": "14 days",
}

_is_fingerprint = re.compile(r"[0-9a-f]{16}").fullmatch


class SummaryQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Statements of which time and tenant, in which order."""

    since: Since = "24h"
    tenant_id: UUID | None = None
    route: Annotated[str, Meta(max_length=255)] | None = None
    sort: SummarySort = "-total_ms"


class ExecutionsQuery(FleetQuery, frozen=True, kw_only=True):
    """Executions of one statement."""

    since: Since = "14d"
    tenant_id: UUID | None = None
    sort: SlowQuerySort = "-at"


class Step(msgspec.Struct, frozen=True):
    """One step of a plan, as a list shows it that is written from its beginning to its end."""

    node: PlanNode
    depth: int
    cost_share: float | None
    """Its own part of what the whole plan is thought to cost."""
    closes: int
    """How many lists end with it."""


@get(PATH)
async def get_slow_queries(request: OperatorRequest) -> Response[bytes]:
    query = page_query(request, SummaryQuery)
    key = request.user.key_hash
    wanted = SlowQueryFilter(
        since=moment_now() - timedelta(hours=_HOURS[query.since]),
        tenant_id=query.tenant_id,
        route=query.route,
    )
    async with reading(request) as connection:
        found = await summarise_slow_queries(
            connection,
            of_operator(key),
            wanted,
            kind=FleetSlowQuerySummary,
            sort=query.sort,
            limit=LISTED,
        )
        statistics = await fetch_statistics(connection, key) if found.rows else {}
        slugs = await find_slugs(connection, key)
    asked = Asked(PATH, query)
    return page(
        request,
        "slow_queries.html",
        values={
            "asked": asked,
            "found": found,
            "rows": with_statistics(found.rows, statistics),
            "whole_ms": sum(one.total_ms for one in found.rows),
            "has_statistics": bool(statistics),
            "times": asked.choices("since", _LABELS),
            "tenants": _options(slugs, query.tenant_id),
        },
        operator=request.user,
        title="Slow queries",
        refresh_s=REFRESH_S,
    )


@get(f"{PATH}/{{fingerprint:str}}")
async def get_slow_query(request: OperatorRequest, fingerprint: FromPath[str]) -> Response[bytes]:
    if not _is_fingerprint(fingerprint):
        raise NotFoundError("slow query")
    query = page_query(request, ExecutionsQuery)
    key, now = request.user.key_hash, moment_now()
    wanted = SlowQueryFilter(
        since=now - timedelta(hours=_HOURS[query.since]),
        fingerprint=fingerprint,
        tenant_id=query.tenant_id,
    )
    async with reading(request) as connection:
        # Of everything that is kept: what was slow last week still has its text and its plan.
        summaries = await summarise_slow_queries(
            connection,
            of_operator(key),
            SlowQueryFilter(fingerprint=fingerprint),
            kind=FleetSlowQuerySummary,
            limit=1,
        )
        if not summaries.rows:
            raise NotFoundError("slow query")
        found = await find_slow_queries(
            connection, key, wanted, sort=query.sort, limit=query.limit, offset=query.offset
        )
        statistics = await fetch_statistics(connection, key)
        slugs = await find_slugs(connection, key)
    (summary,) = with_statistics(summaries.rows, statistics)
    path = f"{PATH}/{fingerprint}"
    asked = Asked(path, query)
    return page(
        request,
        "slow_query.html",
        values={
            "asked": asked,
            "summary": summary,
            "steps": [] if summary.plan is None else steps_of(tree_of(summary.plan)),
            "found": found,
            "slugs": slugs,
            "tenants": _options(slugs, query.tenant_id),
        },
        operator=request.user,
        title=f"{summary.operation} {summary.table_name or ''}".strip(),
        # Whoever turned to another page is reading.
        refresh_s=REFRESH_S if query.page == 1 else None,
    )


class TenantOption(msgspec.Struct, frozen=True):
    """A tenant to choose."""

    value: str
    label: str
    is_chosen: bool


def _options(slugs: dict[UUID, str], chosen: UUID | None) -> list[TenantOption]:
    listed = sorted(slugs.items(), key=lambda one: one[1])[:SLUGS_LISTED]
    if chosen is not None and chosen not in dict(listed):
        listed.append((chosen, slugs.get(chosen, str(chosen))))
    return [TenantOption(str(key), slug, key == chosen) for key, slug in listed]


def steps_of(tree: PlanNode) -> list[Step]:
    """The tree from its root on, without recursion: a statement may nest as deep as it likes."""
    whole = tree.total_cost or 0
    flat: list[tuple[PlanNode, int]] = []
    waiting = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        flat.append((node, depth))
        waiting.extend((child, depth + 1) for child in reversed(node.children))
    depths = [depth for _, depth in flat]
    return [
        Step(node, depth, _share(node, whole), depth - following)
        for (node, depth), following in zip(flat, [*depths[1:], 0], strict=True)
    ]


def _share(node: PlanNode, whole: float) -> float | None:
    if not whole or node.total_cost is None:
        return None
    # A step that stops early costs less than what is below it would in full.
    own = node.total_cost - sum(child.total_cost or 0 for child in node.children)
    return min(max(own, 0) / whole, 1.0)
