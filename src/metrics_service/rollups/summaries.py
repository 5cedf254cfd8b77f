"""What all summaries are asked, and how rollups answer: a time, a zone, what to group by, filters."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from metrics_service.db.listing import After, Before
from metrics_service.errors import InvalidQueryError
from metrics_service.fields import ShortText
from metrics_service.rollups.measures import MEASURES
from metrics_service.rollups.queries import SeriesQuery
from metrics_service.rollups.ranges import TIMES, zone_of
from metrics_service.rollups.series import Series
from metrics_service.rollups.sources import SOURCES


class SummaryQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Subclasses add the filters that their source alone has; a field's name is a dimension."""

    from_: After = msgspec.field(name="from")
    to: Before
    group_by: Annotated[
        str,
        Meta(
            description="Comma-separated: dimensions, and one of hour, day, week, month.",
            examples=["agent,day"],
            max_length=255,
        ),
    ] = ""
    tz: Annotated[
        str,
        Meta(description="Whose days are meant.", examples=["Europe/Berlin"], max_length=255),
    ] = "UTC"
    agent: ShortText | None = None
    user_id: UUID | None = None
    team: ShortText | None = None
    repository: ShortText | None = None

    @property
    def groups(self) -> list[str]:
        return [name for part in self.group_by.split(",") if (name := part.strip())]

    def series(self, source: str, row: type[SummaryRow]) -> SeriesQuery:
        """The question that the rows answer; raises `InvalidQueryError` for what cannot be asked."""
        dimensions = SOURCES[source].dimensions
        groups = self.groups
        if any(name not in (*dimensions, *TIMES) for name in groups):
            raise InvalidQueryError(f"group_by takes any of {', '.join((*dimensions, *TIMES))}")
        return SeriesQuery(
            source=source,
            measures=tuple(name for name in row.__struct_fields__ if name in MEASURES[source]),
            group_by=tuple(groups),
            filters={
                name: (str(value),)
                for name in dimensions
                if (value := getattr(self, name)) is not None
            },
            from_=self.from_,
            to=self.to,
            zone=zone_of(self.tz),
            order_by=groups[0] if groups else None,
        )


class SummaryRow(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The columns that every summary can be grouped by; those that it is not are left out."""

    agent: str | None | msgspec.UnsetType = msgspec.UNSET
    user_id: UUID | None | msgspec.UnsetType = msgspec.UNSET
    team: str | None | msgspec.UnsetType = msgspec.UNSET
    repository: str | None | msgspec.UnsetType = msgspec.UNSET
    hour: datetime | msgspec.UnsetType = msgspec.UNSET
    day: datetime | msgspec.UnsetType = msgspec.UNSET
    week: datetime | msgspec.UnsetType = msgspec.UNSET
    month: datetime | msgspec.UnsetType = msgspec.UNSET


class SummaryMeta(msgspec.Struct, frozen=True):
    """What a summary covers."""

    from_: After = msgspec.field(name="from")
    to: Before
    group_by: list[str]
    tz: str
    updated_at: datetime | None
    """When what was read of the rollups changed last."""
    notes: list[str]

    @classmethod
    def of(cls, query: SummaryQuery, series: Series) -> SummaryMeta:
        return cls(query.from_, query.to, query.groups, query.tz, series.updated_at, series.notes)
