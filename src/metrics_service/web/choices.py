"""What there is to filter figures by: the agents, teams and repositories of late."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from metrics_service.dashboards.data import Row
from metrics_service.dashboards.pictures.agents import agent_name
from metrics_service.dashboards.pictures.lettering import clean
from metrics_service.db.tenancy import ContextConnection
from metrics_service.fields import now
from metrics_service.rollups.queries import SeriesQuery
from metrics_service.rollups.ranges import DAY, ceiling, floor
from metrics_service.rollups.series import read_series
from metrics_service.web.viewer import ChosenPeriod

# What was not there for so long is still found by its name in the address.
CHOICES_DAYS = 90
MAX_CHOICES = 100
MAX_PLACES = 5_000
LONGEST_LABEL = 60


class Option(msgspec.Struct, frozen=True):
    """One of the values in a list to choose from, as it is shown there: an option has no markup."""

    value: str
    label: str
    is_chosen: bool


def option(value: str, label: str, chosen: str | None) -> Option:
    shown = clean(label) or "(no name)"
    if len(shown) > LONGEST_LABEL:
        shown = f"{shown[:LONGEST_LABEL]}…"
    return Option(value, shown, value == chosen)


class Choices(msgspec.Struct, frozen=True):
    """Names that sessions had of late, in the order of the alphabet."""

    known: Mapping[str, list[str]]
    """By the name of the filter."""

    def options(self, name: str, chosen: str | None) -> list[Option]:
        """The values of a filter; what is chosen is always among them."""
        known = self.known[name]
        values = known if chosen is None or chosen in known else [chosen, *known]
        called = agent_name if name == "agent" else str
        return [option(value, called(value), chosen) for value in values]


async def fetch_choices(connection: ContextConnection, period: ChosenPeriod) -> Choices:
    """Those of the latest months, or since the time that the page is about."""
    since = floor(min(now() - CHOICES_DAYS * DAY, period.start), "daily")
    agents = await _counted(connection, ("agent",), since)
    places = await _counted(connection, ("team", "repository"), since)
    return Choices(
        {
            "agent": _most(agents, "agent"),
            "team": _most(places, "team"),
            "repository": _most(places, "repository"),
        }
    )


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
