"""One visual language for all pictures, light and dark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

ThemeName = Literal["light", "dark"]

# The only family that vl-convert brings along (regular, bold, italic), so it is there on every
# machine; the others are for browsers. Its figures are all equally wide.
FONT = "Liberation Sans"
FONTS = f"{FONT}, Arial, Helvetica, sans-serif"


class Theme(msgspec.Struct, frozen=True, kw_only=True):
    """The colours of everything."""

    page: str
    card: str
    border: str
    text: str
    muted: str
    grid: str
    accent: str
    good: str
    bad: str
    previous: str
    """Of a line; filled shapes are paler."""
    previous_fill: str
    other: str
    series: tuple[str, ...]
    fonts: str = FONTS
    ramp: tuple[str, ...]
    """From little to much, in heat maps: steps, because what lies between two variables is unknown."""


# The series are Paul Tol's qualitative schemes, which people with any colour vision can tell apart:
# "muted" on white and "light" on black (https://sronpersonalpages.nl/~pault/, SRON/EPS/TN/09-002);
# eight of each, and grey for the rest, as there.
LIGHT = Theme(
    page="#f4f6f8",
    card="#ffffff",
    border="#e1e5ea",
    text="#1b2530",
    muted="#5f6b7a",
    grid="#e8ebef",
    accent="#3a6ea5",
    good="#1d7a44",
    bad="#b8322a",
    previous="#9aa5b1",
    previous_fill="#cdd4db",
    other="#b4bcc5",
    series=(
        "#44aa99",
        "#88ccee",
        "#cc6677",
        "#ddcc77",
        "#332288",
        "#117733",
        "#aa4499",
        "#999933",
    ),
    ramp=("#e6eef6", "#becede", "#96aec6", "#6f8ead", "#476e95", "#1f4e7d"),
)
DARK = Theme(
    page="#12171d",
    card="#1a2129",
    border="#2b3540",
    text="#e8edf2",
    muted="#9aa7b4",
    grid="#2a333d",
    accent="#77aadd",
    good="#6cc792",
    bad="#f08a7e",
    previous="#6f7c8a",
    previous_fill="#465361",
    other="#56616d",
    series=(
        "#77aadd",
        "#44bb99",
        "#ee8866",
        "#eedd88",
        "#ffaabb",
        "#99ddff",
        "#bbcc33",
        "#aaaa00",
    ),
    ramp=("#223140", "#384e63", "#4e6b86", "#6387a8", "#79a4cb", "#8fc1ee"),
)
THEMES: Mapping[ThemeName, Theme] = {"light": LIGHT, "dark": DARK}


def variable(name: str) -> str:
    """The variable of the page's style sheet that has a colour, under which light or dark stands."""
    return f"var(--chart-{name})"


# So a chart on the page turns dark with it, and is not drawn again.
PAGE = Theme(
    page=variable("page"),
    card=variable("card"),
    border=variable("border"),
    text=variable("text"),
    muted=variable("muted"),
    grid=variable("grid"),
    accent=variable("accent"),
    good=variable("good"),
    bad=variable("bad"),
    previous=variable("previous"),
    previous_fill=variable("previous-fill"),
    other=variable("other"),
    series=tuple(variable(str(number + 1)) for number in range(len(LIGHT.series))),
    # Those of the page around it.
    fonts='system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif',
    ramp=tuple(variable(f"ramp-{number + 1}") for number in range(len(LIGHT.ramp))),
)

TITLE_SIZE = 14
LABEL_SIZE = 11


def config(theme: Theme) -> dict[str, Any]:
    """The theme in Vega-Lite's words (https://vega.github.io/vega-lite/docs/config.html)."""
    labels = {"labelFont": theme.fonts, "labelFontSize": LABEL_SIZE, "labelColor": theme.muted}
    titles = {"titleFont": theme.fonts, "titleFontSize": LABEL_SIZE, "titleColor": theme.muted}
    return {
        "background": None,
        "font": theme.fonts,
        "padding": 0,
        "view": {"stroke": None},
        "axis": {
            **labels,
            **titles,
            "titleFontWeight": "normal",
            "grid": False,
            "gridColor": theme.grid,
            "domain": False,
            "ticks": False,
            "labelPadding": 6,
            "labelLimit": 180,
            "tickCount": 5,
        },
        "legend": {
            **labels,
            **titles,
            "title": None,
            "orient": "top",
            "symbolType": "circle",
            "symbolSize": 70,
            "symbolStrokeWidth": 0,
            "symbolBaseFillColor": theme.muted,
            "titleFontWeight": "normal",
            # Of several legends one stands below the other.
            "layout": {"top": {"direction": "vertical", "anchor": "start", "margin": 4}},
            "labelLimit": 170,
            "offset": 8,
            "rowPadding": 3,
            "columnPadding": 14,
        },
        "header": {**labels, **titles},
        "range": {
            "category": list(theme.series),
            "ramp": list(theme.ramp),
            "heatmap": list(theme.ramp),
        },
        "bar": {"color": theme.accent, "cornerRadiusEnd": 2},
        "line": {"color": theme.accent, "strokeWidth": 2, "strokeCap": "round"},
        "area": {"color": theme.accent, "fillOpacity": 0.85, "line": False},
        "point": {"color": theme.accent, "filled": True, "size": 45},
        "arc": {"stroke": theme.card, "strokeWidth": 2},
        "rect": {"stroke": theme.card, "strokeWidth": 1},
        "text": {"font": theme.fonts, "fontSize": LABEL_SIZE, "color": theme.text},
    }
