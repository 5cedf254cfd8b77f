"""What all charts have in common: one frame in one room, its figures, its colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from metrics_service.dashboards.pictures.figures import GAP, Scale, is_of_failures
from metrics_service.dashboards.pictures.frames import OTHER, Frame, after
from metrics_service.dashboards.pictures.lettering import width as width_of
from metrics_service.dashboards.pictures.picture import Look
from metrics_service.dashboards.pictures.theme import LABEL_SIZE

BEFORE = "period before"
NOW = "this period"

DAY_MS = 86_400_000

# What stands beside a name in a legend.
_LEGEND_MARKS = 34

Spec = dict[str, Any]
Values = list[dict[str, Any]]


class Chart:
    """A frame, to be drawn in one of several ways."""

    def __init__(self, frame: Frame, look: Look, scale: Scale) -> None:
        self.frame = frame
        self.look = look
        self.scale = scale

    def scaled(self, value: float) -> float:
        return value / self.scale.divisor

    def expression(self) -> str:
        """Vega's expression for a figure on an axis; made of our own words alone."""
        if self.frame.unit == "share":
            return f"format(datum.value * 100, ',.3~r') + '{GAP}%'"
        before, after_ = self.scale.before, self.scale.after
        form = ",.2f" if before and not after_ and self.frame.largest < 2e6 else ",.3~r"
        written = f"'{before}' + format(datum.value, '{form}') + '{after_}'"
        return f"datum.value === 0 ? '{before}0' : {written}"

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
        legend = {"title": None, **in_columns(series, self.look, is_line=is_line)}
        scale = {"domain": series, "range": colours}
        return {"color": {"field": "s", "type": "nominal", "scale": scale, "legend": legend}}


def in_columns(names: Iterable[str], look: Look, *, is_line: bool) -> Spec:
    """A legend that is no wider than its chart."""
    widest = max((width_of(name, LABEL_SIZE) for name in names), default=0.0) + _LEGEND_MARKS
    columns = max(1, int(look.width // widest))
    symbol: Spec = (
        {"symbolType": "stroke", "symbolStrokeWidth": 3}
        if is_line
        else {"symbolType": "circle", "symbolStrokeWidth": 0}
    )
    return {"columns": columns, "symbolLimit": 0, **symbol}


def layer(values: Iterable[Mapping[str, Any]], mark: Spec, encoding: Spec) -> Spec:
    return {"data": {"values": list(values)}, "mark": mark, "encoding": encoding}


def end_of(time: str, begin: Any) -> int:
    return int(after(time, datetime.fromtimestamp(begin / 1000, UTC)).timestamp() * 1000)
