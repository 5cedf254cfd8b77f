"""`/dashboards/{id}`: one dashboard with its figures."""

from __future__ import annotations

from uuid import UUID

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath
from markupsafe import Markup
from sqlalchemy.ext.asyncio import AsyncSession

from metrics_service.dashboards.pictures.lettering import clean
from metrics_service.dashboards.repository import Gallery
from metrics_service.dashboards.schemas import DashboardView
from metrics_service.dashboards.write import get_dashboard
from metrics_service.db.models import DashboardConfig
from metrics_service.db.tenancy import hot_door
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.users.repository import list_users
from metrics_service.web.about import About, FilterQuery
from metrics_service.web.choices import fetch_choices
from metrics_service.web.dashboards.board import read_board
from metrics_service.web.dashboards.listing import SEEN_BY
from metrics_service.web.page import page, remembered, render
from metrics_service.web.query import page_query
from metrics_service.web.viewer import ChosenPeriod, Last, Viewer

REFRESH_S = 30
DEFAULT_LAST: Last = "30d"
LONGEST_TITLE = 120

# More of them nobody looks through.
MAX_PEOPLE = 1000


class May(msgspec.Struct, frozen=True):
    """What the person in front of the page is offered."""

    edit: bool
    publish: bool
    share: bool
    copy: bool


class Someone(msgspec.Struct, frozen=True):
    """With whom a dashboard can be shared."""

    id: UUID
    label: str


async def may_of(gallery: Gallery, row: DashboardConfig) -> May:
    access = await gallery.access(row)
    writes = gallery.principal.allows("write")
    return May(
        edit=writes and access.may_edit,
        publish=writes and access.may_publish,
        share=writes and access.may_share,
        copy=writes,
    )


def about_of(request: AnyRequest) -> About:
    """What the address of a dashboard's page asks for; raises `InvalidQueryError`."""
    return About.of(page_query(request, FilterQuery), Viewer.of(request), default=DEFAULT_LAST)


async def see_dashboard(
    tx: AsyncSession, caller: Caller, dashboard_id: UUID
) -> tuple[DashboardView, May]:
    """A dashboard that the caller sees, and what they are offered there; raises `NotFoundError`."""
    gallery = Gallery(tx, caller.principal)
    row = await get_dashboard(gallery, dashboard_id)
    return await gallery.view(row), await may_of(gallery, row)


@get("/dashboards/{dashboard_id:uuid}", opt=requires("read"))
async def get_dashboard_page(
    request: AnyRequest, caller: NamedDependency[Caller], dashboard_id: FromPath[UUID]
) -> Response[bytes]:
    """Show a dashboard: of the latest 30 days, unless its address or a widget says otherwise."""
    about = about_of(request)
    sees_people = await caller.sees_people()
    async with caller.looking() as tx:
        view, may = await see_dashboard(tx, caller, dashboard_id)
        people = await people_to_share_with(tx, view) if may.share and sees_people else []
    board = await board_html(request, caller, view, about, sees_people=sees_people)
    values = {
        "view": view,
        "seen_by": SEEN_BY[view.visibility],
        "may": may,
        "people": people,
        "sees_people": sees_people,
        "board": board,
        "image_query": image_query(about.period),
    }
    return page(
        request,
        "dashboard.html",
        title=clean(view.name)[:LONGEST_TITLE],
        values=values,
        caller=caller,
        styles=["dashboard.css"],
        scripts=["dashboard.js"],
        refresh_s=REFRESH_S,
    )


async def board_html(
    request: AnyRequest,
    caller: Caller,
    view: DashboardView,
    about: About,
    *,
    sees_people: bool,
) -> Markup:
    """The filters and the figures of a dashboard that its reader was found to see."""

    async def make() -> str:
        async with caller.snapshot() as tx:
            connection = await hot_door(tx)
            choices = await fetch_choices(connection, about.period)
            bands = await read_board(
                connection,
                view.widgets,
                view.layout,
                about,
                sees_people=sees_people,
            )
        path = f"/dashboards/{view.id}"
        values = {"bands": bands, "about": about, "path": path, "choices": choices}
        return render(request, "dashboard_board.html", values)

    question = ("dashboard", view.id, view.version, about.key, sees_people)
    return await remembered(request, caller, question, make)


def image_query(period: ChosenPeriod) -> dict[str, str]:
    """The same time, as the API is asked for a picture."""
    return {
        "from": period.start.isoformat(),
        "to": period.end.isoformat(),
        "tz": period.zone.key,
    }


async def people_to_share_with(tx: AsyncSession, view: DashboardView) -> list[Someone]:
    """All who can be named, but the dashboard's owner."""
    users = await list_users(await hot_door(tx))
    owner_id = view.owner.id if view.owner is not None else None
    return [
        Someone(user.id, f"{user.name} <{user.email}>" if user.name else user.email)
        for user in users
        if user.email is not None and user.id != owner_id
    ][:MAX_PEOPLE]
