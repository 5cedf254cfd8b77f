"""`/api/v1/dashboards/{id}/image`: a dashboard as a picture, with the figures of this moment."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated
from urllib.parse import quote
from uuid import UUID

import msgspec
from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.openapi.spec import OpenAPIFormat, OpenAPIType, Reference, Schema
from litestar.params import FromPath
from msgspec import Meta

from metrics_service.dashboards.data import known_widgets
from metrics_service.dashboards.data_request import Asked, DataRequest
from metrics_service.dashboards.files import file_stem
from metrics_service.dashboards.kept_answers import Answered, DashboardAnswers
from metrics_service.dashboards.pictures.images import Renderer, picture_of
from metrics_service.dashboards.pictures.picture import ImageFormat, Picture
from metrics_service.dashboards.pictures.theme import ThemeName
from metrics_service.dashboards.repository import Gallery
from metrics_service.dashboards.seen import get_seen
from metrics_service.dashboards.write import get_dashboard
from metrics_service.db.models import DashboardConfig
from metrics_service.db.tenancy import hot_door
from metrics_service.errors import InvalidBodyError, InvalidQueryError
from metrics_service.fields import Instant
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.query import parse_query, query_operation

MEDIA_TYPES: dict[ImageFormat, str] = {
    "png": "image/png",
    "svg": "image/svg+xml",
    "pdf": "application/pdf",
}

ANSWERS: dict[str, Schema | Reference] = {
    media_type: Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY)
    for media_type in MEDIA_TYPES.values()
}

# A browser shows an SVG as a document: one that may load and run nothing.
SECURITY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"


class ImageQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    format: ImageFormat = "png"
    theme: ThemeName = "light"
    width: Annotated[int, Meta(ge=600, le=2400, description="Pixels across.")] = 1200
    from_: Instant | None = msgspec.field(default=None, name="from")
    to: Instant | None = None
    tz: Annotated[str, Meta(max_length=255, examples=["Europe/Berlin"])] = "UTC"


def asked_of(query: ImageQuery) -> Asked:
    """What the widgets are asked; what is wrong with it is wrong with a parameter."""
    try:
        return Asked.of(DataRequest(from_=query.from_, to=query.to, tz=query.tz))
    except InvalidBodyError as error:
        first = error.errors[0]
        raise InvalidQueryError(f"parameter {first.field}: {first.reason}") from None


class DashboardImageController(Controller):
    path = "/api/v1/dashboards"
    tags = ["dashboards"]

    @get(
        "/{dashboard_id:uuid}/image",
        opt=requires("read"),
        media_type=MEDIA_TYPES["png"],
        operation_class=query_operation(ImageQuery, ANSWERS),
    )
    async def get_image(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        dashboard_id: FromPath[UUID],
    ) -> Response[bytes]:
        """Get a dashboard as PNG, SVG or PDF."""
        query = parse_query(request, ImageQuery)
        sees_people = await caller.sees_people()
        async with caller.looking() as tx:
            row = await get_dashboard(Gallery(tx, caller.principal), dashboard_id)
            seen = await get_seen(await hot_door(tx), caller.principal, dashboard_id)
        answers: DashboardAnswers = request.app.state.dashboard_answers
        answered = await answers.get(caller, seen, asked_of(query), sees_people=sees_people)
        # No connection is held while it is drawn.
        return await answer_image(request, caller, row, answered, query)


async def answer_image(
    request: AnyRequest,
    caller: Caller,
    row: DashboardConfig,
    answered: Answered,
    query: ImageQuery,
) -> Response[bytes]:
    """The picture of a dashboard, unless the client has the same one already."""
    picture = picture_of(
        row.name,
        row.description,
        widgets=known_widgets(row.widgets),
        layout=row.layout,
        answers=answered.body,
        format_=query.format,
        theme=query.theme,
        width=query.width,
    )
    tag = _tag(picture, answered)
    headers = {
        "etag": tag,
        "cache-control": "private, no-cache",
        "content-security-policy": SECURITY,
        "content-disposition": _disposition(row.name, query.format, answered.at),
    }
    if tag in [one.strip() for one in request.headers.get("if-none-match", "").split(",")]:
        return Response(b"", status_code=304, headers=headers, media_type=MEDIA_TYPES[query.format])
    renderer: Renderer = request.app.state.renderer
    # Who has a link takes no place from the tenant's own people.
    image = await renderer.render(picture, whose=(caller.tenant_id, caller.principal.kind))
    return Response(image, media_type=MEDIA_TYPES[query.format], headers=headers)


def _tag(picture: Picture, answered: Answered) -> str:
    """The same as long as nothing but the time of asking has changed."""
    looks = msgspec.structs.replace(picture, answers=msgspec.Raw(b"null"))
    told = hashlib.blake2b(msgspec.json.encode(looks), digest_size=16)
    told.update(answered.lasting)
    return f'"{told.hexdigest()}"'


def _disposition(name: str, kind: ImageFormat, moment: datetime) -> str:
    day = f"{moment:%Y-%m-%d}"
    full = quote(f"{name[:100]} {day}.{kind}", safe="")
    return f"inline; filename=\"{file_stem(name)}-{day}.{kind}\"; filename*=UTF-8''{full}"
