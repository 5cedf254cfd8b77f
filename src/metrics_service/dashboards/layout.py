"""Where widgets stand: places on a grid, none on top of another."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from metrics_service.errors import FieldError

GRID_COLUMNS = 12
MAX_PLACES = 100
MAX_SHOWN = 64
"""How much is told back of a name that is none."""


class Place(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rectangle on the grid; widgets without one stand below the others, in their order."""

    x: Annotated[int, Meta(ge=0, lt=GRID_COLUMNS)]
    y: Annotated[int, Meta(ge=0, le=1000)]
    w: Annotated[int, Meta(ge=1, le=GRID_COLUMNS)]
    h: Annotated[int, Meta(ge=1, le=40)]

    def overlaps(self, other: Place) -> bool:
        return (
            self.x < other.x + other.w
            and other.x < self.x + self.w
            and self.y < other.y + other.h
            and other.y < self.y + self.h
        )


def layout_errors(layout: Mapping[str, Any], ids: Collection[str]) -> list[FieldError]:
    """What is wrong with the places of the widgets with these ids."""
    if len(layout) > MAX_PLACES:
        return [FieldError(f"may have {MAX_PLACES} places", field="layout")]
    errors: list[FieldError] = []
    placed: dict[str, Place] = {}
    for name, raw in layout.items():
        field = f"layout.{name[:MAX_SHOWN]}"
        if name not in ids:
            errors.append(FieldError("there is no widget with this id", field=field))
            continue
        try:
            place = msgspec.convert(raw, Place)
        except msgspec.ValidationError:
            errors.append(
                FieldError(
                    f"must have whole numbers x from 0, y from 0 to 1000, w from 1 to "
                    f"{GRID_COLUMNS}, h from 1 to 40, and no other field",
                    field=field,
                )
            )
            continue
        if place.x + place.w > GRID_COLUMNS:
            errors.append(FieldError(f"goes beyond column {GRID_COLUMNS}", field=field))
            continue
        if other := next((one for one, its in placed.items() if its.overlaps(place)), None):
            errors.append(FieldError(f"overlaps {other}", field=field))
        placed[name] = place
    return errors
