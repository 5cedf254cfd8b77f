"""Where else to look when a page of figures has nothing to show."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from metrics_service.dashboards.widgets import span_of
from metrics_service.db.tenancy import ContextConnection
from metrics_service.fields import now
from metrics_service.rollups.ranges import DAY
from metrics_service.web.about import About
from metrics_service.web.viewer import LASTS

_NEWEST = """
    SELECT greatest(
        (SELECT started_at FROM metrics_sessions ORDER BY started_at DESC LIMIT 1),
        (SELECT started_at FROM tool_metrics ORDER BY started_at DESC LIMIT 1),
        (SELECT started_at FROM model_calls ORDER BY started_at DESC LIMIT 1))
"""


class Elsewhere(msgspec.Struct, frozen=True):
    """What else to look at where a page has nothing to show."""

    newest: datetime | None
    """Of all that ever arrived; None where nothing did."""
    label: str = ""
    parameters: dict[str, str] = {}
    """A time in which there is something, in words and as an address says it."""


async def find_elsewhere(connection: ContextConnection, about: About) -> Elsewhere:
    newest: datetime | None = await connection.fetchval(_NEWEST)
    if newest is None:
        return Elsewhere(None)
    age = now() - newest
    for last, label in LASTS.items():
        span = span_of(last)
        # The day, or hour, that has begun is part of it: what is nearly as old is not counted on.
        is_longer = span is not None and span > about.period.end - about.period.start
        if span is not None and is_longer and timedelta() <= age < span - DAY:
            return Elsewhere(newest, f"the last {label}", {"last": last})
    day = newest.astimezone(about.period.zone).date().isoformat()
    return Elsewhere(newest, "that day", {"from": day, "to": day})
