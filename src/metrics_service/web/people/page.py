"""`/people`: who works with which agents, and what comes out of it; by person, team and repository."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from msgspec import Meta

from metrics_service.dashboards.data import Person, Row, WidgetData, answer, names_of
from metrics_service.dashboards.widgets import Widget, WidgetQuery
from metrics_service.db.tenancy import ContextConnection
from metrics_service.errors import ForbiddenError, NotFoundError
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.hidden_people import HIDDEN
from metrics_service.sessions.repository import fetch_sessions, session_view
from metrics_service.sessions.schemas import SessionQuery, SessionView
from metrics_service.users.repository import find_account_of, get_user
from metrics_service.users.schemas import UserRow
from metrics_service.web.about import About, FilterQuery, question
from metrics_service.web.choices import fetch_choices
from metrics_service.web.figures import figure_of
from metrics_service.web.page import page_of, remembered, render
from metrics_service.web.people.lines import (
    DIMENSIONS,
    Asking,
    By,
    Line,
    read_lines,
)
from metrics_service.web.people.who_is_who import Unknown, read_unknown
from metrics_service.web.query import page_query
from metrics_service.web.viewer import Viewer

PATH = "/people"
UNKNOWN = "unknown"
"""Stands in addresses for whom nobody knows."""
LATEST = 10
MAX_LINES = 200
COLUMNS: Mapping[str, tuple[str, str, Callable[[Line], float]]] = {
    "sessions": ("Sessions", "", lambda line: line.sessions),
    "active_days": ("Active days", "days on which a session began", lambda line: line.active_days or 0),
    "tool_calls": ("Tool calls", "", lambda line: line.tool_calls),
    "failure_rate": ("Failed", "share of tool calls", lambda line: line.failure_rate or 0),
    "model_calls": ("Model calls", "", lambda line: line.model_calls),
    "tokens": ("Tokens", "input and output", lambda line: line.tokens),
    "cost": ("Cost", "", lambda line: line.cost),
    "lines": ("Lines", "added and removed", lambda line: line.lines_added + line.lines_removed),
    "refused": ("Allowed", "of the tool calls that people decided on; sorted by how many they refused", lambda line: line.refused),
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


class PeopleQuery(FilterQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    by: By | None = None
    person: PersonKey | None = None
    sort: Sort = "-sessions"

    @property
    def person_id(self) -> UUID | None:
        """None also of whom nobody knows."""
        return None if self.person in {None, UNKNOWN} else UUID(self.person)

    @property
    def whose(self) -> dict[str, str | None]:
        """The filter by a person."""
        if self.person is None:
            return {}
        return {"user_id": str(self.person_id) if self.person_id is not None else None}


class Asked(msgspec.Struct, frozen=True):
    """What a page is about, and for whom."""

    query: PeopleQuery
    by: By
    about: About
    sees_people: bool
    is_admin: bool

    @property
    def asking(self) -> Asking:
        filters = {**self.about.filters, **self.query.whose}
        return Asking(self.about.period, {name: (value,) for name, value in filters.items()})

    @property
    def kept(self) -> dict[str, str | None]:
        """What stays in the address when the time changes."""
        query = self.query
        sort = None if query.sort == "-sessions" else query.sort
        return {"by": query.by, "person": query.person, **self.about.filters, "sort": sort}

    def address(self, **changes: str | None) -> str:
        return self.about.period.address(PATH, **{**self.kept, **changes})

    def sorted_by(self, column: str) -> str:
        """Downwards first, and upwards the second time."""
        down = f"-{column}"
        return self.address(sort=column if self.query.sort == down else down)


@get(PATH, opt=requires("read"))
async def get_people(request: AnyRequest, caller: NamedDependency[Caller]) -> Response[bytes]:
    """People, teams and repositories; one person with `person`."""
    query = page_query(request, PeopleQuery)
    sees_people = await caller.sees_people()
    if query.person is not None and not sees_people:
        raise ForbiddenError(HIDDEN)
    asked = Asked(
        query,
        _by(query, sees_people=sees_people),
        About.of(query, Viewer.of(request), default="30d"),
        sees_people,
        caller.principal.allows("admin"),
    )

    async def make() -> str:
        async with caller.summarising() as connection:
            values = await (_one(connection, asked) if query.person else _all(connection, asked))
        return render(request, "people.html", values)

    key = ("people", asked.about.key, query, asked.sees_people, asked.is_admin)
    main = await remembered(request, caller, key, make)
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
    unknown = Unknown()
    if asked.is_admin and asked.sees_people and asked.by == "person":
        unknown = await read_unknown(connection)
    return {
        "asked": asked,
        "lines": [_shown(line, names, asked) for line in lines[:MAX_LINES]],
        "more": max(0, len(lines) - MAX_LINES),
        "has_unknown": any(line.key is None for line in lines),
        "columns": COLUMNS,
        **await _read_figures(connection, asked, dimension),
        "choices": await fetch_choices(connection, asked.about.period),
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
    agents = _sorted(await read_lines(connection, asked.asking, "agent"), "-sessions")
    places = _sorted(await read_lines(connection, asked.asking, "repository"), "-sessions")
    return {
        "asked": asked,
        **await _read_figures(connection, asked, "agent"),
        "person": OnePerson(
            user,
            agents[:MAX_LINES],
            places[:MAX_LINES],
            [] if user is None else await _latest(connection, asked, user.id),
            None if user is None else asked.about.period.address("/sessions", user_id=str(user.id)),
        ),
    }


async def _latest(connection: ContextConnection, asked: Asked, user_id: UUID) -> list[SessionView]:
    query = SessionQuery(
        user_id=user_id,
        started_after=asked.about.period.start,
        started_before=asked.about.period.end,
    )
    rows = await fetch_sessions(connection, query, after=None, limit=LATEST, offset=0)
    return [session_view(row) for row in rows]


# -- figures ------------------------------------------------------------------------------------------


NUMBERS = [
    question("sessions", "sessions", "count", compare="previous_period"),
    question("tool-calls", "tool_metrics", "count error_rate", compare="previous_period"),
    question("model-calls", "model_calls", "cost_usd_micros", compare="previous_period"),
]


def _charts(bucket: str, dimension: str) -> list[Widget]:
    return [
        Widget(
            id=f"{name}-over-time",
            title=title,
            kind="chart",
            mark="bar",
            query=WidgetQuery(source=source, measures=[measure], group_by=[bucket, dimension]),
        )
        for name, title, source, measure in (
            ("sessions", "Sessions", "sessions", "count"),
            ("cost", "Cost", "model_calls", "cost_usd_micros"),
        )
    ]


async def _read_figures(
    connection: ContextConnection, asked: Asked, dimension: str
) -> dict[str, Any]:
    """The numbers on top, each with the period before, and the charts by a dimension."""
    about = asked.about
    charts = _charts(about.period.bucket, dimension)
    request = about.asked(**asked.query.whose)
    data = await answer(connection, [*NUMBERS, *charts], request, sees_people=asked.sees_people)
    found = {one.id: one for one in data.data}
    return {
        "totals": {one.id: _total(found[one.id]) for one in NUMBERS},
        "figures": [
            figure_of(chart, found[chart.id], data.names, about.period.zone) for chart in charts
        ],
    }


def _total(data: WidgetData) -> tuple[Row, Row]:
    """The one row that there is, and that of the period before; empty where neither could be told."""
    before = data.previous.rows if data.previous is not None else []
    return next(iter(data.rows), {}), next(iter(before), {})
