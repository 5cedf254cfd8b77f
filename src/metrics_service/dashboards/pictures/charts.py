"""Charts: a widget and its answer become a Vega-Lite 6 specification with everything inside it.

Whatever is drawn has been folded, sorted and cut here, so that a specification loads nothing and asks
Vega for no more than marks on scales.
"""

from __future__ import annotations

import msgspec

from metrics_service.dashboards.pictures.charts_by_name import ByName
from metrics_service.dashboards.pictures.charts_over_time import OverTime
from metrics_service.dashboards.pictures.encodings import encoded
from metrics_service.dashboards.pictures.figures import scale_for
from metrics_service.dashboards.pictures.frames import Frame, frame_of
from metrics_service.dashboards.pictures.marks import Spec
from metrics_service.dashboards.pictures.picture import Answer, Look
from metrics_service.dashboards.pictures.theme import config
from metrics_service.dashboards.widgets import Widget

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"

# Marks that stand on each other over time where they add up.
_PILED = frozenset({"bar", "area"})


class Drawing(msgspec.Struct, frozen=True):
    """A specification, and what must be said beside it."""

    spec: Spec
    notes: list[str]
    height: float
    """Of the whole, in pixels."""
    is_empty: bool = False
    """Whether there is nothing but zeros of what is counted."""
    frame: Frame | None = None
    """The points that are drawn; None where the client chose the encoding."""


def vega_lite(widget: Widget, answer: Answer, look: Look) -> Drawing:
    """The chart of a widget; it has the size of its room."""
    if widget.encoding is not None:
        parts, notes = encoded(widget, answer, look)
        return _drawing(parts, look, notes)
    frame = frame_of(widget.query, answer, look)
    time = widget.query.time_column
    is_piled = frame.is_additive and (time is None or widget.mark in _PILED)
    scale = scale_for(frame.highest_pile if is_piled else frame.largest, frame.unit)
    by_name, over_time = ByName(frame, look, scale), OverTime(frame, look, scale)
    if widget.mark == "arc" and frame.is_additive:
        parts = by_name.arcs()
    elif widget.mark == "rect" and frame.series != [""]:
        parts = by_name.heat(time)
    elif time is None:
        parts = by_name.bars()
    elif widget.mark == "bar":
        parts = over_time.columns(time)
    else:
        parts = over_time.lines(widget.mark or "line")
    if time is not None and "layer" in parts:
        parts = over_time.in_time(parts, time, answer)
    is_empty = frame.is_additive and not frame.largest
    drawing = _drawing(parts, look, [*frame.notes, *answer.notes], is_empty=is_empty)
    return msgspec.structs.replace(drawing, frame=frame)


def _drawing(parts: Spec, look: Look, notes: list[str], *, is_empty: bool = False) -> Drawing:
    spec = {
        "$schema": SCHEMA,
        "width": "container" if look.is_fluid else look.width,
        "height": look.height,
        "autosize": {"type": "fit", "contains": "padding"},
        "config": {
            **config(look.theme),
            # The page has the figures in a table beside it.
            "aria": not look.is_fluid,
            # The last label of an axis may stand half beside it.
            "padding": {"left": 0, "top": 2, "right": 6, "bottom": 2} if look.is_fluid else 0,
        },
        **parts,
    }
    return Drawing(spec, notes, spec["height"], is_empty)
