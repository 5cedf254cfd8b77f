"""The axis of time: few labels, each at what it names."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import msgspec

from metrics_service.dashboards.pictures.marks import DAY_MS, Spec, end_of, expr
from metrics_service.dashboards.pictures.picture import Look

# The room of a label like "16 Nov", and of what Vega chooses by itself.
_LABEL_ROOM = 62
_TICK_ROOM = 95
# Of so many labels every second, fourth or eighth is left over.
_MOST_LABELS = 32

_CLOCK = "%H:%M"


def time_axis(
    time: str,
    places: Sequence[int],
    span: int,
    look: Look,
    *,
    is_ranged: bool,
    along: str = "x",
    form: str | None = None,
) -> Spec:
    """Labels for buckets that begin at `places`: under their middles when they are drawn as ranges.

    Where only the browser knows the width it thins them out.
    """
    is_thinned = look.is_fluid and along == "x"
    # A label is about four times as wide as it is high.
    room = look.width if along == "x" else look.height * 4
    # A week is called by its first day, also under its middle.
    named = f"datum.value - {7 * DAY_MS // 2}" if is_ranged and time == "week" else "datum.value"
    axis: Spec = {
        "title": None,
        "labelExpr": written(named, form or _form(time, span)),
        "tickCount": max(2, int(room // _TICK_ROOM)),
        "labelOverlap": True,
        "labelSeparation": 6,
        "labelFlush": not is_ranged and not is_thinned,
    }
    if is_thinned:
        each = _LABEL_ROOM if _form(time, span) == _CLOCK else _TICK_ROOM
        axis["tickCount"] = expr(f"max(2, floor(width / {each}))")
    if time != "hour":
        # Vega's own ticks would be Sundays, or hours of a day.
        most = _MOST_LABELS if is_thinned else max(2, room // _LABEL_ROOM)
        every = max(1, ceil(len(places) / most))
        shown = places[::every]
        values = [_middle(time, place) for place in shown] if is_ranged else list(shown)
        # See `whole_range`.
        axis["values"] = expr(f"[{', '.join(map(str, values))}]") if look.is_fluid else values
        # Vega would halve them until there are no more than these.
        axis["tickCount"] = len(shown)
    return axis


def written(moment: str, form: str) -> str:
    """Vega's expression for a moment in a form, which is text in it whatever it is."""
    return f"utcFormat({moment}, {msgspec.json.encode(form).decode()})"


def date_form(time: str) -> str:
    """How one hour, day, week or month is written that stands alone."""
    return {"hour": "%-d %b %H:%M", "month": "%b %Y"}.get(time, "%-d %b")


def _form(time: str, span: int) -> str:
    days = span / DAY_MS
    if time == "hour" and days <= 2:
        return _CLOCK
    return "%b %Y" if time == "month" or days > 200 else "%-d %b"


def _middle(time: str, place: int) -> int:
    return (place + end_of(time, place)) // 2
