"""What charts whose encoding the client chose need besides on a page: tips, steps of colour, panes."""

from __future__ import annotations

from typing import Any

from metrics_service.dashboards.pictures.marks import TIP, tip
from metrics_service.dashboards.pictures.picture import Look, Row
from metrics_service.dashboards.pictures.tables import cell_text, columns_of
from metrics_service.dashboards.widgets import Encoding, WidgetQuery

# Around and between panes.
_HEADER, _PANE_GAP, _SMALLEST_PANE = 50, 20, 60


def tell(
    mark: dict[str, Any],
    values: list[Row],
    rows: list[Row],
    encoding: Encoding,
    query: WidgetQuery,
    look: Look,
) -> None:
    """What a point or bar tells: the columns that the client named for that, or all."""
    named = [
        channel.field
        for where, channel in encoding.channels()
        if where.startswith("tooltip") and channel.field in query.columns
    ]
    columns = [
        one for one in columns_of(query, query.measures) if one.name in (named or query.columns)
    ]
    for value, row in zip(values, rows, strict=True):
        value["tip"] = tip("", [(one.label, cell_text(one, row, look), "") for one in columns])
    if mark["type"] in {"line", "area"}:
        # A line is one mark of many rows; its points are there to be found.
        mark["point"] = {"opacity": 0, "size": 160, "tooltip": TIP}
    else:
        mark["tooltip"] = TIP


def shade(drawn: dict[str, Any], look: Look) -> None:
    """Steps of the theme's colours, because no browser knows what lies between two variables."""
    scale = drawn.get("scale", {})
    if drawn["type"] != "quantitative" or "scheme" in scale:
        return
    if scale.get("type", "linear") == "linear":
        drawn["scale"] = {**scale, "type": "quantize", "range": list(look.theme.ramp)}
        if drawn["legend"] is not None:
            # The first step begins nowhere, as Vega has it.
            form = drawn["legend"].pop("format", None)
            written = drawn["legend"].get("labelExpr") or f"format(datum.value, '{form}')"
            drawn["legend"]["labelExpr"] = f"isFinite(datum.value) ? ({written}) : ''"
    else:
        drawn["scale"] = {**scale, "scheme": "blues"}


def in_panes(
    parts: dict[str, Any], encoding: Encoding, values: list[Row], look: Look
) -> dict[str, Any]:
    """Panes side by side cannot be as wide as the page wants; together they fill what is likely."""
    for channel, side, whole in (
        (encoding.column, "width", look.width),
        (encoding.row, "height", look.height),
    ):
        if channel is None:
            continue
        parts.setdefault("width", look.width - _HEADER)
        panes = max(1, len({row[channel.field] for row in values}))
        parts[side] = max(_SMALLEST_PANE, (whole - _HEADER) / panes - _PANE_GAP)
        parts["autosize"] = {"type": "pad"}
    return parts
