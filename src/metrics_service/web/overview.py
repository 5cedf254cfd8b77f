"""`/`: what agents did, what failed, what it cost and where the time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency

from metrics_service.dashboards.data import Row, WidgetData
from metrics_service.dashboards.widgets import Range, Widget
from metrics_service.db.tenancy import ContextConnection, hot_door
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.hidden_people import shown
from metrics_service.sessions.repository import fetch_sessions, session_view
from metrics_service.sessions.schemas import SessionQuery, SessionView
from metrics_service.web.about import (
    About,
    FilterQuery,
    question,
    share,
    total,
    troubles,
)
from metrics_service.web.choices import Choices, fetch_choices
from metrics_service.web.elsewhere import Elsewhere, find_elsewhere
from metrics_service.web.figures import Figure
from metrics_service.web.page import page_of, remembered, render
from metrics_service.web.query import page_query
from metrics_service.web.viewer import Viewer

PATH = "/"
LISTED = 5
LATEST = 10
REFRESH_S = 10


class Counted(msgspec.Struct, frozen=True):
    """A figure, and that of the period before; None of what there is nothing to say about."""

    now: float | None
    before: float | None


class Part(msgspec.Struct, frozen=True):
    """One row of a ranking, and what share of the whole it is."""

    name: str
    value: float
    share: float | None
    of: float = 0.0
    """How many there were of it altogether."""


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the page shows."""

    is_empty: bool
    elsewhere: Elsewhere
    choices: Choices
    sessions: Counted
    people: Counted
    active_s: Counted
    tool_calls: Counted
    error_rate: Counted
    model_calls: Counted
    model_error_rate: Counted
    cost: Counted
    estimated: float
    calls_chart: Figure
    cost_chart: Figure
    failing: list[Part]
    times: list[Part]
    slowest: list[Part]
    troubles: list[str]
    """Why some of it could not be answered."""
    latest: list[SessionView]


@get(PATH, opt=requires("read"))
async def get_overview(request: AnyRequest, caller: NamedDependency[Caller]) -> Response[bytes]:
    about = About.of(page_query(request, FilterQuery), Viewer.of(request))
    sees_people = await caller.sees_people()

    async def make() -> str:
        async with caller.snapshot() as tx:
            found = await _read(await hot_door(tx), about)
        values = {
            "about": about,
            "sees_people": sees_people,
            "path": PATH,
            "sessions_address": about.address("/sessions"),
        }
        latest = [shown(session, sees_people=sees_people) for session in found.latest]
        found = msgspec.structs.replace(found, latest=latest)
        return render(request, "overview.html", {**values, "found": found})

    main = await remembered(request, caller, ("overview", sees_people, about.key), make)
    return page_of(
        request,
        main,
        title="Overview",
        caller=caller,
        styles=["overview.css"],
        refresh_s=REFRESH_S,
    )


def _questions(about: About) -> dict[str, Widget]:
    bucket = about.period.bucket
    earlier = about.period.previous
    before = Range(from_=earlier.start, to=earlier.end)
    # By team or repository models are not rolled up by the hour, and agents are.
    which = "agent" if about.is_placed else "request_model"
    asked = [
        question(
            "calls", "tool_metrics", "count error_count", f"{bucket} agent",
            title="Tool calls", description="by agent", mark="bar",
        ),
        # In one sum each: by agent and model they would be read for nothing.
        question("calls-before", "tool_metrics", "count error_count", range=before),
        question(
            "cost", "model_calls",
            "cost_usd_micros estimated_cost_usd_micros count error_count total_ms",
            f"{bucket} {which}", title="What it cost",
            description="by agent" if about.is_placed else "by model", mark="bar",
        ),
        question(
            "cost-before", "model_calls", "cost_usd_micros count error_count", range=before
        ),
        question("sessions", "sessions", "count active_seconds_agent", "user_id"),
        question(
            "sessions-before", "sessions", "count active_seconds_agent", "user_id", range=before
        ),
        question("tools", "tool_metrics", "count error_count total_ms wait_ms", "tool_name"),
    ]  # fmt: skip
    return {one.id: one for one in asked}


async def _read(connection: ContextConnection, about: About) -> Overview:
    asked = _questions(about)
    found = await about.read(connection, list(asked.values()))
    choices = await fetch_choices(connection, about.period)
    latest = await _latest(connection, about)
    calls, cost, sessions, tools = (found[name] for name in ("calls", "cost", "sessions", "tools"))
    is_empty = not (calls.rows or cost.rows or sessions.rows or latest)
    tool_calls, model_calls = (_counted(found, name, "count") for name in ("calls", "cost"))
    return Overview(
        is_empty=is_empty,
        elsewhere=await find_elsewhere(connection, about) if is_empty else Elsewhere(None),
        choices=choices,
        sessions=_counted(found, "sessions", "count"),
        people=_people(found),
        active_s=_counted(found, "sessions", "active_seconds_agent"),
        tool_calls=tool_calls,
        error_rate=_rate(_counted(found, "calls", "error_count"), tool_calls),
        model_calls=model_calls,
        model_error_rate=_rate(_counted(found, "cost", "error_count"), model_calls),
        cost=_counted(found, "cost", "cost_usd_micros"),
        estimated=total(cost.rows, "estimated_cost_usd_micros"),
        calls_chart=about.drawn(asked["calls"], calls, "count", columns=7, height=300),
        cost_chart=about.drawn(asked["cost"], cost, "cost_usd_micros", columns=7, height=260),
        failing=_parts(tools.rows, "error_count"),
        times=_times(tools, cost),
        slowest=_parts(tools.rows, "total_ms"),
        troubles=troubles(found.values()),
        latest=latest,
    )


async def _latest(connection: ContextConnection, about: About) -> list[SessionView]:
    chosen = about.filters
    query = SessionQuery(
        started_after=about.period.start,
        started_before=about.period.end,
        agent=chosen.get("agent"),
        team=chosen.get("team"),
        repository=chosen.get("repository"),
    )
    rows = await fetch_sessions(connection, query, after=None, limit=LATEST, offset=0)
    return [session_view(row) for row in rows]


# -- figures out of answers -----------------------------------------------------------------------


Found: TypeAlias = Mapping[str, WidgetData]


def _counted(found: Found, name: str, measure: str) -> Counted:
    """A sum; that of the period before is unknown where it could not be answered."""
    before = found[f"{name}-before"]
    return Counted(
        total(found[name].rows, measure), None if before.error else total(before.rows, measure)
    )


def _people(found: Found) -> Counted:
    """How many had a session; those that nobody knows are nobody."""
    now, before = found["sessions"], found["sessions-before"]
    return Counted(_known(now.rows), None if before.error else _known(before.rows))


def _known(rows: Sequence[Row]) -> int:
    return sum(row["user_id"] is not None for row in rows)


def _rate(part: Counted, whole: Counted) -> Counted:
    return Counted(share(part.now, whole.now), share(part.before, whole.before))


def _parts(rows: Sequence[Row], measure: str) -> list[Part]:
    """The tools with the most of something."""
    whole = total(rows, measure)
    ranked = sorted((row for row in rows if row[measure]), key=lambda row: -row[measure])
    return [
        Part(row["tool_name"], row[measure], share(row[measure], whole), row["count"])
        for row in ranked[:LISTED]
    ]


def _times(tools: WidgetData, models: WidgetData) -> list[Part]:
    """What agents spent time on; added up, though much of it happened side by side."""
    spent = {
        "Models answered": total(models.rows, "total_ms"),
        "Tools ran": total(tools.rows, "total_ms"),
        "Waited for people": total(tools.rows, "wait_ms"),
    }
    whole = sum(spent.values())
    return [Part(name, value, share(value, whole)) for name, value in spent.items()]
