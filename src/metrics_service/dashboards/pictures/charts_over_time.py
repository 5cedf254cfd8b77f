"""Charts over time: columns, lines and areas, and the period before behind them."""

from __future__ import annotations

from metrics_service.dashboards.pictures.frames import Place
from metrics_service.dashboards.pictures.marks import Chart, Spec, Values, end_of, layer
from metrics_service.dashboards.pictures.picture import Answer
from metrics_service.dashboards.pictures.time_axis import time_axis


class OverTime(Chart):
    """Time runs along the axis."""

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
        axis = time_axis(time, places, end - begin, look.width, is_ranged=is_ranged)
        scale = {"type": "utc", "domain": [begin, end], "nice": False}
        for one in parts["layer"]:
            one["encoding"]["x"] |= {"axis": axis, "scale": scale}
        return parts

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
