"""`/api/v1/shared/{token}/data` and `/image`: what a dashboard shows to whoever has its link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any
from uuid import UUID

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from litestar.openapi.spec import Example
from litestar.params import Body
from msgspec import Meta

from metrics_service.dashboards.data import DashboardData, PreviousData
from metrics_service.dashboards.data_request import Asked, DataRequest
from metrics_service.dashboards.image_controller import (
    ANSWERS,
    MEDIA_TYPES,
    ImageQuery,
    answer_image,
    asked_of,
)
from metrics_service.dashboards.kept_answers import Answered, DashboardAnswers
from metrics_service.dashboards.seen import Seen
from metrics_service.dashboards.shared_controller import NOBODY
from metrics_service.dashboards.shares import open_link
from metrics_service.db.models import DashboardConfig
from metrics_service.db.tenancy import hot_door
from metrics_service.fields import Instant
from metrics_service.http.bodies import JsonBody
from metrics_service.http.dependencies import AnyRequest, Caller, requires
from metrics_service.http.links import PREFIX
from metrics_service.http.query import parse_query, query_operation
from metrics_service.rollups.version import read_version

ASKED = {"from": "2026-11-01T00:00:00Z", "to": "2026-12-01T00:00:00Z", "tz": "Europe/Berlin"}


class SharedDataRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A time and a zone; no filters, with which a stranger could try what is not shown."""

    from_: Instant | None = msgspec.field(default=None, name="from")
    to: Instant | None = None
    tz: Annotated[str, Meta(max_length=255)] = "UTC"

    def asked(self) -> DataRequest:
        return DataRequest(from_=self.from_, to=self.to, tz=self.tz)


AS_IT_IS = SharedDataRequest()


class SharedDataController(Controller):
    path = f"{PREFIX}{{token:str}}"
    tags = ["shared"]
    opt = requires(None)
    security = NOBODY

    @post("/data", status_code=200, dto=JsonBody[SharedDataRequest], return_dto=None)
    async def post_shared_data(
        self,
        request: AnyRequest,
        caller: NamedDependency[Caller],
        data: Annotated[SharedDataRequest, Body(examples=[Example(value=ASKED)])] = AS_IT_IS,
    ) -> Response[DashboardData]:
        """Answer all widgets of the dashboard of a link, with labels in place of users."""
        _, seen = await _get_seen(caller)
        return (await _answer(request, caller, seen, Asked.of(data.asked()))).response()

    @get(
        "/image",
        media_type=MEDIA_TYPES["png"],
        operation_class=query_operation(ImageQuery, ANSWERS),
    )
    async def get_shared_image(
        self, request: AnyRequest, caller: NamedDependency[Caller]
    ) -> Response[bytes]:
        """Get the dashboard of a link as PNG, SVG or PDF."""
        query = parse_query(request, ImageQuery)
        row, seen = await _get_seen(caller)
        found = await _answer(request, caller, seen, asked_of(query))
        return await answer_image(request, caller, row, found, query)


async def _get_seen(caller: Caller) -> tuple[DashboardConfig, Seen]:
    """The dashboard of the link; raises `NotFoundError`."""
    async with caller.looking() as tx:
        row = await open_link(tx, caller.principal)
        version = await read_version(await hot_door(tx))
    return row, Seen(msgspec.json.encode(row.widgets).decode(), version)


async def _answer(request: AnyRequest, caller: Caller, seen: Seen, asked: Asked) -> Answered:
    links, share_id = caller.database.links, caller.principal.id
    answers: DashboardAnswers = request.app.state.dashboard_answers
    return await answers.get(
        caller,
        seen,
        asked,
        disguise=lambda data: without_people(data, lambda user: links.label(share_id, user)),
    )


def without_people(data: DashboardData, label: Callable[[UUID], str]) -> DashboardData:
    """The same data with a label wherever there is the id of a user, and nobody's name."""

    def rows(given: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {**row, "user_id": label(row["user_id"])} if row.get("user_id") is not None else row
            for row in given
        ]

    def before(given: PreviousData | None) -> PreviousData | None:
        return msgspec.structs.replace(given, rows=rows(given.rows)) if given is not None else None

    shown = [
        msgspec.structs.replace(one, rows=rows(one.rows), previous=before(one.previous))
        for one in data.data
    ]
    return DashboardData(shown, {}, data.meta)
