"""What pages of figures are about: a time, and filters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from metrics_service.dashboards.data import Row, WidgetData, answer
from metrics_service.dashboards.data_request import Asked, DataRequest
from metrics_service.dashboards.widgets import Widget, WidgetQuery
from metrics_service.db.tenancy import ContextConnection
from metrics_service.fields import ShortText
from metrics_service.web.figures import Figure, figure_of
from metrics_service.web.viewer import ChosenPeriod, Last, PeriodQuery, Viewer, choose_period

FILTERS = ("agent", "team", "repository")


class FilterQuery(PeriodQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters that the pages of figures share."""

    agent: ShortText | None = None
    team: ShortText | None = None
    repository: ShortText | None = None

    @property
    def filters(self) -> dict[str, str]:
        """Those that are given."""
        return {name: value for name in FILTERS if (value := getattr(self, name)) is not None}


class About(msgspec.Struct, frozen=True):
    """A time, and what is looked at in it."""

    period: ChosenPeriod
    filters: dict[str, str]

    @classmethod
    def of(cls, query: FilterQuery, viewer: Viewer, *, default: Last = "7d") -> About:
        """Raises `InvalidQueryError` that names the parameter."""
        return cls(choose_period(query, viewer, default=default), query.filters)

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
        times = (period.last, period.start, period.end, period.zone.key, period.is_given)
        return (*times, *self.filters.items())

    def address(self, path: str, **others: str | None) -> str:
        """A page about the same."""
        return self.period.address(path, **{**self.filters, **others})

    def asked(self, **filters: str | None) -> Asked:
        return Asked.of(
            DataRequest(
                from_=self.period.start,
                to=self.period.end,
                tz=self.period.zone.key,
                filters={**self.filters, **filters},
            )
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


def troubles(answers: Iterable[WidgetData]) -> list[str]:
    """Why some of them could not be answered, each reason once."""
    return list(dict.fromkeys(one.error for one in answers if one.error))
