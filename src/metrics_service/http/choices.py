"""What may stand where a word was sent that may not: the values of a `Literal`."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from msgspec import inspect

_step = re.compile(r"\.(?P<field>[^.\[]+)|\[[^\]]*\]")


def choices(kind: Any, path: str) -> tuple[str, ...]:
    """The values allowed at a path as msgspec says it, `.filters[3].status`; none if unknown."""
    # Without places, so that there are no more paths than there are fields.
    return _choices(kind, re.sub(r"\[\d+\]", "[]", path)) if kind is not None else ()


# Kept, because msgspec works a type out anew each time.
@cache
def _choices(kind: Any, path: str) -> tuple[str, ...]:
    types = _alternatives(inspect.type_info(kind))
    for step in _step.finditer(path):
        types = [
            alternative
            for outer in types
            for inner in _within(outer, step["field"])
            for alternative in _alternatives(inner)
        ]
    return tuple(
        str(value)
        for found in types
        if isinstance(found, inspect.LiteralType)
        for value in found.values
    )


def _within(outer: inspect.Type, field: str | None) -> list[inspect.Type]:
    if field is not None and isinstance(outer, inspect.StructType):
        return [one.type for one in outer.fields if one.encode_name == field]
    if field is None and isinstance(outer, inspect.CollectionType):
        return [outer.item_type]
    if field is None and isinstance(outer, inspect.DictType):
        return [outer.value_type]
    return []


def _alternatives(described: inspect.Type) -> list[inspect.Type]:
    if isinstance(described, inspect.Metadata):
        return _alternatives(described.type)
    if isinstance(described, inspect.UnionType):
        return [one for option in described.types for one in _alternatives(option)]
    return [described]
