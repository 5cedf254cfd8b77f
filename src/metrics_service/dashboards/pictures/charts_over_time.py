"""Charts over time: columns, lines and areas, and the period before behind them."""

from __future__ import annotations

from itertools import pairwise

from metrics_service.dashboards.pictures.figures import Scale, figure
from metrics_service.dashboards.pictures.frames import Frame, Place
from metrics_service.dashboards.pictures.marks import (
    BEFORE,
    Chart,
    Spec,
    Values,
    end_of,
    layer,
    over,
    tip,
    whole_range,
)
from metrics_service.dashboards.pictures.periods import whole_time_in_words
from metrics_service.dashboards.pictures.picture import Answer, Look
from metrics_service.dashboards.pictures.time_axis import time_axis


class OverTime(Chart):
    """Time runs along the axis."""

    def __init__(self, frame: Frame, look: Look, scale: Scale) -> None:
        super().__init__(frame, look, scale)
        self.sums_before: dict[Place, float] = {}
        """Of the period before, where it is drawn."""

    def columns(self, time: str) -> Spec:
        """Rectangles from the beginning of each bucket to its end; stacked where they add up."""
        frame = self.frame
        values: Values = []
        number = 1 if frame.is_additive else max(len(frame.series), 1)
        for begin in map(int, frame.places):
            end = end_of(time, begin)
            gap = (end - begin) * 0.12
            step = (end - begin - 2 * gap) / number
            base = 0.0
            for place, series in enumerate(frame.series):
                value = frame.points.get((begin, series))
                if not value:
                    continue
                left = begin + gap + (0 if number == 1 else place * step)
                top = base + self.scaled(value)
                values.append({"a": left, "b": left + step, "s": series, "v": base, "w": top})
                base = top if frame.is_additive else 0.0
        mark = {"type": "rect", "stroke": None, **self.one_colour()}
        encoding = {
            "x": {"field": "a", "type": "temporal", "scale": {"type": "utc"}},
            "x2": {"field": "b"},
            "y": {"field": "v", **self.figures()},
            "y2": {"field": "w"},
            **self.colours(),
        }
        return self._with_before([layer(values, mark, encoding)], time)

    def lines(self, mark: str) -> Spec:
        """Lines or points, or areas: stacked where they add up, and lines where they do not."""
        frame = self.frame
        values = [
            {"a": place, "s": series, "v": self.scaled(value), "o": frame.series.index(series)}
            for (place, series), value in sorted(frame.points.items(), key=lambda p: int(p[0][0]))
        ]
        is_area = mark == "area" and frame.is_additive
        drawn: Spec = {"type": "area" if is_area else "point" if mark == "point" else "line"}
        if mark != "point" and len(frame.points) <= max(1, len(frame.series)):
            drawn["point"] = True
        encoding = {
            "x": {"field": "a", "type": "temporal", "scale": {"type": "utc"}},
            "y": {"field": "v", **self.figures()},
            "order": {"field": "o" if is_area else "a", "type": "quantitative"},
            **self.colours(is_line=drawn["type"] == "line"),
        }
        if is_area:
            encoding["y"]["stack"] = "zero"
        return self._with_before([layer(values, {**drawn, **self.one_colour()}, encoding)])

    def in_time(self, parts: Spec, time: str, answer: Answer) -> Spec:
        """The whole range along the axis, also where nothing happened."""
        look, places = self.look, [int(place) for place in self.frame.places]
        begin, end = look.wall(answer.from_), look.wall(answer.to)
        is_ranged = "x2" in parts["layer"][0]["encoding"]
        if is_ranged and places:
            # A week that began before the range is drawn whole.
            begin, end = min(begin, places[0]), max(end, end_of(time, places[-1]))
        elif len(places) > 1:
            # A point stands at the beginning of its bucket; the last one ends the line.
            begin, end = places[0], places[-1]
        axis = time_axis(time, places, end - begin, look, is_ranged=is_ranged)
        scale = {"type": "utc", **whole_range(begin, end, look)}
        # The rectangles of a heat map each tell their own.
        if look.is_fluid and "tooltip" not in parts["layer"][0]["mark"]:
            edges = [begin, *((one + next_) / 2 for one, next_ in pairwise(places)), end]
            spans = [(one, end_of(time, one)) for one in places] if is_ranged else pairwise(edges)
            parts["layer"].append(self._over(time, dict(zip(places, spans, strict=False))))
        first, *others = (one["encoding"]["x"] for one in parts["layer"])
        first |= {"axis": axis, "scale": scale}
        for x in others:
            # Said once: Vega would put the same ranges together, and complain.
            x |= {"axis": axis, "scale": {"type": "utc"}}
        return parts

    def _over(self, time: str, spans: dict[int, tuple[float, float]]) -> Spec:
        """What each hour, day, week or month tells."""
        frame = self.frame
        values: Values = []
        for place, (begin, end) in spans.items():
            told = self.told(place)
            if place in self.sums_before:
                before = figure(self.sums_before[place], frame.unit)
                told.append((BEFORE, before, self.look.theme.previous))
            if told:
                said = tip(whole_time_in_words(time, place), told)
                values.append({"a": begin, "b": end, "tip": said})
        encoding = {
            "x": {"field": "a", "type": "temporal"},
            "x2": {"field": "b"},
            "y": {"value": 0},
            "y2": {"value": "height"},
        }
        return over(values, encoding)

    def _with_before(self, layers: list[Spec], time: str | None = None) -> Spec:
        """The period before as one dashed line of the whole: through the middle of the columns."""
        frame = self.frame
        if not any((frame.before or {}).values()):
            return {"layer": layers}
        if not frame.is_additive and frame.series != [""]:
            frame.notes.append("the period before is not drawn behind several lines")
            return {"layer": layers}
        totals: dict[Place, float] = dict.fromkeys(frame.places, 0.0) if frame.is_additive else {}
        frame.notes.append("the dashed line is the period before")
        for (place, _), value in (frame.before or {}).items():
            totals[place] = totals.get(place, 0.0) + value
        self.sums_before = totals
        values = [
            {"a": (int(place) + end_of(time, place)) / 2 if time else place,
             "v": self.scaled(value)}
            for place, value in sorted(totals.items(), key=lambda pair: int(pair[0]))
        ]  # fmt: skip
        mark = {
            "type": "line",
            "color": self.look.theme.previous,
            "strokeDash": [5, 4],
            "strokeWidth": 1.5,
        }
        encoding = {
            "x": {"field": "a", "type": "temporal", "scale": {"type": "utc"}},
            "y": {"field": "v", **self.figures()},
        }
        return {"layer": [*layers, layer(values, mark, encoding)]}
