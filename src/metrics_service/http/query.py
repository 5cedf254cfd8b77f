"""Query parameters as a struct: parsed strictly, documented from the same definition."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar

import msgspec
from litestar.connection import Request
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Parameter,
    Reference,
    Schema,
)

from metrics_service.errors import InvalidQueryError
from metrics_service.http.bodies import field_error

QueryT = TypeVar("QueryT", bound=msgspec.Struct)


def parse_query(request: Request[Any, Any, Any], kind: type[QueryT]) -> QueryT:
    """Read the query string; raises `InvalidQueryError` that names the parameter."""
    return read_query(request.query_params.multi_items(), kind)


def read_query(given: Iterable[tuple[str, str]], kind: type[QueryT]) -> QueryT:
    """As `parse_query`, of parameters that somebody has read."""
    values: dict[str, str] = {}
    for name, value in given:
        if name in values:
            raise InvalidQueryError(f"parameter {name} is given twice")
        values[name] = value
    attributes = attributes_of(kind)
    unknown = values.keys() - attributes.keys()
    if unknown:
        raise InvalidQueryError(f"there is no parameter {min(unknown)[:64]}")
    try:
        query = msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidQueryError(_named(error, kind, values)) from None
    for name, value in values.items():
        _check(name, value, getattr(query, attributes[name]))
    return query


def _check(name: str, given: str, value: Any) -> None:
    # What a lax conversion lets through: the word null, seconds since 1970, times without a UTC.
    if value is None:
        raise InvalidQueryError(f"parameter {name}: is not a value")
    if isinstance(value, datetime):
        try:
            value.astimezone(UTC)
        except OverflowError:
            raise InvalidQueryError(f"parameter {name}: is out of range") from None
        if ":" not in given:
            raise InvalidQueryError(f"parameter {name}: is not a time with an offset")


# Kept, because msgspec works the fields out anew each time: a third of a millisecond.
@cache
def attributes_of(kind: type[msgspec.Struct]) -> dict[str, str]:
    """The parameters of a query, each with the name of its attribute."""
    return {field.encode_name: field.name for field in msgspec.structs.fields(kind)}


def _named(
    error: msgspec.ValidationError, kind: type[msgspec.Struct], values: Mapping[str, str]
) -> str:
    found = field_error(error, kind=kind)
    if found.reason.startswith("expected `bool"):
        return f"parameter {found.field}: must be true or false"
    hint = ""
    if "RFC3339" in found.reason and " " in values.get(found.field or "", ""):
        # In a query a plus is a space, as forms write it.
        hint = "; write + as %2B"
    return f"parameter {found.field}: {found.reason}{hint}"


def query_operation(
    kind: type[msgspec.Struct], answers: Mapping[str, Schema | Reference] | None = None
) -> type[Operation]:
    """An OpenAPI operation that lists the struct's fields as query parameters.

    `answers` are the media types of which one is asked for, where there are several.
    """
    _, components = msgspec.json.schema_components([kind])
    described = components[kind.__name__]
    required = set(described.get("required", ()))

    # A dataclass again, or the inherited __init__ would not call __post_init__.
    @dataclass
    class QueryOperation(Operation):
        def __post_init__(self) -> None:
            self.parameters = [
                *(self.parameters or []),
                *(
                    Parameter(
                        name=name,
                        param_in="query",
                        required=name in required,
                        description=_value(schema).get("description"),
                        schema=_schema(schema),
                        example=next(iter(_value(schema).get("examples", ())), None),
                    )
                    for name, schema in described["properties"].items()
                ),
            ]
            if answers is not None:
                content = {
                    media_type: OpenAPIMediaType(schema=schema)
                    for media_type, schema in answers.items()
                }
                self.responses = {
                    **(self.responses or {}),
                    "200": OpenAPIResponse(description="What was asked for.", content=content),
                }

    return QueryOperation


def _value(described: dict[str, Any]) -> dict[str, Any]:
    """The schema of a value that is given: one that may be absent is not one that may be null."""
    options: list[dict[str, Any]] = described.get("anyOf", [described])
    return next(option for option in options if option.get("type") != "null")


def _schema(described: dict[str, Any]) -> Schema:
    merged = _value(described)
    values = {
        "type": merged.get("type"),
        "format": merged.get("format"),
        "enum": merged.get("enum"),
        "minimum": merged.get("minimum"),
        "maximum": merged.get("maximum"),
        "max_length": merged.get("maxLength"),
        "default": described.get("default"),
    }
    return Schema(**{name: value for name, value in values.items() if value is not None})
