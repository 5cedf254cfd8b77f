"""Charts by name: bars, rings and heat maps."""

from __future__ import annotations

from math import floor, log10
from typing import Any

from metrics_service.dashboards.pictures.figures import figure
from metrics_service.dashboards.pictures.frames import OTHER, Place
from metrics_service.dashboards.pictures.marks import (
    BEFORE,
    BESIDE_NAMES,
    NAMES_ROOM,
    NOW,
    TIP,
    Chart,
    Spec,
    Values,
    end_of,
    expr,
    layer,
    over,
    tip,
)
from metrics_service.dashboards.pictures.periods import whole_time_in_words
from metrics_service.dashboards.pictures.theme import LABEL_SIZE

# The room that one bar with its label takes.
BAR_HEIGHT = 24
BETWEEN_BARS = 0.28
MAX_ACROSS = 20
# A name in less room stands aslant.
LEAST_ACROSS = 44

_ROUND = (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)

# The radius of a ring as wide or as high as its room.
_HALF = "min(width, height) / 2"


class ByName(Chart):
    """Names stand along an axis, or around a ring."""

    legend_room = BESIDE_NAMES

    def bars(self) -> Spec:
        """Lying bars, the longest on top, each with its figure at the end."""
        frame, look = self.frame, self.look
        if frame.series == [""] and any((frame.before or {}).values()):
            self._beside()
        is_stacked = frame.is_additive and not frame.before
        legend = len(frame.series) > 1
        room = look.height - (26 if legend else 0)
        each = BAR_HEIGHT if is_stacked or not legend else 14 * len(frame.series) + 6
        most = max(2, int(room // each))
        shown, rest = frame.places[:most], frame.places[most:]
        if rest:
            frame.notes.append(f"and {'at least ' if frame.is_truncated else ''}{len(rest)} more")
        totals: dict[Place, float] = {}
        values: Values = []
        for place in shown:
            for number, series in enumerate(frame.series):
                value = frame.points.get((place, series))
                if value is None:
                    continue
                totals[place] = totals.get(place, 0.0) + value
                values.append(
                    {"c": place, "s": series, "v": self.scaled(value), "o": number,
                     "t": figure(value, frame.unit)}
                )  # fmt: skip
        reach = max((row["v"] for row in values), default=0.0)
        if is_stacked:
            reach = max((self.scaled(value) for value in totals.values()), default=0.0)
        x = {
            "field": "v",
            "type": "quantitative",
            "axis": None,
            # Room for the figures behind the bars.
            "scale": {"domain": [0, reach * (1 + 75 / max(look.width * 0.6, 75)) or 1]},
        }
        if look.is_fluid:
            x["scale"] = {"domain": [0, reach or 1], "range": [0, expr("max(width - 66, 9)")]}
        y = {
            "field": "c",
            "type": "nominal",
            "sort": [str(place) for place in shown],
            "axis": {
                "title": None,
                "labelLimit": expr(NAMES_ROOM) if look.is_fluid else 0,
                "labelColor": look.theme.text,
            },
            "scale": {"paddingInner": BETWEEN_BARS, "paddingOuter": 0.1},
        }
        offset = {} if is_stacked or not legend else {
            "yOffset": {"field": "s", "type": "nominal", "sort": frame.series}
        }  # fmt: skip
        bar = {"type": "bar", **self.one_colour(), "height": {"band": 1}}
        if legend and is_stacked:
            bar["cornerRadiusEnd"] = 0
        ordered = {"order": {"field": "o", "type": "quantitative"}} if is_stacked else {}
        layers = [layer(values, bar, {"x": x, "y": y, **offset, **ordered, **self.colours()})]
        ends = values if not is_stacked or not legend else [
            {"c": place, "v": self.scaled(value), "t": figure(value, frame.unit)}
            for place, value in totals.items()
        ]  # fmt: skip
        text = {"type": "text", "align": "left", "dx": 5, "color": look.theme.muted}
        encoding = {"x": {**x, "stack": None}, "y": y, **offset}
        layers.append(layer(ends, text, {**encoding, "text": {"field": "t", "type": "nominal"}}))
        if look.is_fluid:
            layers.append(self._over(shown, y))
        # A bar of a hand's breadth says no more than a narrow one: few of them stand at the top.
        height = min(look.height, look.height - room + len(shown) * each * 1.3)
        return {"layer": layers, "height": height}

    def _over(self, shown: list[Place], y: Spec) -> Spec:
        values = [
            {"c": place, "tip": tip(self.frame.full_names.get(str(place), str(place)), told)}
            for place in shown
            if (told := self.told(place))
        ]
        found = over(values, {"y": y, "x": {"value": 0}, "x2": {"value": "width"}})
        # Also between one bar and the next.
        found["mark"]["height"] = {"band": 1 / (1 - BETWEEN_BARS)}
        return found

    def _beside(self) -> None:
        frame = self.frame
        now = {(place, NOW): value for (place, _), value in frame.points.items()}
        before = {
            (place, BEFORE): value
            for (place, _), value in (frame.before or {}).items()
            if place in frame.places
        }
        frame.points = {**now, **before}
        frame.series = [NOW, BEFORE]

    def arcs(self) -> Spec:
        """A ring; each name stands with its share."""
        frame, look = self.frame, self.look
        is_by_place = frame.series == [""]
        totals: dict[str, float] = {}
        for (place, series), value in frame.points.items():
            name = str(place) if is_by_place else series
            totals[name] = totals.get(name, 0.0) + value
        ordered = sorted(totals.items(), key=lambda pair: (pair[0] == OTHER, -pair[1], pair[0]))
        most = len(look.theme.series)
        if is_by_place and len(ordered) > most + 1:
            rest = sum(value for _, value in ordered[most:])
            frame.notes.append(f"{OTHER}: {len(ordered) - most} more")
            ordered = [*ordered[:most], (OTHER, rest)]
        whole = sum(value for _, value in ordered) or 1
        values = [
            # A name that is too long for the legend loses its end, and not the share.
            {"s": f"{figure(value / whole, 'share')}  {name}", "v": value, "o": number}
            for number, (name, value) in enumerate(ordered)
        ]
        if look.is_fluid:
            for row, (name, value) in zip(values, ordered, strict=True):
                share = ("share", figure(value / whole, "share"), "")
                told = (frame.what or "sum", figure(value, frame.unit), "")
                row["tip"] = tip(self.name_of(name), [told, share])
        colours = [self.colour(number, name) for number, (name, _) in enumerate(ordered)]
        radius = max(20.0, min(look.height, look.width * 0.5) / 2 - 4)
        encoding: Spec = {
            "theta": {"field": "v", "type": "quantitative", "stack": "zero"},
            "order": {"field": "o", "type": "quantitative"},
            "color": {
                "field": "s",
                "type": "nominal",
                "scale": {"domain": [row["s"] for row in values], "range": colours},
                "legend": {"orient": "right", "labelLimit": look.width * 0.5, "title": None,
                           "rowPadding": 5, "labelFontSize": LABEL_SIZE},
            },
        }  # fmt: skip
        mark = {"type": "arc", "outerRadius": radius, "innerRadius": radius * 0.62}
        if look.is_fluid:
            mark = {"type": "arc", "tooltip": TIP, "innerRadius": expr(f"{_HALF} * 0.62")}
            encoding["color"]["legend"]["labelLimit"] = expr("containerSize()[0] * 0.5")
        return layer(values, mark, encoding)

    def heat(self, time: str | None) -> Spec:
        """Rectangles: the darker (in the light), the more."""
        frame, look = self.frame, self.look
        values: Values = []
        for (place, series), value in frame.points.items():
            row: dict[str, Any] = {"s": series, "v": self.scaled(value), "a": place}
            if time is not None:
                row["b"] = end_of(time, place)
            if look.is_fluid:
                there = self.frame.full_names.get(str(place), str(place))
                title = there if time is None else whole_time_in_words(time, int(place))
                told = (self.name_of(series), figure(value, frame.unit), "")
                row["tip"] = tip(title, [told])
            values.append(row)
        found = [row["v"] for row in values]
        least, most = min(found, default=0), max(found, default=0)
        if frame.is_additive or least < most / 2:
            least = 0
        domain = round_steps(least, most, len(look.theme.ramp))
        # The first step begins nowhere, as Vega has it.
        begin = "'0'" if not domain[0] else self.expression(f"{domain[0]:g}")
        borders = f"isFinite(datum.value) ? ({self.expression()}) : ({begin})"
        colour: Spec = {
            "field": "v",
            "type": "quantitative",
            "scale": {"type": "quantize", "range": list(look.theme.ramp), "domain": domain},
            "legend": {"labelExpr": borders, "type": "gradient", "gradientLength": 200, "title": None,
                       "gradientThickness": 8, "direction": "horizontal"},
        }  # fmt: skip
        y: Spec = {
            "field": "s",
            "type": "nominal",
            "sort": frame.series,
            "axis": {"title": None, "labelColor": look.theme.text},
        }
        if look.is_fluid:
            y["axis"]["labelLimit"] = expr(NAMES_ROOM)
            colour["legend"]["gradientLength"] = expr(f"min(200, {BESIDE_NAMES})")
        x: Spec = {"field": "a", "type": "nominal", "sort": [str(p) for p in frame.places[:MAX_ACROSS]],
                   "axis": {"title": None, **self._names_across()}}  # fmt: skip
        encoding: Spec = {"x": x, "y": y, "color": colour}
        if time is not None:
            encoding["x"] = {"field": "a", "type": "temporal", "scale": {"type": "utc"}}
            encoding["x2"] = {"field": "b"}
        elif len(frame.places) > MAX_ACROSS:
            frame.notes.append(f"and {len(frame.places) - MAX_ACROSS} more")
            kept = set(frame.places[:MAX_ACROSS])
            values = [row for row in values if row["a"] in kept]
        mark = {"type": "rect", **({"tooltip": TIP} if look.is_fluid else {})}
        return {"layer": [layer(values, mark, encoding)]}

    def _names_across(self) -> Spec:
        """The labels of names along the lower edge: aslant where they are many in a narrow room."""
        if not self.look.is_fluid:
            return {"labelAngle": 0, "labelLimit": 90}
        across = max(1, min(len(self.frame.places), MAX_ACROSS))
        # Not by `width`, see `in_columns`.
        each = f"(containerSize()[0] * 0.75 / {across})"
        is_narrow = f"{each} < {LEAST_ACROSS}"
        return {
            "labelAngle": expr(f"{is_narrow} ? -40 : 0"),
            "labelAlign": expr(f"{is_narrow} ? 'right' : 'center'"),
            "labelLimit": expr(f"{is_narrow} ? 76 : {each}"),
        }


def round_steps(least: float, most: float, steps: int) -> list[float]:
    """From where to where so many equal steps reach whose borders are round figures."""
    step = (most - least) / steps
    if step <= 0:
        return [least, least + 1]
    power = 10.0 ** floor(log10(step))
    step = next(round_ * power for round_ in _ROUND if round_ * power >= step * (1 - 1e-9))
    begin = floor(least / step) * step
    return [begin, max(begin + step * steps, most)]
