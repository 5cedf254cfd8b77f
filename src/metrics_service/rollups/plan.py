"""Which rollup rows and facts a query is read from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

from metrics_service.rollups.measures import MEASURES, Measure
from metrics_service.rollups.queries import MAX_ROWS, SeriesQuery
from metrics_service.rollups.ranges import (
    HOUR,
    TIMES,
    Piece,
    Time,
    are_whole_days,
    are_whole_hours,
    ceiling,
    pieces_between,
    starts,
)
from metrics_service.rollups.sources import SOURCES, UNIT, Cube, Grain, Source

# Each takes a tenth of a millisecond to read.
MAX_HISTOGRAMS = 10_000
# Weeks and months of another zone are read from days of UTC, but for the day that each begins in.
MAX_CUTS = 60


class Plan(msgspec.Struct, frozen=True):
    """What a query becomes."""

    query: SeriesQuery
    source: Source
    cubes: Mapping[Grain, Cube]
    """Of each grain the first cube that has all that is asked for; by the hour there may be none."""
    starts: Mapping[Time, list[datetime]]
    """When the days, weeks or months begin that are grouped by."""
    pieces: list[Piece]
    notes: list[str]

    @classmethod
    def of(cls, query: SeriesQuery) -> Plan:
        source = SOURCES[query.source]
        cubes = _cubes(source, {*query.group_by, *query.filters} - set(TIMES))
        found: dict[Time, list[datetime]] = {
            unit: starts(unit, query.from_, query.to, query.zone)
            for unit in ("day", "week", "month")
            if unit in query.group_by
        }
        # What begins before the time itself cuts no day in two.
        cuts = [moment for moments in found.values() for moment in moments[1:]]
        edges: list[datetime] = []
        if "hour" in query.group_by:
            cubes.pop("daily", None)
        elif not are_whole_days(cuts):
            if "day" in query.group_by or len(cuts) > MAX_CUTS:
                cubes.pop("daily", None)
            else:
                edges = [ceiling(cut, "hourly") for cut in cuts]
        parts = pieces_between([query.from_, *edges, query.to], list(cubes))
        return cls(query, source, cubes, found, parts, _notes(query, parts, cuts))

    @property
    def measures(self) -> Mapping[str, Measure]:
        return {name: MEASURES[self.source.name][name] for name in self.query.measures}

    def dimensions_of(self, grain: Grain) -> tuple[str, ...]:
        """What the cube is kept by that is read at a grain."""
        return self.source.cubes(grain)[self.cubes[grain]]

    @property
    def columns(self) -> list[str]:
        """The sums that are read, each once; the number of facts tells whether a group is there."""
        return list(dict.fromkeys(("count", *self.measure_columns)))

    @property
    def measure_columns(self) -> list[str]:
        """The sums that the measures are made of."""
        return [column for one in self.measures.values() for column in one.columns]

    @property
    def has_percentiles(self) -> bool:
        return "durations" in self.columns

    @property
    def most(self) -> int:
        """How many groups are read at most."""
        return MAX_HISTOGRAMS if self.has_percentiles else MAX_ROWS

    @property
    def order(self) -> str | None:
        """What rows are sorted by after they are read, as percentiles are."""
        by = self.query.order_by or self._default_order
        measure = self.measures.get(by.removeprefix("-"))
        return by if measure is not None and measure.share is not None else None

    @property
    def sql_order(self) -> list[str]:
        by = self.query.order_by or self._default_order
        name = by.removeprefix("-")
        direction = "DESC" if by.startswith("-") else "ASC"
        first = [] if self.order else [f"{name} {direction} NULLS LAST"]
        others = (other for other in self.query.group_by if self.order or other != name)
        return [*first, *(f"{other} ASC NULLS LAST" for other in others)]

    @property
    def _default_order(self) -> str:
        times = [name for name in self.query.group_by if name in TIMES]
        return times[0] if times else f"-{self.query.measures[0]}"


def _cubes(source: Source, dimensions: set[str]) -> dict[Grain, Cube]:
    fitting = {
        grain: [cube for cube, kept in source.cubes(grain).items() if dimensions <= set(kept)]
        for grain in UNIT
    }
    return {grain: cubes[0] for grain, cubes in fitting.items() if cubes}


def _notes(query: SeriesQuery, parts: Sequence[Piece], cuts: Sequence[datetime]) -> list[str]:
    if not any(piece.grain == "hourly" for piece in parts):
        return []
    if not are_whole_hours(cuts):
        rule = "each hour of UTC is counted to the day in which it begins"
        return [f"days of {query.zone.key} do not begin on an hour of UTC; {rule}"]
    offset = query.from_.astimezone(query.zone).utcoffset()
    if "hour" in query.group_by and offset is not None and offset % HOUR:
        return [f"hours are those of UTC, which do not begin on the hour in {query.zone.key}"]
    return []
