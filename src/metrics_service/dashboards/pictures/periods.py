"""Ranges of time in words, as people of a zone say them."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

_FORMS = {"hour": "%-d %b %H:%M", "day": "%a %-d %b", "week": "week of %-d %b", "month": "%B %Y"}


def day_in_words(moment: datetime, zone: ZoneInfo, *, is_end: bool = False) -> str:
    """The day that begins or, exclusively, ends at the moment; with the time where that is none."""
    there = moment.astimezone(zone)
    is_midnight = (there.hour, there.minute) == (0, 0)
    if not is_midnight:
        return there.strftime("%-d %b %Y %H:%M")
    if is_end:
        # The end is exclusive, and people name the last day that counts.
        there = datetime.fromtimestamp(there.timestamp() - 1, zone)
    return there.strftime("%-d %b %Y")


def range_in_words(begin: datetime, end: datetime, zone: ZoneInfo, *, known_year: str = "") -> str:
    """As short as it is clear; without the year where the reader knows that it is this one."""
    first, last = day_in_words(begin, zone), day_in_words(end, zone, is_end=True)
    year = f" {known_year}"
    if known_year and first.endswith(year) and last.endswith(year):
        first, last = first.removesuffix(year), last.removesuffix(year)
    if first == last:
        return first
    day, _, month = first.partition(" ")
    is_short = ":" not in last and last.endswith(f" {month}")
    return f"{day if is_short else first} to {last}"


def time_in_words(time: str, wall: int) -> str:
    """An hour, day, week or month that begins so many milliseconds after 1970 on the viewer's clock."""
    return datetime.fromtimestamp(wall / 1000, UTC).strftime(_FORMS[time])


def whole_time_in_words(time: str, wall: int) -> str:
    """The same for who sees nothing around it: with its year, and an hour with its end."""
    form = _FORMS[time].replace("%b", "%b %Y")
    if time == "hour":
        form += f" to {(datetime.fromtimestamp(wall / 1000, UTC).hour + 1) % 24:02}:00"
    return datetime.fromtimestamp(wall / 1000, UTC).strftime(form)
