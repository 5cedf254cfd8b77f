"""What a tenant's administrator asks of its slow statements, and is answered."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

import msgspec
from msgspec import Meta

from metrics_service.db.listing import After, Before, ListQuery
from metrics_service.fields import ShortText, now
from metrics_service.fleet.slow_queries import (
    Fingerprint,
    SlowQuerySort,
    SlowQuerySummary,
    SummarySort,
)

USUAL_SUMMARY = timedelta(days=1)

Milliseconds = Annotated[float, Meta(ge=0, le=1e9, description="That took at least as long.")]
Route = Annotated[ShortText, Meta(description="Of one route or task.")]


class SlowQueriesQuery(
    ListQuery, frozen=True, forbid_unknown_fields=True, kw_only=True, rename={"from_": "from"}
):
    from_: After | None = None
    to: Before | None = None
    fingerprint: Fingerprint | None = None
    route: Route | None = None
    min_duration_ms: Milliseconds | None = None
    sort: Annotated[SlowQuerySort, Meta(description="A minus sorts downwards.")] = "-at"


class SlowQuerySummaryQuery(
    msgspec.Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    rename={"from_": "from"},
):
    from_: Annotated[After, Meta(description="Inclusive; a day ago when left out.")] | None = None
    to: Before | None = None
    fingerprint: Fingerprint | None = None
    route: Route | None = None
    min_duration_ms: Milliseconds | None = None
    limit: Annotated[int, Meta(ge=1, le=500, description="Statements.")] = 50
    sort: SummarySort = "-total_ms"

    @property
    def since(self) -> datetime:
        return self.from_ or now() - USUAL_SUMMARY


class SlowQuerySummaryMeta(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    from_: datetime
    to: datetime | None
    limit: int
    total: int
    """How many statements there are, of which the first are shown."""


class SlowQuerySummaryPage(msgspec.Struct, frozen=True):
    data: list[SlowQuerySummary]
    meta: SlowQuerySummaryMeta
