"""`/people`: who works with which agents, and what comes out of it; by person, team and repository."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from msgspec import Meta

from metrics_service.dashboards.data import DashboardData, Person, answer, names_of
from metrics_service.dashboards.data_request import DataRequest, FilterValue
from metrics_service.dashboards.pictures.agents import agent_name
from metrics_service.dashboards.widgets import Widget, WidgetQuery
from metrics_service.db.tenancy import ContextConnection
from metrics_service.errors import ForbiddenError, NotFoundError
from metrics_service.fields import ShortText
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.hidden_people import HIDDEN
from metrics_service.rollups.queries import Filters
from metrics_service.sessions.repository import fetch_sessions, session_view
from metrics_service.sessions.schemas import SessionQuery, SessionView
from metrics_service.users.repository import find_account_of, get_user
from metrics_service.users.schemas import UserRow
from metrics_service.web.answers import Answers
from metrics_service.web.figures import Figure, figure_of
from metrics_service.web.page import page_of, render
from metrics_service.web.people_lines import (
    DIMENSIONS,
    Asking,
    By,
    Line,
    read_lines,
    read_names,
)
from metrics_service.web.query import page_query
from metrics_service.web.viewer import ChosenPeriod, PeriodQuery, Viewer, choose_period
from metrics_service.web.who_is_who import Unknown, read_unknown

UNKNOWN = "unknown"
"""Stands in addresses for whom nobody knows."""
LATEST = 10
MAX_LINES = 200
MAX_CHOICES = 200
COLUMNS: Mapping[str, tuple[str, str, Callable[[Line], float]]] = {
    "sessions": ("Sessions", "", lambda line: line.sessions),
    "active_days": ("Active days", "days on which a session began", lambda line: line.active_days or 0),
    "tool_calls": ("Tool calls", "", lambda line: line.tool_calls),
    "failure_rate": ("Failed", "share of tool calls", lambda line: line.failure_rate or 0),
    "model_calls": ("Model calls", "", lambda line: line.model_calls),
    "tokens": ("Tokens", "input and output", lambda line: line.tokens),
    "cost": ("Cost", "", lambda line: line.cost),
    "lines": ("Lines", "added and removed", lambda line: line.lines_added + line.lines_removed),
    "refused": ("Decisions", "tool calls that people allowed, and refused", lambda line: line.refused),
}  # fmt: skip
"""By their names in addresses: the head, what it means, and what is sorted by."""

Sort = Literal[
    "sessions", "-sessions", "active_days", "-active_days", "tool_calls", "-tool_calls",
    "failure_rate", "-failure_rate", "model_calls", "-model_calls", "tokens", "-tokens", "cost",
    "-cost", "lines", "-lines", "refused", "-refused",
]  # fmt: skip


PersonKey = Annotated[
    str,
    Meta(
        pattern=rf"^({UNKNOWN}|[0-9A-Fa-f]{{8}}(-[0-9A-Fa-f]{{4}}){{3}}-[0-9A-Fa-f]{{12}})$(?!\n)"
    ),
]


class PeopleQuery(PeriodQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    by: By | None = None
    person: PersonKey | None = None
    agent: ShortText | None = None
    team: ShortText | None = None
    repository: ShortText | None = None
    sort: Sort = "-sessions"

    @property
    def person_id(self) -> UUID | None:
        """None also of whom nobody knows."""
        return None if self.person in {None, UNKNOWN} else UUID(self.person)

    @property
    def filters(self) -> Filters:
        chosen: dict[str, tuple[str | None, ...]] = {
            name: (value,)
            for name in ("agent", "team", "repository")
            if (value := getattr(self, name)) is not None
        }
        if self.person is not None:
            chosen["user_id"] = (str(self.person_id) if self.person_id is not None else None,)
        return chosen


class Asked(msgspec.Struct, frozen=True):
    """What a page is about, and for whom."""

    query: PeopleQuery
    by: By
    period: ChosenPeriod
    sees_people: bool
    is_admin: bool

    @property
    def asking(self) -> Asking:
        return Asking(self.period, self.query.filters)

    @property
    def kept(self) -> dict[str, str | None]:
        """What stays in the address when the time changes."""
        query = self.query
        sort = None if query.sort == "-sessions" else query.sort
        return {
            "by": query.by,
            "person": query.person,
            "agent": query.agent,
            "team": query.team,
            "repository": query.repository,
            "sort": sort,
        }

    def address(self, **changes: str | None) -> str:
        return self.period.address("/people", **{**self.kept, **changes})


@get("/people", opt=requires("read"))
async def get_people(request: AnyRequest, caller: NamedDependency[Caller]) -> Response[bytes]:
    """People, teams and repositories; one person with `person`."""
    query = page_query(request, PeopleQuery)
    viewer = Viewer.of(request)
    sees_people = await caller.sees_people()
    if query.person is not None and not sees_people:
        raise ForbiddenError(HIDDEN)
    asked = Asked(
        query,
        _by(query, sees_people=sees_people),
        choose_period(query, viewer, default="30d"),
        sees_people,
        caller.principal.allows("admin"),
    )

    async def make() -> str:
        async with caller.summarising() as connection:
            values = await (_one(connection, asked) if query.person else _all(connection, asked))
        return render(request, "people.html", values)

    answers: Answers = request.app.state.answers
    key = ("people", query, viewer.zone.key, asked.period.period, sees_people, asked.is_admin)
    main = await answers.get(caller.tenant_id, key, make)
    return page_of(
        request,
        main,
        title="People and teams" if sees_people else "Teams and repositories",
        caller=caller,
        styles=["people.css"],
        scripts=["people.js"],
        refresh_s=30,
    )


def _by(query: PeopleQuery, *, sees_people: bool) -> By:
    if query.by is None or query.by == "person":
        return "person" if sees_people else "team"
    return query.by


# -- all of them --------------------------------------------------------------------------------------


class Shown(msgspec.Struct, frozen=True):
    """A line with what it is called, and where it leads."""

    line: Line
    name: str | None
    """None is not known."""
    note: str | None
    href: str | None


async def _all(connection: ContextConnection, asked: Asked) -> dict[str, Any]:
    asking, dimension = asked.asking, DIMENSIONS[asked.by]
    lines = _sorted(await read_lines(connection, asking, dimension), asked.query.sort)
    ids = [line.key for line in lines[:MAX_LINES]] if asked.by == "person" else []
    names = await names_of(connection, ids)
    data = await _answered(connection, asked, [*_numbers(), *_charts(dimension)])
    unknown = Unknown()
    if asked.is_admin and asked.sees_people and asked.by == "person":
        unknown = await read_unknown(connection)
    return {
        "asked": asked,
        "lines": [_shown(line, names, asked) for line in lines[:MAX_LINES]],
        "more": max(0, len(lines) - MAX_LINES),
        "has_unknown": any(line.key is None for line in lines),
        "columns": COLUMNS,
        "totals": _totals(data),
        "figures": _figures(data, _charts(dimension), asked),
        "choices": await _choices(connection, asked),
        "unknown": unknown,
        "person": None,
    }


def _sorted(lines: list[Line], sort: str) -> list[Line]:
    value = COLUMNS[sort.removeprefix("-")][2]
    # By name first, so that equals keep an order.
    by_name = sorted(lines, key=lambda line: line.key or "")
    return sorted(by_name, key=value, reverse=sort.startswith("-"))


def _shown(line: Line, names: Mapping[str, Person], asked: Asked) -> Shown:
    if asked.by != "person":
        href = asked.address(by="person", sort=None, **{asked.by: line.key}) if line.key else None
        return Shown(line, line.key, None, href if asked.sees_people else None)
    href = asked.address(person=line.key or UNKNOWN, by=None, sort=None)
    if line.key is None:
        return Shown(line, None, None, href)
    person = names.get(line.key)
    if person is None:
        return Shown(line, f"deleted person {line.key[:8]}", None, None)
    name = person.name or person.email or f"person {line.key[:8]}"
    return Shown(line, name, person.email if person.name else None, href)


async def _choices(connection: ContextConnection, asked: Asked) -> dict[str, dict[str, str]]:
    """What can be filtered by in this time; what was chosen is among it in any case."""
    everything = Asking(asked.period, {})
    choices: dict[str, dict[str, str]] = {}
    for name in ("agent", "team", "repository"):
        found = (await read_names(connection, everything, name))[:MAX_CHOICES]
        chosen = getattr(asked.query, name)
        values = dict.fromkeys([*found, chosen] if chosen else found)
        labels = {value: agent_name(value) if name == "agent" else value for value in values}
        choices[name] = dict(sorted(labels.items(), key=lambda one: one[1].lower()))
    return choices


# -- one of them --------------------------------------------------------------------------------------


class OnePerson(msgspec.Struct, frozen=True):
    """A person's own part of the page."""

    user: UserRow | None
    """None is whom nobody knows."""
    agents: list[Line]
    repositories: list[Line]
    sessions: list[SessionView]
    sessions_href: str | None


async def _one(connection: ContextConnection, asked: Asked) -> dict[str, Any]:
    user = None
    if (person_id := asked.query.person_id) is not None:
        if await find_account_of(connection, person_id) is None:
            raise NotFoundError("person", person_id)
        user = await get_user(connection, person_id)
    data = await _answered(connection, asked, [*_numbers(), *_charts("agent")])
    agents = _sorted(await read_lines(connection, asked.asking, "agent"), "-sessions")
    places = _sorted(await read_lines(connection, asked.asking, "repository"), "-sessions")
    return {
        "asked": asked,
        "totals": _totals(data),
        "figures": _figures(data, _charts("agent"), asked),
        "person": OnePerson(
            user,
            agents[:MAX_LINES],
            places[:MAX_LINES],
            [] if user is None else await _latest(connection, asked, user.id),
            None if user is None else asked.period.address("/sessions", user_id=str(user.id)),
        ),
    }


async def _latest(connection: ContextConnection, asked: Asked, user_id: UUID) -> list[SessionView]:
    query = SessionQuery(
        user_id=user_id, started_after=asked.period.start, started_before=asked.period.end
    )
    rows = await fetch_sessions(connection, query, after=None, limit=LATEST, offset=0)
    return [session_view(row) for row in rows]


# -- figures ------------------------------------------------------------------------------------------


def _numbers() -> list[Widget]:
    return [
        Widget(
            id=f"{source}-{measure}".replace("_", "-"),
            kind="number",
            query=WidgetQuery(source=source, measures=[measure], compare="previous_period"),
        )
        for source, measure in (
            ("sessions", "count"),
            ("tool_metrics", "count"),
            ("tool_metrics", "error_rate"),
            ("model_calls", "cost_usd_micros"),
        )
    ]


def _charts(dimension: str) -> list[Widget]:
    return [
        Widget(
            id=f"{name}-over-time",
            title=title,
            kind="chart",
            mark="bar",
            query=WidgetQuery(source=source, measures=[measure], group_by=["day", dimension]),
        )
        for name, title, source, measure in (
            ("sessions", "Sessions", "sessions", "count"),
            ("cost", "Cost", "model_calls", "cost_usd_micros"),
        )
    ]


async def _answered(
    connection: ContextConnection, asked: Asked, widgets: list[Widget]
) -> DashboardData:
    period = asked.period
    filters: dict[str, FilterValue | list[FilterValue]] = {
        name: list(values) for name, values in asked.query.filters.items()
    }
    request = DataRequest(from_=period.start, to=period.end, tz=period.zone.key, filters=filters)
    widgets = [_by_bucket(widget, period.bucket) for widget in widgets]
    return await answer(connection, widgets, request, sees_people=asked.sees_people)


def _by_bucket(widget: Widget, bucket: str) -> Widget:
    """The chart by hours or weeks where the page's time asks for that."""
    query = widget.query
    if query.time_column is None:
        return widget
    groups = [bucket if name == "day" else name for name in query.group_by]
    return msgspec.structs.replace(widget, query=msgspec.structs.replace(query, group_by=groups))


def _figures(data: DashboardData, charts: list[Widget], asked: Asked) -> list[Figure]:
    answers = {one.id: one for one in data.data}
    return [
        figure_of(
            _by_bucket(chart, asked.period.bucket), answers[chart.id], data.names, asked.period.zone
        )
        for chart in charts
    ]


def _totals(data: DashboardData) -> dict[str, tuple[float | None, float | None]]:
    """Of each number its value, and that of the period before."""
    found = {}
    for one in data.data:
        if one.totals is not None:
            before = one.previous.totals if one.previous is not None else None
            ((measure, value),) = one.totals.items()
            found[one.id] = (value, None if before is None else before[measure])
    return found
