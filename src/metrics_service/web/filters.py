"""What pages of figures are about: a time and filters, and the values that there are to choose from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import msgspec

from metrics_service.dashboards.data import Row, WidgetData, answer
from metrics_service.dashboards.data_request import DataRequest
from metrics_service.dashboards.pictures.lettering import clean
from metrics_service.dashboards.widgets import Widget, WidgetQuery, span_of
from metrics_service.db.tenancy import ContextConnection
from metrics_service.fields import ShortText, now
from metrics_service.rollups.queries import SeriesQuery
from metrics_service.rollups.ranges import DAY, ceiling, floor
from metrics_service.rollups.series import read_series
from metrics_service.web.figures import Figure, figure_of
from metrics_service.web.viewer import LASTS, ChosenPeriod, PeriodQuery, Viewer, choose_period

FILTERS = ("agent", "team", "repository")

# What was not there for so long is still found by its name in the address.
CHOICES_DAYS = 90
MAX_CHOICES = 100
MAX_PLACES = 5_000
LONGEST_LABEL = 60


class FilterQuery(PeriodQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters that the pages of figures share."""

    agent: ShortText | None = None
    team: ShortText | None = None
    repository: ShortText | None = None


class About(msgspec.Struct, frozen=True):
    """A time, and what is looked at in it."""

    period: ChosenPeriod
    filters: dict[str, str]

    @classmethod
    def of(cls, query: FilterQuery, viewer: Viewer) -> About:
        """Raises `InvalidQueryError` that names the parameter."""
        given = {name: value for name in FILTERS if (value := getattr(query, name)) is not None}
        return cls(choose_period(query, viewer), given)

    @property
    def when(self) -> str:
        """The time, as the end of a sentence."""
        label = self.period.label
        if self.period.last is not None:
            return f"in the {label}"
        first, final = self.period.days
        return f"on {label}" if first == final else f"from {label}"

    @property
    def is_placed(self) -> bool:
        """Whether it is about some teams or repositories alone.

        By these together with a model, a tool or a category there are no hours in the rollups.
        """
        return "team" in self.filters or "repository" in self.filters

    @property
    def key(self) -> tuple[object, ...]:
        """What figures about it depend on."""
        period = self.period
        return (period.last, period.start, period.end, period.zone.key, *self.filters.items())

    def address(self, path: str, **others: str | None) -> str:
        """A page about the same."""
        return self.period.address(path, **{**self.filters, **others})

    def plain_address(self, path: str) -> str:
        """The page about the same time, without any filter."""
        return f"{path}?{urlencode(self.period.parameters)}"

    def asked(self, **filters: str) -> DataRequest:
        return DataRequest(
            from_=self.period.start,
            to=self.period.end,
            tz=self.period.zone.key,
            filters={**self.filters, **filters},
        )

    async def read(
        self, connection: ContextConnection, widgets: Sequence[Widget], **filters: str
    ) -> dict[str, WidgetData]:
        """The answers by the widgets' ids, all about this."""
        answered = await answer(connection, widgets, self.asked(**filters))
        return {one.id: one for one in answered.data}

    def drawn(
        self,
        widget: Widget,
        data: WidgetData,
        measures: str,
        *,
        columns: int,
        height: int = 220,
        **shown: str,
    ) -> Figure:
        """A chart of some of the measures that were answered, in so many columns of twelve.

        `shown` are an `id`, a `title`, a `description` or a `mark` of its own.
        """
        query = msgspec.structs.replace(widget.query, measures=measures.split(), compare=None)
        return figure_of(
            msgspec.structs.replace(widget, kind="chart", query=query, **shown),
            msgspec.structs.replace(data, previous=None),
            {},
            self.period.zone,
            columns=columns,
            height=height,
        )


def question(id_: str, source: str, measures: str, by: str = "", **others: Any) -> Widget:
    """A widget that is only asked: its measures and columns named in one text each.

    `others` are parts of its query, or its `title`, `description` and `mark` where it is drawn too.
    """
    shown = {name: others.pop(name) for name in ("title", "description", "mark") if name in others}
    query = WidgetQuery(source=source, measures=measures.split(), group_by=by.split(), **others)
    return Widget(id=id_, kind="table", query=query, **shown)


def total(rows: Iterable[Row], measure: str) -> int | float:
    """The sum over rows of something that adds up."""
    return sum(row[measure] or 0 for row in rows)


def share(part: float | None, whole: float | None) -> float | None:
    """None of nothing."""
    return part / whole if part is not None and whole else None


# -- what there is to choose from ---------------------------------------------------------------------


class Option(msgspec.Struct, frozen=True):
    """One of the values in a list to choose from, as it is shown there: an option has no markup."""

    value: str
    label: str
    is_chosen: bool


def options(values: Iterable[str], chosen: str | None) -> list[Option]:
    return [Option(value, _label(value), value == chosen) for value in values]


def _label(value: str) -> str:
    shown = clean(value) or "(no name)"
    return shown if len(shown) <= LONGEST_LABEL else f"{shown[:LONGEST_LABEL]}…"


class Choices(msgspec.Struct, frozen=True):
    """Names that sessions had of late, in the order of the alphabet."""

    agents: list[str]
    teams: list[str]
    repositories: list[str]

    def options(self, name: str, chosen: str | None) -> list[Option]:
        """The values of a filter; what is chosen is always among them."""
        known = {"agent": self.agents, "team": self.teams, "repository": self.repositories}[name]
        values = known if chosen is None or chosen in known else [chosen, *known]
        return options(values, chosen)


async def fetch_choices(connection: ContextConnection, about: About) -> Choices:
    """Those of the latest months, or since the time that the page is about."""
    since = floor(min(now() - CHOICES_DAYS * DAY, about.period.start), "daily")
    agents = await _counted(connection, ("agent",), since)
    places = await _counted(connection, ("team", "repository"), since)
    return Choices(_most(agents, "agent"), _most(places, "team"), _most(places, "repository"))


async def _counted(
    connection: ContextConnection, columns: tuple[str, ...], since: datetime
) -> list[Row]:
    # Whole days, so that neither hours nor single sessions are read.
    query = SeriesQuery(
        source="sessions",
        measures=("count",),
        group_by=columns,
        from_=since,
        to=ceiling(now(), "daily"),
        order_by="-count",
        limit=MAX_PLACES,
    )
    return (await read_series(connection, query)).rows


def _most(rows: Iterable[Row], column: str) -> list[str]:
    counted: Counter[str] = Counter()
    for row in rows:
        if row[column]:
            counted[row[column]] += row["count"]
    return sorted((name for name, _ in counted.most_common(MAX_CHOICES)), key=str.casefold)


# -- where there is nothing ---------------------------------------------------------------------------

_NEWEST = """
    SELECT greatest(
        (SELECT started_at FROM metrics_sessions ORDER BY started_at DESC LIMIT 1),
        (SELECT started_at FROM tool_metrics ORDER BY started_at DESC LIMIT 1),
        (SELECT started_at FROM model_calls ORDER BY started_at DESC LIMIT 1))
"""


class Elsewhere(msgspec.Struct, frozen=True):
    """What else to look at where a page has nothing to show."""

    newest: datetime | None
    """Of all that ever arrived; None where nothing did."""
    label: str = ""
    parameters: dict[str, str] = {}
    """A time in which there is something, in words and as an address says it."""


async def find_elsewhere(connection: ContextConnection, about: About) -> Elsewhere:
    newest: datetime | None = await connection.fetchval(_NEWEST)
    if newest is None:
        return Elsewhere(None)
    age = now() - newest
    for last, label in LASTS.items():
        span = span_of(last)
        # The day, or hour, that has begun is part of it: what is nearly as old is not counted on.
        is_longer = span is not None and span > about.period.end - about.period.start
        if span is not None and is_longer and timedelta() <= age < span - DAY:
            return Elsewhere(newest, f"the last {label}", {"last": last})
    day = newest.astimezone(about.period.zone).date().isoformat()
    return Elsewhere(newest, "that day", {"from": day, "to": day})
