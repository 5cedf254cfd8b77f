"""The process that draws: reads pictures from its input, writes images to its output.

It is apart from the server because vl-convert keeps the interpreter's lock while it draws, and because
what it does with memory and time must not be the server's. It has no address of any database, and is
told everything that it draws; what it hands to vl-convert has been looked at, since that would fetch an
image from wherever a picture says.
"""

from __future__ import annotations

import sys
from typing import Any, BinaryIO

import msgspec
import vl_convert

from metrics_service.dashboards.pictures.compose import compose
from metrics_service.dashboards.pictures.picture import DRAWN, FAILED, LENGTH, Picture

VEGA_LITE = "6.4"


def draw(spec: dict[str, Any]) -> str:
    """The SVG of a chart, from nothing but what is in its specification; raises `ValueError`."""
    svg: str = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE, allowed_base_urls=[])
    return svg


def image(picture: Picture) -> bytes:
    """The picture in the format that it is wanted in."""
    svg = compose(picture, draw)
    if picture.format == "svg":
        return svg.encode()
    if picture.format == "pdf":
        pdf: bytes = vl_convert.svg_to_pdf(svg)
        return pdf
    png: bytes = vl_convert.svg_to_png(svg)
    return png


def main() -> None:
    """Draw until the input ends, which it does with the server."""
    asked, answered = sys.stdin.buffer, sys.stdout.buffer
    # A library that prints would be taken for an image.
    sys.stdout = sys.stderr
    read = msgspec.json.Decoder(Picture).decode
    while (message := _message(asked)) is not None:
        try:
            outcome = DRAWN, image(read(message))
        except Exception as error:  # noqa: BLE001 - whatever it is, the next picture may be drawn
            outcome = FAILED, repr(error).encode()
        answered.write(outcome[0] + LENGTH.pack(len(outcome[1])) + outcome[1])
        answered.flush()


def _message(asked: BinaryIO) -> bytes | None:
    head = asked.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    return asked.read(*LENGTH.unpack(head))


if __name__ == "__main__":
    main()
