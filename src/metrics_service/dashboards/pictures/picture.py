"""What a picture is made from: a dashboard, and what its widgets are answered (as `/data` says it)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal
from zoneinfo import ZoneInfo

import msgspec

from metrics_service.dashboards.layout import Place
from metrics_service.dashboards.pictures.agents import agent_name
from metrics_service.dashboards.pictures.lettering import clean
from metrics_service.dashboards.pictures.theme import LIGHT, Theme, ThemeName
from metrics_service.dashboards.widgets import Widget

Row = dict[str, Any]
ImageFormat = Literal["png", "svg", "pdf"]

UNKNOWN = "(not known)"

LENGTH = struct.Struct(">I")
"""Stands before a picture on its way to the process that draws, and before the image on its way back."""
DRAWN, FAILED = b"\x01", b"\x00"
"""What comes before that: whether it is an image, or says why there is none."""


class Previous(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of the period before."""

    from_: datetime = msgspec.field(name="from")
    to: datetime
    rows: list[Row]
    totals: Row | None = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What one widget is answered."""

    id: str
    from_: datetime = msgspec.field(name="from")
    to: datetime
    rows: list[Row] = []
    totals: Row | None = None
    """Of a number: its measures over the whole time."""
    previous: Previous | None = None
    truncated: bool = False
    notes: list[str] = []
    error: str | None = None


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """Of all answers."""

    from_: datetime = msgspec.field(name="from")
    to: datetime
    tz: str
    updated_at: datetime | None
    answered_at: datetime


class Person(msgspec.Struct, frozen=True):
    email: str | None = None
    name: str | None = None


class Answers(msgspec.Struct, frozen=True):
    """The body of `/data`, as far as a picture shows it."""

    data: list[Answer]
    meta: Meta
    names: dict[str, Person] = {}
    """Of the users in the rows, by id."""


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """A whole dashboard to be drawn, and how."""

    name: str
    description: str
    widgets: list[Widget]
    layout: dict[str, Place]
    answers: msgspec.Raw
    """`Answers` in JSON: the server has no use for them."""
    format: ImageFormat = "png"
    theme: ThemeName = "light"
    width: int = 1200


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """How one widget is drawn: its room in pixels, its colours, whose days these are."""

    width: float
    height: float
    theme: Theme = LIGHT
    zone: ZoneInfo = ZoneInfo("UTC")
    names: Mapping[str, Person] = {}
    is_fluid: bool = False
    """Whether the width is only a guess, because the page will say what it is."""

    def named(self, column: str, value: Any) -> str:
        """What people call the value of a column that is not a time."""
        if value is None:
            return UNKNOWN
        text = str(value)
        if column == "user_id" and (person := self.names.get(text)):
            text = person.name or person.email or text
        if column == "agent":
            text = agent_name(text)
        return clean(text) or UNKNOWN

    def wall(self, moment: datetime) -> int:
        """Milliseconds since 1970 on the viewer's clock; pictures know no other zone."""
        there = moment.astimezone(self.zone)
        return int(there.replace(tzinfo=UTC).timestamp() * 1000)


# Many rows are of one time; the text of a time tells nothing about whose it is.
@lru_cache(maxsize=4096)
def wall_of(text: str) -> int:
    """A time as rows have it, which is on the viewer's clock already."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)
