"""JSON bodies as structs: what cannot be parsed is 400, what is parsed but invalid is 422."""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import Any, TypeVar

import msgspec
from litestar._openapi.schema_generation import SchemaCreator
from litestar.dto import AbstractDTO, DTOFieldDefinition
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from metrics_service.errors import FieldError, InvalidBodyError, MalformedRequestError
from metrics_service.http.choices import choices
from metrics_service.http.validation import named_field, reason_of, told

T = TypeVar("T")

_INDEX = re.compile(r"^\[(?P<index>\d+)\]\.?")
_ESCAPED_NUL = b"\\u0000"
_any = msgspec.json.Decoder(msgspec.Raw)


def decode_json(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode a checked body; raises `MalformedRequestError` or `InvalidBodyError`."""
    value = parse_json(decoder, body)
    if _ESCAPED_NUL in body:
        # PostgreSQL's text has no U+0000. Looked for only where the escape is in sight.
        refuse_nul(value)
    return value


def parse_json(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """As `decode_json`, for what is decoded further and looked at then."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        # It stops at the first wrong value; what comes after may not be JSON at all.
        _refuse_malformed(body)
        raise InvalidBodyError([field_error(error, kind=decoder.type)]) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError) as error:
        # msgspec overflows its stack on deep nesting, and int() refuses thousands of digits.
        reason = str(error) if isinstance(error, msgspec.DecodeError) else "it cannot be parsed"
        raise MalformedRequestError(f"the body is not JSON: {reason}") from None


def _refuse_malformed(body: bytes) -> None:
    try:
        _any.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise MalformedRequestError(f"the body is not JSON: {error}") from None


def field_error(
    error: msgspec.ValidationError, *, index: int | None = None, kind: Any = None
) -> FieldError:
    """Translate `Expected int - at $[3].wait_ms` into index, field and reason.

    Of `kind`, the type that was wanted, one learns what would have been right.
    """
    said, path = told(error)
    reason = reason_of(said)
    if reason.startswith("invalid enum value") and (allowed := choices(kind, path)):
        reason = f"must be one of {', '.join(allowed)}"
    place = _INDEX.match(path)
    if place is not None and index is None:
        index, path = int(place["index"]), path[place.end() :]
    return FieldError(reason, field=path.lstrip(".") or named_field(said), index=index)


def refuse_nul(value: Any) -> None:
    """Raises `InvalidBodyError` when any text within has U+0000."""
    items = value if isinstance(value, list) else [value]
    errors = [
        FieldError("text must not contain U+0000", field=field, index=index)
        for index, item in enumerate(items)
        if (field := nul_field(item)) is not None
    ]
    if errors:
        if not isinstance(value, list):
            errors = [FieldError(error.reason, field=error.field) for error in errors]
        raise InvalidBodyError(errors)


def nul_field(item: Any) -> str | None:
    """The first field of the item with U+0000 in its text."""
    plain = msgspec.to_builtins(item)
    if not isinstance(plain, dict):
        return "" if _has_nul(plain) else None
    return next((name for name, value in plain.items() if "\0" in name or _has_nul(value)), None)


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any("\0" in key or _has_nul(inner) for key, inner in value.items())
    return isinstance(value, list) and any(_has_nul(inner) for inner in value)


class JsonBody(AbstractDTO[T]):
    """Decodes a handler's `data` with `decode_json`; the document shows the struct itself."""

    def decode_bytes(self, value: bytes) -> T:
        return decode_json(msgspec.json.Decoder(self.model_type), value)

    @classmethod
    def generate_field_definitions(
        cls, model_type: type[Any]
    ) -> Generator[DTOFieldDefinition, None, None]:
        yield from ()

    @classmethod
    def detect_nested_field(cls, field_definition: FieldDefinition) -> bool:
        return False

    @classmethod
    def create_for_field_definition(cls, *_: Any, **__: Any) -> None:
        """The struct is its own transfer type."""

    @classmethod
    def create_openapi_schema(
        cls, field_definition: FieldDefinition, handler_id: str, schema_creator: SchemaCreator
    ) -> Reference | Schema:
        return schema_creator.for_field_definition(field_definition)
