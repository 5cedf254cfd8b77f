"""A whole dashboard as one SVG: a head, cards on a grid of twelve columns, and a foot."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from metrics_service.dashboards.layout import GRID_COLUMNS, Place
from metrics_service.dashboards.pictures import markup, tiles
from metrics_service.dashboards.pictures.charts import vega_lite
from metrics_service.dashboards.pictures.lettering import wrap
from metrics_service.dashboards.pictures.periods import day_in_words, range_in_words
from metrics_service.dashboards.pictures.picture import Answer, Answers, Look, Meta, Picture
from metrics_service.dashboards.pictures.theme import THEMES, TITLE_SIZE, Theme
from metrics_service.dashboards.widgets import Widget

# Everything is laid out at this width; another one is the same picture, larger or smaller.
WIDTH = 1200
MARGIN = 28
GAP = 16
ROW_HEIGHT = 52
PADDING = 16
HEAD_HEIGHT = 92
FOOT_HEIGHT = 40

USUAL = Place(0, 0, 6, 4)

Draw = Callable[[dict[str, Any]], str]
"""Makes an SVG of a Vega-Lite specification."""


class Card(msgspec.Struct, frozen=True):
    """A widget's rectangle on the page."""

    widget: Widget
    x: float
    y: float
    width: float
    height: float


def size_of(picture: Picture) -> tuple[int, int]:
    """Width and height of the picture that will come out."""
    _, height = _cards(picture)
    return picture.width, round(height * picture.width / WIDTH)


def compose(picture: Picture, draw: Draw) -> str:
    """The dashboard as SVG; what `draw` raises is said in its card."""
    theme = THEMES[picture.theme]
    told = msgspec.json.decode(picture.answers, type=Answers)
    meta = _of_all(told)
    zone = ZoneInfo(meta.tz)
    answers = {answer.id: answer for answer in told.data}
    cards, height = _cards(picture)
    look = Look(width=0, height=0, theme=theme, zone=zone, names=told.names)
    parts = [
        markup.rect(0, 0, WIDTH, height, fill=theme.page),
        _head(picture, meta, theme, zone),
    ]
    for number, card in enumerate(cards):
        answer = answers.get(card.widget.id)
        own_range = "" if answer is None else _own_range(answer, meta, zone)
        parts.append(_card(card, answer, own_range, look, draw, f"w{number}-"))
    if not cards:
        parts.append(_said("This dashboard has no widgets yet.", theme, WIDTH, HEAD_HEIGHT + 40))
    parts.append(_foot(meta, theme, zone, height))
    outer_width, outer_height = size_of(picture)
    svg = (
        f'<svg xmlns="{markup.SVG}" width="{outer_width}" height="{outer_height}"'
        f' viewBox="0 0 {WIDTH} {height:g}">{"".join(parts)}</svg>'
    )
    markup.check(svg)
    return svg


# -- the grid ---------------------------------------------------------------------------------------


def _cards(picture: Picture) -> tuple[list[Card], float]:
    """Where everything stands, and how high the page is; rows without any widget take no room."""
    places = _places(picture)
    used = sorted({row for place in places.values() for row in range(place.y, place.y + place.h)})
    line_of = {row: number for number, row in enumerate(used)}
    column = (WIDTH - 2 * MARGIN + GAP) / GRID_COLUMNS
    line = ROW_HEIGHT + GAP
    cards = [
        Card(
            widget=widget,
            x=MARGIN + place.x * column,
            y=HEAD_HEIGHT + line_of[place.y] * line,
            width=place.w * column - GAP,
            height=place.h * line - GAP,
        )
        for widget in picture.widgets
        for place in [places[widget.id]]
    ]
    lines = len(used) if used else 2
    return cards, HEAD_HEIGHT + lines * line + FOOT_HEIGHT


def _places(picture: Picture) -> dict[str, Place]:
    found = {w.id: picture.layout[w.id] for w in picture.widgets if w.id in picture.layout}
    bottom = max((place.y + place.h for place in found.values()), default=0)
    unplaced = [widget.id for widget in picture.widgets if widget.id not in found]
    for number, name in enumerate(unplaced):
        row, column = divmod(number, GRID_COLUMNS // USUAL.w)
        found[name] = Place(column * USUAL.w, bottom + row * USUAL.h, USUAL.w, USUAL.h)
    return found


# -- what stands around the cards -------------------------------------------------------------------


def _head(picture: Picture, meta: Meta, theme: Theme, zone: ZoneInfo) -> str:
    right = WIDTH - MARGIN
    span = f"{day_in_words(meta.from_, zone)} to {day_in_words(meta.to, zone, is_end=True)}"
    return (
        markup.text(
            MARGIN, 42, picture.name, size=24, colour=theme.text, room=WIDTH * 0.66, is_bold=True
        )
        + markup.text(
            MARGIN, 66, picture.description, size=13, colour=theme.muted, room=WIDTH * 0.72
        )
        + markup.text(
            right, 40, span, size=14, colour=theme.text, room=WIDTH * 0.3, anchor="end",
            is_bold=True,
        )
        + markup.text(
            right, 62, f"times in {meta.tz}", size=12, colour=theme.muted, room=WIDTH * 0.25,
            anchor="end",
        )
    )  # fmt: skip


def _of_all(told: Answers) -> Meta:
    """What the head says; where all widgets have one range of their own, it is that one."""
    ranges = {(answer.from_, answer.to) for answer in told.data}
    if len(ranges) != 1:
        return told.meta
    ((begin, end),) = ranges
    return msgspec.structs.replace(told.meta, from_=begin, to=end)


def _own_range(answer: Answer, meta: Meta, zone: ZoneInfo) -> str:
    """The range of a widget that is not about what the head says, as short as it is clear."""
    if (answer.from_, answer.to) == (meta.from_, meta.to):
        return ""
    year = f"{meta.to.astimezone(zone):%Y}"
    return range_in_words(answer.from_, answer.to, zone, known_year=year)


def _foot(meta: Meta, theme: Theme, zone: ZoneInfo, height: float) -> str:
    updated = f"data as of {_minute(meta.updated_at, zone)}" if meta.updated_at else "no data yet"
    made = f"drawn {_minute(meta.answered_at, zone)} {meta.tz}"
    y = height - 20
    return markup.text(MARGIN, y, updated, size=11, colour=theme.muted, room=500) + markup.text(
        WIDTH - MARGIN, y, made, size=11, colour=theme.muted, room=500, anchor="end"
    )


def _minute(moment: datetime, zone: ZoneInfo) -> str:
    return moment.astimezone(zone).strftime("%-d %b %Y %H:%M")


# -- cards ------------------------------------------------------------------------------------------


def _card(
    card: Card, answer: Answer | None, own_range: str, look: Look, draw: Draw, prefix: str
) -> str:
    theme = look.theme
    widget = card.widget
    room = card.width - 2 * PADDING
    is_number = widget.kind == "number"
    parts = [
        markup.rect(
            0.5, 0.5, card.width - 1, card.height - 1, fill=theme.card, stroke=theme.border,
            radius=8,
        )
    ]  # fmt: skip
    top = PADDING + TITLE_SIZE
    parts.append(
        markup.text(
            PADDING, top - 2, widget.title, size=12.5 if is_number else TITLE_SIZE,
            colour=theme.muted if is_number else theme.text, room=room, is_bold=not is_number,
        )
    )  # fmt: skip
    about = [own_range] if is_number else [own_range, widget.description]
    if said := " · ".join(filter(None, about)):
        # A figure in the lowest card has room for no more than this.
        top += 14 if is_number else 17
        parts.append(markup.text(PADDING, top - 2, said, size=12, colour=theme.muted, room=room))
    top += 6 if is_number else 10
    inner = msgspec.structs.replace(look, width=room, height=card.height - top - PADDING)
    drawn, notes = _content(widget, answer, inner, draw, prefix)
    if notes and not is_number:
        inner = msgspec.structs.replace(inner, height=inner.height - 16)
        drawn, notes = _content(widget, answer, inner, draw, prefix)
        parts.append(
            markup.text(
                PADDING, card.height - PADDING + 3, "; ".join(dict.fromkeys(notes)), size=11,
                colour=theme.muted, room=room,
            )
        )  # fmt: skip
    parts.append(f'<g transform="translate({PADDING},{top:g})">{drawn}</g>')
    return f'<g transform="translate({card.x:g},{card.y:g})">{"".join(parts)}</g>'


def _content(
    widget: Widget, answer: Answer | None, look: Look, draw: Draw, prefix: str
) -> tuple[str, list[str]]:
    """The inside of a card, and the notes below it."""
    theme = look.theme
    if answer is None:
        return _said("There is no answer for this widget.", theme, look.width, look.height / 2), []
    if answer.error is not None:
        return _said(answer.error, theme, look.width, look.height / 2, is_error=True), []
    if not answer.rows and answer.totals is None:
        return _said("Nothing in this range.", theme, look.width, look.height / 2), []
    if widget.kind != "chart":
        draw_tile = tiles.number if widget.kind == "number" else tiles.table
        tile = draw_tile(widget, answer, look)
        return tile.svg, tile.notes
    return _chart(widget, answer, look, draw, prefix)


def _chart(
    widget: Widget, answer: Answer, look: Look, draw: Draw, prefix: str
) -> tuple[str, list[str]]:
    theme = look.theme
    drawing = vega_lite(widget, answer, look)
    if drawing.is_empty:
        return _said("Nothing but zeros in this range.", theme, look.width, look.height / 2), []
    try:
        svg = draw(drawing.spec)
        chart = markup.admit(svg, prefix)
    except (ValueError, markup.ForeignMarkupError):
        # A client may ask for a format or a scale that Vega has not.
        failed = "This chart cannot be drawn; look at its encoding."
        return _said(failed, theme, look.width, look.height / 2, is_error=True), []
    return markup.placed(chart, 0, 0, look.width, look.height), drawing.notes


def _said(words: str, theme: Theme, width: float, middle: float, *, is_error: bool = False) -> str:
    colour = theme.bad if is_error else theme.muted
    lines = wrap(words, width - 16, 12.5, most=3)
    top = middle - (len(lines) - 1) * 9
    return "".join(
        markup.text(
            width / 2, top + number * 18, line, size=12.5, colour=colour, room=width,
            anchor="middle",
        )
        for number, line in enumerate(lines)
    )  # fmt: skip
