"""Export requests around what was encoded before.

The requests of the three signals have the same numbers: a resource with its scope, and the scope's items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import msgspec

from metrics_service.observability.export.resource import encoded_resource, encoded_scope
from metrics_service.observability.export.wire import LENGTH, nested, tag, varint
from metrics_service.observability.work import Attribute

ITEM = tag(2, LENGTH)
"""Before the length of a span, metric or log record among those of its scope."""


class Items(msgspec.Struct, frozen=True, gc=False):
    """Some items, encoded; in pieces, which are put together once, with all others of a request."""

    pieces: list[bytes]
    count: int
    size: int


def one_item(message: bytes, *, count: int = 1) -> Items:
    pieces = [ITEM, varint(len(message)), message]
    return Items(pieces, count, sum(map(len, pieces)))


_REQUEST, _SCOPED = tag(1, LENGTH), tag(2, LENGTH)


class Envelope:
    """What is around the items of every request of one process."""

    def __init__(self, resource: Mapping[str, Attribute]) -> None:
        self._resource = nested(1, encoded_resource(resource))
        self._scope = nested(1, encoded_scope())

    def around(self, items: Sequence[Items]) -> bytes:
        """The request."""
        inner = len(self._scope) + sum(some.size for some in items)
        scoped = _SCOPED + varint(inner)
        outer = len(self._resource) + len(scoped) + inner
        return b"".join(
            (
                _REQUEST,
                varint(outer),
                self._resource,
                scoped,
                self._scope,
                *chain(*(some.pieces for some in items)),
            )
        )
