"""A page as an answer: the inside of its main part, and the frame around that."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Required, TypedDict, Unpack
from uuid import UUID

import msgspec
from litestar import Request, Response
from markupsafe import Markup

from metrics_service.http.browser import HTML, SECURITY_HEADERS
from metrics_service.http.dependencies import AnyRequest, Caller
from metrics_service.rollups.version import read_version
from metrics_service.tenants.resolve import ServedTenant
from metrics_service.web.answers import Answers
from metrics_service.web.assets import Assets
from metrics_service.web.environment import ENVIRONMENT
from metrics_service.web.viewer import Viewer

REFRESH = "x-refresh"
"""The header with which an open page asks for the inside of its main part alone."""
# Less is not worth the time; more than this level hardly makes it smaller.
SMALLEST, LEVEL = 1024, 5


class Navigation(msgspec.Struct, frozen=True):
    """An entry of the menu."""

    path: str
    label: str
    icon: str


MENU = (
    Navigation("/", "Overview", "overview"),
    Navigation("/sessions", "Sessions", "sessions"),
    Navigation("/tools", "Tools", "tools"),
    Navigation("/models", "Models and cost", "models"),
    Navigation("/people", "People and teams", "people"),
    Navigation("/dashboards", "Dashboards", "dashboards"),
    Navigation("/set-up", "Set-up", "setup"),
    Navigation("/settings", "Settings", "settings"),
)


def render(request: AnyRequest, template: str, values: Mapping[str, Any]) -> str:
    """The inside of the main part of a page."""
    return ENVIRONMENT.get_template(template).render(
        {"viewer": Viewer.of(request), **values},
    )


class Who(msgspec.Struct, frozen=True):
    """Whoever has signed in, as the frame shows it."""

    id: UUID
    name: str
    role: str


class Frame(msgspec.Struct, frozen=True):
    """What all pages of one host have around them."""

    brand: str | None
    """Whose host it is."""
    who: Who | None
    menu: Sequence[Navigation]
    is_live: bool = True
    """Whether open pages are told of changes there; else they ask in turn."""


class Framing(TypedDict, total=False):
    """What stands around the main part of a page."""

    title: Required[str]
    styles: Sequence[str]
    scripts: Sequence[str]
    """Files of the page's own."""
    refresh_s: int | None
    """How often it may be brought up to date."""
    session_id: object
    """The one session that it is about."""


def page(
    request: AnyRequest,
    template: str,
    *,
    values: Mapping[str, Any],
    caller: Caller | None = None,
    status: int = 200,
    **framing: Unpack[Framing],
) -> Response[bytes]:
    main = render(request, template, {"caller": caller, **values})
    return page_of(request, main, caller=caller, status=status, **framing)


def page_of(
    request: AnyRequest,
    main: str,
    *,
    caller: Caller | None = None,
    status: int = 200,
    **framing: Unpack[Framing],
) -> Response[bytes]:
    """Put the tenant's frame around what was rendered."""
    # While the page is looked at: charts are drawn after everything else.
    request.app.state.vega.prepare()
    tenant: ServedTenant | None = request.scope["state"].get("tenant")
    who = None
    if caller is not None:
        principal = caller.principal
        who = Who(principal.id, principal.name, principal.role)
    frame = Frame(None if tenant is None else tenant.name, who, MENU)
    return framed(request, main, frame, status=status, **framing)


def framed(
    request: Request[Any, Any, Any],
    main: str,
    frame: Frame,
    *,
    status: int = 200,
    **framing: Unpack[Framing],
) -> Response[bytes]:
    """Put a frame around what was rendered, unless an open page asks for that alone."""
    if request.headers.get(REFRESH) == "main":
        return _answer(request, main, status)
    assets: Assets = request.app.state.assets
    whole = ENVIRONMENT.get_template("layout.html").render(
        viewer=Viewer.of(request),
        main=Markup(main),  # noqa: S704  # rendered by our own templates, which escape
        frame=frame,
        path=request.scope["path"],
        static=f"/static/{assets.version}",
        **{"styles": (), "scripts": (), "refresh_s": None, "session_id": None, **framing},
    )
    return _answer(request, whole, status)


async def remembered(
    request: AnyRequest,
    caller: Caller,
    question: tuple[object, ...],
    make: Callable[[], Awaitable[str]],
) -> Markup:
    """What was rendered for the same question of the same data, or else is now."""
    answers: Answers = request.app.state.answers

    async def look() -> int:
        async with caller.reading() as connection:
            return await read_version(connection)

    html = await answers.get(caller.tenant_id, question, make, look=look)
    return Markup(html)  # noqa: S704  # rendered by our own templates, which escape


def _answer(request: Request[Any, Any, Any], html: str, status: int) -> Response[bytes]:
    body = html.encode()
    etag = f'W/"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    headers = {**SECURITY_HEADERS, "etag": etag, "vary": "Accept-Encoding, Cookie, X-Refresh"}
    if status == 200 and request.headers.get("if-none-match") == etag:
        return Response(b"", status_code=304, headers=headers, media_type=HTML)
    if len(body) >= SMALLEST and "gzip" in request.headers.get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
        body = gzip.compress(body, LEVEL)
    return Response(body, status_code=status, headers=headers, media_type=HTML)
