"""What all charts have in common: one frame in one room, its figures, its colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from metrics_service.dashboards.pictures.figures import GAP, Scale, figure, is_of_failures
from metrics_service.dashboards.pictures.frames import OTHER, Frame, Place, after
from metrics_service.dashboards.pictures.lettering import width as width_of
from metrics_service.dashboards.pictures.picture import Look
from metrics_service.dashboards.pictures.theme import LABEL_SIZE

BEFORE = "period before"
NOW = "this period"

DAY_MS = 86_400_000

# What the browser leaves of the width to a legend that stands above the marks: beside an axis of
# figures, and beside one of names, which may take so much of it.
BESIDE_FIGURES = "containerSize()[0] - 34"
BESIDE_NAMES = "containerSize()[0] * 0.55"
NAMES_ROOM = "containerSize()[0] * 0.42"

# What stands beside a name in a legend.
_LEGEND_MARKS = 34
_LEGEND_LABEL, _WIDE_LEGEND_LABEL = 88, 180
_NARROW = 420

Spec = dict[str, Any]
Values = list[dict[str, Any]]
Told = tuple[str, str, str]
"""A line of a tip: a name, its figure, and the colour that it is drawn in, or none."""


class Chart:
    """A frame, to be drawn in one of several ways."""

    legend_room = BESIDE_FIGURES

    def __init__(self, frame: Frame, look: Look, scale: Scale) -> None:
        self.frame = frame
        self.look = look
        self.scale = scale

    def scaled(self, value: float) -> float:
        return value / self.scale.divisor

    def name_of(self, label: str) -> str:
        """The whole name, or what the figures are where there is but one line of them."""
        return self.frame.full_names.get(label, label) or self.frame.what

    def told(self, place: Place) -> list[Told]:
        """The lines of a tip about one place: every name of which there is anything, and the sum."""
        frame = self.frame
        told: list[Told] = []
        found: list[float] = []
        for number, series in enumerate(frame.series):
            value = frame.points.get((place, series))
            if value is None or (not value and len(frame.series) > 1):
                continue
            colour = self.one_colour().get("color") or self.colour(number, series)
            told.append((self.name_of(series), figure(value, frame.unit), colour))
            found.append(value)
        if frame.is_additive and len(found) > 1 and BEFORE not in frame.series:
            told.append(("total", figure(sum(found), frame.unit), ""))
        if not told and frame.is_additive:
            told.append((self.name_of(""), figure(0, frame.unit), ""))
        return told

    def expression(self, value: str = "datum.value") -> str:
        """Vega's expression for a figure on an axis; made of our own words alone."""
        if self.frame.unit == "share":
            return f"format({value} * 100, ',.3~r') + '{GAP}%'"
        before, after_ = self.scale.before, self.scale.after
        form = ",.2f" if before and not after_ and self.frame.largest < 2e6 else ",.3~r"
        written = f"'{before}' + format({value}, '{form}') + '{after_}'"
        return f"{value} === 0 ? '{before}0' : {written}"

    def figures(self) -> Spec:
        ticks = max(2, int(self.look.height // 48))
        axis: Spec = {"title": None, "grid": True, "labelExpr": self.expression(),
                      "tickCount": ticks}  # fmt: skip
        if self.frame.unit in {"calls", "sessions", "times", "lines"} and self.scale.divisor == 1:
            axis["tickMinStep"] = 1
        return {"type": "quantitative", "axis": axis, "scale": {"zero": True, "nice": ticks}}

    def one_colour(self) -> Spec:
        if len(self.frame.series) > 1:
            return {}
        theme = self.look.theme
        is_bad = all(is_of_failures(name) for name in self.frame.measures)
        return {"color": theme.bad if is_bad else theme.accent}

    def colour(self, number: int, name: str) -> str:
        theme = self.look.theme
        special = {OTHER: theme.other, BEFORE: theme.previous_fill, NOW: theme.accent}
        return special.get(name) or theme.series[number % len(theme.series)]

    def colours(self, *, is_line: bool = False) -> Spec:
        series = self.frame.series
        if len(series) < 2:
            return {}
        colours = [self.colour(number, name) for number, name in enumerate(series)]
        legend = {
            "title": None,
            **in_columns(series, self.look, room=self.legend_room, is_line=is_line),
        }
        scale = {"domain": series, "range": colours}
        return {"color": {"field": "s", "type": "nominal", "scale": scale, "legend": legend}}


def in_columns(names: Iterable[str], look: Look, *, room: str, is_line: bool) -> Spec:
    """A legend that is no wider than its chart."""
    widest = max((width_of(name, LABEL_SIZE) for name in names), default=0.0)
    columns: int | Spec = max(1, int(look.width // (widest + _LEGEND_MARKS)))
    limit: Spec = {}
    if look.is_fluid:
        # Two stand side by side on a phone, though one is long; the table has it whole.
        longest = f"(containerSize()[0] < {_NARROW} ? {_LEGEND_LABEL} : {_WIDE_LEGEND_LABEL})"
        limit = {"labelLimit": expr(longest)}
        # Not by `width`: that changes once more when the axes are in place, and Vega has laid out then.
        each = f"(min({widest:.0f}, {longest}) + {_LEGEND_MARKS})"
        columns = expr(f"max(1, floor(({room}) / {each}))")
    symbol: Spec = (
        {"symbolType": "stroke", "symbolStrokeWidth": 3}
        if is_line
        else {"symbolType": "circle", "symbolStrokeWidth": 0}
    )
    return {"columns": columns, "symbolLimit": 0, **limit, **symbol}


def expr(text: str) -> Spec:
    """What the browser works out, because only it knows how wide the chart is."""
    return {"expr": text}


def whole_range(begin: float, end: float, look: Look) -> Spec:
    """The domain of an axis of time."""
    if not look.is_fluid:
        return {"domain": [begin, end], "nice": False}
    # Of a plain domain Vega-Lite makes `datetime(...)`, which Vega's interpreter understands otherwise.
    return {"domainMin": expr(f"{begin:.0f}"), "domainMax": expr(f"{end:.0f}"), "nice": False}


def tip(title: str, rows: Iterable[Told]) -> Spec:
    """What is said of the place where the pointer is."""
    return {"title": title, "rows": [list(row) for row in rows]}


# Vega hands the whole of it to the page's own tooltip.
TIP = expr("datum.tip")


def over(values: Iterable[Mapping[str, Any]], encoding: Spec) -> Spec:
    """Nothing to see: what the pointer finds, also beside a line or above a low column."""
    mark = {"type": "rect", "fillOpacity": 0, "stroke": None, "tooltip": TIP}
    # A style sheet may light up what the pointer is over by this name.
    return {"name": "over", **layer(values, {**mark, "color": "currentColor"}, encoding)}


def layer(values: Iterable[Mapping[str, Any]], mark: Spec, encoding: Spec) -> Spec:
    return {"data": {"values": list(values)}, "mark": mark, "encoding": encoding}


def end_of(time: str, begin: Any) -> int:
    return int(after(time, datetime.fromtimestamp(begin / 1000, UTC)).timestamp() * 1000)
