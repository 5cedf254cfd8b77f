"""`/dashboards`: those that one may see; and `/dashboards/new`: what a new one can begin with."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlencode

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from msgspec import Meta

from metrics_service.dashboards.repository import Gallery
from metrics_service.dashboards.schemas import DashboardQuery, DashboardView
from metrics_service.dashboards.templates import TEMPLATES
from metrics_service.fields import ShortText
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.tenants.authenticate import Principal
from metrics_service.web.page import page
from metrics_service.web.query import page_query

PATH = "/dashboards"
PAGE_SIZE = 50
MAX_PAGE = 1000

# As the API says it: as people do.
SEEN_BY = {
    "private": "its owner alone",
    "team": "its owner's team",
    "tenant": "everybody",
}


class ListQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    q: Annotated[str, Meta(max_length=255)] | None = None
    whose: Literal["all", "mine", "shared"] = "all"
    tag: ShortText | None = None
    page: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 1

    def address(self, **changes: str | int | None) -> str:
        """The same list with something else about it; from its first page unless said."""
        given = {"q": self.q, "whose": self.whose, "tag": self.tag, **changes}
        kept = {
            name: value
            for name, value in given.items()
            if value is not None and (name, value) not in {("whose", "all"), ("page", 1)}
        }
        return f"{PATH}?{urlencode(kept)}" if kept else PATH


class Entry(msgspec.Struct, frozen=True):
    """A dashboard of the list."""

    view: DashboardView
    seen_by: str
    is_mine: bool
    may_delete: bool


@get(PATH, opt=requires("read"))
async def get_dashboards(request: AnyRequest, caller: NamedDependency[Caller]) -> Response[bytes]:
    """List the dashboards one may see, the latest changed first."""
    query = page_query(request, ListQuery)
    sees_people = await caller.sees_people()
    async with caller.looking() as tx:
        gallery = Gallery(tx, caller.principal)
        rows = await gallery.fetch(
            _asked(query, caller.principal),
            after=None,
            limit=PAGE_SIZE + 1,
            offset=(query.page - 1) * PAGE_SIZE,
        )
        views = await gallery.views(rows[:PAGE_SIZE])
    more = query.address(page=query.page + 1) if len(rows) > PAGE_SIZE else None
    values = {
        "query": query,
        "entries": [_entry(view, caller.principal) for view in views],
        "first_href": query.address() if query.page > 1 else None,
        "next_href": more if query.page < MAX_PAGE else None,
        "may_write": caller.principal.allows("write"),
        "sees_people": sees_people,
        "is_filtered": query.q is not None or query.tag is not None or query.whose != "all",
    }
    return page(
        request,
        "dashboards.html",
        title="Dashboards",
        values=values,
        caller=caller,
        styles=["dashboard.css"],
        scripts=["dashboards.js"],
    )


def _asked(query: ListQuery, principal: Principal) -> DashboardQuery:
    return DashboardQuery(
        q=query.q,
        tag=query.tag,
        owner_id=principal.user_id if query.whose == "mine" else None,
        shared=True if query.whose == "shared" else None,
    )


def _entry(view: DashboardView, principal: Principal) -> Entry:
    is_mine = view.owner is not None and view.owner.id == principal.user_id
    # Of a team's, its own page knows: whether somebody is of that team is asked for there alone.
    is_published = view.visibility == "tenant"
    return Entry(
        view,
        SEEN_BY[view.visibility],
        is_mine,
        may_delete=principal.allows("write")
        and (is_mine or is_published or principal.allows("admin")),
    )


@get(f"{PATH}/new", opt=requires("write"))
async def get_new_dashboard(
    request: AnyRequest, caller: NamedDependency[Caller]
) -> Response[bytes]:
    """Show what a new dashboard can begin with: nothing, a template, or a file."""
    return page(
        request,
        "dashboard_new.html",
        title="New dashboard",
        values={"templates": list(TEMPLATES.values())},
        caller=caller,
        styles=["dashboard.css"],
        scripts=["dashboards.js"],
    )
