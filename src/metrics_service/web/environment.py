"""The templates, and how they write figures, times and what users have named."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from metrics_service.dashboards.pictures.agents import agent_name
from metrics_service.dashboards.pictures.figures import change, figure, words
from metrics_service.dashboards.pictures.lettering import clean
from metrics_service.web.viewer import LASTS

TEMPLATES = Path(__file__).parent / "templates"
LONGEST_NAME = 120
NOTHING = "\N{EN DASH}"

_FORMS = {"full": "%d %b %Y, %H:%M", "clock": "%H:%M:%S", "day": "%d %b %Y"}
_TIME = Markup('<time datetime="{}" title="{}">{}</time>')
_LIVING_TIME = Markup('<time datetime="{}" title="{}" data-ago>{}</time>')


def named(text: object, longest: int = LONGEST_NAME) -> Markup:
    """A name that somebody has given: on one line, its direction its own, cut when it is long."""
    shown = clean(str(text))
    if not shown:
        return Markup('<span class="muted">(no name)</span>')
    if len(shown) <= longest:
        return Markup("<bdi>{}</bdi>").format(shown)
    return Markup('<bdi title="{}">{}…</bdi>').format(shown, shown[:longest])


def person(user: Any) -> str:
    """What to call a user of whom something is known, if only an id."""
    return user.name or user.email or f"person {str(user.id)[:8]}"


@pass_context
def moment(context: Context, value: datetime | None, style: str = "full") -> Markup:
    """A time on the viewer's clock; scripts say beside it how long ago that is."""
    if value is None:
        return escape(NOTHING)
    zone: ZoneInfo = context["viewer"].zone
    there = value.astimezone(zone)
    # What is written in full, scripts make shorter.
    shown = _LIVING_TIME if style == "full" else _TIME
    title = f"{there:%d %b %Y, %H:%M:%S} {zone.key}"
    return shown.format(value.isoformat(), title, f"{there:{_FORMS[style]}}")


def duration(milliseconds: float | None) -> str:
    """A time that something took."""
    return figure(milliseconds, "ms")


def money(micros: float | None) -> str:
    return figure(micros, "usd_micros")


def size(count: float | None) -> str:
    """Bytes, in binary units."""
    if count is None:
        return NOTHING
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f}\xa0{unit}" if unit == "B" else f"{count:.1f}\xa0{unit}"
        count /= 1024
    return f"{count:.1f}\xa0GiB"


def capitalize_first(text: str) -> str:
    """A note as a sentence; the rest of it stays as it is."""
    return text[:1].upper() + text[1:]


def json_block(value: Any, name: str | None = None) -> Markup:
    """Data for scripts; a browser does not run it, and nothing in it ends the element."""
    encoded = msgspec.json.encode(value).decode().replace("<", "\\u003c")
    shown = Markup(' id="{}"').format(name) if name is not None else ""
    data = Markup(encoded)  # noqa: S704  # JSON without any < ends no element
    return Markup('<script type="application/json"{}>{}</script>').format(shown, data)


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        cache_size=-1,
    )
    made.filters.update(
        agent=agent_name,
        figure=figure,
        moment=moment,
        duration=duration,
        money=money,
        size=size,
        name=named,
        person=person,
        words=words,
        json_block=json_block,
        capitalize_first=capitalize_first,
    )
    made.globals.update(change=change, LASTS=LASTS)
    return made


ENVIRONMENT = _environment()
