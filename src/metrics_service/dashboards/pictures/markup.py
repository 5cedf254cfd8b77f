"""SVG, written and admitted: of all that SVG can say, shapes and text, and nothing that loads."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape, quoteattr

from metrics_service.dashboards.pictures.lettering import fit
from metrics_service.dashboards.pictures.theme import FONTS

SVG = "http://www.w3.org/2000/svg"

_ELEMENTS = frozenset(
    {"svg", "g", "path", "rect", "circle", "line", "text", "tspan", "clipPath", "defs",
     "linearGradient", "stop", "title", "desc"}
)  # fmt: skip
_ATTRIBUTES = frozenset(
    {
        "clip-path", "cx", "cy", "d", "display", "dominant-baseline", "fill", "fill-opacity", "font-family",
        "font-size", "font-style", "font-weight", "gradientUnits", "height", "id", "offset",
        "opacity", "preserveAspectRatio", "r", "rx", "ry", "stop-color", "stop-opacity", "stroke",
        "stroke-dasharray", "stroke-dashoffset", "stroke-linecap", "stroke-linejoin",
        "stroke-miterlimit", "stroke-opacity", "stroke-width", "text-anchor", "transform",
        "version", "viewBox", "width", "x", "x1", "x2", "y", "y1", "y2", "role", "aria-label",
    }
)  # fmt: skip
# What Vega says to screen readers of each mark would be most of a picture of a whole dashboard.
_DROPPED = re.compile(r"^(aria-.*|role|class|pointer-events|style|cursor)$")
_WITHIN = re.compile(r"^url\(#([A-Za-z0-9_-]+)\)$")


class ForeignMarkupError(Exception):
    """Something in a drawing that could load, link or run."""


def admit(svg: str, prefix: str) -> ET.Element:
    """A drawing of Vega's, with ids of its own; raises `ForeignMarkupError`."""
    root = ET.fromstring(svg)  # noqa: S314 - Vega wrote it, and wrote no document type
    for element in root.iter():
        tag = element.tag.removeprefix(f"{{{SVG}}}")
        if tag not in _ELEMENTS:
            raise ForeignMarkupError(f"a drawing has the element {tag}")
        for name, value in list(element.attrib.items()):
            if _DROPPED.match(name):
                del element.attrib[name]
            elif name not in _ATTRIBUTES:
                raise ForeignMarkupError(f"a drawing has the attribute {name}")
            elif name == "id":
                element.set(name, prefix + value)
            elif "url(" in value.lower():
                within = _WITHIN.match(value)
                if within is None:
                    raise ForeignMarkupError("a drawing refers to what is outside of it")
                element.set(name, f"url(#{prefix}{within[1]})")
    return root


def check(svg: str) -> None:
    """Raise `ForeignMarkupError` unless a whole picture is made of shapes and text alone."""
    for element in ET.fromstring(svg).iter():  # noqa: S314 - this process has written it
        if element.tag.removeprefix(f"{{{SVG}}}") not in _ELEMENTS:
            raise ForeignMarkupError(f"a picture has the element {element.tag}")
        for name, value in element.attrib.items():
            is_outside = "url(" in value.lower() and not _WITHIN.match(value)
            if name not in _ATTRIBUTES or is_outside:
                raise ForeignMarkupError(f"a picture has the attribute {name}")


def placed(drawing: ET.Element, x: float, y: float, width: float, height: float) -> str:
    """A drawing in a rectangle; what is larger is made smaller, and never cut."""
    if "viewBox" not in drawing.attrib:
        drawing.set("viewBox", f"0 0 {drawing.get('width', '1')} {drawing.get('height', '1')}")
    for name, value in (("x", x), ("y", y), ("width", width), ("height", height)):
        drawing.set(name, f"{value:g}")
    drawing.set("preserveAspectRatio", "xMinYMin meet")
    ET.register_namespace("", SVG)
    return ET.tostring(drawing, encoding="unicode")


def text(
    x: float,
    y: float,
    words: str,
    *,
    size: float,
    colour: str,
    room: float,
    is_bold: bool = False,
    anchor: str = "start",
) -> str:
    """One line of text, cut where its room ends."""
    shown = fit(words, room, size, is_bold=is_bold)
    weight = ' font-weight="bold"' if is_bold else ""
    aligned = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-family="{FONTS}" font-size="{size:g}"'
        f' fill="{colour}"{weight}{aligned}>{escape(shown)}</text>'
    )


def rect(
    x: float,
    y: float,
    width: float,
    height: float,
    *,
    fill: str,
    stroke: str | None = None,
    radius: float = 0,
) -> str:
    edge = f" stroke={quoteattr(stroke)}" if stroke else ""
    corner = f' rx="{radius:g}"' if radius else ""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        f' fill="{fill}"{edge}{corner}/>'
    )


def line(x1: float, y1: float, x2: float, y2: float, *, stroke: str) -> str:
    return (
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{stroke}"'
        ' stroke-width="1"/>'
    )


def path(points: str, *, stroke: str, fill: str = "none", opacity: float = 1) -> str:
    return (
        f'<path d="{points}" fill="{fill}" stroke="{stroke}" stroke-width="2"'
        f' stroke-linejoin="round" stroke-linecap="round" opacity="{opacity:g}"/>'
    )
