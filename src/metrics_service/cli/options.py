"""Types of arguments that several commands take."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import rich_click as click

UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
LONGEST = timedelta(days=36_500)


class Duration(click.ParamType[timedelta]):
    """A number with a unit: 90d, 24h, 15m, 30s, 2w."""

    name = "duration"

    def __init__(self, *, may_be_zero: bool = False) -> None:
        self.may_be_zero = may_be_zero

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        if isinstance(value, timedelta):
            return value
        match = re.fullmatch(r"([0-9]{1,9})([smhdw])", value)
        if match is None:
            self.fail(f"{value!r} is not a duration such as 90d, 24h, 15m or 30s", param, ctx)
        try:
            duration = timedelta(**{UNITS[match[2]]: int(match[1])})
        except OverflowError:
            duration = timedelta.max
        if duration > LONGEST or (not duration and not self.may_be_zero):
            self.fail(f"{value} is out of range", param, ctx)
        return duration


class Moment(click.ParamType[datetime]):
    """A time as RFC 3339 has it; without an offset it is UTC."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(value)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a time such as 2026-11-20T09:30:00Z", param, ctx)
