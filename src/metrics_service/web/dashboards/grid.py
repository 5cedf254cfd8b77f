"""Where the tiles of a dashboard stand on its page: bands one below the other, each a small grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import msgspec

from metrics_service.dashboards.layout import GRID_COLUMNS, Place

USUAL = Place(0, 0, 6, 4)

# More lines than this in one band nobody draws; the stylesheet has a rule for each.
MAX_LINES = 24


class Spot(msgspec.Struct, frozen=True):
    """A tile within its band; lines count from 1."""

    id: str
    place: Place
    line: int
    """Where it begins; 0 where tiles follow each other in the order in which they are read."""
    lines: int


def places_of(ids: Sequence[str], layout: Mapping[str, Any]) -> dict[str, Place]:
    """The place of every widget; those without one stand below the others, two in a row."""
    found = {id_: place for id_ in ids if (place := _known(layout.get(id_))) is not None}
    bottom = max((place.y + place.h for place in found.values()), default=0)
    for number, id_ in enumerate(one for one in ids if one not in found):
        row, column = divmod(number, GRID_COLUMNS // USUAL.w)
        found[id_] = Place(column * USUAL.w, bottom + row * USUAL.h, USUAL.w, USUAL.h)
    return found


def _known(raw: Any) -> Place | None:
    try:
        place = msgspec.convert(raw, Place)
    except msgspec.ValidationError:
        return None
    # Of before places were checked.
    return msgspec.structs.replace(place, w=min(place.w, GRID_COLUMNS - place.x))


def bands_of(places: Mapping[str, Place]) -> list[list[Spot]]:
    """The tiles in the order in which they are read; what nobody stands in takes no room."""
    return [_spots(band) for band in _bands(places)]


def _bands(places: Mapping[str, Place]) -> Iterator[list[tuple[str, Place]]]:
    band: list[tuple[str, Place]] = []
    bottom = 0
    for id_, place in sorted(places.items(), key=lambda found: (found[1].y, found[1].x)):
        if band and place.y >= bottom:
            yield band
            band = []
        band.append((id_, place))
        bottom = max(bottom, place.y + place.h)
    if band:
        yield band


def _spots(band: Sequence[tuple[str, Place]]) -> list[Spot]:
    edges = sorted({edge for _, place in band for edge in (place.y, place.y + place.h)})
    if len(edges) > MAX_LINES or _overlap([place for _, place in band]):
        return [Spot(id_, place, 0, 0) for id_, place in band]
    line_of = {edge: line for line, edge in enumerate(edges, start=1)}
    return [
        Spot(id_, place, line_of[place.y], line_of[place.y + place.h] - line_of[place.y])
        for id_, place in band
    ]


def _overlap(places: Sequence[Place]) -> bool:
    # Of before places were checked.
    return any(one.overlaps(other) for one, other in combinations(places, 2))
