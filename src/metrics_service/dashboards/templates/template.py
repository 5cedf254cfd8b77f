"""What a template is made of, and short words for its widgets."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from metrics_service.dashboards.layout import GRID_COLUMNS, Place
from metrics_service.dashboards.widgets import Mark, Widget, WidgetQuery

SourceName = Literal["tool_metrics", "model_calls", "sessions"]

FIGURE_HEIGHT = 2
CHART_HEIGHT = 4
TABLE_ROWS = 50


class Tile(msgspec.Struct, frozen=True):
    """A widget and its size on the grid."""

    widget: Widget
    width: int
    height: int


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """A dashboard that the product brings along."""

    name: str
    title: str
    description: str
    tags: list[str]
    tiles: list[Tile]

    def widgets(self) -> list[dict[str, Any]]:
        """The widgets as they are stored."""
        return [msgspec.to_builtins(tile.widget) for tile in self.tiles]

    def layout(self) -> dict[str, dict[str, int]]:
        """Places in rows, from the left."""
        placed: dict[str, dict[str, int]] = {}
        x = y = deepest = 0
        for tile in self.tiles:
            if x + tile.width > GRID_COLUMNS:
                x, y, deepest = 0, y + deepest, 0
            placed[tile.widget.id] = msgspec.to_builtins(Place(x, y, tile.width, tile.height))
            x += tile.width
            deepest = max(deepest, tile.height)
        return placed


def number(
    id_: str,
    title: str,
    source: SourceName,
    measure: str,
    *,
    width: int = 3,
    trend: Literal["day"] | None = None,
    **filters: str,
) -> Tile:
    """One figure beside that of the period before; with a `trend` a small line under it."""
    query = WidgetQuery(
        source=source,
        measures=[measure],
        group_by=[trend] if trend else [],
        filters=dict(filters),
        compare="previous_period",
    )
    height = FIGURE_HEIGHT + 1 if trend else FIGURE_HEIGHT
    return Tile(Widget(id=id_, kind="number", title=title, query=query), width, height)


def chart(
    id_: str,
    title: str,
    source: SourceName,
    measures: str,
    by: str,
    *,
    about: str = "",
    mark: Mark | None = None,
    width: int = 6,
    height: int = CHART_HEIGHT,
    limit: int | None = None,
    compared: bool = False,
    **filters: str,
) -> Tile:
    """A chart of measures by columns, both named in one text each."""
    query = WidgetQuery(
        source=source,
        measures=measures.split(),
        group_by=by.split(),
        filters=dict(filters),
        compare="previous_period" if compared else None,
        order_by=f"-{measures.split(maxsplit=1)[0]}" if limit else None,
        limit=limit,
    )
    widget = Widget(id=id_, kind="chart", title=title, description=about, mark=mark, query=query)
    return Tile(widget, width, height)


def table(
    id_: str,
    title: str,
    source: SourceName,
    measures: str,
    by: str,
    *,
    about: str = "",
    width: int = 6,
    height: int = CHART_HEIGHT,
    **filters: str,
) -> Tile:
    """A table of measures by columns, the largest first."""
    query = WidgetQuery(
        source=source,
        measures=measures.split(),
        group_by=by.split(),
        filters=dict(filters),
        order_by=f"-{measures.split(maxsplit=1)[0]}",
        limit=TABLE_ROWS,
    )
    widget = Widget(id=id_, kind="table", title=title, description=about, query=query)
    return Tile(widget, width, height)
