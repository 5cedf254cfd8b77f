"""How many entries a request in protobuf has, before memory is given to them.

A message of two bytes takes a hundred when it is parsed. Groups, scopes and items are all found in the
same places for the three signals: field 2 of field 2 of field 1; the rest is passed over by its length.
"""

from __future__ import annotations

from metrics_service.errors import MalformedRequestError
from metrics_service.otlp.decoded import Tally

LENGTH_DELIMITED = 2
# Below this even a request of nothing else takes no more than 50 MiB.
DENSE_BYTES = 1024 * 1024
# Field numbers of the groups in a request, of the scopes in a group, of the items in a scope.
_LEVELS = (1, 2, 2)
_FIXED = {1: 8, 5: 4}


def check_density(body: bytes) -> None:
    """Raises `BodyTooLargeError` when there are too many, `MalformedRequestError` for no protobuf."""
    _count(body, 0, len(body), 0, Tally())


def _count(body: bytes, place: int, end: int, level: int, tally: Tally) -> None:
    wanted = _LEVELS[level] << 3 | LENGTH_DELIMITED
    while place < end:
        tag, place = _varint(body, place)
        kind = tag & 7
        if kind == LENGTH_DELIMITED:
            size, place = _varint(body, place)
            if tag == wanted:
                tally.count(1)
                if level + 1 < len(_LEVELS):
                    _count(body, place, min(place + size, end), level + 1, tally)
            place += size
        elif kind == 0:
            _, place = _varint(body, place)
        elif kind in _FIXED:
            place += _FIXED[kind]
        else:
            raise MalformedRequestError("the body is not an OTLP request in protobuf")


def _varint(body: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        if place >= len(body):
            break
        byte = body[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise MalformedRequestError("the body is not an OTLP request in protobuf")
