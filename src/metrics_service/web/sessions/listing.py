"""`/sessions`: what agents did, session by session; filtered, searched and sorted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from msgspec import Meta

from metrics_service.dashboards.data import names_of
from metrics_service.dashboards.pictures.agents import agent_name
from metrics_service.db.listing import position_of
from metrics_service.errors import InvalidQueryError
from metrics_service.fields import ShortText
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.hidden_people import check_question, shown
from metrics_service.sessions.choices import Choice, fetch_choices, with_chosen
from metrics_service.sessions.repository import fetch_sessions, has_sessions, session_view
from metrics_service.sessions.schemas import SessionQuery, SessionSort
from metrics_service.web.choices import Option, option
from metrics_service.web.page import page_of, remembered, render
from metrics_service.web.query import page_query
from metrics_service.web.viewer import ChosenPeriod, PeriodQuery, Viewer, choose_period

PATH = "/sessions"
PAGE_ROWS = 50
REFRESH_S = 10

# As they stand in addresses, which are the API's words, and in the toolbar.
LABELS = {
    "q": "Search",
    "agent": "Agent",
    "user_id": "Person",
    "repository": "Repository",
    "branch": "Branch",
    "team": "Team",
    "status": "Status",
    "session_type": "Type",
    "tag": "Tag",
    "has_errors": "Failures",
    "project": "Project",
    "environment": "Environment",
}
FOLDED = frozenset({"status", "session_type", "tag", "has_errors"})
NO_NUL = "must not contain U+0000"


class SessionsQuery(PeriodQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the page is asked for."""

    q: ShortText | None = None
    agent: ShortText | None = None
    user_id: UUID | None = None
    repository: ShortText | None = None
    branch: ShortText | None = None
    team: ShortText | None = None
    status: Literal["open", "closed"] | None = None
    session_type: ShortText | None = None
    tag: ShortText | None = None
    has_errors: bool | None = None
    project: ShortText | None = None
    environment: ShortText | None = None
    sort: Annotated[SessionSort, Meta(description="A minus sorts downwards.")] = "-started_at"
    cursor: str | None = None

    def filters(self) -> dict[str, Any]:
        """Those that are given, in the order of the toolbar."""
        return {name: value for name in LABELS if (value := getattr(self, name)) is not None}


class Asked(msgspec.Struct, frozen=True):
    """A list of sessions, and the addresses of others like it."""

    query: SessionsQuery
    period: ChosenPeriod
    sees_people: bool

    @property
    def listing(self) -> bytes:
        """What a cursor is bound to; not the moments of a time that ends now."""
        return msgspec.json.encode(
            [PATH, self.period.parameters, self.query.sort, self.query.filters()]
        )

    @property
    def kept(self) -> dict[str, str]:
        """The parameters besides the time."""
        given = {name: _spelt(value) for name, value in self.query.filters().items()}
        if self.query.sort != "-started_at":
            given["sort"] = self.query.sort
        return given

    def address(self, **changes: str | None) -> str:
        """This list with other parameters, from its first page on; None leaves one out."""
        changed = {**self.period.parameters, **self.kept, **changes}
        return f"{PATH}?{urlencode({name: value for name, value in changed.items() if value})}"

    @property
    def has_more(self) -> bool:
        """Whether one of the filters is on that are folded away."""
        return bool(self.kept.keys() & FOLDED)

    def sorted_by(self, column: str) -> str:
        """The list sorted by a column: downwards first, and upwards the second time."""
        wanted = column if self.query.sort == f"-{column}" else f"-{column}"
        return self.address(sort=None if wanted == "-started_at" else wanted)


def _spelt(value: object) -> str:
    return "true" if value is True else "false" if value is False else str(value)


@get(PATH, opt=requires("read"))
async def get_sessions(request: AnyRequest, caller: NamedDependency[Caller]) -> Response[bytes]:
    query = page_query(request, SessionsQuery)
    _check(query)
    sees_people = await caller.sees_people()
    check_question(query, sees_people=sees_people)
    asked = Asked(query, choose_period(query, Viewer.of(request), default="30d"), sees_people)
    key = (PATH, asked.listing, query.cursor, asked.period, sees_people)

    async def make() -> str:
        return render(request, "sessions.html", await _values(caller, asked))

    return page_of(
        request,
        await remembered(request, caller, key, make),
        title="Sessions",
        caller=caller,
        styles=["sessions.css"],
        # Whoever turned to another page is reading; only the first one has news.
        refresh_s=REFRESH_S if query.cursor is None else None,
    )


def _check(query: SessionsQuery) -> None:
    for name, value in query.filters().items():
        if isinstance(value, str) and "\0" in value:
            raise InvalidQueryError(f"parameter {name}: {NO_NUL}")


async def _values(caller: Caller, asked: Asked) -> Mapping[str, Any]:
    query, period = asked.query, asked.period
    signer = caller.database.signer
    after = (
        signer.verify(caller.tenant_id, asked.listing, query.cursor)
        if query.cursor is not None
        else None
    )
    filters = SessionQuery(
        started_after=period.start,
        started_before=period.end,
        sort=query.sort,
        **query.filters(),
    )
    # A search reads all sessions of the time: those of one tenant wait for each other.
    door = caller.summarising if query.q is not None else caller.reading
    async with door() as connection:
        rows = await fetch_sessions(
            connection,
            filters,
            after=after,
            limit=PAGE_ROWS + 1,
            offset=0,
            sees_people=asked.sees_people,
        )
        choices = await fetch_choices(
            connection, period.start, period.end, sees_people=asked.sees_people
        )
        has_any = bool(rows) or await has_sessions(connection)
        names = await names_of(connection, [query.user_id])
    person = next((one.name or one.email for one in names.values()), None)
    next_href = None
    if len(rows) > PAGE_ROWS:
        rows = rows[:PAGE_ROWS]
        position = position_of(query.sort)(rows[-1])
        cursor = signer.sign(caller.tenant_id, asked.listing, position)
        next_href = asked.address(cursor=cursor)
    return {
        "asked": asked,
        "rows": [shown(session_view(row), sees_people=asked.sees_people) for row in rows],
        "options": {name: _options(asked, name, found, person) for name, found in choices.items()},
        "chips": _chips(asked, person),
        "has_any": has_any,
        "next_href": next_href,
    }


def _options(asked: Asked, name: str, choices: list[Choice], person: str | None) -> list[Option]:
    """A list to choose from; what is chosen is always among it."""
    chosen = asked.kept.get(name)
    label = person if name == "user_id" else None
    return [
        option(choice.value, agent_name(choice.value) if name == "agent" else choice.label, chosen)
        for choice in with_chosen(choices, chosen, label)
    ]


class Chip(msgspec.Struct, frozen=True):
    """A filter that is on, and the list without it."""

    label: str
    value: str
    href: str


def _chips(asked: Asked, person: str | None) -> list[Chip]:
    return [
        Chip(LABELS[name], _in_words(name, value, person), asked.address(**{name: None}))
        for name, value in asked.query.filters().items()
    ]


def _in_words(name: str, value: Any, person: str | None) -> str:
    if name == "user_id":
        return person or f"person {str(value)[:8]}"
    if name == "has_errors":
        return "only sessions with" if value else "only sessions without"
    return agent_name(value) if name == "agent" else str(value)
