"""Why this number: from one figure of a widget to the rollup rows, sessions and calls behind it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from metrics_service.dashboards.data import Person, is_of_people, names_of
from metrics_service.dashboards.data_request import Asked, DataRequest
from metrics_service.dashboards.layout import MAX_SHOWN
from metrics_service.dashboards.widgets import Widget
from metrics_service.db.tenancy import ContextConnection
from metrics_service.errors import FieldError, ForbiddenError, InvalidBodyError, InvalidQueryError
from metrics_service.http.hidden_people import HIDDEN, PERSON, shown
from metrics_service.rollups.behind import Behind, find_behind
from metrics_service.rollups.plan import Plan
from metrics_service.rollups.queries import SeriesQuery
from metrics_service.rollups.ranges import HOUR, TIMES, ceiling

NOT_SHOWN = "must be a time of the answer; send the tz, from and to that /data was asked with"


class OriginRequest(DataRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A figure of a widget; the rest as it was asked for at `/data`."""

    widget: str
    measure: str
    row: dict[str, str | None] = {}
    """The columns that the row is grouped by; without any it is the figure of all together."""


class Origin(Behind, frozen=True, kw_only=True):
    """What is behind a figure, and when."""

    widget: str
    measure: str
    from_: datetime = msgspec.field(name="from")
    to: datetime
    names: dict[str, Person]


async def find_origin(
    connection: ContextConnection,
    widgets: Sequence[Widget],
    request: OriginRequest,
    *,
    sees_people: bool = True,
) -> Origin:
    """Raises `InvalidBodyError` for a figure that no widget shows.

    Without `sees_people` what is behind it is nobody's, and `ForbiddenError` for figures of individuals.
    """
    asked = Asked.of(request)
    widget = next((one for one in widgets if one.id == request.widget), None)
    if widget is None:
        raise _refused("widget", "there is no such widget that can be answered")
    if request.measure not in widget.query.measures:
        raise _refused("measure", f"must be one of {', '.join(widget.query.measures)}")
    whole = asked.query(widget.query, asked.period_of(widget.query))
    if not sees_people and is_of_people(whole):
        raise ForbiddenError(HIDDEN)
    query = _narrowed(whole, request)
    try:
        behind = await find_behind(connection, query)
    except InvalidQueryError as error:
        raise InvalidBodyError([FieldError(str(error), field="widget")]) from None
    if not sees_people:
        behind = _of_nobody(behind)
    people: set[UUID | str | None] = {row.user_id for row in behind.sessions.rows}
    people |= {row.user_id for row in behind.rows.rows} if behind.rows else set()
    people |= {row.dimensions.get("user_id") for row in behind.rollups.rows}
    return Origin(
        **msgspec.structs.asdict(behind),
        widget=widget.id,
        measure=request.measure,
        from_=query.from_,
        to=query.to,
        names=await names_of(connection, people),
    )


def _of_nobody(behind: Behind) -> Behind:
    replace = msgspec.structs.replace
    rollups = [
        replace(row, dimensions={**row.dimensions, PERSON: None})
        if PERSON in row.dimensions
        else row
        for row in behind.rollups.rows
    ]
    sessions = [shown(row, sees_people=False) for row in behind.sessions.rows]
    facts = behind.rows
    if facts is not None:
        facts = replace(facts, rows=[shown(row, sees_people=False) for row in facts.rows])
    return replace(
        behind,
        rollups=replace(behind.rollups, rows=rollups),
        sessions=replace(behind.sessions, rows=sessions),
        rows=facts,
    )


def _narrowed(query: SeriesQuery, request: OriginRequest) -> SeriesQuery:
    """The question whose one answer is the figure."""
    filters = dict(query.filters)
    start, end = query.from_, query.to
    for name, value in request.row.items():
        field = f"row.{name[:MAX_SHOWN]}"
        if name not in query.group_by:
            raise _refused(field, f"must be one of {', '.join(query.group_by) or 'none'}")
        if name in TIMES:
            start, end = _time(query, name, value)
            continue
        wanted = _id(field, value) if name == "user_id" and value is not None else value
        # One that its filters leave out is in no row, and nothing is behind it.
        is_let_through = wanted in filters.get(name, (wanted,))
        filters[name] = (wanted,) if is_let_through else ()
    return msgspec.structs.replace(
        query,
        measures=(request.measure,),
        group_by=(),
        filters=filters,
        from_=start,
        to=end,
        order_by=None,
        limit=None,
    )


def _id(field: str, value: str) -> str:
    try:
        return str(UUID(value))
    except ValueError:
        raise _refused(field, "must be the id of a user") from None


def _time(query: SeriesQuery, name: str, value: str | None) -> tuple[datetime, datetime]:
    """The part of the query's time that is counted to one of its hours, days, weeks or months."""
    field = f"row.{name}"
    try:
        moment = msgspec.convert(value, datetime)
    except msgspec.ValidationError:
        raise _refused(field, NOT_SHOWN) from None
    if moment.tzinfo is None:
        raise _refused(field, "must be a time with an offset")
    plan = Plan.of(query)
    if name == "hour":
        # Compared first: to the first and the last of all times nothing can be added.
        if not query.from_ - HOUR < moment < query.to:
            raise _refused(field, NOT_SHOWN)
        start, end = moment, moment + HOUR
        is_there = moment == ceiling(moment, "hourly")
    else:
        moments = next(found for unit, found in plan.starts.items() if unit == name)
        is_there = moment in moments
        start = moment
        end = next((later for later in moments if later > moment), query.to)
    if not is_there:
        raise _refused(field, NOT_SHOWN)
    if any(piece.grain == "hourly" for piece in plan.pieces):
        # An hour is counted where it begins, also in zones whose days begin within one.
        start = start if start <= query.from_ else ceiling(start, "hourly")
        end = end if end >= query.to else ceiling(end, "hourly")
    return max(start, query.from_), min(end, query.to)


def _refused(field: str, reason: str) -> InvalidBodyError:
    return InvalidBodyError([FieldError(reason, field=field)])
