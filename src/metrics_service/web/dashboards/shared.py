"""`/shared/{token}`: a dashboard for whoever has its link, without signing in."""

from __future__ import annotations

from litestar import Response, Router, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from metrics_service.dashboards.pictures.lettering import clean
from metrics_service.dashboards.shares import open_link
from metrics_service.db.tenancy import hot_door
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.links import PREFIX, no_link
from metrics_service.web.about import About
from metrics_service.web.dashboards.board import read_board
from metrics_service.web.dashboards.dashboard import (
    DEFAULT_LAST,
    LONGEST_TITLE,
    image_query,
)
from metrics_service.web.page import page, remembered, render
from metrics_service.web.query import page_query
from metrics_service.web.viewer import PeriodQuery, Viewer, choose_period

# The address is the key: it goes to no other page, and into no search.
HEADERS = {"referrer-policy": "no-referrer", "x-robots-tag": "noindex"}


@get("/shared/{token:str}", opt=requires(None), include_in_schema=False)
async def get_shared_page(
    request: AnyRequest, caller: NamedDependency[Caller], token: FromPath[str]
) -> Response[bytes]:
    """Show the dashboard of a link, with labels in place of people."""
    query = page_query(request, PeriodQuery)
    about = About(choose_period(query, Viewer.of(request), default=DEFAULT_LAST), {})
    links, share_id = caller.database.links, caller.principal.id
    async with caller.looking() as tx:
        row = await open_link(tx, caller.principal)

    async def make() -> str:
        async with caller.snapshot() as tx:
            bands = await read_board(
                await hot_door(tx),
                row.widgets,
                row.layout,
                about,
                sees_people=True,
                label=lambda user_id: links.label(share_id, user_id),
            )
        return render(request, "dashboard_bands.html", {"bands": bands})

    question = ("shared", share_id, row.version, about.key)
    values = {
        "view": row,
        "period": about.period,
        "path": f"/shared/{token}",
        "expires_at": caller.principal.expires_at,
        "board": await remembered(request, caller, question, make),
        "image": f"{PREFIX}{token}/image",
        "image_query": image_query(about.period),
    }
    answer = page(
        request,
        "shared.html",
        title=clean(row.name)[:LONGEST_TITLE],
        values=values,
        styles=["dashboard.css"],
    )
    answer.headers.update(HEADERS)
    return answer


async def admit_link(request: AnyRequest) -> None:
    """The gate has looked at the token; what came by no link ends as one that opens nothing."""
    if "user" not in request.scope:
        raise no_link()


SHARED = Router("/", route_handlers=[get_shared_page], before_request=admit_link)
