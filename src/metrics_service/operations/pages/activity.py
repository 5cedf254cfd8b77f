"""A day of requests and records: by five minutes to look at, by hours to read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from metrics_service.fleet.views import ActivityView
from metrics_service.operations.pages.drawings import Line, by_bucket, line_of

_SHOWN = (
    ("Requests", "requests"),
    ("Failed", "failures"),
    ("Refused", "refusals"),
    ("Records stored", "records"),
)


class Rate(msgspec.Struct, frozen=True):
    """Something by five minutes over the last day."""

    label: str
    line: Line | None
    latest: float
    """In the last whole five minutes."""
    total: float
    is_bad: bool


class Hour(msgspec.Struct, frozen=True):
    """What was done within an hour."""

    start: datetime
    requests: int
    failures: int
    refusals: int
    records: int
    bytes: int


def rates_of(activity: Sequence[ActivityView], now: datetime) -> list[Rate]:
    rates = []
    for label, name in _SHOWN:
        values = by_bucket({one.bucket: getattr(one, name) for one in activity}, now)
        rates.append(Rate(label, line_of(values), values[-1], sum(values), name == "failures"))
    return rates


def hours_of(activity: Sequence[ActivityView]) -> list[Hour]:
    """The newest first; those in which nothing happened are left out."""
    names = Hour.__struct_fields__[1:]
    sums: dict[datetime, list[int]] = {}
    for one in activity:
        into = sums.setdefault(one.bucket.replace(minute=0), [0] * len(names))
        for index, name in enumerate(names):
            into[index] += getattr(one, name)
    return [Hour(start, *sums[start]) for start in sorted(sums, reverse=True)]
