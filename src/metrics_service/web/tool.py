"""One tool on the page of tools: how long it takes, how its calls end, where, and how they fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta

import msgspec

from metrics_service.dashboards.data import Row, WidgetData
from metrics_service.dashboards.pictures.figures import words
from metrics_service.dashboards.widgets import Widget
from metrics_service.db.tenancy import ContextConnection
from metrics_service.tool_metrics.failures import Failure, fetch_failures
from metrics_service.web.about import (
    About,
    question,
    share,
    troubles,
)
from metrics_service.web.choices import Choices, fetch_choices
from metrics_service.web.elsewhere import Elsewhere, find_elsewhere
from metrics_service.web.figures import Figure

STATUSES = (
    "success_count", "error_count", "rejected_count", "cancelled_count", "unknown_count",
)  # fmt: skip
DECISIONS = ("accept_count", "modify_count", "reject_count", "cancel_count")
LISTS = ("whole", "agents", "repositories")
FIGURES = "count error_rate p50_ms p95_ms"
PLACES = 12

LISTED = 20

# However the clocks of the viewer's zone change.
LENGTHS = {"hour": timedelta(hours=1), "day": timedelta(hours=25), "week": timedelta(days=8)}


class Part(msgspec.Struct, frozen=True):
    """Some of the calls, by a word for them."""

    word: str
    count: float
    share: float | None


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is shown of one."""

    name: str
    elsewhere: Elsewhere | None
    choices: Choices
    whole: Row
    before: Row
    percentiles: Figure
    calls: Figure
    statuses: list[Part]
    decisions: list[Part]
    agents: list[Row]
    repositories: list[Row]
    classes: list[Part]
    """Of the failures that were found, what went wrong."""
    failures: list[Failure]
    found: int
    """How many failures were found; no more than `LISTED` are listed."""
    troubles: list[str]
    """Why some of it could not be answered."""


async def read_tool(connection: ContextConnection, about: About, name: str) -> Tool:
    asked = _questions(about.period.bucket)
    found = await about.read(connection, list(asked.values()), tool_name=name)
    whole = found["whole"]
    now = whole.rows[0] if whole.rows else {}
    before = whole.previous.rows[0] if whole.previous else {}
    over_time = found["percentiles"]
    failures = await _failures(connection, about, name, over_time)
    classes = Counter(one.error_type or "not told" for one in failures)
    is_empty = not now.get("count") and whole.error is None
    return Tool(
        name=name,
        elsewhere=await find_elsewhere(connection, about) if is_empty else None,
        choices=await fetch_choices(connection, about.period),
        whole=now,
        before=before,
        percentiles=about.drawn(
            asked["percentiles"], over_time, "p50_ms p95_ms p99_ms", columns=6
        ),
        calls=about.drawn(
            asked["percentiles"], over_time, "count", columns=6,
            id="calls", title="Calls", description="", mark="bar",
        ),
        statuses=_parts(now, STATUSES),
        decisions=_parts(now, DECISIONS),
        agents=found["agents"].rows,
        repositories=found["repositories"].rows,
        classes=[
            Part(word, count, share(count, len(failures))) for word, count in classes.most_common()
        ],
        failures=failures[:LISTED],
        found=len(failures),
        # The charts say theirs themselves.
        troubles=troubles(found[name] for name in LISTS),
    )  # fmt: skip


def _questions(bucket: str) -> dict[str, Widget]:
    ended = " ".join((*STATUSES, *DECISIONS))
    asked = [
        question(
            "whole", "tool_metrics",
            f"count error_rate p50_ms p95_ms total_ms wait_ms {ended}", compare="previous_period",
        ),
        question(
            "percentiles", "tool_metrics", "p50_ms p95_ms p99_ms count error_count", bucket,
            title="How long it takes", description="of 100 calls 50, 95 and 99 take at most",
            mark="line",
        ),
        question("agents", "tool_metrics", FIGURES, "agent"),
        question("repositories", "tool_metrics", FIGURES, "repository", limit=PLACES),
    ]  # fmt: skip
    return {one.id: one for one in asked}


def _parts(row: Row, measures: Sequence[str]) -> list[Part]:
    counts = {name: row.get(name) or 0 for name in measures}
    whole = sum(counts.values())
    return [
        Part(words(name), count, share(count, whole)) for name, count in counts.items() if count
    ]


async def _failures(
    connection: ContextConnection, about: About, name: str, over_time: WidgetData
) -> list[Failure]:
    """The rollups tell when there are any: nothing is looked through after the last, or before the first."""
    start, end = about.period.start, about.period.end
    if over_time.error is None:
        bucket = about.period.bucket
        when = [row[bucket] for row in over_time.rows if row["error_count"]]
        if not when:
            return []
        start, end = max(when[0], start), min(when[-1] + LENGTHS[bucket], end)
    return await fetch_failures(connection, name, start, end, filters=about.filters)
