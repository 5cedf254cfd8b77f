"""Charts by name: bars, rings and heat maps."""

from __future__ import annotations

from typing import Any

from metrics_service.dashboards.pictures.figures import figure
from metrics_service.dashboards.pictures.frames import OTHER, Place
from metrics_service.dashboards.pictures.marks import (
    BEFORE,
    NOW,
    Chart,
    Spec,
    Values,
    end_of,
    layer,
)
from metrics_service.dashboards.pictures.theme import LABEL_SIZE

# The room that one bar with its label takes.
BAR_HEIGHT = 24
MAX_ACROSS = 20


class ByName(Chart):
    """Names stand along an axis, or around a ring."""

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
        y = {
            "field": "c",
            "type": "nominal",
            "sort": [str(place) for place in shown],
            "axis": {"title": None, "labelLimit": 0, "labelColor": look.theme.text},
            "scale": {"paddingInner": 0.28, "paddingOuter": 0.1},
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
        # A bar of a hand's breadth says no more than a narrow one: few of them stand at the top.
        height = min(look.height, look.height - room + len(shown) * each * 1.3)
        return {"layer": layers, "height": height}

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
            {"s": f"{name}  {figure(value / whole, 'share')}", "v": value, "o": number}
            for number, (name, value) in enumerate(ordered)
        ]
        colours = [self.colour(number, name) for number, (name, _) in enumerate(ordered)]
        radius = max(20.0, min(look.height, look.width * 0.5) / 2 - 4)
        encoding = {
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
        return layer(values, mark, encoding)

    def heat(self, time: str | None) -> Spec:
        """Rectangles: the darker (in the light), the more."""
        frame, look = self.frame, self.look
        values: Values = []
        for (place, series), value in frame.points.items():
            row: dict[str, Any] = {"s": series, "v": self.scaled(value), "a": place}
            if time is not None:
                row["b"] = end_of(time, place)
            values.append(row)
        colour = {
            "field": "v",
            "type": "quantitative",
            "scale": {"range": list(look.theme.ramp), "zero": frame.is_additive},
            "legend": {"labelExpr": self.expression(), "gradientLength": 140, "title": None,
                       "gradientThickness": 8, "direction": "horizontal"},
        }  # fmt: skip
        y = {
            "field": "s",
            "type": "nominal",
            "sort": frame.series,
            "axis": {"title": None, "labelColor": look.theme.text},
        }
        x: Spec = {"field": "a", "type": "nominal", "sort": [str(p) for p in frame.places[:MAX_ACROSS]],
                   "axis": {"title": None, "labelAngle": 0, "labelLimit": 90}}  # fmt: skip
        encoding: Spec = {"x": x, "y": y, "color": colour}
        if time is not None:
            encoding["x"] = {"field": "a", "type": "temporal", "scale": {"type": "utc"}}
            encoding["x2"] = {"field": "b"}
        elif len(frame.places) > MAX_ACROSS:
            frame.notes.append(f"and {len(frame.places) - MAX_ACROSS} more")
            kept = set(frame.places[:MAX_ACROSS])
            values = [row for row in values if row["a"] in kept]
        return {"layer": [layer(values, {"type": "rect"}, encoding)]}
