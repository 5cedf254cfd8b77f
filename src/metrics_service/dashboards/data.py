"""Answers the widgets of a dashboard, all of them of one moment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, Self
from uuid import UUID

import msgspec

from metrics_service.dashboards.data_request import Asked
from metrics_service.dashboards.periods import previous
from metrics_service.dashboards.widgets import Widget, WidgetQuery, read_widget
from metrics_service.db.failures import translated
from metrics_service.db.tenancy import ContextConnection
from metrics_service.errors import InvalidBodyError, InvalidQueryError, StatementTimeoutError
from metrics_service.fields import now
from metrics_service.http.hidden_people import HIDDEN, PERSON
from metrics_service.rollups.measures import MEASURES
from metrics_service.rollups.queries import MAX_ROWS, SeriesQuery
from metrics_service.rollups.ranges import TIMES
from metrics_service.rollups.series import Series, read_series

Row = dict[str, Any]

PATIENCE = "SELECT current_setting('statement_timeout')::interval"

# PostgreSQL takes nothing more in a transaction of which it broke off a statement, but to go back.
SAVE, GO_BACK = "SAVEPOINT widgets", "ROLLBACK TO SAVEPOINT widgets"


class Column(msgspec.Struct, frozen=True):
    name: str
    type: Literal["time", "text", "number"]
    unit: str | None


class PreviousData(msgspec.Struct, frozen=True):
    from_: datetime = msgspec.field(name="from")
    to: datetime
    rows: list[Row]
    totals: Row | None


class WidgetData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one widget is answered."""

    id: str
    columns: list[Column]
    rows: list[Row]
    totals: Row | None
    """Of a number: its measures over the whole time."""
    previous: PreviousData | None
    from_: datetime = msgspec.field(name="from")
    to: datetime
    truncated: bool
    notes: list[str]
    error: str | None = None
    """Why there are no rows."""


class Person(msgspec.Struct, frozen=True):
    email: str
    name: str | None


class DataMeta(msgspec.Struct, frozen=True):
    from_: datetime = msgspec.field(name="from")
    to: datetime
    tz: str
    updated_at: datetime | None
    """When what was read of the rollups changed last."""
    answered_at: datetime
    """When this was right. It comes last: answers are kept without it."""


class DashboardData(msgspec.Struct, frozen=True):
    data: list[WidgetData]
    names: dict[str, Person]
    """Of the users in the rows, by id."""
    meta: DataMeta


def known_widgets(stored: Iterable[Any]) -> list[Widget]:
    """Those that are widgets as they are understood now; older ones cannot be answered."""
    widgets = []
    for raw in stored:
        try:
            widgets.append(read_widget(raw))
        except InvalidBodyError:
            continue
    return widgets


# -- answering --------------------------------------------------------------------------------------


async def answer(
    connection: ContextConnection,
    widgets: Sequence[Widget],
    asked: Asked,
    *,
    sees_people: bool = True,
) -> DashboardData:
    """Answer all widgets; what one cannot be answered is said in its place.

    In a transaction that is a snapshot they agree with each other. Without `sees_people` nothing is
    answered about individuals.
    """
    budget = await Budget.of(connection)
    await connection.execute(SAVE)
    found = [
        await _answer(connection, widget, asked, budget, sees_people=sees_people)
        for widget in widgets
    ]
    data = [one for one, _ in found]
    updated = [moment for _, moment in found if moment is not None]
    return DashboardData(
        data,
        await _names(connection, widgets, data),
        DataMeta(
            asked.period.start,
            asked.period.end,
            asked.zone.key,
            max(updated, default=None),
            now(),
        ),
    )


def is_cut_off(data: DashboardData) -> bool:
    """Whether a widget was not answered only because it took too long."""
    return any(one.error == _TOO_LATE for one in data.data)


_TOO_LATE = str(StatementTimeoutError())


def is_of_people(question: SeriesQuery) -> bool:
    """Whether the answer tells individuals apart, or is one's own."""
    return PERSON in question.group_by or PERSON in question.filters


class Budget:
    """All widgets together take no longer than one statement of the tenant may, nor endless memory."""

    def __init__(self, patience_s: float) -> None:
        self._clock = asyncio.get_running_loop().time
        self._until = self._clock() + patience_s
        self._rows = MAX_ROWS

    @classmethod
    async def of(cls, connection: ContextConnection) -> Self:
        # Asked for, because a tenant's own limit may be below that of the service.
        patience: timedelta = await connection.fetchval(PATIENCE)
        return cls(patience.total_seconds())

    def check(self) -> None:
        """Raises `StatementTimeoutError`."""
        if self._clock() > self._until:
            raise StatementTimeoutError

    def take(self, series: Series) -> None:
        """Raises `InvalidQueryError`."""
        if len(series.rows) > self._rows:
            raise InvalidQueryError(
                f"the widgets before this one and it have more than {MAX_ROWS:,} rows;"
                " ask for a shorter time, group by less, or give limits"
            )
        self._rows -= len(series.rows)


async def _answer(
    connection: ContextConnection,
    widget: Widget,
    asked: Asked,
    budget: Budget,
    *,
    sees_people: bool,
) -> tuple[WidgetData, datetime | None]:
    """The answer, and when what was read for it changed last."""
    query = widget.query
    period = asked.period_of(query)
    answered = WidgetData(
        id=widget.id,
        columns=_columns(query),
        rows=[],
        totals=None,
        previous=None,
        from_=period.start,
        to=period.end,
        truncated=False,
        notes=asked.notes(query),
    )
    question = asked.query(query, period)
    if not sees_people and is_of_people(question):
        return msgspec.structs.replace(answered, error=HIDDEN), None
    try:
        series, totals = await _read(connection, widget, question, budget)
        before = None
        if query.compare is not None:
            earlier = previous(period, asked.zone)
            then, sums = await _read(
                connection, widget, asked.query(query, earlier), budget, beside=series
            )
            before = PreviousData(earlier.start, earlier.end, then.rows, sums)
    except (InvalidQueryError, StatementTimeoutError) as error:
        return msgspec.structs.replace(answered, error=str(error)), None
    return (
        msgspec.structs.replace(
            answered,
            rows=series.rows,
            totals=totals,
            previous=before,
            truncated=series.is_truncated,
            notes=[*answered.notes, *series.notes],
        ),
        series.updated_at,
    )


async def _read(
    connection: ContextConnection,
    widget: Widget,
    question: SeriesQuery,
    budget: Budget,
    *,
    beside: Series | None = None,
) -> tuple[Series, Row | None]:
    """The rows, and of a number its measures over the whole time.

    What stands beside a limited answer is of the same groups as that: two top tens are not compared.
    """
    budget.check()
    try:
        with translated():
            if beside is None or question.limit is None:
                series = await read_series(connection, question)
            else:
                series = await _read_groups_of(beside.rows, connection, question)
            budget.take(series)
            if widget.kind != "number":
                return series, None
            if not question.group_by:
                return series, series.rows[0]
            whole = msgspec.structs.replace(question, group_by=(), order_by=None, limit=None)
            return series, (await read_series(connection, whole)).rows[0]
    except StatementTimeoutError:
        await connection.execute(GO_BACK)
        raise


async def _read_groups_of(
    rows: Sequence[Row], connection: ContextConnection, question: SeriesQuery
) -> Series:
    """What is answered to the question, without its limit, about the groups of these rows alone."""
    names = [name for name in question.group_by if name not in TIMES]
    shown = {tuple(row[name] for name in names) for row in rows}
    # Each filter is of one column; of several together there may be more than are shown.
    filters = {
        name: tuple({None if group[place] is None else str(group[place]) for group in shown})
        for place, name in enumerate(names)
    }
    series = await read_series(
        connection,
        msgspec.structs.replace(question, filters={**question.filters, **filters}, limit=None),
    )
    kept = [row for row in series.rows if tuple(row[name] for name in names) in shown]
    return msgspec.structs.replace(series, rows=kept)


def _columns(query: WidgetQuery) -> list[Column]:
    groups = [Column(name, "time" if name in TIMES else "text", None) for name in query.group_by]
    units = MEASURES[query.source]
    return [*groups, *(Column(name, "number", units[name].unit) for name in query.measures)]


async def _names(
    connection: ContextConnection, widgets: Sequence[Widget], data: Sequence[WidgetData]
) -> dict[str, Person]:
    ids = {
        row["user_id"]
        for widget, one in zip(widgets, data, strict=True)
        if "user_id" in widget.query.group_by
        for row in [*one.rows, *(one.previous.rows if one.previous else [])]
    }
    return await names_of(connection, ids)


async def names_of(
    connection: ContextConnection, ids: Iterable[UUID | str | None]
) -> dict[str, Person]:
    """Who the users are that are still there."""
    wanted = {str(one) for one in ids if one is not None}
    if not wanted:
        return {}
    rows = await connection.fetch(
        """
        SELECT id, email, name FROM users
        WHERE id IN (SELECT value::uuid FROM json_array_elements_text($1::json))
        """,
        msgspec.json.encode(wanted).decode(),
    )
    return {str(row["id"]): Person(row["email"], row["name"]) for row in rows}
