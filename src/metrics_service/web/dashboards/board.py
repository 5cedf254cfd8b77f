"""A dashboard as figures in their places: what its page, its preview, its versions and its link show."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
from markupsafe import Markup

from metrics_service.dashboards.data import DashboardData, answer, known_widgets
from metrics_service.dashboards.layout import Place
from metrics_service.dashboards.shared_data_controller import without_people
from metrics_service.dashboards.widgets import Widget
from metrics_service.db.tenancy import ContextConnection
from metrics_service.web.about import About
from metrics_service.web.dashboards.grid import Spot, bands_of, places_of
from metrics_service.web.environment import ENVIRONMENT
from metrics_service.web.figures import Figure, figure_of

Label = Callable[[UUID], str]

# As the stylesheet has them, in pixels: a row of the grid, what is between two, and what a card has
# besides its drawing.
ROW, GAP = 64, 16
FRAME, LINE = 115, 20
SHORTEST = 110

UNKNOWN = "this widget is of an older kind, which cannot be shown any more"


CHART: Callable[[Figure], Markup] = ENVIRONMENT.get_template("macros.html").module.chart  # type: ignore[attr-defined]  # a macro of it


class Tile(msgspec.Struct, frozen=True):
    """A widget in its place, and its HTML."""

    spot: Spot
    html: Markup


async def read_board(
    connection: ContextConnection,
    widgets: Sequence[Any],
    layout: Mapping[str, Any],
    about: About,
    *,
    sees_people: bool,
    label: Label | None = None,
) -> list[list[Tile]]:
    """The tiles in bands; with a `label` that stands wherever a person would.

    Without `sees_people` what is about individuals is not shown.
    """
    known = known_widgets(widgets)
    if about.period.is_given:
        # Whoever chooses a time means all of it, also what has days of its own.
        known = [_in_any_time(widget) for widget in known]
    found = await answer(connection, known, about.asked(), sees_people=sees_people)
    if label is not None:
        found = without_people(found, label)
    figures = await _figures(widgets, known, layout, found, about.period.zone)
    return [
        [Tile(spot, await _drawn(figures[spot.id])) for spot in band]
        for band in bands_of(places_of(list(figures), layout))
    ]


def _in_any_time(widget: Widget) -> Widget:
    query = msgspec.structs.replace(widget.query, range=None)
    return msgspec.structs.replace(widget, query=query)


async def _drawn(figure: Figure) -> Markup:
    # A hundred of them take seconds: others are answered between any two.
    await asyncio.sleep(0)
    return CHART(figure)


async def _figures(
    widgets: Sequence[Any],
    known: Sequence[Widget],
    layout: Mapping[str, Any],
    found: DashboardData,
    zone: ZoneInfo,
) -> dict[str, Figure]:
    answered = {widget.id: (widget, data) for widget, data in zip(known, found.data, strict=True)}
    places = places_of(list(answered), layout)
    figures: dict[str, Figure] = {}
    for number, raw in enumerate(widgets):
        id_ = raw.get("id") if isinstance(raw, dict) else None
        if isinstance(id_, str) and id_ in answered:
            widget, data = answered[id_]
            await asyncio.sleep(0)
            figures[id_] = figure_in(widget, data, found, zone, places[id_])
        else:
            figures[f"unknown.{number}"] = _unknown(number)
    return figures


def figure_in(
    widget: Widget, data: Any, found: DashboardData, zone: ZoneInfo, place: Place
) -> Figure:
    """The widget as it fits into its place."""
    told = (widget.description != "") + (widget.query.range is not None)
    height = place.h * (ROW + GAP) - GAP - FRAME - told * LINE
    return figure_of(widget, data, found.names, zone, columns=place.w, height=max(SHORTEST, height))


def _unknown(number: int) -> Figure:
    return Figure(
        id=f"unknown-{number}",
        title=f"Widget {number + 1}",
        description="",
        kind="table",
        span="",
        unit="",
        height=SHORTEST,
        error=UNKNOWN,
    )
