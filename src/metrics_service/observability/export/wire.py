"""Writes protobuf piece by piece: what stays the same is encoded once and put together by joining.

A message built by the library costs many times what its spans may cost.
https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from struct import Struct

from metrics_service.observability.work import Attribute

LENGTH = 2
"""The wire type of text, bytes and messages."""

_DOUBLE = Struct("<d")
# Two bytes: longer than most of what has a length here.
_SMALL = [
    bytes((number,)) if number < 0x80 else bytes((number & 0x7F | 0x80, number >> 7))
    for number in range(0x4000)
]
_SIGN = 2**64


def varint(number: int) -> bytes:
    if 0 <= number < 0x4000:
        return _SMALL[number]
    if number < 0:
        number += _SIGN
    written = bytearray()
    while number >= 0x80:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def tag(field: int, kind: int) -> bytes:
    return varint(field << 3 | kind)


def nested(field: int, content: bytes) -> bytes:
    """A field that is a message, bytes or text."""
    return b"".join((tag(field, LENGTH), varint(len(content)), content))


def text(field: int, content: str) -> bytes:
    return nested(field, content.encode("utf-8", "replace"))


def any_value(value: Attribute) -> bytes:
    """`opentelemetry.proto.common.v1.AnyValue`."""
    if isinstance(value, str):
        return text(1, value)
    if isinstance(value, bool):
        return b"\x10\x01" if value else b"\x10\x00"
    if isinstance(value, int):
        return b"\x18" + varint(value) if -(2**63) <= value < 2**63 else text(1, str(value))
    return b"\x21" + _DOUBLE.pack(value)


def key_value(field: int, key: str, value: Attribute) -> bytes:
    """`opentelemetry.proto.common.v1.KeyValue`, as an item of the field."""
    if value.__class__ is str:
        # The usual kind, put together at once.
        name, content = _name(key), str(value).encode("utf-8", "replace")
        length = varint(len(content))
        inner = varint(1 + len(length) + len(content))
        whole = len(name) + 1 + len(inner) + 1 + len(length) + len(content)
        head = varint(field << 3 | LENGTH)
        return b"".join((head, varint(whole), name, b"\x12", inner, b"\x0a", length, content))
    return nested(field, _name(key) + nested(2, any_value(value)))


@lru_cache(1024)
def _name(key: str) -> bytes:
    return text(1, key)


class Attributes:
    """Encodes attributes as items of one field, and remembers what comes again and again."""

    # Words, routes, statuses, tenants; when there are more, all of them are forgotten.
    MAX_REMEMBERED = 4096
    MAX_LENGTH = 256
    MAX_NUMBER = 1000

    def __init__(self, field: int, *, unique: frozenset[str] = frozenset()) -> None:
        self._field = field
        self._unique = unique
        # By their class, because one and True are the same key; then by name and value.
        self._remembered: dict[type, dict[str, dict[Attribute, bytes]]] = {}
        self._count = 0

    def encode(self, attributes: Mapping[str, Attribute]) -> bytes:
        pieces = []
        for key, value in attributes.items():
            try:
                pieces.append(self._remembered[value.__class__][key][value])
            except KeyError:
                pieces.append(self._new(key, value))
        return b"".join(pieces)

    def _new(self, key: str, value: Attribute) -> bytes:
        encoded = key_value(self._field, key, value)
        if key not in self._unique and self._comes_again(value):
            if self._count >= self.MAX_REMEMBERED:
                self._remembered.clear()
                self._count = 0
            self._remembered.setdefault(value.__class__, {}).setdefault(key, {})[value] = encoded
            self._count += 1
        return encoded

    def _comes_again(self, value: Attribute) -> bool:
        if isinstance(value, str):
            return len(value) <= self.MAX_LENGTH
        return isinstance(value, int) and -1 <= value < self.MAX_NUMBER
